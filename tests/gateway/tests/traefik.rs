//! The real Traefik in a container, with the repository's configuration or a copy changed on purpose.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File, Permissions},
    io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::client;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../observability/traefik");

const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs a container from `docker create`'s arguments until it or standard input ends, and removes it then:
/// however the test's process ends, its end of the pipe is closed. What runs in the background has no
/// standard input of its own.
const CONTAINER: &str = r#"
container=$(docker create "$@") || exit
exec 3<&0
{ cat <&3; docker rm --force "$container"; } &
docker start --attach "$container"
"#;

/// How the gateway is configured.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// Its files, by their path below `/etc/traefik`.
    files: BTreeMap<String, String>,
    /// Variables that it reads.
    environment: BTreeMap<&'static str, &'static str>,
}

impl Configuration {
    /// As it stands in the repository.
    pub(crate) fn of_the_repository() -> Self {
        Self::read(Path::new(CONFIGURATION)).expect("failed to read the gateway's configuration")
    }

    fn read(root: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for folder in ["", "dynamic/"] {
            for entry in fs::read_dir(root.join(folder))? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    let name = format!("{folder}{}", entry.file_name().display());
                    files.insert(name, fs::read_to_string(entry.path())?);
                }
            }
        }
        Ok(Self {
            files,
            environment: BTreeMap::new(),
        })
    }

    /// The naive way: nobody is asked, nothing is taken away.
    pub(crate) fn without_forward_auth(self) -> Self {
        self.with("AGORA_PATTERN_FORWARD_AUTH", "off")
    }

    /// With a variable of its environment.
    pub(crate) fn with(mut self, variable: &'static str, value: &'static str) -> Self {
        self.environment.insert(variable, value);
        self
    }

    /// With a text replaced wherever it stands. One that stands nowhere would make a test pass for nothing.
    pub(crate) fn replacing(mut self, old: &str, new: &str) -> Self {
        assert!(
            self.files.values().any(|text| text.contains(old)),
            "{old:?} isn't in {CONFIGURATION}: bring the test up to date with it"
        );
        for text in self.files.values_mut() {
            *text = text.replace(old, new);
        }
        self
    }

    /// The names of the routers: the keys right below `routers`.
    pub(crate) fn routers(&self) -> BTreeSet<String> {
        let lines = self.files.values().flat_map(|text| text.lines());
        let below = lines
            .skip_while(|line| *line != "  routers:")
            .skip(1)
            .take_while(|line| line.is_empty() || line.starts_with("   "));
        let names = below.filter_map(|line| {
            let name = line.strip_prefix("    ")?.strip_suffix(':')?;
            (!name.starts_with([' ', '#'])).then(|| name.to_owned())
        });
        names.collect()
    }

    /// Writes the files where the container's user can read them, whatever the umask.
    fn write(&self) -> io::Result<TempDir> {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let dynamic = root.path().join("dynamic");
        fs::create_dir(&dynamic)?;
        for folder in [root.path(), &dynamic] {
            fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        }
        for (name, text) in &self.files {
            let path = root.path().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
        Ok(root)
    }
}

/// A running Traefik. Its container is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Traefik {
    /// [`CONTAINER`].
    container: Child,
    /// The configuration, and what Traefik says in `log`.
    folder: TempDir,
}

impl Traefik {
    /// Starts it and waits until it has its routes on the entry point `web`.
    pub(crate) fn start(configuration: &Configuration, web: SocketAddr) -> Self {
        let folder = configuration
            .write()
            .expect("failed to write the configuration");
        let container = run(&folder, &configuration.environment).expect("failed to run a shell");
        let mut traefik = Self { container, folder };
        traefik.wait_for_routes(web);
        traefik
    }

    /// All routes come at once, a moment after the entry points; until then everything is a 404.
    #[expect(clippy::disallowed_methods, reason = "a bounded wait for a condition")]
    fn wait_for_routes(&mut self, web: SocketAddr) {
        let deadline = Instant::now() + START_LIMIT;
        let probe = client::request("GET", "/users/", &[]);
        while !client::send(web, &probe).is_ok_and(|status| status != 404) {
            let runs = matches!(self.container.try_wait(), Ok(None));
            assert!(
                runs && Instant::now() < deadline,
                "Traefik didn't start (run the tests with `cargo xtask test`); it said:\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Traefik {
    fn drop(&mut self) {
        drop(self.container.stdin.take());
        // A second panic would end the process: a failure stays unsaid.
        let _ = self.container.wait();
    }
}

/// Runs the container, confined as in compose.yaml.
fn run(folder: &TempDir, environment: &BTreeMap<&str, &str>) -> io::Result<Child> {
    let log = File::create(folder.path().join("log"))?;
    let variables = environment
        .iter()
        .flat_map(|(name, value)| ["--env".to_owned(), format!("{name}={value}")]);
    let volume = format!("{}:/etc/traefik:ro", folder.path().display());
    Command::new("sh")
        .args(["-c", CONTAINER, "sh", "--label", "agora.test=gateway"])
        .args(["--network", "host", "--volume", &volume])
        .args(variables)
        .args(["--user", "65532:65532", "--cap-drop", "ALL"])
        .args(["--security-opt", "no-new-privileges:true"])
        .args(["--read-only", "--tmpfs", "/tmp:size=64m"])
        .args(["--memory", "256m", "--pids-limit", "512"])
        .arg(image())
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the test; this ends after it.
        .process_group(0)
        .spawn()
}

/// The reference of the image that `up` chose.
fn image() -> String {
    const VARIABLE: &str = "AGORA_IMAGE_TRAEFIK";
    let from_file = || {
        let settings = fs::read_to_string(env::var("AGORA_TEST_ENV_FILE").ok()?).ok()?;
        let value = |line: &str| Some(line.strip_prefix(VARIABLE)?.strip_prefix('=')?.to_owned());
        settings.lines().find_map(value)
    };
    env::var(VARIABLE)
        .ok()
        .or_else(from_file)
        .unwrap_or_else(|| {
            panic!(
                "neither {VARIABLE} nor the file AGORA_TEST_ENV_FILE names an image: \
             run the tests with `cargo xtask test`"
            )
        })
}
