//! The `.env` file: settings and secrets of one project, read by Compose as well.
//!
//! The file is created by the first `up` with mode 0600 and never replaced, only completed. Lines that people added
//! stay as they are. Left out: what settings mean ([`crate::project::Settings`]).

mod syntax;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use base::outcome;

use self::syntax::{Piece, SyntaxError};
use crate::{
    files::{PRIVATE, replace_private},
    random,
    signing_keys::{JWT_KEYS, SigningKeys},
};

/// The setting with the id of the secrets that the volumes were made with.
pub const SECRETS_ID: &str = "AGORA_SECRETS_ID";
/// The setting with the time since which the first signing key alone signs (RFC 3339); empty during a rotation.
pub const JWT_KEYS_ROTATED_AT: &str = "AGORA_JWT_KEYS_ROTATED_AT";
/// The setting for how long a token is valid, in seconds, and its default in compose.yaml.
pub const JWT_TTL_SECONDS: (&str, u32) = ("AGORA_JWT_TTL_SECONDS", 3600);

/// Secrets that PostgreSQL and RabbitMQ keep in their volumes: a new one needs new volumes.
const STORED_SECRETS: [&str; 6] = [
    "AGORA_POSTGRES_PASSWORD",
    "AGORA_USER_DB_PASSWORD",
    "AGORA_PRODUCT_DB_PASSWORD",
    "AGORA_ORDER_DB_PASSWORD",
    "AGORA_INVENTORY_DB_PASSWORD",
    "AGORA_RABBITMQ_PASSWORD",
];

/// A project's env file, with everything that people wrote in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    path: PathBuf,
    pieces: Vec<Piece>,
}

impl EnvFile {
    /// Reads the file; one that doesn't exist has no lines.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read {}", path.display()));
            }
        };
        let outside = |name: &str| std::env::var(name).ok();
        match syntax::parse(&text, outside) {
            Ok(pieces) => Ok(Self {
                path: path.to_owned(),
                pieces,
            }),
            Err(SyntaxError { line, cause }) => Err(outcome::usage(
                format!("{}:{line}: {cause}", path.display()),
                "correct the line or remove it",
            )),
        }
    }

    /// The value of a variable; the last line wins, as in compose.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries()
            .filter(|(key, _)| *key == name)
            .last()
            .map(|(_, value)| value)
    }

    /// All variables in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pieces.iter().filter_map(|piece| {
            let (name, value) = piece.entry.as_ref()?;
            Some((name.as_str(), value.as_str()))
        })
    }

    /// Sets a variable, in place where it stands already; a line that gives it this value stays as it is.
    pub fn set(&mut self, name: &str, value: &str) {
        let sets = |piece: &Piece| piece.entry.as_ref().is_some_and(|(key, _)| key == name);
        match self.pieces.iter().rposition(sets) {
            Some(_) if self.get(name) == Some(value) => {}
            Some(position) => self.pieces[position] = syntax::assign(name, value),
            None => self.pieces.push(syntax::assign(name, value)),
        }
    }

    /// Adds what is missing: each default as given, each secret as a new random one.
    ///
    /// A new secret of the database or the broker comes with a new [`SECRETS_ID`], so that volumes made
    /// with the old one are noticed.
    pub fn complete(&mut self, defaults: &[(&str, &str)]) -> anyhow::Result<()> {
        if self.pieces.is_empty() {
            self.pieces.push(Piece {
                text: "# Made by `cargo xtask up`. Holds secrets: not for the repository."
                    .to_owned(),
                entry: None,
            });
        }
        for (name, value) in defaults {
            if self.get(name).is_none() {
                self.set(name, value);
            }
        }
        let mut new_stored_secret = false;
        for name in STORED_SECRETS {
            if self.get(name).is_none_or(str::is_empty) {
                self.set(name, &random::hex(24)?);
                new_stored_secret = true;
            }
        }
        if self.get(JWT_KEYS).is_none_or(str::is_empty) {
            self.set(JWT_KEYS, &SigningKeys::fresh()?.text());
        }
        if new_stored_secret || self.get(SECRETS_ID).is_none_or(str::is_empty) {
            self.set(SECRETS_ID, &random::hex(8)?);
        }
        Ok(())
    }

    /// Writes the file in one piece, readable for its owner alone; nothing happens when it stands so already.
    pub fn save(&self) -> anyhow::Result<()> {
        let pieces: Vec<&str> = self
            .pieces
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        let text = pieces.join("\n") + "\n";
        if fs::read_to_string(&self.path).is_ok_and(|old| old == text) {
            return self.protect();
        }
        replace_private(&self.path, text.as_bytes())
            .with_context(|| format!("failed to write {}", self.path.display()))
    }

    fn protect(&self) -> anyhow::Result<()> {
        let mode = fs::metadata(&self.path)?.permissions().mode() & 0o777;
        if mode != PRIVATE {
            fs::set_permissions(&self.path, Permissions::from_mode(PRIVATE)).with_context(
                || format!("failed to make {} private (mode 0600)", self.path.display()),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir, text: &str) -> EnvFile {
        let path = folder.path().join(".env");
        fs::write(&path, text).unwrap();
        EnvFile::read(&path).unwrap()
    }

    #[test]
    fn comments_quotes_and_repetition_are_read_as_compose_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let env = file(
            &folder,
            "# note\n\nA=1\nB=\"two words\"\nexport C='3'\nA=4\n",
        );
        assert_eq!(
            (env.get("A"), env.get("B"), env.get("C")),
            (Some("4"), Some("two words"), Some("3"))
        );
        assert_eq!(env.get("D"), None);
    }

    #[test]
    fn a_line_that_is_no_assignment_is_refused_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "A=1\nnonsense\n").unwrap();
        let error = EnvFile::read(&path).unwrap_err().to_string();
        assert!(error.contains(".env:2"), "{error}");
    }

    #[test]
    fn a_new_file_has_every_secret_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/.env");
        let mut env = EnvFile::read(&path).unwrap();
        env.complete(&[("AGORA_HTTP_PORT", "80")]).unwrap();
        env.save().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = EnvFile::read(&path).unwrap();
        assert_eq!(again.get("AGORA_HTTP_PORT"), Some("80"));
        let key = again.get(JWT_KEYS).unwrap().split_once(':').unwrap().1;
        assert_eq!(key.len(), 64);
        for name in STORED_SECRETS {
            assert_eq!(again.get(name).unwrap().len(), 48, "{name}");
        }
    }

    #[test]
    fn compose_knows_the_same_life_of_a_token() {
        let compose = include_str!("../../../compose.yaml");
        let (variable, default) = JWT_TTL_SECONDS;
        assert!(compose.contains(&format!("JWT_TTL_SECONDS: ${{{variable}:-{default}}}")));
    }

    #[test]
    fn completing_a_complete_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = EnvFile::read(&folder.path().join(".env")).unwrap();
        env.complete(&[("AGORA_HTTP_PORT", "80")]).unwrap();
        let before = env.clone();
        env.complete(&[("AGORA_HTTP_PORT", "81")]).unwrap();
        assert_eq!(env, before);
    }

    #[test]
    fn a_lost_password_gives_the_secrets_a_new_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = EnvFile::read(&folder.path().join(".env")).unwrap();
        env.complete(&[]).unwrap();
        let id = env.get(SECRETS_ID).unwrap().to_owned();
        env.pieces
            .retain(|piece| !piece.text.starts_with("AGORA_ORDER_DB_PASSWORD"));
        env.complete(&[]).unwrap();
        assert_ne!(env.get(SECRETS_ID).unwrap(), id);
    }

    #[test]
    fn wrong_permissions_are_corrected() {
        let folder = tempfile::tempdir().unwrap();
        let env = file(&folder, "A=1\n");
        fs::set_permissions(&env.path, Permissions::from_mode(0o644)).unwrap();
        env.save().unwrap();
        assert_eq!(
            fs::metadata(&env.path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_comment_behind_a_value_is_no_part_of_it_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = file(&folder, "AGORA_HTTP_PORT=8081 # mine\n");
        assert_eq!(env.get("AGORA_HTTP_PORT"), Some("8081"));
        env.set("AGORA_HTTP_PORT", "8081");
        env.save().unwrap();
        assert_eq!(
            fs::read_to_string(&env.path).unwrap(),
            "AGORA_HTTP_PORT=8081 # mine\n"
        );
    }

    #[test]
    fn setting_keeps_other_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = file(&folder, "# mine\nA=1\nB=2\n");
        env.set("A", "3");
        env.set("C", "4");
        env.save().unwrap();
        assert_eq!(
            fs::read_to_string(&env.path).unwrap(),
            "# mine\nA=3\nB=2\nC=4\n"
        );
    }
}
