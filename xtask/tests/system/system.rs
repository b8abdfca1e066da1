//! The systems that `cargo xtask test` started: which test has which of them, and ways to ask one and to break it.

use std::{
    env, fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use shared_events::topology::{self, Topology};

use crate::{
    client::Client,
    program::{Call, Ended, Running, docker},
    run::Run,
    wait,
};

/// RabbitMQ takes longest: ten seconds to boot, some more until everybody is connected again.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);

/// The engine starts a container at once; whether it is healthy then is another matter.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// Nothing is built; containers are started anew.
const UP_WITHIN: Duration = Duration::from_secs(120);

static SYSTEMS: LazyLock<Vec<Project>> = LazyLock::new(|| {
    let variable = "AGORA_TEST_SYSTEMS";
    let systems = env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run the tests with `cargo xtask test`"));
    serde_json::from_str(&systems).unwrap_or_else(|error| panic!("{variable}: {error}"))
});
/// Which of them no test has, and the news that one was given back.
static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(|| {
    Mutex::new(Pool {
        free: SYSTEMS.iter().collect(),
        want_all: 0,
    })
});
static GIVEN_BACK: Condvar = Condvar::new();

struct Pool {
    free: Vec<&'static Project>,
    /// How many tests wait for all systems: until they had them, nobody else gets one.
    want_all: usize,
}

/// One of the systems that this test alone has.
pub(crate) struct System {
    /// The gateway.
    pub(crate) gateway: Client,
    turn: Turn,
    /// The others, where the test has the machine for itself.
    _others: Vec<Turn>,
}

struct Turn(&'static Project);

impl Drop for Turn {
    fn drop(&mut self) {
        pool().free.push(self.0);
        // Not one: who is woken may be waiting for more than this one.
        GIVEN_BACK.notify_all();
    }
}

/// A test that failed has no say in whether the next one runs.
fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl System {
    /// Waits for a system that no test has, and heals what an earlier test may have left behind.
    pub(crate) fn take_turn() -> Self {
        let mut pool = GIVEN_BACK
            .wait_while(pool(), |pool| pool.free.is_empty() || pool.want_all > 0)
            .unwrap_or_else(PoisonError::into_inner);
        let turn = Turn(pool.free.pop().expect("a free system"));
        drop(pool);
        Self::healed(turn, Vec::new())
    }

    /// The same, while no test uses any other system: for what other tests' load must not disturb.
    pub(crate) fn take_turn_alone() -> Self {
        let mut pool = pool();
        pool.want_all += 1;
        let mut pool = GIVEN_BACK
            .wait_while(pool, |pool| pool.free.len() < SYSTEMS.len())
            .unwrap_or_else(PoisonError::into_inner);
        pool.want_all -= 1;
        let mut turns: Vec<Turn> = pool.free.drain(..).map(Turn).collect();
        drop(pool);
        let turn = turns.pop().expect("a system");
        Self::healed(turn, turns)
    }

    fn healed(turn: Turn, others: Vec<Turn>) -> Self {
        let Turn(project) = turn;
        for stopped in project.containers(&["--filter", "status=exited"]) {
            docker(["start", &stopped]);
        }
        project.wait_until_healthy();
        project.purge_dead_letters();
        Self {
            // A port that the engine chose is another one after each start of its container.
            gateway: Client::new(format!("http://{}", project.published("traefik", "8080"))),
            turn,
            _others: others,
        }
    }
}

impl Deref for System {
    type Target = Project;

    fn deref(&self) -> &Project {
        self.turn.0
    }
}

/// Where a system is; the ways to ask it and to break it.
#[derive(Deserialize)]
pub(crate) struct Project {
    /// The compose project's name.
    #[serde(rename = "project")]
    name: String,
    env_file: PathBuf,
    /// What tests make once and only look at.
    #[serde(skip)]
    pub(crate) checkout_run: OnceLock<Run>,
    /// The same, of orders alone.
    #[serde(skip)]
    pub(crate) order_run: OnceLock<Run>,
}

impl Project {
    /// The system's settings and secrets.
    pub(crate) fn env_file(&self) -> &Path {
        &self.env_file
    }

    /// The compose project's name.
    pub(crate) fn project(&self) -> &str {
        &self.name
    }

    /// Runs an xtask command that is over within a minute.
    #[track_caller]
    pub(crate) fn xtask(&self, args: &[&str]) -> Ended {
        self.xtask_call(args).run()
    }

    /// Starts an xtask command.
    #[track_caller]
    pub(crate) fn start_xtask(&self, args: &[&str]) -> Running {
        self.xtask_call(args).start()
    }

    fn xtask_call(&self, args: &[&str]) -> Call {
        Call::xtask(&self.name, &self.env_file, args)
    }

    /// Waits until `xtask status` has no complaint.
    #[track_caller]
    pub(crate) fn wait_until_healthy(&self) {
        wait::until("a healthy system", HEALTHY_WITHIN, || {
            let status = self.xtask(&["status"]);
            match status.code {
                Some(0) => Ok(()),
                _ => Err(status.account()),
            }
        });
    }

    /// The ids of the project's containers, stopped ones included.
    fn containers(&self, filter: &[&str]) -> Vec<String> {
        let ids = self.list(filter).run().expect_code(0).stdout;
        ids.lines().map(str::to_owned).collect()
    }

    fn list(&self, filter: &[&str]) -> Call {
        let project = format!("label=com.docker.compose.project={}", &self.name);
        let all = ["ps", "--all", "--quiet", "--filter", &project];
        Call::new("docker", all.into_iter().chain(filter.iter().copied()))
    }

    /// The ids of a service's containers, stopped ones included.
    pub(crate) fn containers_of(&self, service: &str) -> Vec<String> {
        self.containers(&["--filter", &of_service(service)])
    }

    /// The id of a service's container.
    #[track_caller]
    pub(crate) fn container(&self, service: &str) -> String {
        let ids = self.containers_of(service);
        let [id] = ids.as_slice() else {
            panic!("{service} has the containers {ids:?}");
        };
        id.clone()
    }

    /// Kills a service's container. For the engine that is a stop by hand: its restart policy leaves the
    /// container alone, and it is started again when the outage is dropped.
    #[track_caller]
    #[must_use]
    pub(crate) fn kill(&self, service: &str) -> Outage {
        let container = self.container(service);
        docker(["kill", &container]);
        Outage { container }
    }

    /// Makes a service's processes stand still, until the pause is dropped.
    #[track_caller]
    #[must_use]
    pub(crate) fn pause(&self, service: &str) -> Pause {
        let container = self.container(service);
        docker(["pause", &container]);
        Pause { container }
    }

    /// Starts the services anew without a pattern, and without saga recovery, which brings back what others lose; dropping
    /// the answer starts them with all of them.
    #[track_caller]
    #[must_use]
    pub(crate) fn without(&self, pattern: &str) -> Without<'_> {
        let switch = format!("AGORA_PATTERN_{pattern}");
        self.with_settings(&[(&switch, "off"), ("AGORA_PATTERN_SAGA_RECOVERY", "off")])
    }

    /// Starts the services anew with a setting; dropping the answer starts them without it.
    #[track_caller]
    #[must_use]
    pub(crate) fn with_setting(&self, variable: &str, value: &str) -> Without<'_> {
        self.with_settings(&[(variable, value)])
    }

    fn with_settings(&self, settings: &[(&str, &str)]) -> Without<'_> {
        Call::xtask_with(settings, &self.name, &self.env_file, &["up"])
            .start()
            .end_within(UP_WITHIN)
            .expect_code(0);
        Without { system: self }
    }

    /// Asks one of the databases as superuser; rows of columns.
    #[track_caller]
    pub(crate) fn query(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let answer = psql(&self.container("postgres"), database, sql).run();
        let row = |line: &str| line.split('|').map(str::to_owned).collect();
        answer.expect_code(0).stdout.lines().map(row).collect()
    }

    /// Puts databases back into their state, in a drop, where nothing may panic: each statement (database, SQL) is tried,
    /// whatever became of those before. What could not be put back is also printed.
    pub(crate) fn put_back(&self, statements: &[(&str, &str)]) -> Result<(), String> {
        let try_one = |(database, sql): &(&str, &str)| {
            let postgres = self
                .list(&["--filter", &of_service("postgres")])
                .try_run()?;
            psql(postgres.stdout.trim(), database, sql).try_run()
        };
        let complaints: Vec<String> = statements
            .iter()
            .filter_map(|statement| {
                let complaint = try_one(statement).err()?;
                Some(format!("{} isn't as it was: {complaint}", statement.0))
            })
            .collect();
        complaints
            .iter()
            .for_each(|complaint| eprintln!("{complaint}"));
        match complaints.as_slice() {
            [] => Ok(()),
            some => Err(some.join("\n")),
        }
    }

    /// Publishes a message to a stream by hand; the broker has to route it.
    #[track_caller]
    pub(crate) fn publish(&self, stream: Topology, routing_key: &str, payload: &str) {
        let message = serde_json::json!({
            "routing_key": routing_key,
            "payload": payload,
            "payload_encoding": "string",
            "properties": { "delivery_mode": 2 },
        });
        let path = format!("/api/exchanges/%2F/{}/publish", stream.exchange());
        let answer = self
            .broker()
            .post(&path, &[], Some(&message))
            .expect_status(200);
        assert_eq!(answer.json()["routed"], true);
    }

    /// Puts a dead letter straight into a stream's dead-letter queue, with headers by hand.
    #[track_caller]
    pub(crate) fn bury(&self, stream: Topology, payload: &str, headers: &serde_json::Value) {
        let message = serde_json::json!({
            "routing_key": "by.hand",
            "payload": payload,
            "payload_encoding": "string",
            "properties": { "delivery_mode": 2, "headers": headers },
        });
        let path = format!(
            "/api/exchanges/%2F/{}/publish",
            stream.dead_letter_exchange()
        );
        let answer = self
            .broker()
            .post(&path, &[], Some(&message))
            .expect_status(200);
        assert_eq!(answer.json()["routed"], true);
    }

    /// The address at which a service's port is published now.
    #[track_caller]
    pub(crate) fn published(&self, service: &str, port: &str) -> String {
        let addresses = docker(["port", &self.container(service), port]);
        let first = addresses.lines().next();
        first.expect("a published port").to_owned()
    }

    /// A client of RabbitMQ's management API.
    #[track_caller]
    pub(crate) fn broker(&self) -> Client {
        const PASSWORD: &str = "AGORA_RABBITMQ_PASSWORD";
        let settings = settings(&self.env_file);
        let password = settings.iter().find(|(name, _)| name == PASSWORD);
        let (_, password) = password.expect("the broker's password");
        let address = self.published("rabbitmq", "15672");
        Client::new(format!("http://agora:{password}@{address}"))
    }

    /// Empties every dead-letter queue.
    #[track_caller]
    pub(crate) fn purge_dead_letters(&self) {
        for stream in topology::ALL {
            let path = format!("/api/queues/%2F/{}/contents", stream.dead_letter_queue());
            self.broker().delete(&path).expect_status(204);
        }
    }
}

fn of_service(service: &str) -> String {
    format!("label=com.docker.compose.service={service}")
}

/// A question to a database in a container, as superuser.
fn psql(container: &str, database: &str, sql: &str) -> Call {
    let psql = [
        "exec",
        container,
        "psql",
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--field-separator=|",
        "--username=postgres",
        "--dbname",
        database,
        "--command",
        sql,
    ];
    Call::new("docker", psql)
}

#[test]
fn what_cannot_be_put_back_panics_nobody_and_keeps_nothing_else_from_being_tried() {
    let gone = Project {
        name: "agora-test-nobody".to_owned(),
        env_file: PathBuf::new(),
        checkout_run: OnceLock::new(),
        order_run: OnceLock::new(),
    };
    let complaint = gone
        .put_back(&[("orders", "SELECT 1"), ("inventory", "SELECT 2")])
        .expect_err("there is no such system");
    for (database, sql) in [("orders", "SELECT 1"), ("inventory", "SELECT 2")] {
        for part in [database, sql] {
            assert!(complaint.contains(part), "{complaint}");
        }
    }
}

/// A system that runs without a pattern, or with another setting; dropping this brings it back.
pub(crate) struct Without<'a> {
    system: &'a Project,
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        // No panic in a drop: whoever runs into the missing pattern notices.
        self.system.xtask_call(&["up"]).start().let_end(UP_WITHIN);
    }
}

/// A container that was killed; dropping this starts it again, also when the test fails.
pub(crate) struct Outage {
    container: String,
}

impl Drop for Outage {
    fn drop(&mut self) {
        // No panic in a drop: whoever waits for a healthy system notices.
        let start = duct::cmd!("docker", "start", &self.container).stdout_null();
        let _ = start
            .start()
            .and_then(|start| start.wait_timeout(STARTED_WITHIN).map(drop));
    }
}

/// A container that stands still; dropping this lets it go on, also when the test fails.
pub(crate) struct Pause {
    container: String,
}

impl Drop for Pause {
    fn drop(&mut self) {
        // No panic in a drop: whoever waits for a healthy system notices.
        let unpause = duct::cmd!("docker", "unpause", &self.container).stdout_null();
        let _ = unpause
            .start()
            .and_then(|unpause| unpause.wait_timeout(STARTED_WITHIN).map(drop));
    }
}

/// The settings of an env file.
pub(crate) fn settings(env_file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(env_file)
        .unwrap_or_else(|error| panic!("{}: {error}", env_file.display()));
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
