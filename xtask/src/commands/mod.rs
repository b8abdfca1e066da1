//! The list of commands ([`Command`]), and a module for each: its options, the calls that carry it out, and its output.
//!
//! Left out: acting on the system (`system`), checks (`checks`), experiments (`evaluation`).

mod alerts;
mod attack;
mod bench;
mod capacity;
mod check;
mod cluster;
mod completions;
mod demo;
mod dlq;
mod doctor;
mod down;
mod evaluate;
mod fault;
mod heal;
mod keys;
mod load;
mod logs;
mod orders;
mod outbox;
mod rollout;
mod scale;
mod smoke;
mod status;
mod test;
mod up;
mod verify_api;
mod verify_dashboards;
mod verify_dlq;
mod verify_ledger;
mod verify_metrics;
mod verify_traces;

use base::outcome::{self, Exit};
use clap::CommandFactory;
use system::project::{Engine, Project};

use crate::output::Format;

/// The forms in which a command prints its result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forms {
    /// It shows other programs' output, or is for people alone.
    TextOnly,
    TextOrJson,
}

/// What happens, before a command runs, to faults and changes that a killed command left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeftOver {
    /// They are undone: the command reads or changes the running system.
    HealFirst,
    LeaveAsIs,
}

/// The engines on which a command works.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Engines {
    ComposeOnly,
    Both,
    /// It doesn't concern a system, or not the one that is chosen.
    None,
}

/// Declares [`Command`] from its rows: `Variant(options: its type) [Forms, LeftOver, Engines] => call;`, below what its help says.
macro_rules! commands {
    (
        |$project:ident, $format:ident|
        $(
            $(#[$attribute:meta])*
            $name:ident $(($options:ident: $type:ty))? [$forms:ident, $left_over:ident, $engines:ident] => $call:expr;
        )+
    ) => {
        #[derive(Debug, clap::Subcommand)]
        pub(crate) enum Command {
            $($(#[$attribute])* $name $(($type))?,)+
        }

        impl Command {
            fn forms(&self) -> Forms {
                match self {
                    $(Self::$name { .. } => Forms::$forms,)+
                }
            }

            fn left_over(&self) -> LeftOver {
                match self {
                    $(Self::$name { .. } => LeftOver::$left_over,)+
                }
            }

            fn engines(&self) -> Engines {
                match self {
                    $(Self::$name { .. } => Engines::$engines,)+
                }
            }

            fn call(&self, $project: &Project, $format: Format) -> anyhow::Result<Exit> {
                match self {
                    $(Self::$name $(($options))? => $call,)+
                }
            }
        }
    };
}

commands! {
    |project, format|

    /// The main job from nothing: up, smoke, a short load, every check, one experiment
    Demo(options: demo::Options) [TextOnly, HealFirst, Both] => demo::run(project, *options);
    /// Build what changed, start everything, wait until all is healthy
    Up(options: up::Options) [TextOnly, HealFirst, Both] => up::run(project, *options);
    /// Stop everything
    Down(options: down::Options) [TextOnly, LeaveAsIs, Both] => down::run(project, *options);
    /// Show services, their health and memory
    Status [TextOrJson, HealFirst, Both] => status::run(project, format);
    /// Show the logs of services, or of one trace
    Logs(options: logs::Options) [TextOnly, HealFirst, Both] => logs::run(project, options);
    /// Check prerequisites
    Doctor [TextOrJson, LeaveAsIs, Both] => doctor::run(project, format);
    /// Run the smoke test through the gateway
    Smoke [TextOrJson, HealFirst, Both] => smoke::run(project, format);
    /// Put load on the running system
    Load(options: load::Options) [TextOrJson, HealFirst, Both] => load::run(project, options, format);
    /// Replace a service's containers one by one without interrupting it
    Rollout(options: rollout::Options) [TextOrJson, HealFirst, Both] => rollout::run(project, options, format);
    /// Scale a service without interrupting it
    Scale(options: scale::Options) [TextOrJson, HealFirst, Both] => scale::run(project, *options, format);
    /// List and rotate the keys that sign tokens
    #[command(subcommand)]
    Keys(options: keys::Options) [TextOrJson, HealFirst, Both] => keys::run(project, options, format);
    /// Count dead letters by reason
    VerifyDlq(options: verify_dlq::Options) [TextOrJson, HealFirst, Both] => verify_dlq::run(project, *options, format);
    /// Reconcile what a load run's clients were promised with databases and queues
    VerifyLedger(options: verify_ledger::Options) [TextOrJson, HealFirst, Both] => verify_ledger::run(project, options, format);
    /// Reconcile Prometheus's counts with the load generator's
    VerifyMetrics(options: verify_metrics::Options) [TextOrJson, HealFirst, Both] => verify_metrics::run(project, options, format);
    /// Check that the traces of a run's orders are complete
    VerifyTraces(options: verify_traces::Options) [TextOrJson, HealFirst, Both] => verify_traces::run(project, options, format);
    /// Check the API against its OpenAPI documents with generated requests
    VerifyApi(options: verify_api::Options) [TextOrJson, HealFirst, Both] => verify_api::run(project, options, format);
    /// Run every query of the Grafana dashboards and find panels without data
    VerifyDashboards(options: verify_dashboards::Options) [TextOrJson, HealFirst, Both] => verify_dashboards::run(project, options, format);
    /// Show alerts that fire, or their history, with links to the runbook
    Alerts(options: alerts::Options) [TextOrJson, HealFirst, Both] => alerts::run(project, *options, format);
    /// Run the attack corpus against the gateway
    Attack [TextOrJson, HealFirst, Both] => attack::run(project, format);
    /// Evaluate patterns: the same load and fault with the pattern off and on, and a verdict
    // Heals by itself, where it uses the system at all.
    Evaluate(options: evaluate::Options) [TextOrJson, LeaveAsIs, Both] => evaluate::run(project, options, format);
    /// List, replay or purge dead letters
    #[command(subcommand)]
    Dlq(options: dlq::Options) [TextOrJson, HealFirst, Both] => dlq::run(project, options, format);
    /// Find orders that wait too long, and republish their events
    #[command(subcommand)]
    Orders(options: orders::Options) [TextOrJson, HealFirst, Both] => orders::run(project, options, format);
    /// List events that the broker rejected and the relay parked; retry or drop them
    #[command(subcommand)]
    Outbox(options: outbox::Options) [TextOrJson, HealFirst, Both] => outbox::run(project, options, format);
    /// Inject one fault, check its effect, and heal it
    Fault(options: fault::Options) [TextOrJson, HealFirst, Both] => fault::run(project, options, format);
    /// Undo faults and changes that an interrupted command left behind
    // Heals by itself.
    Heal [TextOrJson, LeaveAsIs, Both] => heal::run(project, format);
    /// Start, show and remove a Kubernetes cluster on this machine
    #[command(subcommand)]
    Cluster(options: cluster::Options) [TextOrJson, LeaveAsIs, None] => cluster::run(project, *options, format);
    /// Run every test, on two systems of their own
    Test(options: test::Options) [TextOnly, LeaveAsIs, ComposeOnly] => test::run(project, options);
    /// Measure orders processed a second, the ceilings of broker and database, the cost of telemetry, and the gateway
    Bench(options: bench::Options) [TextOnly, LeaveAsIs, ComposeOnly] => bench::run(project, options);
    /// Say what a rate of orders takes, from what an order costs
    // `measure` heals and locks by itself.
    Capacity(options: capacity::Options) [TextOrJson, LeaveAsIs, ComposeOnly] => capacity::run(project, options, format);
    /// Check formatting, lints, docs, dependencies and configuration files
    Check(options: check::Options) [TextOrJson, LeaveAsIs, None] => check::run(project, options, format);
    /// Print a script that completes commands and options in a shell
    Completions(options: completions::Options) [TextOnly, LeaveAsIs, None] => completions::run(crate::Cli::command(), *options);
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self, project: &Project, format: Format) -> anyhow::Result<Exit> {
        if format != Format::Text && self.forms() == Forms::TextOnly {
            return Err(outcome::usage(
                "this command has no JSON form",
                "leave `--format` out",
            ));
        }
        let on_kubernetes = matches!(project.engine, Engine::Kubernetes(_));
        if on_kubernetes && self.engines() == Engines::ComposeOnly {
            return Err(outcome::usage(
                "this command doesn't know Kubernetes yet",
                "leave `--on kubernetes` out, and AGORA_ENGINE",
            ));
        }
        if self.left_over() == LeftOver::HealFirst {
            heal::undo_left_over(project)?;
        }
        self.call(project, format)
    }
}
