//! The pulling path: a system whose images come from a registry, here a mirror on this machine.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    program::{Call, docker},
    system::{System, settings},
    wait,
};

/// A project of its own, beside the system that the other tests share.
const PROJECT: &str = "agora-test-mirror";
const UPSTREAM_REGISTRY: &str = "docker.io/library/registry:3.0.0";
/// Pulling from this machine and starting everything.
const UP_WITHIN: Duration = Duration::from_secs(300);

/// A registry that holds the test system's images under their upstream names.
struct Mirror {
    registry: Registry,
    references: Vec<String>,
}

/// The program behind it.
enum Registry {
    /// Debian's, unpacked and not installed: where images are built for want of a registry.
    Process(Box<duct::Handle>, String),
    /// The upstream image: where images can be pulled.
    Container(String),
}

impl Registry {
    fn start(folder: &Path, images_are_pulled: bool) -> Self {
        if images_are_pulled {
            let publish = "127.0.0.1:0:5000";
            let id = docker([
                "run",
                "--detach",
                "--rm",
                "--publish",
                publish,
                UPSTREAM_REGISTRY,
            ]);
            return Self::Container(id.trim().to_owned());
        }
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .to_string();
        let configuration = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n",
            folder.join("registry").display()
        );
        fs::write(&configuration, text).expect("the configuration can be written");
        let process = duct::cmd!(fetch_registry(folder), "serve", configuration)
            .stdout_null()
            .stderr_path(folder.join("registry.log"))
            .unchecked()
            .start()
            .expect("the registry starts");
        Self::Process(Box::new(process), address)
    }

    fn address(&self) -> String {
        match self {
            Self::Process(_, address) => address.clone(),
            Self::Container(id) => {
                let ports = docker(["port", id, "5000"]);
                ports
                    .lines()
                    .next()
                    .expect("it publishes its port")
                    .to_owned()
            }
        }
    }

    fn stop(&self) {
        match self {
            Self::Process(process, _) => drop(process.kill()),
            Self::Container(id) => {
                drop(
                    duct::cmd!("docker", "kill", id)
                        .stdout_null()
                        .stderr_null()
                        .run(),
                );
            }
        }
    }
}

impl Mirror {
    fn start(folder: &Path, images: &[(String, String)]) -> Self {
        let images_are_pulled = images.iter().all(|(upstream, here)| upstream == here);
        let registry = Registry::start(folder, images_are_pulled);
        let address = registry.address();
        let mut mirror = Self {
            registry,
            references: Vec::new(),
        };
        wait::until("a registry", Duration::from_secs(10), || {
            TcpStream::connect(&address)
                .map(drop)
                .map_err(|error| error.to_string())
        });
        for (upstream, here) in images {
            let (_, path) = upstream
                .split_once('/')
                .expect("a reference with its registry");
            let reference = format!("{address}/{path}");
            docker(["tag", here, &reference]);
            mirror.references.push(reference.clone());
            Call::new("docker", ["push", "--quiet", &reference])
                .start()
                .end_within(UP_WITHIN)
                .expect_code(0);
            // So that it has to come from the registry again.
            docker(["image", "rm", &reference]);
        }
        mirror
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.registry.stop();
        for reference in &self.references {
            let remove = duct::cmd!("docker", "image", "rm", reference);
            drop(remove.stdout_null().stderr_null().run());
        }
    }
}

/// Takes the project down, also when the test fails.
struct Started<'a>(&'a Path);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let down = Call::xtask(PROJECT, self.0, &["down", "--volumes"]).try_run();
        if let Err(complaint) = down
            && !std::thread::panicking()
        {
            panic!("{complaint}");
        }
    }
}

#[test]
fn images_that_a_mirror_has_are_pulled_from_it_and_not_built() {
    let system = System::take_turn();
    let folder = tempfile::tempdir().expect("a folder for the test");
    let upstream = settings(&root().join("images/upstream.env"));
    let here = settings(system.env_file());
    let images: Vec<(String, String)> = upstream
        .iter()
        .filter_map(|(name, reference)| {
            // Those without a local recipe the mirror doesn't have: `up` goes on without them.
            let (_, here) = here.iter().find(|(other, _)| other == name)?;
            Some((reference.clone(), here.clone()))
        })
        .collect();
    let mirror = Mirror::start(folder.path(), &images);
    let address = mirror.registry.address();
    let through_mirror = [("AGORA_IMAGE_REGISTRY", &*address)];

    let env_file = env_file_with_free_ports(folder.path());
    let _started = Started(&env_file);
    Call::xtask_with(
        &through_mirror,
        PROJECT,
        &env_file,
        &["up", "--images", "pull"],
    )
    .start()
    .end_within(UP_WITHIN)
    .expect_code(0);

    let used = settings(&env_file);
    for (name, _) in &upstream {
        let (_, reference) = used
            .iter()
            .find(|(other, _)| other == name)
            .expect("recorded");
        let optional = here.iter().all(|(other, _)| other != name);
        if optional {
            assert!(reference.is_empty(), "{name}={reference}");
            continue;
        }
        assert!(reference.starts_with(&address), "{name}={reference}");
    }
    Call::xtask(PROJECT, &env_file, &["smoke"])
        .run()
        .expect_code(0);

    // Once pulled, the registry isn't needed any more.
    mirror.registry.stop();
    Call::xtask_with(&through_mirror, PROJECT, &env_file, &["up"])
        .run()
        .expect_code(0);
}

#[test]
fn a_registry_that_does_not_answer_is_named_with_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let env_file = env_file_with_free_ports(folder.path());
    let refused = Call::xtask_with(
        &[("AGORA_IMAGE_REGISTRY", "127.0.0.1:9")],
        PROJECT,
        &env_file,
        &["up", "--images", "pull"],
    )
    .start()
    .end_within(UP_WITHIN)
    .expect_code(3);
    for part in ["127.0.0.1:9", "AGORA_IMAGE_REGISTRY", "--images local"] {
        assert!(
            refused.stderr.contains(part),
            "{part}: {}",
            refused.account()
        );
    }
}

fn env_file_with_free_ports(folder: &Path) -> PathBuf {
    let ports = [
        "HTTP",
        "RABBITMQ_UI",
        "PROMETHEUS",
        "ALERTMANAGER",
        "ALERT_RECEIVER",
        "JAEGER",
    ];
    let settings = ports.map(|name| format!("AGORA_{name}_PORT=0\n")).concat();
    let env_file = folder.join(".env");
    fs::write(&env_file, settings).expect("the env file can be written");
    env_file
}

fn fetch_registry(folder: &Path) -> PathBuf {
    let destination = folder.join("docker-registry");
    let script = root().join("images/fetch-deb.sh");
    let arguments = [
        script.as_path(),
        Path::new("docker-registry"),
        Path::new("trixie"),
        &destination,
    ];
    let arguments = arguments.map(|path| path.to_str().expect("a path in UTF-8"));
    Call::new("bash", arguments)
        .start()
        .end_within(UP_WITHIN)
        .expect_code(0);
    destination.join("usr/bin/docker-registry")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
