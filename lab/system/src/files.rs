//! Files that are replaced atomically.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Writes a file beside `path`, then renames it: a reader sees the old content or the new one, never a part.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Two processes don't write into the same file.
    let new = path.with_added_extension(format!("{}.new", std::process::id()));
    let mut file = fs::File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}
