//! Compares a load run's ledger with the counters of what followed from its orders: events published, consumed, retried
//! and dead-lettered.
//!
//! Left out: reading the counters. Ledger and counts go in, findings come out. An accepted order is one event
//! (`OrderPlaced`), a cancellation one more (`OrderCancelled`, with the pattern `saga` on); each is answered by one. A
//! difference is explained by what other counters show, unsettled where something beyond the run touched the counters,
//! or it is a difference.

use std::collections::{BTreeMap, BTreeSet};

use records::load::{CancellationEntry, LedgerEntry};

use crate::metrics_check::{Cause, Finding, Row};

/// The service that publishes to `order_events` and consumes `inventory_events`.
pub const ORDERS: &str = "order-service";
/// The service that publishes to `inventory_events` and consumes `order_events`.
pub const STOCK: &str = "inventory-service";
const ORDER_EVENTS: &str = "order_events";
const STOCK_EVENTS: &str = "inventory_events";

const REVIVED: &str = "dead letters that were sent again";
/// Why messages are dead-lettered that no run can have sent: the services publish nothing that they can't read, or may
/// not send.
const FOREIGN: [&str; 2] = ["unreadable", "oversized"];
/// Outcomes of a publish after which the event may be in the queue all the same.
const UNCONFIRMED: [&str; 2] = ["timed_out", "connection_failed"];

/// What a run's clients were promised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promises {
    /// The number of 2xx answers to orders.
    pub accepted_answers: u64,
    /// The number of different orders in them: a repeated answer (`Idempotency-Key`) is one order.
    pub orders: u64,
    /// The number of requests without a clear answer whose order may have been accepted.
    pub uncertain_orders: u64,
    /// The number of 2xx answers to cancellations.
    pub cancelled_answers: u64,
    /// The number of different orders in them.
    pub cancellations: u64,
    /// The number of cancellations without a clear answer that may have been accepted.
    pub uncertain_cancellations: u64,
}

impl Promises {
    /// Counts the promises in a run's records.
    pub fn of(ledger: &[LedgerEntry], cancellations: &[CancellationEntry]) -> Self {
        let accepted = |status: Option<u16>| status.is_some_and(|status| status / 100 == 2);
        // A status of 4xx is a clear no.
        let uncertain = |status: Option<u16>| status.is_none_or(|status| status >= 500);
        let count = |number: usize| number as u64;
        let orders: BTreeSet<&str> = ledger
            .iter()
            .filter_map(|entry| entry.order_id.as_deref())
            .collect();
        let cancelled: BTreeSet<&str> = cancellations
            .iter()
            .filter(|entry| accepted(entry.status))
            .map(|entry| entry.order_id.as_str())
            .collect();
        let unread = |entry: &&LedgerEntry| {
            entry.order_id.is_none() && (uncertain(entry.status) || accepted(entry.status))
        };
        Self {
            accepted_answers: count(ledger.iter().filter(|e| accepted(e.status)).count()),
            orders: count(orders.len()),
            uncertain_orders: count(ledger.iter().filter(unread).count()),
            cancelled_answers: count(cancellations.iter().filter(|e| accepted(e.status)).count()),
            cancellations: count(cancelled.len()),
            uncertain_cancellations: count(
                cancellations.iter().filter(|e| uncertain(e.status)).count(),
            ),
        }
    }
}

/// By how much the counters rose from before the run until nothing followed from it any more.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Orders that order-service answered with 202.
    pub accepted: u64,
    /// Cancellations that order-service answered with 202.
    pub cancelled: u64,
    /// Events published, by exchange and outcome.
    pub published: BTreeMap<(String, String), u64>,
    /// Messages consumed, by queue and outcome.
    pub processed: BTreeMap<(String, String), u64>,
    /// `agora_inbox_duplicates_total`, by queue.
    pub duplicates: BTreeMap<String, u64>,
    /// `agora_retries_total`, by queue.
    pub retries: BTreeMap<String, u64>,
    /// `agora_dead_letters_total`, by queue and reason.
    pub dead: BTreeMap<(String, String), u64>,
    /// `agora_orders_overtaken_total`: orders whose cancellation reached inventory-service first, for which it
    /// publishes nothing. A retried transaction counts its orders once more.
    pub overtaken: u64,
    /// Each pattern that is off, as service and pattern.
    pub patterns_off: BTreeSet<(String, String)>,
    /// Jobs whose counters were reset meanwhile.
    pub restarted: BTreeSet<String>,
    /// Whether messages from before the run were still under way when it began.
    pub disturbed: bool,
    /// Whether all queues were empty and all counters still at the end.
    pub at_rest: bool,
}

impl Observed {
    fn published(&self, exchange: &str, is: impl Fn(&str) -> bool) -> u64 {
        sum(&self.published, exchange, is)
    }

    fn processed(&self, queue: &str, outcome: &str) -> u64 {
        sum(&self.processed, queue, |is| is == outcome)
    }

    /// All messages that the queue's consumer dead-lettered.
    fn given_up(&self, queue: &str) -> u64 {
        sum(&self.dead, queue, |_| true)
    }

    /// Those of them that a load run can have caused.
    fn dead(&self, queue: &str) -> u64 {
        sum(&self.dead, queue, |reason| !FOREIGN.contains(&reason))
    }

    fn is_off(&self, job: &str, pattern: &str) -> bool {
        let key = (job.to_owned(), pattern.to_owned());
        self.patterns_off.contains(&key)
    }
}

fn sum(
    counts: &BTreeMap<(String, String), u64>,
    name: &str,
    outcome: impl Fn(&str) -> bool,
) -> u64 {
    counts
        .iter()
        .filter(|((of, with), _)| of == name && outcome(with))
        .map(|(_, count)| count)
        .sum()
}

/// Whether the publisher takes an event with this outcome as published.
fn is_out(outcome: &str) -> bool {
    matches!(outcome, "confirmed" | "sent")
}

/// Compares what was promised with what was counted.
pub fn compare(promises: &Promises, observed: &Observed) -> Vec<Row> {
    let orders = Line {
        job: ORDERS,
        what: "orders accepted".to_owned(),
        expected: promises.accepted_answers,
        counted: observed.accepted,
        more: vec![unanswered(promises.uncertain_orders)],
        ..Line::of(observed)
    };
    let cancellations = Line {
        job: ORDERS,
        what: "cancellations accepted".to_owned(),
        expected: promises.cancelled_answers,
        counted: observed.cancelled,
        more: vec![unanswered(promises.uncertain_cancellations)],
        ..Line::of(observed)
    };
    let others = orders.surplus() + cancellations.surplus();
    let told = !observed.is_off(ORDERS, "saga");
    let cancelled = |count: u64| if told { count } else { 0 };
    let uncertain = promises.uncertain_orders + cancelled(promises.uncertain_cancellations);

    let placed = Stream {
        name: ORDER_EVENTS,
        publisher: ORDERS,
        consumer: STOCK,
        events: promises.orders + cancelled(promises.cancellations),
        uncertain,
        revived: 0,
        unsure: 0,
        others,
        unsaid: 0,
        answers_of: None,
    };
    let (placed_lines, arrived) = placed.lines(observed);
    let cancellations_at_most =
        cancelled(promises.cancellations + promises.uncertain_cancellations);
    let settled = Stream {
        name: STOCK_EVENTS,
        publisher: STOCK,
        consumer: ORDERS,
        // Each event that inventory applied is answered by one; what it gave up on is answered by none.
        events: arrived.surely.saturating_sub(observed.dead(ORDER_EVENTS)),
        uncertain,
        revived: observed.dead(ORDER_EVENTS),
        unsure: arrived.perhaps,
        others,
        unsaid: observed.overtaken.min(cancellations_at_most),
        answers_of: Some(STOCK),
    };
    let (settled_lines, _) = settled.lines(observed);
    // These two have nothing to be held against but the ledger: what is more is other traffic.
    let own = [orders, cancellations].map(|line| {
        let others = line.surplus();
        Line { others, ..line }
    });
    let all = own.into_iter().chain(placed_lines).chain(settled_lines);
    all.map(Line::row).collect()
}

fn sum_of(counts: &BTreeMap<String, u64>, queue: &str) -> u64 {
    counts.get(queue).copied().unwrap_or_default()
}

/// How many events of a stream arrived at its consumer.
struct Arrived {
    surely: u64,
    /// How many more may have arrived: the broker confirmed none of them, and they are not published again.
    perhaps: u64,
}

fn unanswered(count: u64) -> (u64, &'static str) {
    (
        count,
        "requests without an answer, which may have been done",
    )
}

/// The events of one exchange, from one service to another.
struct Stream {
    name: &'static str,
    publisher: &'static str,
    consumer: &'static str,
    /// How many events must be published.
    events: u64,
    /// How many more may be published, for requests without an answer.
    uncertain: u64,
    /// How many more may be published, for dead letters that were replayed.
    revived: u64,
    /// How many more may be published, for events that reached the publisher without a confirm.
    unsure: u64,
    /// How many requests of other clients there were in the same time.
    others: u64,
    /// How many of `events` may be missing: nothing is published for an order whose cancellation arrived first.
    unsaid: u64,
    /// The consumer whose answers the events are; `None` where a request causes them.
    answers_of: Option<&'static str>,
}

impl Stream {
    /// The counters of the stream, and how many events can have arrived.
    fn lines<'a>(&self, observed: &'a Observed) -> (Vec<Line<'a>>, Arrived) {
        let name = self.name;
        let duplicates = observed.processed(name, "duplicate");
        // With the outbox on, what wasn't confirmed is sent until it is.
        let (lost, unconfirmed) = if observed.is_off(self.publisher, "outbox") {
            let unsure = |outcome: &str| UNCONFIRMED.contains(&outcome);
            let lost = |outcome: &str| !is_out(outcome) && !unsure(outcome);
            (
                observed.published(name, lost),
                observed.published(name, unsure),
            )
        } else {
            (0, 0)
        };
        let from_upstream = (self.unsure, "for events that came without a confirm");
        let again = "published or delivered again, and recognised by the inbox";
        let mut published = Line {
            job: self.publisher,
            what: format!("{name}: events published"),
            expected: self.events,
            counted: observed.published(name, is_out),
            more: vec![
                unanswered(self.uncertain),
                (self.revived, REVIVED),
                from_upstream,
                (duplicates, again),
            ],
            fewer: vec![
                (self.unsaid, "cancelled before inventory received them"),
                (
                    lost,
                    "lost, as the outbox is off: the broker took none of them",
                ),
                (
                    unconfirmed,
                    "not confirmed, and not sent again, as the outbox is off",
                ),
            ],
            others: self.others,
            disturbed: observed.disturbed,
            ..Line::of(observed)
        };
        let inbox_is_off = |job: &str| observed.is_off(job, "inbox");
        if self.answers_of.is_some_and(inbox_is_off) {
            published.twice = Some("what came twice was applied, and answered, twice");
        }
        // A duplicate stands for one event too many, or for an attempt that could not say what it did: not for both.
        let otherwise = self.uncertain + self.revived + self.unsure;
        let surplus = published.counted.saturating_sub(published.expected);
        let unspent = duplicates.saturating_sub(surplus.saturating_sub(otherwise));
        // What was rightly, or knowingly, left out can't arrive.
        let arrived = if published.is_explained() {
            published.expected.min(published.counted)
        } else {
            published.expected
        };
        let mut applied = Line {
            job: self.consumer,
            what: format!("{name}: events applied"),
            expected: arrived,
            counted: observed.processed(name, "applied"),
            more: vec![
                unanswered(self.uncertain),
                (self.revived, REVIVED),
                from_upstream,
                (unconfirmed, "arrived without a confirm"),
            ],
            fewer: vec![
                (observed.dead(name), "dead letters"),
                (
                    unspent,
                    "applied by an attempt that could not say so, and recognised when they came again",
                ),
            ],
            others: self.others,
            disturbed: observed.disturbed,
            ..Line::of(observed)
        };
        if inbox_is_off(self.consumer) || self.answers_of.is_some_and(inbox_is_off) {
            applied.twice = Some("the inbox is off: what came twice was applied twice");
        }
        let same = |what: &str, outcome: &str, counted: u64| Line {
            job: self.consumer,
            what: format!("{name}: {what}"),
            expected: observed.processed(name, outcome),
            counted,
            twice: Some("counted, and settled only when it was delivered again"),
            ..Line::of(observed)
        };
        let lines = vec![
            published,
            applied,
            same(
                "duplicates recognised",
                "duplicate",
                sum_of(&observed.duplicates, name),
            ),
            same(
                "put back for a later attempt",
                "retried",
                sum_of(&observed.retries, name),
            ),
            same("given up", "dead", observed.given_up(name)),
        ];
        let arrived = Arrived {
            surely: arrived,
            perhaps: self.unsure + unconfirmed,
        };
        (lines, arrived)
    }
}

/// A counter, and what may explain a difference.
struct Line<'a> {
    job: &'static str,
    what: String,
    expected: u64,
    counted: u64,
    /// By how many it may be more, each with its reason.
    more: Vec<(u64, &'static str)>,
    /// By how many it may be fewer, likewise.
    fewer: Vec<(u64, &'static str)>,
    /// By how many other clients' requests may have raised it.
    others: u64,
    /// Why it may be more by any number: such a difference is inconclusive.
    twice: Option<&'static str>,
    /// Whether messages from before the run raised it, too: then even an equal count is inconclusive.
    disturbed: bool,
    observed: &'a Observed,
}

impl<'a> Line<'a> {
    fn of(observed: &'a Observed) -> Self {
        Self {
            job: ORDERS,
            what: String::new(),
            expected: 0,
            counted: 0,
            more: Vec::new(),
            fewer: Vec::new(),
            others: 0,
            twice: None,
            disturbed: false,
            observed,
        }
    }

    /// By how much it is more than the run can have caused.
    fn surplus(&self) -> u64 {
        let most = self.expected + total(&self.more);
        self.counted.saturating_sub(most)
    }

    fn is_explained(&self) -> bool {
        matches!(self.finding(), Finding::Equal | Finding::Explained(_))
    }

    fn finding(&self) -> Finding {
        if self.disturbed {
            return Finding::unsettled(
                Cause::EarlierMessages,
                "messages of before were still on their way when the run began",
            );
        }
        if self.counted == self.expected {
            return Finding::Equal;
        }
        if self.observed.restarted.contains(self.job) {
            return Finding::unsettled(
                Cause::Restarted(self.job.to_owned()),
                format!(
                    "{} restarted meanwhile or is gone, and its counters with it",
                    self.job
                ),
            );
        }
        if !self.observed.at_rest {
            return Finding::unsettled(
                Cause::NotAtRest,
                "messages were still on their way, or others' were",
            );
        }
        if self.counted < self.expected {
            let missing = self.expected - self.counted;
            return match explanation(missing, &self.fewer) {
                Some(why) => Finding::Explained(why),
                None => Finding::Differs(format!("{missing} are missing")),
            };
        }
        let surplus = self.counted - self.expected;
        match explanation(surplus, &self.more) {
            Some(why) => Finding::Explained(why),
            None if self.surplus() <= self.others => Finding::unsettled(
                Cause::OtherTraffic,
                format!("{surplus} more than the run caused: other traffic in its time"),
            ),
            None => match self.twice {
                Some(why) => Finding::unsettled(Cause::InboxOff, format!("{surplus} more: {why}")),
                None => Finding::Differs(format!("{surplus} more than the run caused")),
            },
        }
    }

    fn row(self) -> Row {
        Row {
            finding: self.finding(),
            counter: self.job.to_owned(),
            requests: self.what,
            sent: self.expected,
            counted: self.counted,
        }
    }
}

fn total(reasons: &[(u64, &str)]) -> u64 {
    reasons.iter().map(|(count, _)| count).sum()
}

/// The reasons that together account for so many.
fn explanation(count: u64, reasons: &[(u64, &str)]) -> Option<String> {
    let mut left = count;
    let mut why = Vec::new();
    for (most, reason) in reasons {
        let by = left.min(*most);
        if by > 0 {
            why.push(format!("{by} {reason}"));
        }
        left -= by;
    }
    (left == 0).then(|| why.join("; "))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use base::outcome::Exit;

    /// Ten orders, of which two were cancelled.
    fn promises() -> Promises {
        Promises {
            accepted_answers: 10,
            orders: 10,
            cancelled_answers: 2,
            cancellations: 2,
            ..Promises::default()
        }
    }

    fn pairs(counts: &[(&str, &str, u64)]) -> BTreeMap<(String, String), u64> {
        counts
            .iter()
            .map(|(name, outcome, count)| (((*name).to_owned(), (*outcome).to_owned()), *count))
            .collect()
    }

    fn observed() -> Observed {
        Observed {
            accepted: 10,
            cancelled: 2,
            published: pairs(&[
                (ORDER_EVENTS, "confirmed", 12),
                (STOCK_EVENTS, "confirmed", 12),
            ]),
            processed: pairs(&[(ORDER_EVENTS, "applied", 12), (STOCK_EVENTS, "applied", 12)]),
            at_rest: true,
            ..Observed::default()
        }
    }

    fn add(counts: &mut BTreeMap<(String, String), u64>, name: &str, outcome: &str, by: i64) {
        let key = (name.to_owned(), outcome.to_owned());
        let count = counts.entry(key).or_default();
        *count = count.checked_add_signed(by).unwrap();
    }

    fn verdict(promises: &Promises, observed: &Observed) -> Exit {
        let rows = compare(promises, observed);
        Exit::worst(rows.iter().map(|row| row.finding.exit()))
    }

    #[track_caller]
    fn finding(observed: &Observed, what: &str) -> Finding {
        let rows = compare(&promises(), observed);
        let row = rows.iter().find(|row| row.requests == what);
        row.unwrap_or_else(|| panic!("no {what} in {rows:?}"))
            .finding
            .clone()
    }

    #[track_caller]
    fn assert_explained(observed: &Observed, what: &str, why: &str) {
        assert_eq!(finding(observed, what), Finding::Explained(why.to_owned()));
        assert_eq!(
            verdict(&promises(), observed),
            Exit::Holds,
            "{:?}",
            compare(&promises(), observed)
        );
    }

    #[test]
    fn equal_counts_hold() {
        let rows = compare(&promises(), &observed());
        assert_eq!(rows.len(), 12);
        assert!(
            rows.iter().all(|row| row.finding == Finding::Equal),
            "{rows:?}"
        );
    }

    #[test]
    fn each_counter_that_was_tampered_with_fails() {
        let tamper: [fn(&mut Observed, i64); 5] = [
            |observed, by| observed.accepted = observed.accepted.strict_add_signed(by),
            |observed, by| add(&mut observed.published, ORDER_EVENTS, "confirmed", by),
            |observed, by| add(&mut observed.processed, ORDER_EVENTS, "applied", by),
            |observed, by| add(&mut observed.published, STOCK_EVENTS, "confirmed", by),
            |observed, by| add(&mut observed.processed, STOCK_EVENTS, "applied", by),
        ];
        for (number, tamper) in tamper.iter().enumerate() {
            let mut fewer = observed();
            tamper(&mut fewer, -1);
            assert_eq!(verdict(&promises(), &fewer), Exit::Failed, "{number}");
            let mut more = observed();
            tamper(&mut more, 1);
            // More accepted orders than the run's are somebody else's.
            let expected = if number == 0 {
                Exit::Inconclusive
            } else {
                Exit::Failed
            };
            assert_eq!(verdict(&promises(), &more), expected, "{number}");
        }
        let mut cancellations = observed();
        cancellations.cancelled = 1;
        assert_eq!(verdict(&promises(), &cancellations), Exit::Failed);
    }

    #[test]
    fn a_ledger_that_was_tampered_with_fails() {
        let tampered = Promises {
            accepted_answers: 11,
            orders: 11,
            ..promises()
        };
        assert_eq!(verdict(&tampered, &observed()), Exit::Failed);
    }

    #[test]
    fn a_lost_retry_or_dead_letter_of_a_counter_fails() {
        for outcome in ["duplicate", "retried", "dead"] {
            let mut observed = observed();
            add(&mut observed.processed, ORDER_EVENTS, outcome, 1);
            assert_eq!(verdict(&promises(), &observed), Exit::Failed, "{outcome}");
        }
    }

    #[test]
    fn retries_that_all_counters_know_of_hold() {
        let mut observed = observed();
        add(&mut observed.processed, STOCK_EVENTS, "retried", 3);
        observed.retries = [(STOCK_EVENTS.to_owned(), 3)].into();
        assert_eq!(verdict(&promises(), &observed), Exit::Holds);
    }

    #[test]
    fn without_the_saga_a_cancellation_is_no_event() {
        let mut observed = observed();
        for counts in [&mut observed.published, &mut observed.processed] {
            for count in counts.values_mut() {
                *count = 10;
            }
        }
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
        observed.patterns_off = [(ORDERS.to_owned(), "saga".to_owned())].into();
        assert_eq!(verdict(&promises(), &observed), Exit::Holds);
    }

    #[test]
    fn an_event_that_was_published_again_is_explained_by_its_duplicate() {
        let mut observed = observed();
        add(&mut observed.published, ORDER_EVENTS, "confirmed", 2);
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
        add(&mut observed.processed, ORDER_EVENTS, "duplicate", 2);
        observed.duplicates = [(ORDER_EVENTS.to_owned(), 2)].into();
        assert_explained(
            &observed,
            "order_events: events published",
            "2 published or delivered again, and recognised by the inbox",
        );
    }

    #[test]
    fn an_event_whose_commit_was_not_seen_is_explained_by_its_duplicate() {
        let mut observed = observed();
        add(&mut observed.processed, STOCK_EVENTS, "applied", -1);
        add(&mut observed.processed, STOCK_EVENTS, "duplicate", 1);
        observed.duplicates = [(STOCK_EVENTS.to_owned(), 1)].into();
        assert_explained(
            &observed,
            "inventory_events: events applied",
            "1 applied by an attempt that could not say so, and recognised when they came again",
        );
    }

    #[test]
    fn a_dead_letter_explains_what_was_not_applied_and_not_answered() {
        let mut observed = observed();
        add(&mut observed.processed, ORDER_EVENTS, "applied", -1);
        add(&mut observed.processed, ORDER_EVENTS, "dead", 1);
        add(&mut observed.published, STOCK_EVENTS, "confirmed", -1);
        add(&mut observed.processed, STOCK_EVENTS, "applied", -1);
        observed.dead = pairs(&[(ORDER_EVENTS, "retries_exhausted", 1)]);
        assert_explained(&observed, "order_events: events applied", "1 dead letters");
        assert_eq!(
            finding(&observed, "inventory_events: events published"),
            Finding::Equal
        );
        // And sent again.
        add(&mut observed.processed, ORDER_EVENTS, "applied", 1);
        add(&mut observed.published, STOCK_EVENTS, "confirmed", 1);
        add(&mut observed.processed, STOCK_EVENTS, "applied", 1);
        assert_explained(
            &observed,
            "inventory_events: events published",
            "1 dead letters that were sent again",
        );
    }

    #[test]
    fn nothing_is_said_of_an_order_that_was_cancelled_before_it_came() {
        let mut observed = observed();
        add(&mut observed.published, STOCK_EVENTS, "confirmed", -2);
        add(&mut observed.processed, STOCK_EVENTS, "applied", -2);
        // That orders were cancelled explains nothing yet: most are processed before their cancellation.
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
        observed.overtaken = 1;
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
        observed.overtaken = 2;
        assert_explained(
            &observed,
            "inventory_events: events published",
            "2 cancelled before inventory received them",
        );
        assert_eq!(
            finding(&observed, "inventory_events: events applied"),
            Finding::Equal
        );
        // No more than were cancelled.
        observed.overtaken = 3;
        add(&mut observed.published, STOCK_EVENTS, "confirmed", -1);
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
    }

    #[test]
    fn a_duplicate_explains_one_difference_and_not_two() {
        let mut observed = observed();
        add(&mut observed.published, ORDER_EVENTS, "confirmed", 1);
        add(&mut observed.processed, ORDER_EVENTS, "duplicate", 1);
        observed.duplicates = [(ORDER_EVENTS.to_owned(), 1)].into();
        assert_eq!(verdict(&promises(), &observed), Exit::Holds);
        add(&mut observed.processed, ORDER_EVENTS, "applied", -1);
        assert_eq!(
            finding(&observed, "order_events: events applied"),
            Finding::Differs("1 are missing".to_owned())
        );
        add(&mut observed.processed, ORDER_EVENTS, "duplicate", 1);
        observed.duplicates = [(ORDER_EVENTS.to_owned(), 2)].into();
        assert_eq!(verdict(&promises(), &observed), Exit::Holds);
    }

    #[test]
    fn letters_that_no_run_can_have_sent_explain_nothing_of_it() {
        for reason in FOREIGN {
            let mut observed = observed();
            add(&mut observed.processed, ORDER_EVENTS, "dead", 1);
            observed.dead = pairs(&[(ORDER_EVENTS, reason, 1)]);
            assert_eq!(verdict(&promises(), &observed), Exit::Holds, "{reason}");
            let mut unapplied = observed.clone();
            add(&mut unapplied.processed, ORDER_EVENTS, "applied", -1);
            assert_eq!(verdict(&promises(), &unapplied), Exit::Failed, "{reason}");
            let mut unanswered = observed;
            add(&mut unanswered.published, STOCK_EVENTS, "confirmed", -1);
            add(&mut unanswered.processed, STOCK_EVENTS, "applied", -1);
            assert_eq!(verdict(&promises(), &unanswered), Exit::Failed, "{reason}");
        }
    }

    #[test]
    fn messages_of_before_leave_even_equal_counts_undecided() {
        let observed = Observed {
            disturbed: true,
            ..observed()
        };
        assert_eq!(verdict(&promises(), &observed), Exit::Inconclusive);
        assert_eq!(
            finding(&observed, "order_events: events applied"),
            Finding::unsettled(
                Cause::EarlierMessages,
                "messages of before were still on their way when the run began"
            )
        );
        // Requests were counted as they came.
        assert_eq!(finding(&observed, "orders accepted"), Finding::Equal);
    }

    #[test]
    fn without_the_outbox_what_was_not_confirmed_may_have_arrived() {
        let mut observed = observed();
        add(&mut observed.published, ORDER_EVENTS, "confirmed", -3);
        add(&mut observed.published, ORDER_EVENTS, "timed_out", 2);
        add(&mut observed.published, ORDER_EVENTS, "refused", 1);
        observed.patterns_off = [(ORDERS.to_owned(), "outbox".to_owned())].into();
        // One came, one did not; and the one that was refused can't have.
        for (counts, name, outcome) in [
            (&mut observed.processed, ORDER_EVENTS, "applied"),
            (&mut observed.published, STOCK_EVENTS, "confirmed"),
        ] {
            add(counts, name, outcome, -2);
        }
        add(&mut observed.processed, STOCK_EVENTS, "applied", -2);
        assert_explained(
            &observed,
            "order_events: events applied",
            "1 arrived without a confirm",
        );
        for (counts, name, outcome) in [
            (&mut observed.processed, ORDER_EVENTS, "applied"),
            (&mut observed.published, STOCK_EVENTS, "confirmed"),
        ] {
            add(counts, name, outcome, 2);
        }
        add(&mut observed.processed, STOCK_EVENTS, "applied", 2);
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
    }

    #[test]
    fn without_the_outbox_what_was_not_confirmed_is_lost() {
        let mut observed = observed();
        for (name, outcome, by) in [
            (ORDER_EVENTS, "confirmed", -3),
            (ORDER_EVENTS, "timed_out", 3),
            (STOCK_EVENTS, "confirmed", -3),
        ] {
            add(&mut observed.published, name, outcome, by);
        }
        for name in [ORDER_EVENTS, STOCK_EVENTS] {
            add(&mut observed.processed, name, "applied", -3);
        }
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
        observed.patterns_off = [(ORDERS.to_owned(), "outbox".to_owned())].into();
        assert_explained(
            &observed,
            "order_events: events published",
            "3 not confirmed, and not sent again, as the outbox is off",
        );
    }

    #[test]
    fn events_that_nobody_waits_a_confirm_for_count_as_published() {
        let mut observed = observed();
        observed.published = pairs(&[(ORDER_EVENTS, "sent", 12), (STOCK_EVENTS, "sent", 12)]);
        assert_eq!(verdict(&promises(), &observed), Exit::Holds);
    }

    #[test]
    fn a_request_without_an_answer_explains_one_more_at_each_hop() {
        let promises = Promises {
            uncertain_orders: 1,
            ..promises()
        };
        let mut observed = observed();
        observed.accepted += 1;
        for counts in [&mut observed.published, &mut observed.processed] {
            for count in counts.values_mut() {
                *count += 1;
            }
        }
        assert_eq!(verdict(&promises, &observed), Exit::Holds);
        add(&mut observed.processed, ORDER_EVENTS, "applied", 1);
        assert_eq!(verdict(&promises, &observed), Exit::Failed);
    }

    #[test]
    fn other_traffic_a_restart_and_messages_under_way_decide_nothing() {
        let mut others = observed();
        others.accepted += 3;
        add(&mut others.published, ORDER_EVENTS, "confirmed", 3);
        assert_eq!(verdict(&promises(), &others), Exit::Inconclusive);
        add(&mut others.published, ORDER_EVENTS, "confirmed", 1);
        assert_eq!(verdict(&promises(), &others), Exit::Failed);

        let mut restarted = observed();
        add(&mut restarted.processed, ORDER_EVENTS, "applied", -5);
        restarted.restarted.insert(STOCK.to_owned());
        assert_eq!(verdict(&promises(), &restarted), Exit::Inconclusive);

        let mut under_way = observed();
        under_way.at_rest = false;
        assert_eq!(verdict(&promises(), &under_way), Exit::Holds);
        add(&mut under_way.processed, STOCK_EVENTS, "applied", -1);
        assert_eq!(verdict(&promises(), &under_way), Exit::Inconclusive);
    }

    #[test]
    fn without_the_inbox_more_effects_than_events_decide_nothing() {
        let mut observed = observed();
        observed.patterns_off = [STOCK, ORDERS]
            .map(|job| (job.to_owned(), "inbox".to_owned()))
            .into();
        add(&mut observed.processed, ORDER_EVENTS, "applied", 2);
        add(&mut observed.published, STOCK_EVENTS, "confirmed", 2);
        add(&mut observed.processed, STOCK_EVENTS, "applied", 2);
        assert_eq!(verdict(&promises(), &observed), Exit::Inconclusive);
        add(&mut observed.published, ORDER_EVENTS, "confirmed", 2);
        assert_eq!(verdict(&promises(), &observed), Exit::Failed);
    }

    #[test]
    fn a_ledger_promises_each_order_once_and_leaves_open_what_got_no_answer() {
        let order = |id: Option<&str>, status: Option<u16>| LedgerEntry {
            intended_at: DateTime::UNIX_EPOCH,
            at: DateTime::UNIX_EPOCH,
            idempotency_key: None,
            user_id: "u".to_owned(),
            product_id: 1,
            quantity: 1,
            status,
            order_id: id.map(str::to_owned),
            trace_id: None,
            trace_sampled: None,
            latency_ms: 1,
            error: None,
        };
        let cancellation = |id: &str, status: Option<u16>| CancellationEntry {
            at: DateTime::UNIX_EPOCH,
            order_id: id.to_owned(),
            status,
            latency_ms: 1,
            error: None,
        };
        let promises = Promises::of(
            &[
                order(Some("a"), Some(202)),
                order(Some("a"), Some(202)),
                order(Some("b"), Some(202)),
                order(None, None),
                order(None, Some(503)),
                // Its body could not be read.
                order(None, Some(202)),
                order(None, Some(422)),
            ],
            &[
                cancellation("a", Some(202)),
                cancellation("a", Some(202)),
                cancellation("b", Some(409)),
                cancellation("b", None),
            ],
        );
        assert_eq!(
            promises,
            Promises {
                accepted_answers: 4,
                orders: 2,
                uncertain_orders: 3,
                cancelled_answers: 2,
                cancellations: 1,
                uncertain_cancellations: 1,
            }
        );
    }
}
