//! The API in a browser: Swagger UI at `/docs/`, for the documents of all services.
//!
//! It stands in this service because one is enough, and because whoever tries the API out begins by signing up. Its files are
//! part of the binary; nothing comes from elsewhere. Left out: gRPC, which has reflection.

use axum::Router;
use utoipa_swagger_ui::{Config, SwaggerUi, Url};

/// Each service's document, where it serves it itself (`chassis::openapi`).
pub(crate) const DOCUMENTS: [(&str, &str); 3] = [
    ("user-service", "/openapi/user-service.json"),
    ("order-service", "/openapi/order-service.json"),
    ("inventory-service", "/openapi/inventory-service.json"),
];

/// `GET /docs`, `/docs/` and the files below.
pub(crate) fn router() -> Router {
    let documents = DOCUMENTS.map(|(service, path)| Url::new(service, path));
    let config = Config::new(documents)
        .try_it_out_enabled(true)
        .display_request_duration(true)
        // No document is sent anywhere to be checked.
        .validator_url("none");
    SwaggerUi::new("/docs").config(config).into()
}
