//! inventory-service: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "inventory-service",
        inventory_service::Config::read,
        inventory_service::start,
    )
}
