//! Docker Compose V2: found, or fetched for this user alone, and called for one project.
//!
//! Left out: what is asked of it; callers choose the subcommand.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base::{outcome, progress::Step};

use crate::{
    process::Call,
    project::{Project, Settings},
};

/// The Debian package and suite that hold Compose V2 as one static binary.
const DEBIAN_PACKAGE: [&str; 2] = ["docker-compose", "forky"];
/// An empty file that every system with an engine has.
const NO_ENV_FILE: &str = "/dev/null";
/// Compose's own variables that may come from outside: how many calls of the engine it makes at a time.
const HARMLESS: [&str; 1] = ["COMPOSE_PARALLEL_LIMIT"];
/// How long the engine may take to stop the containers of before, and to make and start new ones.
const STARTED_WITHIN: Duration = Duration::from_secs(180);
const HOW_TO_GET_IT: &str = "install Docker Compose V2 as https://docs.docker.com/compose/install/ describes, then run this again";

/// A Compose V2 that answers.
#[derive(Debug, Clone)]
pub struct Compose {
    /// `docker compose`, or the path of a binary.
    command: Vec<String>,
    /// The version, as it prints it.
    pub version: String,
}

impl Compose {
    /// Finds Compose V2 on this machine or in the cache, without any network.
    pub fn find() -> anyhow::Result<Option<Self>> {
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
    pub fn find_or_fetch(project: &Project, step: &Step) -> anyhow::Result<Self> {
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

    /// The command in one line, as a script calls it.
    pub fn command_line(&self) -> String {
        self.command.join(" ")
    }

    /// A call whose effect depends on its arguments alone, and on no variable of this process.
    pub fn command(&self) -> Call {
        by_its_arguments_alone(&self.command)
    }

    /// A call that reads one file and does nothing with it; a syntax error names line and cause.
    pub fn read_alone(&self, file: &Path) -> Call {
        self.command()
            .args(["--project-name", "check"])
            .args([Path::new("--file"), file])
            .args(["config", "--no-interpolate", "--quiet"])
    }

    /// A call that makes and starts containers, with the further options and services of `what`. Whether they get healthy
    /// is asked of [`crate::health`]: Compose would wait for the engine's next check.
    pub fn up<'a>(
        &self,
        project: &Project,
        settings: &Settings,
        what: impl IntoIterator<Item = &'a str>,
    ) -> Call {
        self.call(project, settings, ["up", "--detach", "--no-build"])
            .args(what)
            .limit(STARTED_WITHIN)
    }

    /// A call for the project, with its settings in the child's environment.
    pub fn call<'a>(
        &self,
        project: &Project,
        settings: &Settings,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Call {
        let mut call = self
            .command()
            .args(["--project-name", project.compose_name()])
            .args([Path::new("--project-directory"), &project.root])
            // The settings are in its environment. What else .env says is for people who call compose by hand.
            .args(["--env-file", NO_ENV_FILE])
            .env("AGORA_BIN_DIR", project.binaries());
        // What this process has and the settings don't isn't meant for this project: compose would take it.
        call = without_own(call, |name| name.starts_with("AGORA_"));
        for file in &project.compose_files {
            call = call.args([Path::new("--file"), &project.root.join(file)]);
        }
        for (name, value) in settings.iter() {
            if name != "AGORA_BIN_DIR" && !commands_compose(name) {
                call = call.env(name, value);
            }
        }
        call.args(args)
    }
}

/// Whether a variable decides what Compose does: its files, profiles, project, …
fn commands_compose(name: &str) -> bool {
    name.starts_with("COMPOSE_") && !HARMLESS.contains(&name)
}

/// Removes this process's own Compose variables from a call.
pub(crate) fn unmoved_from_outside(call: Call) -> Call {
    without_own(call, commands_compose)
}

fn by_its_arguments_alone(command: &[String]) -> Call {
    unmoved_from_outside(Call::new(&command[0]).args(&command[1..]))
}

/// Without the variables of this process's own that are meant.
fn without_own(call: Call, meant: impl Fn(&str) -> bool) -> Call {
    let names = std::env::vars_os().map(|(name, _)| name);
    let meant = names.filter(|name| meant(&name.to_string_lossy()));
    meant.fold(call, Call::env_remove)
}

fn cached_binary() -> anyhow::Result<PathBuf> {
    Ok(Project::cache()?.join("docker-compose"))
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The version, if the command is there and is V2 or newer.
fn version_of(command: &[String]) -> Option<String> {
    let call = by_its_arguments_alone(command).args(["version", "--short"]);
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
    fn what_commands_compose_does_not_come_from_outside() {
        for name in ["COMPOSE_PROFILES", "COMPOSE_FILE", "COMPOSE_ENV_FILES"] {
            assert!(commands_compose(name), "{name}");
        }
        for name in ["COMPOSE_PARALLEL_LIMIT", "DOCKER_HOST", "AGORA_HTTP_PORT"] {
            assert!(!commands_compose(name), "{name}");
        }
    }

    #[test]
    fn what_commands_compose_does_not_come_from_the_env_file() {
        let folder = tempfile::tempdir().unwrap();
        let env_file = folder.path().join(".env");
        let text = "COMPOSE_PROFILES=tools\nCOMPOSE_PARALLEL_LIMIT=2\nAGORA_HTTP_PORT=81 # mine\n";
        fs::write(&env_file, text).unwrap();
        let project = Project::discover().unwrap().with_env_file(env_file.clone());
        // Shows what it is given, in place of a Compose.
        let shows = Compose {
            command: ["sh", "-c", "echo \"$@\"; env", "sh"]
                .map(str::to_owned)
                .to_vec(),
            version: "2".to_owned(),
        };
        let settings = project.for_tests().with_env_file(env_file.clone());
        let settings = settings.settings().unwrap();
        let given = shows.call(&project, &settings, ["ps"]).read().unwrap();
        assert!(!given.contains("COMPOSE_PROFILES"), "{given}");
        assert!(!given.contains(&*env_file.to_string_lossy()), "{given}");
        assert!(given.contains("\nCOMPOSE_PARALLEL_LIMIT=2\n"), "{given}");
        assert!(given.contains("\nAGORA_HTTP_PORT=81\n"), "{given}");
    }

    #[test]
    fn compose_v1_is_refused() {
        assert!(!is_usable("1.29.2"));
        assert!(!is_usable("docker-compose version 1.29.2, build unknown"));
        assert!(is_usable("2.40.3-5"));
        assert!(is_usable("5.0.0"));
    }
}
