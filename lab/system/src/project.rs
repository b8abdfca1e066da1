//! The project that a command works on: its folders, its name and its settings.
//!
//! `AGORA_PROJECT` and `AGORA_ENV_FILE` point a command at another running system than the default one; so do the
//! system tests. Left out: what runs in it ([`crate::members`]).

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use base::outcome;
use chrono::Utc;
use sha2::{Digest, Sha256};

use crate::{Part, env_file::EnvFile, random};

/// How the names of all settings begin.
const OWN_PREFIX: &str = "AGORA_";

/// The suffix that `cargo xtask test` adds to the project's name for its own; a number may follow. With the number in front
/// of it the second system of `agora` would be the first one of a project that is called `agora-2`.
const TEST_SUFFIX: &str = "-test";

/// The one of `known` with this name.
///
/// # Errors
/// The names that there are, as a sentence for clap's message.
pub fn among(known: &[&'static str], what: &str, name: &str) -> Result<&'static str, String> {
    let found = known.iter().copied().find(|known| *known == name);
    found.ok_or_else(|| format!("the {what} are {}", known.join(", ")))
}

/// A new id for a run and its folder: ids sort by time, and two of the same second differ.
pub fn new_run_id() -> anyhow::Result<String> {
    let time = Utc::now().format("%Y%m%d-%H%M%S");
    Ok(format!("{time}-{}", random::hex(2)?))
}

/// A port published on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct PublishedPort {
    /// The setting that chooses it; 0 takes any free one.
    pub variable: &'static str,
    /// The port without that setting.
    pub default: &'static str,
    /// The service behind it.
    pub service: Part,
    /// The port inside the container.
    pub container_port: u16,
    /// What people find there, for `up`'s list.
    pub what: &'static str,
}

/// Every published port.
pub const PORTS: [PublishedPort; 7] = [
    PublishedPort {
        variable: "AGORA_HTTP_PORT",
        default: "80",
        service: Part::Traefik,
        container_port: 8080,
        what: "the shop, through the gateway",
    },
    PublishedPort {
        variable: "AGORA_TRAEFIK_DASHBOARD_PORT",
        default: "8080",
        service: Part::Traefik,
        container_port: 8081,
        what: "Traefik: the gateway's dashboard",
    },
    PublishedPort {
        variable: "AGORA_RABBITMQ_UI_PORT",
        default: "15672",
        service: Part::RabbitMq,
        container_port: 15672,
        what: "RabbitMQ management",
    },
    PublishedPort {
        variable: "AGORA_PROMETHEUS_PORT",
        default: "9090",
        service: Part::Prometheus,
        container_port: 9090,
        what: "Prometheus",
    },
    PublishedPort {
        variable: "AGORA_ALERTMANAGER_PORT",
        default: "9093",
        service: Part::Alertmanager,
        container_port: 9093,
        what: "Alertmanager",
    },
    PublishedPort {
        variable: "AGORA_JAEGER_PORT",
        default: "16686",
        service: Part::Jaeger,
        container_port: 16686,
        what: "Jaeger: the traces",
    },
    PublishedPort {
        variable: "AGORA_ALERT_RECEIVER_PORT",
        default: "9094",
        service: Part::AlertReceiver,
        container_port: 8080,
        what: "alerts that fired and cleared, at /alerts",
    },
];

/// Grafana's port, where it runs.
pub const GRAFANA: PublishedPort = PublishedPort {
    variable: "AGORA_GRAFANA_PORT",
    default: "3001",
    service: Part::Grafana,
    container_port: 3000,
    what: "Grafana: dashboards, logs, traces",
};

/// What a system runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Engine {
    /// The container engine of this machine, by Compose.
    #[default]
    Compose,
    /// A Kubernetes cluster.
    Kubernetes(Place),
}

/// Where on Kubernetes a system is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The context of the user's own kubeconfig; without one it is the project's local cluster.
    pub context: Option<String>,
    /// The namespace, which is the system's alone.
    pub namespace: String,
}

impl Engine {
    /// The names that a user chooses from.
    pub const NAMES: [&'static str; 2] = ["compose", "kubernetes"];
    /// The variable that chooses where no option does.
    pub const VARIABLE: &'static str = "AGORA_ENGINE";
    /// The namespace without another one.
    pub const NAMESPACE: &'static str = "agora";

    /// The one that is chosen by these; without a name the environment's is taken.
    ///
    /// # Errors
    /// An unknown name, and a context or namespace without Kubernetes.
    pub fn chosen(
        name: Option<&str>,
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> anyhow::Result<Self> {
        let from_outside = set(Self::VARIABLE);
        let name = name.or(from_outside.as_deref()).unwrap_or("compose");
        let kubernetes = match name {
            "compose" => false,
            "kubernetes" => true,
            unknown => {
                return Err(outcome::usage(
                    format!("{}={unknown}: there is no such engine", Self::VARIABLE),
                    format!("the engines are {}", Self::NAMES.join(", ")),
                ));
            }
        };
        let given = [("--context", context), ("--namespace", namespace)];
        if !kubernetes && let Some((option, _)) = given.iter().find(|(_, value)| value.is_some()) {
            return Err(outcome::usage(
                format!("{option} is for Kubernetes"),
                "add `--on kubernetes`, or leave it out",
            ));
        }
        Ok(if kubernetes {
            Self::Kubernetes(Place {
                context: context.map(str::to_owned),
                namespace: namespace.unwrap_or(Self::NAMESPACE).to_owned(),
            })
        } else {
            Self::Compose
        })
    }
}

impl Engine {
    /// Whether agora can let members stand still there, kill them, and see that the kernel throttles them: on Kubernetes where it
    /// reaches the nodes.
    pub fn lets_members_be_halted(&self) -> bool {
        match self {
            Self::Compose => true,
            Self::Kubernetes(place) => place.context.is_none(),
        }
    }

    /// Whether it has nodes that agora can kill.
    pub fn has_nodes(&self) -> bool {
        *self != Self::Compose && self.lets_members_be_halted()
    }

    /// Whether agora can stop members there, cut them off and take them memory.
    pub fn lets_members_be_changed(&self) -> bool {
        *self == Self::Compose
    }

    /// The options that choose it, as a user types them.
    pub fn options(&self) -> Vec<String> {
        let Self::Kubernetes(Place { context, namespace }) = self else {
            return Vec::new();
        };
        let mut options = vec!["--on kubernetes".to_owned()];
        options.extend(context.iter().map(|context| format!("--context {context}")));
        if namespace != Self::NAMESPACE {
            options.push(format!("--namespace {namespace}"));
        }
        options
    }
}

/// A project: one system, its repository and its settings.
#[derive(Debug, Clone)]
pub struct Project {
    /// The repository's root.
    pub root: PathBuf,
    /// The system's name. Compose puts it before every container's; on Kubernetes it begins with the name that Compose's would have.
    pub name: String,
    /// What the system runs on.
    pub engine: Engine,
    /// The file with settings and secrets.
    pub env_file: PathBuf,
    /// Compose files below the root.
    pub compose_files: Vec<&'static str>,
    /// Whether variables of this process win over the env file.
    environment_wins: bool,
}

impl Project {
    /// The project around the current folder.
    pub fn discover() -> anyhow::Result<Self> {
        require_text(env::vars_os())?;
        let root = find_root()?;
        let env_file =
            set("AGORA_ENV_FILE").map_or_else(|| root.join(".env"), |path| root.join(path));
        let name = set("AGORA_PROJECT").unwrap_or_else(|| "agora".to_owned());
        Ok(Self {
            root,
            env_file,
            compose_files: compose_files(&name),
            name,
            engine: Engine::Compose,
            environment_wins: true,
        })
    }

    /// The project's system on this engine: beside the one on another engine, with the same secrets.
    pub fn on(self, engine: Engine) -> Self {
        let name = match &engine {
            Engine::Compose => self.name,
            Engine::Kubernetes(place) => system_name(&self.name, place),
        };
        Self {
            name,
            engine,
            ..self
        }
    }

    /// The name of the project's system on Compose, whichever this one is on.
    pub fn compose_name(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// The project that tests bring up beside it: ports and secrets of its own, whatever the environment says.
    pub fn for_tests(&self) -> Self {
        self.nth_for_tests(1)
    }

    /// The same, of several that tests bring up side by side: counted from 1.
    pub fn nth_for_tests(&self, number: usize) -> Self {
        let number = match number {
            1 => String::new(),
            more => format!("-{more}"),
        };
        let name = format!("{}{TEST_SUFFIX}{number}", self.name);
        Self {
            root: self.root.clone(),
            env_file: self.outputs().join(format!("test{number}/.env")),
            compose_files: compose_files(&name),
            name,
            engine: Engine::Compose,
            environment_wins: false,
        }
    }

    /// The shop in `examples/python-shop` beside this system, with a name, a folder and settings of its own.
    pub fn python_shop(&self) -> Self {
        let root = self.root.join("examples/python-shop");
        Self {
            env_file: root.join(".env"),
            root,
            name: format!("{}-python", self.name),
            compose_files: vec!["compose.yaml"],
            engine: Engine::Compose,
            environment_wins: false,
        }
    }

    /// Whether this is a project of the tests.
    pub fn is_for_tests(&self) -> bool {
        is_name_of_tests(&self.name)
    }

    /// The same project with one more compose file.
    pub fn with_compose_file(mut self, file: &'static str) -> Self {
        self.compose_files.push(file);
        self
    }

    /// The same project with other settings and secrets.
    pub fn with_env_file(self, env_file: PathBuf) -> Self {
        Self { env_file, ..self }
    }

    /// The folder for everything that commands write: `target/agora`.
    pub fn outputs(&self) -> PathBuf {
        self.root.join("target/agora")
    }

    /// The file for the output of a long step. Each project has its own: commands for several of them run side by side.
    pub fn log(&self, step: &str) -> PathBuf {
        let logs = self.outputs().join("logs").join(&self.name);
        logs.join(format!("{step}.log"))
    }

    /// Cargo's target folder.
    pub fn cargo_target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |path| self.root.join(path))
    }

    /// The service binaries, a folder each: the build contexts of the service images.
    pub fn binaries(&self) -> PathBuf {
        set("AGORA_BIN_DIR").map_or_else(|| self.outputs().join("bin"), |path| self.root.join(path))
    }

    /// Tools fetched for this user, kept between clones.
    pub fn cache() -> anyhow::Result<PathBuf> {
        let absolute = |name: &str| {
            env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("agora"))
            .ok_or_else(|| {
                outcome::usage(
                    "neither XDG_CACHE_HOME nor HOME is set",
                    "set HOME to your home folder",
                )
            })
    }

    /// The settings as compose sees them.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        if !self.env_file.exists() {
            return Err(outcome::unavailable(
                format!(
                    "{} isn't there: the system was never started",
                    self.env_file.display()
                ),
                "start it with `cargo xtask up`",
            ));
        }
        Ok(self.settings_from(&EnvFile::read(&self.env_file)?))
    }

    /// The settings of an env file that was read before.
    pub fn settings_from(&self, file: &EnvFile) -> Settings {
        let mut values: BTreeMap<String, String> = file
            .entries()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if self.environment_wins {
            values.extend(env::vars_os().filter_map(own_setting));
        }
        Settings { values }
    }
}

/// Settings by name; a variable of the environment wins over the env file's.
#[derive(Debug, Clone)]
pub struct Settings {
    values: BTreeMap<String, String>,
}

impl Settings {
    /// The value of a setting, which may be empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of a setting; an error where it is missing or empty.
    pub fn require(&self, name: &str) -> anyhow::Result<&str> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| {
                outcome::unavailable(
                    format!("{name} has no value"),
                    "`cargo xtask up` completes the .env file; a variable that is set to nothing in the environment comes \
                     before it: `unset` that",
                )
            })
    }

    /// The port that the settings choose; 0 is any free one.
    pub fn port(&self, port: &PublishedPort) -> anyhow::Result<u16> {
        // As Compose reads `${…:-…}`.
        let chosen = self.get(port.variable).filter(|value| !value.is_empty());
        let value = chosen.unwrap_or(port.default);
        value.parse().map_err(|_| {
            outcome::usage(
                format!("{}: `{value}` is not a port", port.variable),
                "expected a number from 0 (any free port) to 65535",
            )
        })
    }

    /// These settings with others set over them.
    pub fn with<'a>(
        &self,
        others: impl IntoIterator<Item = (impl AsRef<str>, &'a String)>,
    ) -> Self {
        let mut values = self.values.clone();
        values.extend(
            others
                .into_iter()
                .map(|(name, value)| (name.as_ref().to_owned(), value.clone())),
        );
        Self { values }
    }

    /// These settings without those whose names begin with `prefix`.
    pub(crate) fn without_prefix(&self, prefix: &str) -> Self {
        let mut values = self.values.clone();
        values.retain(|name, _| !name.starts_with(prefix));
        Self { values }
    }

    /// All settings by name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A variable that is a setting of ours. Others may hold whatever they like.
fn own_setting((name, value): (OsString, OsString)) -> Option<(String, String)> {
    let name = name.into_string().ok()?;
    let is_ours = name.starts_with(OWN_PREFIX);
    is_ours.then_some((name, value.into_string().ok()?))
}

/// A setting of ours that can't be read is refused, instead of being left out.
fn require_text(variables: impl Iterator<Item = (OsString, OsString)>) -> anyhow::Result<()> {
    for (name, value) in variables {
        let name = name.to_string_lossy();
        if name.starts_with(OWN_PREFIX) && value.to_str().is_none() {
            return Err(outcome::usage(
                format!("{name}: `{}` is not UTF-8", value.to_string_lossy()),
                format!("set {name} to text, or unset it"),
            ));
        }
    }
    Ok(())
}

/// Whoever works on the test system means the one with its ports: an `up` without them would take them away.
fn compose_files(project: &str) -> Vec<&'static str> {
    if is_name_of_tests(project) {
        vec!["compose.yaml", "compose.test.yaml"]
    } else {
        vec!["compose.yaml"]
    }
}

/// The name of a project's system there. No name of a Compose project has a dot.
fn system_name(project: &str, place: &Place) -> String {
    let Some(context) = &place.context else {
        return format!("{project}.local");
    };
    // Two names that differ in other characters alone stay two.
    let digest = Sha256::digest(format!("{context}\n{}", place.namespace));
    let digest = &format!("{digest:x}")[..8];
    let readable = |text: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text.replace(|c| !is_plain(c), "-")
    };
    format!(
        "{project}.{}.{}.{digest}",
        readable(context),
        readable(&place.namespace)
    )
}

/// Whether a project with this name is one of the tests: `agora-test`, `agora-test-2`.
fn is_name_of_tests(project: &str) -> bool {
    let is_number = |text: &str| text.parse::<usize>().is_ok();
    let first = match project.rsplit_once('-') {
        Some((first, number)) if is_number(number) => first,
        _ => project,
    };
    first.ends_with(TEST_SUFFIX)
}

/// A variable of this process; an empty one counts as not set, as in compose.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder with `compose.yaml`: cargo names it, else it is looked for upward from the current folder.
///
/// Not `env!`: a binary in a target folder that clones share would carry the path of another clone.
fn find_root() -> anyhow::Result<PathBuf> {
    let is_root =
        |folder: &Path| folder.join("compose.yaml").is_file() && folder.join("xtask").is_dir();
    let by_cargo = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    if let Some(root) = by_cargo
        .as_deref()
        .and_then(Path::parent)
        .filter(|folder| is_root(folder))
    {
        return Ok(root.to_owned());
    }
    let here = env::current_dir()?;
    here.ancestors()
        .find(|folder| is_root(folder))
        .map(Path::to_owned)
        .ok_or_else(|| {
            outcome::usage(
                format!("{} is not inside agora's repository", here.display()),
                "run `cargo xtask` from a folder of the clone",
            )
        })
}

impl Project {
    /// A project of tests, in a folder of their own.
    pub fn at(root: PathBuf, name: &str) -> Self {
        Self {
            env_file: root.join(".env"),
            root,
            name: name.to_owned(),
            engine: Engine::Compose,
            compose_files: compose_files(name),
            environment_wins: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::ffi::OsStringExt};

    use super::*;

    #[test]
    fn an_engine_is_chosen_by_name_and_only_kubernetes_has_contexts() {
        let chosen = |name, context| Engine::chosen(Some(name), context, None);
        assert_eq!(chosen("compose", None).unwrap(), Engine::Compose);
        for (name, context) in [("compose", Some("mine")), ("swarm", None)] {
            let error = chosen(name, context).unwrap_err();
            assert_eq!(outcome::Exit::of(&error), outcome::Exit::Usage, "{error}");
        }
        let mine = chosen("kubernetes", Some("mine")).unwrap();
        assert_eq!(mine.options(), ["--on kubernetes", "--context mine"]);
    }

    #[test]
    fn no_two_places_share_a_name() {
        let named = |context: Option<&str>, namespace: &str| {
            let engine = Engine::Kubernetes(Place {
                context: context.map(str::to_owned),
                namespace: namespace.to_owned(),
            });
            let project = Project::at(PathBuf::from("/clone"), "agora").on(engine);
            assert_eq!(project.compose_name(), "agora");
            project.name
        };
        let names: BTreeSet<String> = [
            named(None, "agora"),
            named(Some("local"), "agora"),
            named(Some("a/b"), "agora"),
            named(Some("a-b"), "agora"),
            named(Some("a-b"), "shop"),
            "agora".to_owned(),
        ]
        .into();
        assert_eq!(names.len(), 6, "{names:?}");
    }

    #[test]
    fn only_settings_of_ours_have_to_be_text() {
        let bytes = || OsString::from_vec(vec![b'8', 0xff]);
        let strange = [
            (OsString::from("JUNK"), bytes()),
            (bytes(), OsString::from("AGORA_")),
        ];
        require_text(strange.clone().into_iter()).unwrap();
        assert_eq!(strange.into_iter().find_map(own_setting), None);
        let ours = (OsString::from("AGORA_HTTP_PORT"), bytes());
        let error = require_text([ours].into_iter()).unwrap_err();
        assert!(error.to_string().contains("AGORA_HTTP_PORT"), "{error}");
    }

    #[test]
    fn no_two_projects_share_a_test_system() {
        let project = |name: &str| Project::at(PathBuf::from("/clone"), name);
        let mut seen = BTreeSet::new();
        for name in ["agora", "agora-2", "agora-ci"] {
            for number in 1..=3 {
                let system = project(name).nth_for_tests(number);
                assert!(system.is_for_tests(), "{}", system.name);
                assert_eq!(system.compose_files.len(), 2, "{}", system.name);
                assert!(seen.insert(system.name.clone()), "{} twice", system.name);
            }
        }
        assert!(seen.contains("agora-test") && seen.contains("agora-test-2"));
        for other in ["agora", "agora-2", "agora-test-mirror", "test"] {
            assert!(!project(other).is_for_tests(), "{other}");
        }
    }

    #[test]
    fn projects_of_one_clone_write_no_common_log() {
        let (one, other) = (
            Project::at(PathBuf::from("/clone"), "agora-test"),
            Project::at(PathBuf::from("/clone"), "agora-test-2"),
        );
        let logs = Path::new("/clone/target/agora/logs");
        assert_eq!(one.log("cargo"), logs.join("agora-test/cargo.log"));
        assert_eq!(other.log("cargo"), logs.join("agora-test-2/cargo.log"));
    }

    fn settings(values: &[(&str, &str)]) -> Settings {
        Settings {
            values: values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_port_has_a_default_and_a_bad_one_is_named() {
        assert_eq!(settings(&[]).port(&PORTS[0]).unwrap(), 80);
        // As Compose reads `${AGORA_HTTP_PORT:-80}`.
        let empty = settings(&[("AGORA_HTTP_PORT", "")]);
        assert_eq!(empty.port(&PORTS[0]).unwrap(), 80);
        let error = settings(&[("AGORA_HTTP_PORT", "eighty")])
            .port(&PORTS[0])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("AGORA_HTTP_PORT") && error.contains("eighty"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_setting_counts_as_missing() {
        let missing = settings(&[("AGORA_JWT_KEYS", "")])
            .require("AGORA_JWT_KEYS")
            .unwrap_err();
        assert!(missing.to_string().contains("`unset`"), "{missing}");
    }
}
