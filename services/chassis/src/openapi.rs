//! The OpenAPI document of a service, made from its handlers and served beside them.
//!
//! A handler declares its parameters and answers in `#[utoipa::path]`, and `routes!` registers it by that: no path is written
//! twice. Answers that no handler gives (the gateway's refusals, the limits of the layers in [`http`](crate::http),
//! unreadable input) are added to all of them here.
//!
//! An answer from 400 on is a problem document. A handler names the types that it may have at the beginning of the answer's
//! description, in backticks: ``(status = 409, description = "`email-taken`: there is an account with this address")``.
//!
//! Left out: routes that the gateway doesn't have (`/auth/verify`, the ops port), and `X-Request-Timeout-Ms` as a parameter:
//! it is in the document's introduction, as every operation takes it.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, openapi};
use utoipa_axum::router::OpenApiRouter;

use crate::problem::{self, Document};

/// The name of the one security scheme.
const TOKEN: &str = "token";
/// The content type of the gateway's own answers.
const PLAIN: &str = "text/plain";
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
const INTRODUCTION: &str = "\n\nAs seen through the gateway. Errors are problem documents (RFC 9457) where a service answers, and \
    plain text where the gateway does. `traceresponse` names the trace that an answer was made in. Any request may say in \
    `X-Request-Timeout-Ms` for how many milliseconds its client will wait (1 to 600000; less than 10 s counts), and is answered \
    with 503 then.";

/// Where a service's document is, at the gateway too.
pub fn path(service: &str) -> String {
    format!("/openapi/{service}.json")
}

/// A service's routes, and their document at [`path`]. `about` describes the service.
///
/// The document is built at the first request for it, not at each start.
pub(crate) fn documented(service: &'static str, about: &str, routes: OpenApiRouter) -> Router {
    let (router, described) = routes.split_for_parts();
    let about = about.to_owned();
    let document = Arc::new(LazyLock::new(move || {
        let document = complete(service, &about, &described);
        // Indented: it is read more often by people than by programs.
        Bytes::from(format!("{document:#}\n"))
    }));
    let answer = move || async move {
        (
            [(CONTENT_TYPE, "application/json")],
            Bytes::clone(&document),
        )
    };
    router.route(&path(service), get(answer))
}

/// Panics when an error doesn't name its problem types: the handler's description has to be corrected. The test of each
/// service's document finds that.
fn complete(service: &str, about: &str, described: &openapi::OpenApi) -> Value {
    let mut document = json!(described);
    document["info"] = json!({
        "title": service,
        "version": env!("CARGO_PKG_VERSION"),
        "description": format!("{about}{INTRODUCTION}"),
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["security"] = json!([{ TOKEN: [] }]);
    document["components"]["securitySchemes"][TOKEN] = json!({
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The `access_token` of `POST /auth/login`.",
    });
    document["components"]["schemas"]["Problem"] = json!(Document::schema());
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                complete_operation(&format!("{method} {path}"), operation);
            }
        }
    }
    document
}

/// An answer that no handler gives.
struct Refusal {
    status: u16,
    /// Begins with the problem types, if a service gives this answer.
    description: &'static str,
    /// Whether the gateway gives this answer itself.
    plain: bool,
}

const fn refusal(status: u16, description: &'static str) -> Refusal {
    Refusal {
        status,
        description,
        plain: false,
    }
}

const fn gateways(status: u16, description: &'static str) -> Refusal {
    Refusal {
        plain: true,
        ..refusal(status, description)
    }
}

const ALWAYS: [Refusal; 4] = [
    gateways(400, "`malformed`: not to be read as a request, or as JSON"),
    gateways(502, "The service is gone."),
    refusal(
        503,
        "`unavailable`, `overloaded`: not now; a dependency is out of reach, or time or room is short",
    ),
    gateways(504, "The service doesn't answer."),
];
const WITH_TOKEN: [Refusal; 2] = [
    refusal(
        401,
        "`invalid-token`: without a token, or with one that is not or no longer valid",
    ),
    gateways(429, "More requests than one user may send."),
];
const WITH_BODY: [Refusal; 2] = [
    gateways(413, "`too-large`: the body is longer than 64 KiB"),
    refusal(
        415,
        "`unsupported-media-type`: the body isn't `application/json`",
    ),
];
const WITH_CONTENT: [Refusal; 1] = [refusal(
    422,
    "`invalid`: a field or parameter isn't what this document says",
)];

fn complete_operation(name: &str, operation: &mut Value) {
    let parameters = operation
        .get_mut("parameters")
        .and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        // Absent or a value: there is no null outside of a body.
        if let Some(schema) = parameter.get_mut("schema") {
            without_null(schema);
        }
    }
    let body = operation.pointer_mut("/requestBody/content/application~1json/schema");
    if let Some(schema) = body {
        // A body that may be absent may still not be null.
        without_null(schema);
    }
    let by_token = operation["security"]
        .as_array()
        .is_none_or(|schemes| !schemes.is_empty() && !schemes.contains(&json!({})));
    let body = !operation["requestBody"].is_null();
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let content = body
        || parameters
            .into_iter()
            .any(|parameter| parameter["in"] != "path");
    let refusals = ALWAYS
        .iter()
        .chain(WITH_TOKEN.iter().filter(|_| by_token))
        .chain(WITH_BODY.iter().filter(|_| body))
        .chain(WITH_CONTENT.iter().filter(|_| content));
    let responses = operation
        .get_mut("responses")
        .and_then(Value::as_object_mut);
    let Some(responses) = responses else {
        return;
    };
    let mut plain = Vec::new();
    for refusal in refusals {
        let status = refusal.status.to_string();
        let response = responses.entry(&status).or_insert_with(|| json!({}));
        let description = match response["description"].as_str() {
            Some(handlers) if !handlers.is_empty() => {
                format!("{}; {handlers}", refusal.description)
            }
            _ => refusal.description.to_owned(),
        };
        response["description"] = description.into();
        if refusal.plain {
            plain.push(status);
        }
    }
    for (status, response) in responses {
        if status.as_str() >= "400" {
            let described = complete_error(status, response, plain.contains(status));
            assert!(
                described,
                "the answer {status} of {name} names no problem type in backticks"
            );
        } else {
            response["headers"]["traceresponse"] = json!({
                "description": "The trace (W3C Trace Context, level 2).",
                "schema": { "type": "string" },
            });
        }
    }
}

/// Gives an error its content and headers; false when it can have no content.
fn complete_error(status: &str, response: &mut Value, plain: bool) -> bool {
    let description = response["description"].as_str().unwrap_or_default();
    let types: Vec<_> = types_in(description).map(problem::type_of).collect();
    let mut content = Map::new();
    if !types.is_empty() {
        let schema = json!({ "allOf": [
            { "$ref": "#/components/schemas/Problem" },
            { "properties": { "type": { "enum": types } } },
        ] });
        content.insert(problem::MEDIA_TYPE.to_owned(), json!({ "schema": schema }));
    }
    if plain {
        let schema = json!({ "type": "string" });
        content.insert(PLAIN.to_owned(), json!({ "schema": schema }));
    }
    let has_content = !content.is_empty();
    response["content"] = content.into();
    let header = match status {
        "401" => Some(("WWW-Authenticate", "string", "`Bearer`")),
        "429" | "503" => Some(("Retry-After", "integer", "Seconds to wait.")),
        _ => None,
    };
    if let Some((header, kind, description)) = header {
        response["headers"][header] =
            json!({ "description": description, "schema": { "type": kind } });
    }
    has_content
}

/// The problem types that a description begins with or has behind a semicolon: `` `one`, `other`: what they mean ``.
fn types_in(description: &str) -> impl Iterator<Item = &str> {
    let heads = description.split("; ").filter_map(|part| {
        let (head, _) = part.split_once(": ")?;
        head.starts_with('`').then_some(head)
    });
    heads.flat_map(|head| head.split(", ").map(|kind| kind.trim_matches('`')))
}

/// Removes the null from a schema that utoipa made of an `Option`.
fn without_null(schema: &mut Value) {
    let null = |kind: &Value| kind == "null" || kind["type"] == "null";
    for field in ["type", "oneOf"] {
        let Some(kinds) = schema.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        kinds.retain(|kind| !null(kind));
        if let [only] = kinds.as_mut_slice() {
            let only = only.take();
            match field {
                "type" => schema["type"] = only,
                _ => *schema = only,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(operation: &Value) -> Value {
        let mut operation = operation.clone();
        complete_operation("get /x", &mut operation);
        operation
    }

    fn statuses(operation: &Value) -> Vec<&str> {
        let responses = operation["responses"].as_object().unwrap();
        responses.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_layers_and_gateway_answer_depends_on_what_is_sent() {
        let public = completed(&json!({ "security": [], "responses": { "200": {} } }));
        assert_eq!(statuses(&public), ["200", "400", "502", "503", "504"]);
        let protected = completed(&json!({ "requestBody": {}, "responses": { "202": {} } }));
        assert_eq!(
            statuses(&protected),
            [
                "202", "400", "401", "413", "415", "422", "429", "502", "503", "504"
            ]
        );
        assert!(protected["responses"]["503"]["headers"]["Retry-After"].is_object());
        let gone = &protected["responses"]["502"]["content"];
        assert_eq!(
            gone.as_object().unwrap().keys().collect::<Vec<_>>(),
            [PLAIN]
        );
    }

    #[test]
    fn types_of_the_handler_join_those_of_the_layers() {
        let operation = completed(&json!({
            "requestBody": {},
            "responses": { "422": { "description": "`unknown-product`: there is none" } },
        }));
        let schema = &operation["responses"]["422"]["content"][problem::MEDIA_TYPE]["schema"];
        assert_eq!(
            schema["allOf"][1]["properties"]["type"]["enum"],
            json!([
                "urn:agora:problem:invalid",
                "urn:agora:problem:unknown-product"
            ])
        );
    }

    #[test]
    #[should_panic(expected = "409 of get /x names no problem type")]
    fn an_error_without_a_type_is_refused() {
        completed(&json!({ "responses": { "409": { "description": "taken" } } }));
    }

    #[test]
    fn a_parameter_is_never_null() {
        let operation = completed(&json!({
            "parameters": [
                { "in": "query", "schema": { "type": ["integer", "null"], "minimum": 1 } },
                { "in": "query", "schema": { "oneOf": [{ "type": "null" }, { "$ref": "#/x" }] } },
            ],
            "responses": {},
        }));
        let schemas = operation["parameters"].as_array().unwrap().iter();
        let schemas: Vec<_> = schemas.map(|parameter| &parameter["schema"]).collect();
        assert_eq!(schemas[0], &json!({ "type": "integer", "minimum": 1 }));
        assert_eq!(schemas[1], &json!({ "$ref": "#/x" }));
    }

    #[test]
    fn a_body_that_may_be_absent_is_not_one_that_may_be_null() {
        let schema = json!({ "oneOf": [{ "type": "null" }, { "$ref": "#/x" }] });
        let operation = completed(&json!({
            "requestBody": { "content": { "application/json": { "schema": schema } } },
            "responses": {},
        }));
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(schema, &json!({ "$ref": "#/x" }));
    }
}
