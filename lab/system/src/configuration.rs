//! The configuration files: a hash of each third-party service's, and whether Compose can read them.
//!
//! Compose recreates a container when its own definition changed, and not when a file that is mounted into
//! it did. `compose.yaml` carries these hashes as labels, so that a changed file counts as a change.
//!
//! Left out: the services' own configuration, which is environment variables.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::{
    Part,
    compose::Compose,
    process::Call,
    project::{Project, Settings},
    random,
};

/// The setting that carries a hash, and the part from whose folder below `observability/` it is made. PostgreSQL
/// isn't among them: its files are read once, when its volume is made.
const FOLDERS: [(&str, Part); 8] = [
    ("AGORA_CONFIGURATION_TRAEFIK", Part::Traefik),
    ("AGORA_CONFIGURATION_RABBITMQ", Part::RabbitMq),
    ("AGORA_CONFIGURATION_PROMETHEUS", Part::Prometheus),
    ("AGORA_CONFIGURATION_ALERTMANAGER", Part::Alertmanager),
    ("AGORA_CONFIGURATION_LOKI", Part::Loki),
    ("AGORA_CONFIGURATION_ALLOY", Part::Alloy),
    ("AGORA_CONFIGURATION_GRAFANA", Part::Grafana),
    ("AGORA_CONFIGURATION_JAEGER", Part::Jaeger),
];

/// The hashes in hexadecimal, by the setting that carries them.
pub fn hashes(project: &Project) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let hash = |(setting, part): (_, Part)| {
        let mut hasher = Sha256::new();
        let folder = project.root.join("observability").join(part.name());
        add_folder(&mut hasher, &folder)?;
        Ok((setting, random::spelled(&hasher.finalize()[..8])))
    };
    FOLDERS.into_iter().map(hash).collect()
}

/// Names and contents, in the order of the names.
fn add_folder(hasher: &mut Sha256, folder: &Path) -> anyhow::Result<()> {
    let read = || -> std::io::Result<Vec<_>> { fs::read_dir(folder)?.collect() };
    let mut entries = read().with_context(|| format!("failed to read {}", folder.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        hasher.update(entry.file_name().as_encoded_bytes());
        if path.is_dir() {
            add_folder(hasher, &path)?;
            continue;
        }
        let bytes =
            fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        hasher.update(bytes.len().to_be_bytes());
        hasher.update(bytes);
    }
    Ok(())
}

/// A call that reads the Compose files with these settings and fails if they aren't valid; `None` without Compose.
///
/// # Errors
/// When Compose can't be looked for.
pub fn composition_check(project: &Project, settings: &Settings) -> anyhow::Result<Option<Call>> {
    let config = ["--profile", "pulled", "config", "--quiet"];
    Ok(Compose::find()?.map(|compose| compose.call(project, settings, config)))
}

/// A call that fails if a file isn't YAML of which Compose could be made; `None` without Compose.
///
/// # Errors
/// When Compose can't be looked for.
pub fn yaml_check(file: &Path) -> anyhow::Result<Option<Call>> {
    Ok(Compose::find()?.map(|compose| compose.read_alone(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(folder: &Path) -> Vec<u8> {
        let mut hasher = Sha256::new();
        add_folder(&mut hasher, folder).unwrap();
        hasher.finalize().to_vec()
    }

    #[test]
    fn a_changed_renamed_or_added_file_changes_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::create_dir(file("dynamic")).unwrap();
        fs::write(file("dynamic/agora.yaml"), "a").unwrap();
        let first = hash(folder.path());
        assert_eq!(hash(folder.path()), first);
        fs::write(file("dynamic/agora.yaml"), "b").unwrap();
        let changed = hash(folder.path());
        fs::rename(file("dynamic/agora.yaml"), file("dynamic/shop.yaml")).unwrap();
        let renamed = hash(folder.path());
        fs::write(file("more"), "").unwrap();
        let mut all = vec![first, changed, renamed, hash(folder.path())];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
}
