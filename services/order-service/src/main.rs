//! order-service: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "order-service",
        order_service::Config::read,
        order_service::start,
    )
}
