//! The record that a command keeps on disk of its operation in progress, while the system is in a state that the command
//! will undo: a fault in force, containers being replaced. The record is locked; when its process is killed, the kernel
//! releases the lock, and the next command undoes what it finds.
//!
//! Left out: what was done. Healing looks at the system alone; only an evaluation has to remember more
//! (`evaluation::run_journal`).

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;

use crate::project::{self, Project};

const EXTENSION: &str = "operation";

/// The record of an operation of this process. Dropping it removes it.
#[derive(Debug)]
pub struct OperationRecord {
    path: PathBuf,
    is_kept: bool,
    _lock: File,
}

/// The recorded operations on a project's system, each as its description.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Those whose processes were killed.
    pub abandoned: Vec<String>,
    /// Those whose processes still run.
    pub running: Vec<String>,
}

impl OperationRecord {
    /// Records an operation; `what` describes it for people.
    pub fn create(project: &Project, what: &str) -> anyhow::Result<Self> {
        let path = folder(project)
            .join(project::new_run_id()?)
            .with_extension(EXTENSION);
        let lock = Self::write(&path, what)
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Self {
            path,
            is_kept: false,
            _lock: lock,
        })
    }

    /// Locked before another process can see it: an unlocked one is an abandoned one.
    fn write(path: &PathBuf, what: &str) -> io::Result<File> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        let mut file = File::create_new(&new)?;
        file.lock()?;
        file.write_all(what.as_bytes())?;
        fs::rename(new, path)?;
        Ok(file)
    }

    /// Keeps the record when this is dropped, because what was done could not be undone.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for OperationRecord {
    fn drop(&mut self) {
        if !self.is_kept {
            // One that stays costs the next command a look.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// All recorded operations on a project's system.
pub fn all(project: &Project) -> anyhow::Result<Operations> {
    let mut operations = Operations::default();
    for path in paths(project)? {
        let (what, abandoned) = match look(&path) {
            Ok(found) => found,
            // Taken away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        if abandoned {
            operations.abandoned.push(what);
        } else {
            operations.running.push(what);
        }
    }
    Ok(operations)
}

/// Removes the abandoned records, once their operations are undone.
pub fn forget_abandoned(project: &Project) -> anyhow::Result<()> {
    for path in paths(project)? {
        if look(&path).is_ok_and(|(_, abandoned)| abandoned) {
            fs::remove_file(&path)
                .with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A record's text, and whether its process is gone.
fn look(path: &PathBuf) -> io::Result<(String, bool)> {
    let what = fs::read_to_string(path)?;
    // Shared, so that two who look don't take each other for its process.
    match File::open(path)?.try_lock_shared() {
        Ok(()) => Ok((what, true)),
        Err(TryLockError::WouldBlock) => Ok((what, false)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn paths(project: &Project) -> anyhow::Result<Vec<PathBuf>> {
    let folder = folder(project);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("failed to read {}", folder.display()))?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|found| found == EXTENSION));
    paths.sort();
    Ok(paths)
}

/// One for each project: what is done to a test system is not done to a user's.
fn folder(project: &Project) -> PathBuf {
    project.outputs().join("operations").join(&project.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(root: &tempfile::TempDir) -> Project {
        Project::at(root.path().to_owned(), "agora-nobody")
    }

    #[test]
    fn an_operation_is_running_while_its_process_holds_the_record_and_gone_with_it() {
        let root = tempfile::tempdir().unwrap();
        let project = project(&root);
        assert_eq!(all(&project).unwrap(), Operations::default());
        let record = OperationRecord::create(&project, "a fault").unwrap();
        assert_eq!(all(&project).unwrap().running, ["a fault"]);
        forget_abandoned(&project).unwrap();
        assert_eq!(all(&project).unwrap().running, ["a fault"]);
        drop(record);
        assert_eq!(all(&project).unwrap(), Operations::default());
    }

    #[test]
    fn a_record_without_its_process_is_abandoned_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let project = project(&root);
        let mut record = OperationRecord::create(&project, "a fault").unwrap();
        record.keep();
        drop(record);
        assert_eq!(all(&project).unwrap().abandoned, ["a fault"]);
        forget_abandoned(&project).unwrap();
        assert_eq!(all(&project).unwrap(), Operations::default());
    }
}
