//! The repository's own documents: links, anchors, and the length of the pages that have to be short.
//!
//! Left out: what is found in documents that are wrong (`checks::links`).

use std::path::{Path, PathBuf};

use checks::links::Documents;
use support::sources::{root, texts};

/// Fewer links than these mean that the test reads nothing.
const LEAST_LINKS: usize = 100;

#[test]
fn every_link_leads_somewhere_and_every_page_is_reached() {
    let root = root();
    let texts = texts(&root, "md").into_iter().map(|(path, text)| {
        let path = path.strip_prefix(&root).expect("a path of the repository");
        (PathBuf::from(path), text)
    });
    let exists = |path: &Path| root.join(path).exists();
    let documents = Documents::new(texts.collect(), &exists);
    let links = documents.count();
    assert!(links >= LEAST_LINKS, "only {links} links were found");
    let wrong = documents.wrong();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
