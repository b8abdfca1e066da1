//! The telemetry of an arm: whether its orders' traces are whole, and how many spans were exported or lost.
//!
//! Only for experiments that observe them: traces are waited for, and counters are scraped every five seconds. Left out: the shape of a trace ([`checks::traces_check`]).

use std::collections::BTreeMap;

use base::progress::Step;
use checks::traces_check;
use records::{
    evaluation::Telemetry,
    load::{CancellationEntry, LedgerEntry},
};
use system::{
    jaeger::Jaeger,
    prometheus::{Moment, Prometheus},
    running::RunningSystem,
};

use crate::{experiment::Observed, traces};

/// The most orders whose traces are looked up: those that aren't whole are asked for again and again, until no span comes any more.
/// If all of so many are whole, at most 3 % of the others are not (at 95 %).
const ORDERS: usize = 100;

/// Watches the services' metrics from a moment on.
#[derive(Debug)]
pub(crate) struct Watch {
    prometheus: Prometheus,
    from: Moment,
}

impl Watch {
    /// Begins after the services were configured: their counters start with their processes.
    pub(crate) fn begin(system: &RunningSystem<'_>) -> anyhow::Result<Self> {
        let prometheus = Prometheus::new(&system.members()?)?;
        let from = prometheus.wait_for_fresh_scrapes()?;
        Ok(Self { prometheus, from })
    }

    /// Returns the telemetry since then: all spans, and the traces of a load's orders where these are observed.
    pub(crate) fn end(
        self,
        system: &RunningSystem<'_>,
        observed: Observed,
        ledger: &[LedgerEntry],
        cancellations: &[CancellationEntry],
        step: &Step,
    ) -> anyhow::Result<Telemetry> {
        let orders = traces_check::orders(ledger, cancellations);
        let most = match observed {
            Observed::Traces => ORDERS,
            _ => 0,
        };
        let chosen = traces_check::chosen(&orders, most);
        let jaeger = Jaeger::new(&system.members()?)?;
        let results = traces::look_up(&jaeger, &chosen, step)?;
        let tally = traces_check::tally(&results, 0);
        let to = self.prometheus.wait_for_fresh_scrapes()?;
        let spans = self
            .prometheus
            .gains("sum by (outcome) (agora_spans_total)", self.from, to)?;
        let mut by_outcome = BTreeMap::new();
        for (sample, gain) in spans {
            let gain = gain.ok_or_else(|| anyhow::anyhow!("a service was restarted under load"))?;
            by_outcome.insert(sample.label("outcome").to_owned(), gain);
        }
        let seconds = (to - self.from).ceil();
        let memory = format!(
            "max(max_over_time(process_resident_memory_bytes{{job=~\".+-service\"}}[{seconds}s]))"
        );
        let memory = self.prometheus.query(&memory, to)?;
        Ok(Telemetry {
            traces: tally.judged as u64,
            whole: tally.whole as u64,
            missing: tally
                .missing
                .into_iter()
                .map(|lack| (lack.what, lack.traces as u64))
                .collect(),
            spans: by_outcome,
            most_memory_bytes: memory.first().map(|sample| sample.value as u64),
        })
    }
}
