//! order-service as it is composed in production, with the chassis's crash points compiled in.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "order-service",
        order_service::Config::read,
        order_service::start,
    )
}
