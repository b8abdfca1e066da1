//! Measurements of single routes, for experiments on what a failing dependency costs the routes that call it, and the
//! others.

use chrono::{DateTime, Utc};
use records::{
    evaluation::Arm,
    load::{LATE_MS, RouteSecond},
};

use super::WRONG_LEDGER;
use crate::{
    measurement::{Better, Measurement, Outcome},
    verdict::harm_without_none_with,
};

/// Purchases: the only route that calls product-service.
const PURCHASES: (&str, &str) = ("POST", "/users/{id}/purchases");
/// After the fault a second counts as recovered when nothing failed in it and nothing took longer than this.
const USUAL_MS: f64 = 1_000.0;

pub(super) fn is_purchase(second: &RouteSecond) -> bool {
    (second.method.as_str(), second.route.as_str()) == PURCHASES
}

pub(super) fn routes(arm: &Arm) -> &[RouteSecond] {
    arm.load.as_ref().map_or(&[], |load| &load.routes)
}

fn since_start(arm: &Arm, at: DateTime<Utc>) -> Option<f64> {
    let load = arm.load.as_ref()?;
    Some((at - load.summary.measured_from).as_seconds_f64())
}

/// From when to when the fault was in force, in seconds since the start.
pub(super) fn in_force(arm: &Arm) -> Option<(f64, f64)> {
    let in_force = arm.fault.as_ref()?.in_force?;
    Some((
        since_start(arm, in_force.from)?,
        since_start(arm, in_force.until)?,
    ))
}

/// The seconds that lie wholly within the fault.
pub(super) fn under_fault(arm: &Arm) -> impl Iterator<Item = &RouteSecond> {
    let lies_within = within_fault(arm);
    let seconds = routes(arm).iter();
    seconds.filter(move |second| lies_within(second.second))
}

/// Whether a second, counted from the start, lies wholly within the fault.
fn within_fault(arm: &Arm) -> impl Fn(u32) -> bool + use<> {
    let span = in_force(arm);
    move |second| {
        let begin = f64::from(second);
        span.is_some_and(|(from, until)| begin >= from && begin + 1.0 <= until)
    }
}

/// The seconds that were over before the fault.
fn before_fault(arm: &Arm) -> impl Iterator<Item = &RouteSecond> {
    let span = in_force(arm);
    routes(arm).iter().filter(move |second| {
        let end = f64::from(second.second) + 1.0;
        span.is_some_and(|(from, _)| end <= from)
    })
}

/// Orders that came to their end while the fault was in force, a second.
pub(super) fn decided_per_second(arm: &Arm) -> Option<f64> {
    let in_force = arm.fault.as_ref()?.in_force?;
    let seconds = (in_force.until - in_force.from).as_seconds_f64();
    (seconds > 0.0).then(|| in_force.decided as f64 / seconds)
}

/// Arrivals that were due under the fault and could not be sent, because too many requests waited for their answers.
pub(super) fn not_sent(arm: &Arm) -> u64 {
    let timeline = arm.load.as_ref().map_or(&[][..], |load| &load.timeline);
    let lies_within = within_fault(arm);
    let under_fault = timeline.iter().filter(|second| lies_within(second.second));
    under_fault.map(|second| second.not_sent).sum()
}

pub(super) fn failed(second: &RouteSecond) -> u64 {
    second.sent().saturating_sub(second.succeeded)
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Of the purchases that were sent under the fault, the part that failed, in per cent.
pub(super) fn purchases_failed(arm: &Arm) -> Option<f64> {
    let (mut bad, mut sent) = (0, 0);
    for second in under_fault(arm).filter(|second| is_purchase(second)) {
        bad += failed(second);
        sent += second.sent();
    }
    (sent > 0).then(|| bad as f64 / sent as f64 * 100.0)
}

/// How long a purchase took under the fault, in milliseconds: the median of the seconds' medians.
pub(super) fn purchases_took(arm: &Arm) -> Option<f64> {
    let purchases = under_fault(arm).filter(|second| is_purchase(second));
    median(purchases.filter_map(|second| second.p50_ms))
}

/// The same for the 99th percentile: the median of the seconds' p99, in milliseconds.
pub(super) fn purchases_p99(arm: &Arm) -> Option<f64> {
    let purchases = under_fault(arm).filter(|second| is_purchase(second));
    median(purchases.filter_map(|second| second.p99_ms))
}

/// The longest purchase, in milliseconds, of those that were sent in a second in which the fault was in force, if only
/// for a part of it.
pub(super) fn longest_purchase(arm: &Arm) -> Option<f64> {
    touched_purchases(arm)?
        .filter_map(|second| second.max_ms)
        .max_by(f64::total_cmp)
}

/// How many of the same purchases took longer than [`DEADLINE_MS`].
pub(super) fn late_purchases(arm: &Arm) -> Option<u64> {
    touched_purchases(arm)?.map(|second| second.late).sum()
}

/// The purchases of the seconds in which the fault was in force, if only for a part of them.
fn touched_purchases(arm: &Arm) -> Option<impl Iterator<Item = &RouteSecond>> {
    let (from, until) = in_force(arm)?;
    let touched = routes(arm).iter().filter(move |second| {
        let begin = f64::from(second.second);
        begin + 1.0 > from && begin < until
    });
    Some(touched.filter(|second| is_purchase(second)))
}

/// The p99 of the routes that don't call the fault's target, in milliseconds: the median over their seconds, before the
/// fault and under it.
pub(super) fn others_p99(arm: &Arm) -> Option<(f64, f64)> {
    let p99 = |second: &RouteSecond| second.p99_ms.filter(|_| !is_purchase(second));
    Some((
        median(before_fault(arm).filter_map(p99))?,
        median(under_fault(arm).filter_map(p99))?,
    ))
}

/// Requests of the other routes that failed.
pub(super) fn others_failed(arm: &Arm) -> u64 {
    let others = routes(arm).iter().filter(|second| !is_purchase(second));
    others.map(failed).sum()
}

/// Seconds from the healing until purchases had recovered for the rest of the load; `None` if they never did.
pub(super) fn recovery(arm: &Arm) -> Option<f64> {
    let healed = since_start(arm, arm.fault.as_ref()?.healed_at?)?;
    let after = |second: &&RouteSecond| f64::from(second.second) >= healed && is_purchase(second);
    let last = routes(arm).iter().rfind(after)?.second;
    let bad = routes(arm).iter().filter(after).rfind(|second| {
        failed(second) > 0 || second.max_ms.is_some_and(|max_ms| max_ms > USUAL_MS)
    });
    match bad {
        None => Some(0.0),
        Some(bad) if bad.second == last => None,
        Some(bad) => Some(f64::from(bad.second) + 1.0 - healed),
    }
}

/// The names of measurements that effects are declared of.
pub(super) const PURCHASES_P50: &str = "a purchase under the fault, p50";
pub(super) const LONGEST_PURCHASE: &str = "the longest purchase under the fault";

/// The measurements of every experiment with purchases.
pub(super) fn measurements(arms: &[Arm]) -> Vec<Measurement> {
    vec![
        Measurement::of(
            "purchases failed, of those under the fault",
            "%",
            Better::Less,
            arms,
            purchases_failed,
        ),
        Measurement::of(PURCHASES_P50, "ms", Better::Less, arms, purchases_took),
        Measurement::of(
            "a purchase under the fault, p99",
            "ms",
            Better::Less,
            arms,
            purchases_p99,
        ),
        Measurement::of(LONGEST_PURCHASE, "ms", Better::Less, arms, longest_purchase),
        Measurement::of(
            "purchases under the fault that took longer than 3 s",
            "",
            Better::Less,
            arms,
            |arm| late_purchases(arm).map(|late| late as f64),
        ),
        Measurement::of(
            "other routes under the fault, p99",
            "ms",
            Better::Less,
            arms,
            |arm| others_p99(arm).map(|(_, under)| under),
        ),
        Measurement::of(
            "other routes before it, p99",
            "ms",
            Better::Neither,
            arms,
            |arm| others_p99(arm).map(|(before, _)| before),
        ),
        Measurement::of("other requests failed", "", Better::Less, arms, |arm| {
            (!routes(arm).is_empty()).then(|| others_failed(arm) as f64)
        }),
        Measurement::of(
            "until purchases were as usual",
            "s",
            Better::Less,
            arms,
            recovery,
        ),
    ]
}

/// Within how many seconds after the healing purchases must have recovered.
const RECOVERED_WITHIN_SECONDS: f64 = 5.0;
/// What a purchase may take.
const DEADLINE_MS: f64 = LATE_MS as f64;
/// How much slower a p99 may be, as a factor: it is the slowest of a second's few requests, and varies that much
/// anyway.
const SLOWER: f64 = 3.0;
const SLOW_MS: f64 = 250.0;

/// The first damage that no arm with a deadline may show.
pub(super) fn damage(arm: &Arm) -> Option<String> {
    if let Some(ms) = longest_purchase(arm).filter(|ms| *ms > DEADLINE_MS) {
        return Some(match late_purchases(arm) {
            Some(late) => format!("{late} purchases took longer than 3 s, the longest {ms:.0} ms"),
            None => format!("a purchase took {ms:.0} ms"),
        });
    }
    let failed = others_failed(arm);
    if failed > 0 {
        return Some(format!("{failed} requests of other routes failed"));
    }
    let slower = others_p99(arm).filter(|(before, under)| *under > SLOW_MS.max(before * SLOWER));
    if let Some((before, under)) = slower {
        return Some(format!(
            "p99 of the other routes was {under:.0} ms, and {before:.0} ms before"
        ));
    }
    in_force(arm)?;
    match recovery(arm) {
        None => Some("purchases were not as usual again".to_owned()),
        Some(seconds) if seconds > RECOVERED_WITHIN_SECONDS => Some(format!(
            "purchases were as usual only {seconds:.1} s after the healing"
        )),
        Some(_) => None,
    }
}

/// How an experiment with purchases is judged: by one quantity that shows the harm, and by what an arm with the pattern
/// must not show.
pub(super) struct Rule {
    /// What refutes the claim, besides a ledger that doesn't reconcile.
    pub(super) wrong: fn(&Arm) -> Option<String>,
    /// How much of the harm an arm shows; `None` where no purchase was sent under a fault.
    pub(super) harm: fn(&Arm) -> Option<f64>,
    /// The least value that counts as harm.
    pub(super) harm_from: f64,
    /// Writes that this value without the pattern is no harm.
    pub(super) harmless: fn(f64) -> String,
    /// Writes what was measured without and with the pattern.
    pub(super) seen: fn(f64, f64) -> String,
}

impl Rule {
    /// The verdict and its reason.
    pub(super) fn judge(&self, arms: &[Arm]) -> (Outcome, String) {
        let (outcome, reason) = harm_without_none_with(arms, &[], &WRONG_LEDGER);
        if outcome == Outcome::Refuted {
            return (outcome, reason);
        }
        let Some((off, with)) = arms.split_first() else {
            return (outcome, reason);
        };
        for arm in with {
            if let Some(wrong) = (self.wrong)(arm) {
                let reason = format!("in the arm `{}` {wrong}", arm.name);
                return (Outcome::Refuted, reason);
            }
        }
        let (Some(off), Some(on)) = ((self.harm)(off), with.first().and_then(self.harm)) else {
            return (
                Outcome::Inconclusive,
                "no purchase was measured while product-service hung".to_owned(),
            );
        };
        if off < self.harm_from {
            let none = (self.harmless)(off);
            let reason = format!("without the pattern {none}: this run shows no need for it");
            return (Outcome::Inconclusive, reason);
        }
        (Outcome::Upheld, (self.seen)(off, on))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::tests::{Sketch, at};

    /// An arm of 50 seconds, the fault from 20.5 to 35.5, with so much of each second's purchases failing.
    pub(in super::super) struct Seconds {
        /// Under the fault: the part of the purchases that fails, and how long a purchase takes.
        pub(in super::super) failing: f64,
        pub(in super::super) took_ms: f64,
        pub(in super::super) longest_ms: f64,
        pub(in super::super) others_ms: f64,
        pub(in super::super) others_failed: u64,
        /// Seconds after the healing in which purchases fail as under the fault.
        pub(in super::super) lingers: u32,
    }

    /// An arm of 50 seconds, the fault from 20.5 to 35.5, with what `seconds` says of each second, and of whether it
    /// has a part in the fault.
    pub(in super::super) fn under(
        name: &str,
        seconds: impl Fn(u32, bool) -> Vec<RouteSecond>,
    ) -> Arm {
        let (from, until) = (20.5, 35.5);
        let mut arm = Sketch::arm(name)
            .seconds(50)
            .rate(60)
            .fault(from, until)
            .build();
        let load = arm.load.as_mut().unwrap();
        load.routes = (0..50)
            .flat_map(|second| {
                let begin = f64::from(second);
                seconds(second, begin + 1.0 > from && begin < until)
            })
            .collect();
        arm
    }

    /// A second of a route and a group: the answers, of which those below 300 succeeded, all of them in the same time.
    pub(in super::super) fn second(
        number: u32,
        (method, route, group): (&str, &str, Option<&str>),
        answers: &[(&str, u64)],
        took_ms: f64,
    ) -> RouteSecond {
        let good = answers.iter().filter(|(status, _)| *status < "300");
        let succeeded = good.map(|(_, count)| count).sum();
        let sent = answers.iter().map(|(_, count)| count).sum();
        let answers = answers.iter();
        RouteSecond {
            second: number,
            method: method.to_owned(),
            route: route.to_owned(),
            group: group.map(str::to_owned),
            answers: answers.map(|(s, n)| ((*s).to_owned(), *n)).collect(),
            succeeded,
            stale: 0,
            late: Some(if took_ms > DEADLINE_MS { sent } else { 0 }),
            p50_ms: Some(took_ms),
            p99_ms: Some(took_ms),
            max_ms: Some(took_ms),
            succeeded_p99_ms: (succeeded > 0).then_some(took_ms),
        }
    }

    impl Seconds {
        /// As if there were no fault.
        pub(in super::super) const CALM: Self = Self {
            failing: 0.0,
            took_ms: 10.0,
            longest_ms: 30.0,
            others_ms: 20.0,
            others_failed: 0,
            lingers: 0,
        };

        pub(in super::super) fn arm(&self, name: &str) -> Arm {
            const SENT: u64 = 20;
            let (from, until) = (20.5, 35.5);
            let mut arm = Sketch::arm(name)
                .seconds(50)
                .rate(60)
                .fault(from, until)
                .build();
            let load = arm.load.as_mut().unwrap();
            for second in 0..50 {
                let begin = f64::from(second);
                let bad = begin + 1.0 > from && begin < until.ceil() + f64::from(self.lingers);
                let mut push = |method: &str, route: &str, failed: u64, p50: f64, max: f64| {
                    let answers = [("200", SENT - failed), ("503", failed)];
                    load.routes.push(RouteSecond {
                        second,
                        method: method.to_owned(),
                        route: route.to_owned(),
                        group: None,
                        answers: BTreeMap::from(answers.map(|(s, n)| (s.to_owned(), n))),
                        succeeded: SENT - failed,
                        stale: 0,
                        late: Some(u64::from(max > DEADLINE_MS)),
                        p50_ms: Some(p50),
                        p99_ms: Some(max),
                        max_ms: Some(max),
                        succeeded_p99_ms: None,
                    });
                };
                let share = if bad { self.failing } else { 0.0 };
                let failed = (SENT as f64 * share).round() as u64;
                let (p50, max) = if bad {
                    (self.took_ms, self.longest_ms)
                } else {
                    (10.0, 30.0)
                };
                push("POST", "/users/{id}/purchases", failed, p50, max);
                let failed = if second == 25 { self.others_failed } else { 0 };
                let p99 = if bad { self.others_ms } else { 20.0 };
                push("GET", "/users/me", failed, 5.0, p99);
            }
            arm
        }
    }

    /// What refutes an experiment whichever harm it is about, each with a part of the reason: other routes notice the
    /// fault, or purchases fail for longer than it lasts.
    pub(in super::super) fn disturbed(shipped: Seconds) -> [(Seconds, &'static str); 3] {
        [
            (
                Seconds {
                    others_ms: 400.0,
                    ..shipped
                },
                "was 400 ms, and 20 ms before",
            ),
            (
                Seconds {
                    others_failed: 2,
                    ..shipped
                },
                "2 requests of other routes failed",
            ),
            (
                Seconds {
                    lingers: 8,
                    ..shipped
                },
                "8.5 s after the healing",
            ),
        ]
    }

    /// The same arm without any fault.
    pub(in super::super) fn withheld(mut arm: Arm) -> Arm {
        let fault = arm.fault.as_mut().unwrap();
        (fault.injected_at, fault.healed_at, fault.in_force) = (None, None, None);
        arm
    }

    #[track_caller]
    pub(in super::super) fn expect(judged: (Outcome, String), outcome: Outcome, part: &str) {
        assert_eq!(judged.0, outcome, "{}", judged.1);
        assert!(judged.1.contains(part), "{}", judged.1);
    }

    #[test]
    fn a_route_is_measured_under_the_fault_and_after_it() {
        let arm = Seconds {
            failing: 0.5,
            took_ms: 900.0,
            longest_ms: 2_000.0,
            lingers: 2,
            ..Seconds::CALM
        }
        .arm("on");
        assert_eq!(purchases_failed(&arm), Some(50.0));
        assert_eq!(purchases_took(&arm), Some(900.0));
        assert_eq!(longest_purchase(&arm), Some(2_000.0));
        assert_eq!(others_p99(&arm), Some((20.0, 20.0)));
        assert_eq!(late_purchases(&arm), Some(0));
        // 36 and 37 are bad; healed at 35.5.
        assert_eq!(recovery(&arm), Some(2.5));
        assert_eq!(damage(&arm), None);
    }

    #[test]
    fn purchases_that_never_come_back_have_no_recovery() {
        let arm = Seconds {
            failing: 1.0,
            lingers: 30,
            ..Seconds::CALM
        }
        .arm("on");
        assert_eq!(recovery(&arm), None);
        assert!(damage(&arm).unwrap().contains("not as usual again"));
    }

    #[test]
    fn without_a_fault_nothing_is_measured_under_it() {
        let arm = withheld(Seconds::CALM.arm("on"));
        assert_eq!(in_force(&arm), None);
        assert_eq!(purchases_failed(&arm), None);
        assert_eq!(damage(&arm), None);
        let mut late = arm;
        late.fault.as_mut().unwrap().healed_at = Some(at(60.0));
        assert_eq!(recovery(&late), None);
    }
}
