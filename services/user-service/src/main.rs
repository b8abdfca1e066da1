//! user-service: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::run(
        "user-service",
        user_service::Config::read,
        user_service::start,
    )
}
