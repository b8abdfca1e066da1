//! Random bytes from the operating system, for secrets and for names that must differ.

use std::{fs, io::Read};

use anyhow::Context;

/// `bytes` random bytes from the operating system, in hexadecimal.
pub fn hex(bytes: usize) -> anyhow::Result<String> {
    let mut buffer = vec![0; bytes];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .context("failed to read random bytes from /dev/urandom")?;
    Ok(spelled(&buffer))
}

/// Bytes in hexadecimal.
pub fn spelled(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
