//! A repository of nothing but what some checks read, for tests to break it.

use std::{fs, path::Path};

use crate::sources::root;

/// A copy of the configurations, in a folder of its own that goes with it.
pub fn small_repository() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder for the test");
    let root = root();
    copy_folder(
        &root.join("observability"),
        &copy.path().join("observability"),
    );
    fs::create_dir(copy.path().join("xtask")).expect("a folder");
    fs::write(copy.path().join("compose.yaml"), "").expect("a file");
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}
