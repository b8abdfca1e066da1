//! The OpenAPI documents in the repository, for readers, comparisons and the check of the gateway's routes: identical to
//! what the services serve.

use std::path::Path;

use crate::Service;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi");
/// When set to anything, the files are written instead of compared.
const WRITE: &str = "AGORA_TEST_WRITE_DOCUMENTS";

/// Compares the document that a service serves with the repository's.
pub async fn document_is_the_repositorys(service: &Service, name: &str) {
    let path = chassis::openapi::path(name);
    let answer = service.anonymous("GET", &path).send().await;
    let answer = answer.expect("the service answers");
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    let served = answer.text().await.expect("a text");
    let file = Path::new(FOLDER).join(format!("{name}.json"));
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &served).expect("the document can be written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        served == committed,
        "the code and {} differ: if the API was meant to change, look at what \
         `{WRITE}=1 cargo xtask test -- -p {name} --test api document` makes of it",
        file.display()
    );
}
