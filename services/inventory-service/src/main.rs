//! inventory-service: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::lifecycle::run(
        "inventory-service",
        inventory_service::Config::read,
        inventory_service::start,
    )
}
