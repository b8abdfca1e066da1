//! Docker Compose V2: found, or fetched for this user alone, and called for one project.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    outcome,
    output::Step,
    process::Call,
    project::{Project, Settings},
};

/// The Debian package and suite that hold Compose V2 as one static binary.
const DEBIAN_PACKAGE: [&str; 2] = ["docker-compose", "forky"];
const HOW_TO_GET_IT: &str = "install Docker Compose V2 as https://docs.docker.com/compose/install/ describes, then run this again";

/// A Compose V2 that answers.
#[derive(Debug, Clone)]
pub(crate) struct Compose {
    /// `docker compose`, or the path of a binary.
    command: Vec<String>,
    /// What it calls itself.
    pub(crate) version: String,
}

impl Compose {
    /// Finds Compose V2 on this machine or in the cache, without any network.
    pub(crate) fn find() -> anyhow::Result<Option<Self>> {
        let cached = cached_binary()?;
        let candidates = [
            vec!["docker".into(), "compose".into()],
            vec!["docker-compose".into()],
            vec![path_text(&cached)],
        ];
        for command in candidates {
            if let Some(version) = version_of(&command) {
                return Ok(Some(Self { command, version }));
            }
        }
        Ok(None)
    }

    /// Finds Compose V2 or fetches it from Debian into the cache; nothing is installed system-wide.
    pub(crate) fn find_or_fetch(project: &Project, step: &Step) -> anyhow::Result<Self> {
        if let Some(found) = Self::find()? {
            return Ok(found);
        }
        step.say("Docker Compose V2 isn't installed: fetching it from Debian for this user alone");
        let cached = cached_binary()?;
        let folder = Project::cache()?.join("compose.new");
        let _ = fs::remove_dir_all(&folder);
        let [package, suite] = DEBIAN_PACKAGE;
        let fetched = Call::new("bash")
            .args([
                &path_text(&project.root.join("images/fetch-deb.sh")),
                package,
                suite,
                &path_text(&folder),
            ])
            .limit(Duration::from_secs(180))
            .logged(&project.log("compose"), |line| step.update(line));
        if let Err(error) = fetched {
            return Err(outcome::unavailable(
                format!("Docker Compose V2 is missing and can't be fetched: {error:#}"),
                HOW_TO_GET_IT,
            ));
        }
        // Moved into place in one piece, so that a fetch cut short never looks like a binary.
        fs::rename(
            folder.join("usr/libexec/docker/cli-plugins/docker-compose"),
            &cached,
        )?;
        fs::remove_dir_all(&folder)?;
        Self::find()?.ok_or_else(|| {
            outcome::unavailable(
                format!(
                    "the fetched {} isn't a working Docker Compose V2",
                    cached.display()
                ),
                HOW_TO_GET_IT,
            )
        })
    }

    /// The command as one line, for scripts.
    pub(crate) fn command_line(&self) -> String {
        self.command.join(" ")
    }

    /// A call that reads one file and does nothing with it; a syntax error names line and cause.
    pub(crate) fn read_alone(&self, file: &Path) -> Call {
        Call::new(&self.command[0])
            .args(&self.command[1..])
            .args(["--project-name", "check"])
            .args([Path::new("--file"), file])
            .args(["config", "--no-interpolate", "--quiet"])
    }

    /// A call that starts containers and returns when all are healthy, or none can be in `within_seconds` any more; with
    /// the further options and services of `what`.
    pub(crate) fn up<'a>(
        &self,
        project: &Project,
        settings: &Settings,
        within_seconds: u64,
        what: impl IntoIterator<Item = &'a str>,
    ) -> Call {
        let wait = within_seconds.to_string();
        let up = [
            "up",
            "--detach",
            "--no-build",
            "--wait",
            "--wait-timeout",
            &wait,
        ];
        self.call(project, settings, up)
            .args(what)
            // The engine's own work comes on top.
            .limit(Duration::from_secs(within_seconds + 60))
    }

    /// A call for the project, with its settings in the child's environment.
    pub(crate) fn call<'a>(
        &self,
        project: &Project,
        settings: &Settings,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Call {
        let mut call = Call::new(&self.command[0])
            .args(&self.command[1..])
            .args(["--project-name", &project.name])
            .args([Path::new("--project-directory"), &project.root])
            .args([Path::new("--env-file"), &project.env_file])
            .env("AGORA_BIN_DIR", project.binaries());
        // What this process has and the settings don't isn't meant for this project: compose would take it.
        let foreign = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.to_string_lossy().starts_with("AGORA_"));
        call = foreign.fold(call, Call::env_remove);
        for file in &project.compose_files {
            call = call.args([Path::new("--file"), &project.root.join(file)]);
        }
        for (name, value) in settings.iter().filter(|(name, _)| *name != "AGORA_BIN_DIR") {
            call = call.env(name, value);
        }
        call.args(args)
    }
}

fn cached_binary() -> anyhow::Result<PathBuf> {
    Ok(Project::cache()?.join("docker-compose"))
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The version, if the command is there and is V2 or newer.
fn version_of(command: &[String]) -> Option<String> {
    let call = Call::new(&command[0])
        .args(&command[1..])
        .args(["version", "--short"]);
    let version = call.limit(Duration::from_secs(15)).read().ok()?;
    let version = version.trim().trim_start_matches('v').to_owned();
    is_usable(&version).then_some(version)
}

/// V1 ended in 2023 and can't read this project's files.
fn is_usable(version: &str) -> bool {
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compose_v1_is_refused() {
        assert!(!is_usable("1.29.2"));
        assert!(!is_usable("docker-compose version 1.29.2, build unknown"));
        assert!(is_usable("2.40.3-5"));
        assert!(is_usable("5.0.0"));
    }
}
