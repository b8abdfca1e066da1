//! The API's documents through the gateway, and `verify-api`, which holds the API against them.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::system::System;

const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi");
const SERVICES: [&str; 3] = ["user-service", "order-service", "inventory-service"];
/// Some hundred requests a service, with passwords to hash, on a machine with other work; fetching the fuzzer included.
const FUZZED_WITHIN: Duration = Duration::from_secs(300);

fn document(service: &str) -> Value {
    let file = Path::new(DOCUMENTS).join(format!("{service}.json"));
    let text = fs::read_to_string(file).expect("a document of each service");
    serde_json::from_str(&text).expect("a JSON document")
}

#[test]
fn anybody_can_read_and_browse_the_documents() {
    let system = System::take_turn();
    for service in SERVICES {
        let path = format!("/openapi/{service}.json");
        let served = system.gateway.get(&path, &[]).expect_status(200).json();
        assert_eq!(served, document(service), "{service}");
    }
    let page = system.gateway.get("/docs/", &[]).expect_status(200);
    assert!(
        page.content_type.starts_with("text/html"),
        "{}",
        page.content_type
    );
}

#[test]
fn the_api_answers_as_its_documents_say() {
    // It allows no 5xx but a rejection, and a machine that is busy with others lets requests run out of time.
    let system = System::take_turn_alone();
    let options = [
        "verify-api",
        "--examples",
        "5",
        "--seed",
        "1",
        "--format",
        "json",
    ];
    let fuzzed = system.start_xtask(&options).end_within(FUZZED_WITHIN);
    let report = fuzzed.expect_code(0).json();
    assert_eq!(
        (&report["outcome"], &report["seed"]),
        (&json!("holds"), &json!(1))
    );
    let asked = report["operations"].as_array().expect("a list");
    for service in SERVICES {
        let document = document(service);
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("operations").keys() {
                let operation = format!("{} {path}", method.to_uppercase());
                assert!(
                    asked.iter().any(|asked| asked["operation"] == operation),
                    "{report}"
                );
            }
        }
    }
}

#[test]
fn a_document_that_lies_is_found() {
    let system = System::take_turn();
    let mut lies = document("inventory-service");
    lies["components"]["schemas"]["Stock"]["properties"]["available"]["type"] = json!("string");
    let operation = &mut lies["paths"]["/inventory/{product_id}"]["get"]["responses"];
    let removed = operation.as_object_mut().expect("answers").remove("404");
    assert!(removed.is_some());
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("inventory-service.json"),
        lies.to_string(),
    )
    .expect("a file");

    let folder = folder.path().to_string_lossy();
    let options = [
        "verify-api",
        "--documents",
        &folder,
        "--examples",
        "5",
        "--format",
        "json",
    ];
    let fuzzed = system.start_xtask(&options).end_within(FUZZED_WITHIN);
    let report = fuzzed.expect_code(1).json();
    assert_eq!(report["outcome"], "failed");
    let found = report["violations"].as_array().expect("a list");
    for title in ["Undocumented status code", "Response violates schema"] {
        assert!(
            found.iter().any(|found| found["title"] == title),
            "{report}"
        );
    }
}
