//! The running system as experiments use it: its containers, databases and broker, read from outside, and its
//! configuration.
//!
//! The databases are queried as superuser through `psql` in their container, as they publish no port. Left out: what
//! the services report about themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use base::{outcome, progress::Step};
use records::evaluation::{Configuration, Machine};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Part, binaries, broker,
    compose::Compose,
    control, health, host,
    http::Client,
    kubectl::{self, Target},
    kubernetes,
    members::{self, Member},
    process::Call,
    project::{Project, Settings},
    service_images, signing_keys,
    switches::{ONE_NODE, PLACEMENT},
    wait,
};

/// The `application_name` of database sessions, by which one is found that was left behind.
pub const APPLICATION: &str = "agora-evaluation";
/// The services whose configuration experiments change.
pub(crate) const CONFIGURED: [Part; 6] = [
    Part::UserService,
    Part::ProductService,
    Part::OrderService,
    Part::InventoryService,
    Part::Alertmanager,
    Part::Traefik,
];
/// What psql prints after the rows of each query.
const ANSWERED: &str = "== answered ==";
/// How long a query may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// How long containers may take to be healthy in a new configuration.
const HEALTHY_WITHIN: Duration = Duration::from_secs(90);
/// How long a container may take to stop that is replaced, in seconds; then it is killed: what it did is recorded by then, or is repaired. One
/// that was started without what stops it in time (`graceful_shutdown`, `async_export`) would take ten.
const REPLACED_WITHIN: &str = "--timeout=3";
/// How long Compose may take to make and start containers in a new configuration.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(120);
const SWITCH: &str = patterns::PREFIX;
/// The option by which [`RunningSystem::wait_for_abandoned_configuring`] knows a Compose process of this module.
const SCALE: &str = "--scale=";

/// A running system.
#[derive(Debug)]
pub struct RunningSystem<'a> {
    /// The project that the system belongs to.
    pub project: &'a Project,
    compose: Compose,
    /// Where it is on Kubernetes.
    target: Option<Arc<Target>>,
    settings: Settings,
}

/// A configuration that [`RunningSystem::configure`] sets up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The patterns that are off, by name: `inbox`, …
    pub patterns_off: BTreeSet<String>,
    /// How many replicas a service has, by service; absent where it has one.
    pub replicas: BTreeMap<Part, u32>,
    /// Overrides of patterns' defaults, by variable.
    pub overrides: BTreeMap<String, String>,
}

impl Wanted {
    /// The configuration that was found, to restore it.
    pub fn found(found: &Configuration) -> Self {
        let replicas = found.replicas.iter();
        Self {
            patterns_off: found.all_patterns_off(),
            // A part that is no longer there can't be restored.
            replicas: replicas
                .filter_map(|(service, count)| Some((service.parse().ok()?, *count)))
                .collect(),
            overrides: found.overrides.clone(),
        }
    }
}

impl<'a> RunningSystem<'a> {
    /// The project's running system; an error when it doesn't run.
    pub fn new(project: &'a Project) -> anyhow::Result<Self> {
        members::running(project)?;
        let compose = Compose::find()?.ok_or_else(|| {
            outcome::unavailable(
                "Docker Compose V2 is missing",
                "`cargo xtask up` fetches it",
            )
        })?;
        Ok(Self {
            project,
            compose,
            target: kubectl::target(project)?,
            settings: project.settings()?,
        })
    }

    /// The same system, whose services this value configures without the engine's own health checks: each takes 20 ms of its
    /// container's processor, which a service whose processor is limited lacks for up to a second.
    /// The other parts keep theirs, and with them their containers and published ports.
    pub fn without_engine_checks(&self) -> Self {
        Self {
            project: self.project,
            compose: self.compose.clone(),
            target: self.target.clone(),
            settings: self.settings.with([(health::INTERVAL, &"1h".to_owned())]),
        }
    }

    /// Where it is on Kubernetes; `None` elsewhere.
    pub(crate) fn target(&self) -> Option<&Arc<Target>> {
        self.target.as_ref()
    }

    /// The version of the engine that runs it.
    ///
    /// # Errors
    /// When that doesn't answer.
    pub fn engine_version(&self) -> anyhow::Result<String> {
        match &self.target {
            None => host::version(),
            Some(target) => target.version(),
        }
    }

    /// Starts what a fault keeps from being started, and waits until it is ready; returns what was done, in words. Nothing on Compose,
    /// where members that have ended are still there: see [`control::resume`].
    ///
    /// # Errors
    /// When the engine refuses, or they don't get ready in time.
    pub fn bring_back(&self) -> anyhow::Result<Vec<String>> {
        self.target
            .as_ref()
            .map_or_else(|| Ok(Vec::new()), kubernetes::bring_back)
    }

    /// Names of the nodes of the project's own cluster that have ended, or that stand still; none elsewhere.
    ///
    /// # Errors
    /// When the engine doesn't answer.
    pub fn halted_nodes(&self, paused: bool) -> anyhow::Result<Vec<String>> {
        let target = self.target.as_ref();
        let halted = target.map_or_else(|| Ok(Vec::new()), |target| target.halted_nodes())?;
        let halted = halted.into_iter().filter(|node| node.is_paused == paused);
        Ok(halted.map(|node| node.name).collect())
    }

    /// All containers, stopped ones included.
    pub fn members(&self) -> anyhow::Result<Vec<Member>> {
        members::all(self.project)
    }

    /// A service's containers, stopped ones included; an error when there is none.
    pub fn members_of(&self, service: Part) -> anyhow::Result<Vec<Member>> {
        let mut members = self.members()?;
        members.retain(|member| member.service == service);
        if members.is_empty() {
            return Err(outcome::unavailable(
                format!("{service} has no container"),
                "`cargo xtask up` starts what is missing",
            ));
        }
        Ok(members)
    }

    /// Its settings, as the env file and this process's environment have them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// These settings with the switches as a service's containers have them now.
    pub fn settings_as_configured(&self, service: Part) -> anyhow::Result<Settings> {
        let members = self.members_of(service)?;
        let off = members.iter().flat_map(|member| &member.patterns_off);
        let off: BTreeMap<String, String> = off
            .map(|pattern| (switch_of(pattern), "off".to_owned()))
            .collect();
        let settings = self.settings.without_prefix(SWITCH);
        Ok(settings.with(off.iter().map(|(name, value)| (name.as_str(), value))))
    }

    /// A call of Compose for this system.
    pub(crate) fn compose<'b>(&self, args: impl IntoIterator<Item = &'b str>) -> Call {
        self.compose.call(self.project, &self.settings, args)
    }

    /// A call of Compose that sets a service's containers up with these settings and further options, so that there are
    /// `count`. It outlives a killed process: [`RunningSystem::wait_for_abandoned_configuring`].
    pub(crate) fn compose_up(
        &self,
        settings: &Settings,
        service: Part,
        count: usize,
        options: &[&str],
    ) -> Call {
        self.compose
            .call(self.project, settings, ["up", "--no-build", "--no-deps"])
            .args(options)
            .args([format!("{SCALE}{service}={count}").as_str(), service.name()])
            .limit(CONFIGURED_WITHIN)
    }

    /// Builds the services' images whose content changed, and puts them where they run.
    pub fn build_services(&self, step: &Step) -> anyhow::Result<()> {
        let binaries = binaries::build(self.project, step)?;
        binaries::stage(self.project, &binaries)?;
        service_images::build(self.project, &self.compose, &self.settings, step)?;
        let target = self.target.as_ref();
        target.map_or(Ok(()), |target| kubernetes::load_services(target, step))
    }

    fn psql_all(&self, questions: &[(&str, &str)]) -> anyhow::Result<Call> {
        let postgres = self.members_of(Part::Postgres)?.remove(0);
        // `env` in the container: Kubernetes sets no variable for one command.
        let mut args = vec!["env".to_owned(), format!("PGAPPNAME={APPLICATION}")];
        let psql = [
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--field-separator=|",
            "--set=ON_ERROR_STOP=1",
            "--username=postgres",
        ];
        args.extend(psql.map(str::to_owned));
        // The first is connected to at once: a session that psql leaves for another one is there a moment longer, and
        // who looks for what an evaluation left behind would find it.
        let mut connected_to = None;
        for (database, sql) in questions {
            match connected_to.replace(database) {
                None => args.push(format!("--dbname={database}")),
                Some(same) if same == database => {}
                Some(_) => args.push(format!("--command=\\connect {database}")),
            }
            args.push(format!("--command={sql}"));
            args.push(format!("--command=\\echo {ANSWERED}"));
        }
        let limit = STATEMENT_LIMIT * u32::try_from(questions.len())?;
        let psql = control::exec(&postgres, args.iter().map(String::as_str));
        Ok(psql.limit(limit))
    }

    /// Runs queries, each in its database, as superuser, in one session for queries of the same database that follow each
    /// other; returns the rows of each. No value may contain a `|` or a line break.
    pub fn query_all<const N: usize>(
        &self,
        questions: [(&str, &str); N],
    ) -> anyhow::Result<[Vec<Vec<String>>; N]> {
        let text = self.psql_all(&questions)?.read()?;
        let row = |line: &str| line.split('|').map(str::to_owned).collect();
        let mut answers: Vec<Vec<Vec<String>>> = vec![Vec::new()];
        for line in text.lines() {
            match answers.last_mut() {
                Some(rows) if line != ANSWERED => rows.push(row(line)),
                _ => answers.push(Vec::new()),
            }
        }
        // After the last separator there is nothing.
        answers.pop();
        <[_; N]>::try_from(answers)
            .map_err(|answers| anyhow!("{N} queries have {} answers", answers.len()))
    }

    /// Runs a query in a database, as superuser, each of whose rows is one JSON object: JSON escapes what would look like
    /// the end of a column or of a line.
    ///
    /// # Errors
    /// When the database can't be asked, or a row isn't a `T`.
    pub fn objects<T: DeserializeOwned>(
        &self,
        database: &str,
        sql: &str,
    ) -> anyhow::Result<Vec<T>> {
        let text = self.psql_all(&[(database, sql)])?.read()?;
        let rows = text.lines().filter(|line| *line != ANSWERED);
        let objects = rows.map(serde_json::from_str);
        let objects = objects.collect::<Result<_, _>>();
        objects.with_context(|| format!("failed to read what {database} answers"))
    }

    /// Runs a query in a database, as superuser; returns rows of columns.
    pub fn query(&self, database: &str, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let [rows] = self.query_all([(database, sql)])?;
        Ok(rows)
    }

    /// Runs a query whose result is one number.
    pub fn number(&self, database: &str, sql: &str) -> anyhow::Result<u64> {
        let [number] = self.numbers([(database, sql)])?;
        Ok(number)
    }

    /// Runs queries in one call, the result of each of which is one number.
    pub fn numbers<const N: usize>(
        &self,
        questions: [(&str, &str); N],
    ) -> anyhow::Result<[u64; N]> {
        let mut numbers = [0; N];
        let answers = self.query_all(questions)?;
        for ((number, rows), (database, sql)) in numbers.iter_mut().zip(answers).zip(questions) {
            let value = rows.first().and_then(|row| row.first());
            *number = value
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("{database} answered {rows:?} to {sql}"))?;
        }
        Ok(numbers)
    }

    /// The gateway's address, `host:port`.
    pub fn gateway(&self) -> anyhow::Result<String> {
        members::published_by(&self.members()?, Part::Traefik)
    }

    /// Every address, `host:port`, at which clients know the gateway: that of each node on the project's own cluster, the one that is lost
    /// first ([`RunningSystem::on_expendable_node`]) first; with everything on one node, that one's alone. One elsewhere.
    pub fn gateways(&self) -> anyhow::Result<Vec<String>> {
        let by_node: BTreeMap<String, String> = match &self.target {
            Some(target) => target.gateways_by_node()?.into_iter().collect(),
            None => BTreeMap::new(),
        };
        let members = self.members()?;
        let nodes = kubernetes::by_expendability(&members).into_iter();
        let mut addresses: Vec<String> = nodes
            .filter_map(|node| by_node.get(&node).cloned())
            .collect();
        let mut overrides = members.iter().map(|member| &member.overrides);
        if overrides.any(|it| it.get(PLACEMENT).is_some_and(|it| it == ONE_NODE)) {
            addresses.truncate(1);
        }
        if addresses.is_empty() {
            addresses.push(members::published_by(&members, Part::Traefik)?);
        }
        Ok(addresses)
    }

    /// What is on the node whose loss the system is meant to survive; nothing where there are no nodes.
    pub fn on_expendable_node(&self) -> anyhow::Result<Vec<Member>> {
        let mut members = self.members()?;
        let node = kubernetes::by_expendability(&members).into_iter().next();
        members.retain(|member| node.is_some() && kubernetes::node_of(member) == node.as_deref());
        Ok(members)
    }

    /// The broker's management API. Its port may be another one after each start of the container.
    pub fn broker(&self) -> anyhow::Result<Client> {
        broker::management(&self.settings, &self.members()?)
    }

    /// Waits for a [`RunningSystem::configure`] or `compose_up` whose process was killed: its compose lives on, and would
    /// undo what is set up meanwhile. It ends by itself within its own limit.
    pub fn wait_for_abandoned_configuring(&self) -> anyhow::Result<()> {
        let configures = match &self.target {
            None => [
                format!("--project-name {} ", self.project.name),
                SCALE.to_owned(),
            ],
            Some(target) => kubernetes::configuring(target),
        };
        let gone = wait::until(CONFIGURED_WITHIN, Duration::from_millis(200), || {
            let processes = Call::new("ps").args(["-eo", "args"]).read()?;
            let lives = processes
                .lines()
                .any(|line| configures.iter().all(|word| line.contains(word)));
            Ok((!lives).then_some(()))
        })?;
        gone.ok_or_else(|| {
            outcome::failed(
                "a killed command's call that configures the system still runs",
                format!(
                    "`ps -eo pid,args | grep -- {:?}` names it; end it, then `cargo xtask heal`",
                    configures[1]
                ),
            )
        })
    }

    /// The ids of the keys that user-service's containers were started with, each set of keys once.
    pub fn signing_keys(&self) -> anyhow::Result<BTreeSet<Vec<String>>> {
        let members = self.members()?.into_iter();
        Ok(members
            .filter(|member| member.service == signing_keys::SERVICE)
            .map(|member| member.signing_keys)
            .collect())
    }

    /// How the configured services are set up now, as their containers say.
    pub fn configuration(&self) -> anyhow::Result<Configuration> {
        let mut configuration = Configuration {
            signing_keys: self.signing_keys()?,
            ..Configuration::default()
        };
        let members = self.members()?;
        for service in CONFIGURED {
            let of_service = || {
                let running = members.iter();
                running.filter(|member| member.service == service)
            };
            let mut off: Vec<String> = of_service()
                .flat_map(|member| member.patterns_off.clone())
                .collect();
            off.sort_unstable();
            off.dedup();
            if !off.is_empty() {
                configuration.patterns_off.insert(service.to_string(), off);
            }
            let count = of_service().count().try_into()?;
            // On Kubernetes it is the services' number alone that is set.
            let is_set = service.is_service() || self.target.is_none();
            if count > 1 && is_set {
                configuration.replicas.insert(service.to_string(), count);
            }
            configuration
                .overrides
                .extend(of_service().flat_map(|member| member.overrides.clone()));
        }
        Ok(configuration)
    }

    /// Starts the configured services anew where they differ from this: the patterns that are off, how many containers
    /// a service has where it isn't one, and the patterns' overrides. Returns when all are healthy.
    pub fn configure(&self, wanted: &Wanted) -> anyhow::Result<()> {
        self.set_up(wanted, &CONFIGURED, &[])
    }

    /// Replaces the containers of these services by new ones, which are configured alike. Returns when all are healthy.
    pub fn recreate(&self, wanted: &Wanted, services: &[Part]) -> anyhow::Result<()> {
        self.set_up(wanted, services, &["--force-recreate"])
    }

    fn set_up(&self, wanted: &Wanted, services: &[Part], options: &[&str]) -> anyhow::Result<()> {
        if let Some(target) = &self.target {
            let renewed = if options.is_empty() { &[] } else { services };
            return self.set_up_on_kubernetes(target, wanted, renewed);
        }
        let scales = services.iter().map(|service| {
            let count = wanted.replicas.get(service).copied().unwrap_or(1);
            format!("{SCALE}{service}={count}")
        });
        // What the settings say of switches is replaced as a whole.
        let settings = self.settings.without_prefix(SWITCH);
        let mut call = self
            .compose
            .up(self.project, &settings, ["--no-deps", REPLACED_WITHIN])
            .args(options)
            .args(scales)
            .args(services.iter().map(|service| service.name()));
        for pattern in &wanted.patterns_off {
            call = call.env(switch_of(pattern), "off");
        }
        for (variable, value) in &wanted.overrides {
            call = call.env(variable, value);
        }
        let output = call.output()?;
        anyhow::ensure!(
            output.status.success(),
            "the services did not start in the configuration asked for: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let look = || {
            let mut members = self.members()?;
            members.retain(|member| services.contains(&member.service));
            Ok(members)
        };
        let members = health::wait(HEALTHY_WITHIN, look, health::one_ended)?;
        let sick = members.iter().find(|member| !member.is_healthy());
        sick.map_or(Ok(()), |sick| {
            Err(anyhow!(
                "the services did not start in the configuration asked for: {} is {}",
                members::name(sick),
                sick.condition()
            ))
        })
    }
}

impl RunningSystem<'_> {
    /// Gateways keep their number: it isn't one of what experiments compare.
    fn set_up_on_kubernetes(
        &self,
        target: &Arc<Target>,
        wanted: &Wanted,
        renewed: &[Part],
    ) -> anyhow::Result<()> {
        let off = wanted.patterns_off.iter();
        let off: BTreeMap<String, String> = off
            .map(|pattern| (switch_of(pattern), "off".to_owned()))
            .collect();
        let settings = self.settings.without_prefix(SWITCH);
        let settings = settings.with(&off).with(&wanted.overrides);
        let count = |part: &Part| wanted.replicas.get(part).map_or(1, |count| (*count).into());
        let replicas = Part::services().map(|part| (part, count(&part)));
        kubernetes::configure(target, &settings, &replicas.collect(), renewed)
    }
}

/// The machine and the engine of a project's system, as runs and noise are told apart by them.
///
/// # Errors
/// When the engine doesn't tell.
pub fn machine(project: &Project) -> anyhow::Result<Machine> {
    let target = kubectl::target(project)?;
    let mut machine = host::machine()?;
    if let Some(target) = target {
        let context = target.context().unwrap_or("local");
        machine.engine = format!("Kubernetes {}, {context}", target.version()?);
    }
    Ok(machine)
}

/// The commit that a project is of, with `-dirty` where files differ from it; `unknown` without git.
pub fn commit(project: &Project) -> String {
    let describe = ["describe", "--always", "--dirty"];
    let commit = Call::new("git").args(describe).dir(&project.root).read();
    commit.map_or_else(|_| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

/// The variable of a pattern's switch.
fn switch_of(pattern: &str) -> String {
    format!("{SWITCH}{}", pattern.to_uppercase())
}

/// Publishes a message through the management API; returns whether the broker routed it to a queue.
pub fn publish(
    broker: &Client,
    exchange: &str,
    routing_key: &str,
    payload: &str,
    properties: &Value,
) -> anyhow::Result<bool> {
    let message = json!({
        "routing_key": routing_key,
        "payload": payload,
        "payload_encoding": "string",
        "properties": properties,
    });
    let path = format!("/api/exchanges/%2F/{exchange}/publish");
    let answer = broker.post(&path, &[], Some(&message))?;
    anyhow::ensure!(
        answer.status == 200,
        "RabbitMQ took no message for {exchange}: {}",
        answer.shown()
    );
    let answer: Value = answer.json()?;
    Ok(answer["routed"] == true)
}
