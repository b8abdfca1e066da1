//! inventory-service as it is composed in production, with the chassis's crash points compiled in.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "inventory-service",
        inventory_service::Config::read,
        inventory_service::start,
    )
}
