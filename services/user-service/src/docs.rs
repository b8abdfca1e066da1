//! Swagger UI at `/docs/`, for the documents of all services.
//!
//! One instance is enough; it is in this service because using the API begins with signing up. Its files are part of the
//! binary; nothing is loaded from elsewhere. Left out: gRPC, which has reflection.

use axum::Router;
use utoipa_swagger_ui::{Config, SwaggerUi, Url};

/// Each service's document, at the path where that service serves it (`chassis::openapi`).
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
        // No document is sent to an external validator.
        .validator_url("none");
    SwaggerUi::new("/docs").config(config).into()
}
