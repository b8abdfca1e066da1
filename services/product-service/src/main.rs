//! product-service: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "product-service",
        product_service::Config::read,
        product_service::start,
    )
}
