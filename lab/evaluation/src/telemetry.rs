//! What telemetry made of an arm: whether its orders' traces are whole, and what became of the services' spans.
//!
//! Only for experiments that ask for it ([`super::experiment::Observed::Traces`]): traces are waited for, and
//! counters are scraped every five seconds. Left out: the shape of a trace (`traces_check`).

use std::collections::BTreeMap;

use base::progress::Step;
use checks::traces_check;
use records::{
    evaluation::Telemetry,
    load::{CancellationEntry, LedgerEntry},
};
use system::{
    jaeger::Jaeger,
    lab::Lab,
    prometheus::{Moment, Prometheus},
};

use crate::traces;

/// The most orders whose traces are looked up.
const ORDERS: usize = 300;

/// The metrics of the services' own processes, from a moment on.
#[derive(Debug)]
pub(crate) struct Watch {
    prometheus: Prometheus,
    from: Moment,
}

impl Watch {
    /// Begins after the services were configured: their counters start with their processes.
    pub(crate) fn begin(lab: &Lab<'_>) -> anyhow::Result<Self> {
        let prometheus = Prometheus::new(&lab.containers()?)?;
        let from = prometheus.wait_for_fresh_scrapes()?;
        Ok(Self { prometheus, from })
    }

    /// What was seen since then, of a load's orders and of all spans.
    pub(crate) fn end(
        self,
        lab: &Lab<'_>,
        ledger: &[LedgerEntry],
        cancellations: &[CancellationEntry],
        step: &Step,
    ) -> anyhow::Result<Telemetry> {
        let orders = traces_check::orders(ledger, cancellations);
        let chosen = traces_check::chosen(&orders, ORDERS);
        let jaeger = Jaeger::new(&lab.containers()?)?;
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
