//! The ledger file: a line for each order, on disk as soon as its answer is known.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};
use load_record::{LEDGER_FILE, LedgerEntry, OrderCount};

/// Appends entries and counts them.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
    orders: OrderCount,
    failure: Option<std::io::Error>,
}

impl Ledger {
    /// Makes the run's folder and an empty ledger in it. A folder that holds a ledger is refused.
    pub(crate) fn create(out_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(out_dir)
            .with_context(|| format!("failed to make the folder {}", out_dir.display()))?;
        let path = out_dir.join(LEDGER_FILE);
        let file = match File::create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!(
                    "{} is another run's: choose a new --out-dir",
                    path.display()
                )
            }
            Err(error) => {
                return Err(error).with_context(|| format!("failed to make {}", path.display()));
            }
        };
        Ok(Self {
            file,
            orders: OrderCount::default(),
            failure: None,
        })
    }

    /// Writes one entry. The file isn't buffered: a killed run has lost no answer that it saw.
    /// Says whether it is on record; the first error is kept for [`Ledger::finish`].
    pub(crate) fn append(&mut self, entry: &LedgerEntry) -> bool {
        self.orders.tried += 1;
        self.orders.accepted += u64::from(entry.order_id.is_some());
        match write_line(&mut self.file, entry) {
            Ok(()) => true,
            Err(error) => {
                self.failure.get_or_insert(error);
                false
            }
        }
    }

    /// The orders on record, or why the record has a gap.
    pub(crate) fn finish(&mut self) -> anyhow::Result<OrderCount> {
        match self.failure.take() {
            None => Ok(self.orders),
            Some(error) => {
                Err(error).context("failed to write the ledger: orders are missing in it")
            }
        }
    }
}

fn write_line(file: &mut File, entry: &LedgerEntry) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)
}
