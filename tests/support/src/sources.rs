//! The repository's own files, for tests that look for words in them.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

/// The repository.
pub fn root() -> PathBuf {
    // As cargo says it at run time: in a target folder that clones share, a compiled path may be another clone's.
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    let folders = Path::new(&package).ancestors();
    let mut roots = folders.filter(|folder| folder.join("compose.yaml").is_file());
    roots.next().expect("the repository").to_owned()
}

/// All texts with this extension below a folder, but for what cargo and compose make.
pub fn texts(folder: &Path, extension: &str) -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path).expect("a text");
                texts.insert(path, text);
            }
        }
    }
    texts
}
