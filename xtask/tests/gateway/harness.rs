//! The real Traefik with the repository's own configuration, between a raw client and recording backends.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::{File, Permissions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    client,
    recorder::{Recorder, Request, answer},
};

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../observability/traefik");

/// As in compose.yaml.
const USER: &str = "65532:65532";

const START_LIMIT: Duration = Duration::from_secs(30);

/// The gateway's configuration files, by their path below `/etc/traefik`.
#[derive(Debug, Clone)]
pub(crate) struct Configuration(BTreeMap<String, String>);

impl Configuration {
    /// As it stands in the repository.
    pub(crate) fn of_the_repository() -> Self {
        let mut files = BTreeMap::new();
        for folder in ["", "dynamic/"] {
            for entry in fs::read_dir(Path::new(CONFIGURATION).join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    let text = fs::read_to_string(&path).unwrap();
                    files.insert(format!("{folder}{name}"), text);
                }
            }
        }
        Self(files)
    }

    /// With a text replaced wherever it stands; one that stands nowhere is a test out of date.
    pub(crate) fn replacing(mut self, old: &str, new: &str) -> Self {
        assert!(
            self.0.values().any(|text| text.contains(old)),
            "{old:?} isn't in {CONFIGURATION}: bring this test up to date with it"
        );
        for text in self.0.values_mut() {
            *text = text.replace(old, new);
        }
        self
    }

    /// Writes the files where the container's user can read them.
    fn write(&self) -> TempDir {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let dynamic = folder.path().join("dynamic");
        fs::create_dir(&dynamic).unwrap();
        for path in [folder.path(), &dynamic] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        for (name, text) in &self.0 {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        folder
    }
}

/// A running gateway and all that stands behind it.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// What ForwardAuth asks.
    pub(crate) auth: Recorder,
    /// user-service as the routes reach it.
    pub(crate) users: Recorder,
    pub(crate) orders: Recorder,
    pub(crate) inventory: Recorder,
    /// The entry point for clients.
    pub(crate) web: SocketAddr,
    /// The entry point for ping and metrics.
    pub(crate) ops: SocketAddr,
    _traefik: Traefik,
}

impl Gateway {
    /// Starts one with the repository's configuration.
    pub(crate) fn start() -> Self {
        Self::start_with(Configuration::of_the_repository())
    }

    /// Starts one with a configuration of the test's own.
    pub(crate) fn start_with(configuration: Configuration) -> Self {
        Self::start_with_auth(configuration, Recorder::start(auth_answer))
    }

    /// Starts one that asks another auth service.
    pub(crate) fn start_with_auth(configuration: Configuration, auth: Recorder) -> Self {
        let [users, orders, inventory] =
            [(); 3].map(|()| Recorder::start(|_| answer("200 OK", &[], "")));
        let [web, ops] = free_addresses();
        let url = |recorder: &Recorder| format!("http://{}", recorder.address);
        let configuration = configuration
            .replacing(r#"address: ":8080""#, &format!("address: {web}"))
            .replacing(r#"address: ":8082""#, &format!("address: {ops}"))
            .replacing(
                "address: http://user-service:8000",
                &format!("address: {}", url(&auth)),
            )
            .replacing(
                "url: http://user-service:8000",
                &format!("url: {}", url(&users)),
            )
            .replacing(
                "url: http://order-service:8000",
                &format!("url: {}", url(&orders)),
            )
            .replacing(
                "url: http://inventory-service:8000",
                &format!("url: {}", url(&inventory)),
            );
        let gateway = Self {
            auth,
            users,
            orders,
            inventory,
            web,
            ops,
            _traefik: Traefik::start(&configuration, web),
        };
        gateway.auth.take();
        gateway
    }

    /// Sends a request and gives the status of the answer.
    pub(crate) fn send(&self, request: &[u8]) -> u16 {
        client::send(self.web, request)
            .unwrap_or_else(|error| panic!("{error}, sent:\n{}", String::from_utf8_lossy(request)))
    }

    /// What the services, without the auth service, were sent since the last call.
    pub(crate) fn routed(&self) -> Vec<Request> {
        [&self.users, &self.orders, &self.inventory]
            .into_iter()
            .flat_map(Recorder::take)
            .collect()
    }

    /// Fails when a service was sent anything since it was last looked at.
    pub(crate) fn assert_nothing_routed(&self) {
        let routed = self.routed();
        assert!(routed.is_empty(), "{routed:?}");
    }
}

/// user-service's `/auth/verify`, for a few tokens.
fn auth_answer(request: &Request) -> String {
    let identity = ["X-User-Id: alice", "X-User-Email: alice@example.org"];
    match request.header("Authorization") {
        Some("Bearer alice") => answer("200 OK", &identity, ""),
        Some("Bearer nobody") => answer("200 OK", &[], ""),
        Some("Bearer verbose") => answer("200 OK", &identity, &"x".repeat(10_000)),
        _ => answer("401 Unauthorized", &[], "{}"),
    }
}

/// Two addresses where nothing listens.
fn free_addresses() -> [SocketAddr; 2] {
    [(); 2]
        .map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .map(|listener| listener.local_addr().unwrap())
}

/// Traefik in a container, removed when this is dropped.
#[derive(Debug)]
struct Traefik {
    name: String,
    /// `docker run` in the foreground, so that Ctrl-C reaches the container as well.
    run: Child,
    folder: TempDir,
}

impl Traefik {
    /// Starts it and waits until it has its routes.
    fn start(configuration: &Configuration, web: SocketAddr) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("agora-test-gateway-{}-{number}", std::process::id());
        let folder = configuration.write();
        let log = File::create(folder.path().join("log")).unwrap();
        // `cargo xtask test` removes what has this label, should this process be killed.
        let project = env::var("AGORA_TEST_PROJECT").unwrap_or_else(|_| "agora-test".to_owned());
        let run = Command::new("docker")
            .args(["run", "--rm", "--name", &name, "--network", "host"])
            .args(["--label", &format!("com.docker.compose.project={project}")])
            .args(["--user", USER, "--read-only", "--cap-drop", "ALL"])
            .args(["--security-opt", "no-new-privileges:true"])
            .args(["--tmpfs", "/tmp:size=64m"])
            .args(["--memory", "256m", "--pids-limit", "512"])
            .args([
                "--volume",
                &format!("{}:/etc/traefik:ro", folder.path().display()),
            ])
            .arg(image())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("failed to start docker: run the tests with `cargo xtask test`");
        let mut traefik = Self { name, run, folder };
        traefik.wait_for_routes(web);
        traefik
    }

    /// All routes come at once, some time after the entry points; until then, everything is a 404.
    #[expect(clippy::disallowed_methods, reason = "a bounded wait for a condition")]
    fn wait_for_routes(&mut self, web: SocketAddr) {
        let deadline = Instant::now() + START_LIMIT;
        let probe = client::request("GET", "/users/", &[]);
        while !client::send(web, &probe).is_ok_and(|status| status != 404) {
            let ended = self.run.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "Traefik didn't start; it said:\n{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Traefik {
    fn drop(&mut self) {
        // A panic while another one unwinds would end the process: all that fails here stays unsaid.
        let _ = Command::new("docker")
            .args(["rm", "--force", &self.name])
            .output();
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

/// The reference of the image that `up` chose.
fn image() -> String {
    const VARIABLE: &str = "AGORA_IMAGE_TRAEFIK";
    env::var(VARIABLE).ok().or_else(|| {
        let settings = fs::read_to_string(env::var("AGORA_TEST_ENV_FILE").ok()?).ok()?;
        let mut entries = settings.lines().filter_map(|line| line.split_once('='));
        Some(entries.find(|(name, _)| *name == VARIABLE)?.1.to_owned())
    })
    .unwrap_or_else(|| panic!("neither {VARIABLE} nor AGORA_TEST_ENV_FILE says it: run the tests with `cargo xtask test`"))
}
