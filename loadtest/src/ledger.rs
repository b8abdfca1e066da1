//! The ledger: a line per order and per cancellation, on disk as soon as the answer is known.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};
use records::load::{CANCELLATIONS_FILE, CancellationEntry, LEDGER_FILE, LedgerEntry, OrderCount};
use serde::Serialize;

/// Appends entries and counts them.
#[derive(Debug)]
pub(crate) struct Ledger {
    orders_file: File,
    cancellations_file: File,
    orders: OrderCount,
    failure: Option<std::io::Error>,
}

impl Ledger {
    /// Creates the run's folder with an empty ledger. A folder that has a ledger is refused.
    pub(crate) fn create(out_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(out_dir)
            .with_context(|| format!("failed to make the folder {}", out_dir.display()))?;
        Ok(Self {
            orders_file: create_new(&out_dir.join(LEDGER_FILE))?,
            cancellations_file: create_new(&out_dir.join(CANCELLATIONS_FILE))?,
            orders: OrderCount::default(),
            failure: None,
        })
    }

    /// Writes one entry. The file isn't buffered: a killed run loses no answer that it received.
    /// Returns whether it was written; the first error is kept for [`Ledger::finish`].
    pub(crate) fn append_order(&mut self, entry: &LedgerEntry) -> bool {
        self.orders.tried += 1;
        self.orders.accepted += u64::from(entry.order_id.is_some());
        let written = write_line(&mut self.orders_file, entry);
        self.is_recorded(written)
    }

    /// Likewise.
    pub(crate) fn append_cancellation(&mut self, entry: &CancellationEntry) -> bool {
        let written = write_line(&mut self.cancellations_file, entry);
        self.is_recorded(written)
    }

    /// The recorded orders, or the error that left a gap in the record.
    pub(crate) fn finish(&mut self) -> anyhow::Result<OrderCount> {
        match self.failure.take() {
            None => Ok(self.orders),
            Some(error) => {
                Err(error).context("failed to write the ledger: entries are missing in it")
            }
        }
    }

    fn is_recorded(&mut self, written: std::io::Result<()>) -> bool {
        match written {
            Ok(()) => true,
            Err(error) => {
                self.failure.get_or_insert(error);
                false
            }
        }
    }
}

fn create_new(path: &Path) -> anyhow::Result<File> {
    match File::create_new(path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} is another run's: choose a new --out-dir",
                path.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("failed to make {}", path.display())),
    }
}

fn write_line(file: &mut File, entry: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)
}
