//! Compares the spans that were exported with those that the trace store accepted.
//!
//! The services count what they export and the gateway doesn't, so the rest is taken as the gateway's. Left out:
//! reading the counters. Counts go in, a finding comes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::metrics_check::{Cause, Finding};

/// How many spans were exported and stored, by the counters of the services and of the trace store.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SpanCounts {
    /// Spans that the store acknowledged, by service.
    pub sent: BTreeMap<String, u64>,
    /// Spans that were dropped because the queue was full, by service; absent where there are none.
    pub dropped: BTreeMap<String, u64>,
    /// Spans whose export failed, by service; absent where there are none.
    pub failed: BTreeMap<String, u64>,
    /// Spans that the store accepted.
    pub stored: u64,
    /// Spans that the store refused.
    pub refused: u64,
    /// Requests at the gateway in the same time: it exports spans and doesn't count them.
    pub gateway_requests: u64,
    /// Jobs whose counters were reset meanwhile.
    pub restarted: BTreeSet<String>,
    /// Whether there are counters of spans at all.
    pub counted: bool,
}

impl SpanCounts {
    /// The spans that all services exported.
    pub fn sent_by_services(&self) -> u64 {
        self.sent.values().sum()
    }

    /// The spans that the store accepted beyond that, which are the gateway's; `None` where it accepted fewer.
    pub fn rest(&self) -> Option<u64> {
        self.stored.checked_sub(self.sent_by_services())
    }
}

/// Compares exported with stored spans. `gateway_spans_seen` is how many of the gateway's were found in stored traces.
pub fn compare(counts: &SpanCounts, gateway_spans_seen: usize) -> Finding {
    if !counts.counted {
        return Finding::unsettled(
            Cause::NothingToCompare,
            "Prometheus has no counter of spans",
        );
    }
    if !counts.restarted.is_empty() {
        let who: Vec<&str> = counts.restarted.iter().map(String::as_str).collect();
        let who = who.join(", ");
        let why = format!("{who} restarted meanwhile or is gone, and the counters with it");
        return Finding::unsettled(Cause::Restarted(who), why);
    }
    match counts.rest() {
        None => Finding::Differs(format!(
            "{} spans that the services sent are not in the store",
            counts.sent_by_services() - counts.stored
        )),
        Some(rest) if rest < gateway_spans_seen as u64 => Finding::Differs(format!(
            "{gateway_spans_seen} spans of the gateway are in the traces, and the store took in only {rest} beyond \
             what the services sent"
        )),
        Some(0) if counts.gateway_requests == 0 => Finding::Equal,
        // Its traces are looked at one by one; perhaps it samples none.
        Some(0) => Finding::unsettled(
            Cause::NothingToCompare,
            format!(
                "none of the {} requests at the gateway left a span of its own",
                counts.gateway_requests
            ),
        ),
        Some(rest) if counts.gateway_requests == 0 => Finding::unsettled(
            Cause::OtherTraffic,
            format!("{rest} more than the services sent, and no request at the gateway"),
        ),
        Some(rest) => Finding::Explained(format!(
            "{rest} of the gateway, which doesn't count them: {:.2} for each of {} requests",
            rest as f64 / counts.gateway_requests as f64,
            counts.gateway_requests
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::outcome::Exit;

    fn counts() -> SpanCounts {
        SpanCounts {
            sent: [
                ("order-service".to_owned(), 50),
                ("user-service".to_owned(), 20),
            ]
            .into(),
            stored: 100,
            gateway_requests: 10,
            counted: true,
            ..SpanCounts::default()
        }
    }

    #[test]
    fn the_gateway_accounts_for_the_spans_that_no_service_sent() {
        let Finding::Explained(why) = compare(&counts(), 30) else {
            panic!("{:?}", compare(&counts(), 30));
        };
        assert_eq!(
            why,
            "30 of the gateway, which doesn't count them: 3.00 for each of 10 requests"
        );
    }

    #[test]
    fn a_span_that_was_sent_and_is_not_stored_fails() {
        let lost = SpanCounts {
            stored: 69,
            ..counts()
        };
        assert_eq!(compare(&lost, 0).exit(), Exit::Failed);
        let no_gateway = SpanCounts {
            stored: 70,
            ..counts()
        };
        assert_eq!(compare(&no_gateway, 0).exit(), Exit::Inconclusive);
    }

    #[test]
    fn spans_of_a_store_that_restarted_cannot_be_compared() {
        let restarted = SpanCounts {
            stored: 3,
            restarted: ["jaeger".to_owned()].into(),
            ..counts()
        };
        assert_eq!(compare(&restarted, 0).exit(), Exit::Inconclusive);
        assert_eq!(
            compare(&SpanCounts::default(), 0).exit(),
            Exit::Inconclusive
        );
    }

    #[test]
    fn the_gateways_spans_that_are_in_the_traces_must_have_been_stored() {
        assert_eq!(
            compare(&counts(), 31),
            Finding::Differs(
                "31 spans of the gateway are in the traces, and the store took in only 30 beyond what the services sent"
                    .to_owned()
            )
        );
    }
}
