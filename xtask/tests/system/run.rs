//! A load run on disk: who reads, copies and falsifies it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use records::load::{LEDGER_FILE, LedgerEntry, RunSummary, SUMMARY_FILE};

use crate::{client, program::Ended};

/// A run on disk.
pub(crate) struct Run {
    pub(crate) id: String,
}

impl Run {
    /// The run that `load --format json` reported.
    #[track_caller]
    pub(crate) fn of(summary: &serde_json::Value) -> Self {
        Self {
            id: client::text(summary, "run_id"),
        }
    }

    /// The run that an ended `load` names.
    #[track_caller]
    pub(crate) fn named_by(load: &Ended) -> Self {
        let lines = load.stdout.lines().chain(load.stderr.lines());
        let mut named = lines.filter_map(|line| line.strip_prefix("run ")?.split_once(':'));
        let (id, _) = named.next().unwrap_or_else(|| panic!("{}", load.account()));
        Self { id: id.to_owned() }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        runs().join(&self.id)
    }

    /// What the load generator counted.
    #[track_caller]
    pub(crate) fn summary(&self) -> RunSummary {
        let text = self.read(SUMMARY_FILE);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", self.id))
    }

    /// Every order that was tried.
    #[track_caller]
    pub(crate) fn ledger(&self) -> Vec<LedgerEntry> {
        let text = self.read(LEDGER_FILE);
        let entry =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        text.lines().map(entry).collect()
    }

    fn read(&self, file: &str) -> String {
        let path = self.folder().join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Writes another ledger in its place.
    #[track_caller]
    pub(crate) fn write_ledger(&self, ledger: &[LedgerEntry]) {
        let line = |entry| serde_json::to_string(entry).expect("an entry is JSON") + "\n";
        let lines: String = ledger.iter().map(line).collect();
        fs::write(self.folder().join(LEDGER_FILE), lines).expect("a copied run can be written");
    }

    /// The same run under another name.
    pub(crate) fn copy(&self, suffix: &str) -> Self {
        let copy = Self {
            id: format!("{}-{suffix}", self.id),
        };
        fs::create_dir_all(copy.folder()).expect("a run's folder can be made");
        for entry in fs::read_dir(self.folder()).expect("the run has a folder") {
            let entry = entry.expect("the run's folder can be read");
            fs::copy(entry.path(), copy.folder().join(entry.file_name()))
                .expect("a file can be copied");
        }
        copy
    }
}

/// Where runs are kept.
fn runs() -> PathBuf {
    // Asked at run time: the folder of the clone that runs the tests, which may share its target
    // folder with others.
    let xtask = env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let root = Path::new(&xtask)
        .parent()
        .expect("xtask is in the repository");
    root.join("target/agora/load")
}
