//! Looks orders' traces up in the trace store until they are whole, or no new span is to be expected.
//!
//! Left out: the shape that a trace should have ([`checks::traces_check`]).

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base::{progress::Step, trace::Trace};
use checks::traces_check::{self, Examined, Order};
use system::{
    interrupt::{self, Interrupted},
    jaeger::Jaeger,
    wait,
};

/// Spans are exported in batches, those of a message that is retried after 31 s only then.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);
/// Longer than a batch of spans, an outbox and the store delay a span: after this time without a new one, none is to be
/// expected.
const CALM_FOR: Duration = Duration::from_secs(12);
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How many traces are requested at once.
const WORKERS: usize = 4;

/// How far from its sending a message is looked for in other traces.
const LINKED_WITHIN: Duration = Duration::from_secs(3_600);
/// The most traces that are followed from a message that was redelivered again and again.
const LINKED_TRACES: usize = 20;
/// How many messages may be looked for in vain in each look, as long as no search ever led anywhere: without links all
/// of them would be in vain.
const VAIN_SEARCHES: usize = 100;

/// Looks the orders' traces up until all are whole, or no new span comes any more. An order whose trace can't be
/// there (not named, or not sampled) comes back without a result.
pub fn look_up<'a>(
    jaeger: &Jaeger,
    orders: &[&'a Order],
    step: &Step,
) -> anyhow::Result<Vec<(&'a Order, Option<Examined>)>> {
    let mut results: Vec<(&Order, Option<Examined>)> =
        orders.iter().map(|order| (*order, None)).collect();
    let mut last_news = Instant::now();
    let mut searches = Searches::default();
    wait::until(COMPLETE_WITHIN, LOOK_INTERVAL, || {
        let open: Vec<usize> = (0..results.len())
            .filter(|number| match &results[*number] {
                (order, None) => order.sampled && order.trace_id.is_some(),
                (_, Some(examined)) => !examined.defects.is_empty(),
            })
            .collect();
        if open.is_empty() {
            return Ok(Some(()));
        }
        let asked: Vec<&Order> = open.iter().map(|number| results[*number].0).collect();
        searches.begin_look();
        for (number, examined) in open.iter().zip(examine_all(jaeger, &asked, &searches)?) {
            let result = &mut results[*number].1;
            let spans_before = result.as_ref().map_or(0, |before| before.spans);
            if examined.spans > spans_before {
                last_news = Instant::now();
            }
            *result = Some(examined);
        }
        let whole = |(_, examined): &&(&Order, Option<Examined>)| {
            let examined = examined.as_ref();
            examined.is_some_and(|examined| examined.defects.is_empty())
        };
        let count = results.iter().filter(whole).count();
        step.update(&format!("{count} of {} are whole", results.len()));
        // What waits in a retry tier moves on after longer than that.
        let retrying = open.iter().any(|number| {
            let examined = results[*number].1.as_ref();
            examined.is_some_and(|examined| examined.retried > 0)
        });
        Ok((!retrying && last_news.elapsed() > CALM_FOR).then_some(()))
    })?;
    Ok(results)
}

/// The searches for messages in other traces.
#[derive(Debug, Default)]
struct Searches {
    /// How many searches of this look found nothing.
    vain: AtomicUsize,
    /// Whether any search found a trace: then consumers do begin traces with links.
    any_found: AtomicBool,
    looks: usize,
}

impl Searches {
    fn begin_look(&mut self) {
        *self.vain.get_mut() = 0;
        self.looks += 1;
    }

    /// Whether to search for another message. Once a search found a trace, each message is searched for: giving up then
    /// would count traces as missing that were not looked for.
    fn are_worth_it(&self) -> bool {
        self.any_found.load(Ordering::Relaxed) || self.vain.load(Ordering::Relaxed) < VAIN_SEARCHES
    }

    fn note(&self, found: bool) {
        if found {
            self.any_found.store(true, Ordering::Relaxed);
        } else {
            self.vain.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The index of the order that is examined as the `number`th of `count`. Each look begins elsewhere: orders whose
    /// messages are never processed must not use up the searches of all others.
    fn turn(&self, number: usize, count: usize) -> usize {
        (number + self.looks.saturating_sub(1) * VAIN_SEARCHES) % count
    }
}

/// Examines each of the orders, some of them at once; in their order.
fn examine_all(
    jaeger: &Jaeger,
    orders: &[&Order],
    searches: &Searches,
) -> anyhow::Result<Vec<Examined>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(orders.len()));
    let work = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= orders.len() {
                return Ok(());
            }
            let number = searches.turn(number, orders.len());
            let order = orders[number];
            if interrupt::requested() {
                return Err(Interrupted.into());
            }
            let examined = traces_check::examine(order, &traces_of(jaeger, order, searches)?);
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((number, examined));
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(orders.len()))
            .map(|_| scope.spawn(work))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, examined)| examined).collect())
}

/// The order's own trace, and those that the consumers of its messages began with a link to it. The store can't be
/// asked who links to a span: it is asked for the message's id, and what it answers has to name the trace.
fn traces_of(jaeger: &Jaeger, order: &Order, searches: &Searches) -> anyhow::Result<Vec<Trace>> {
    let own = match &order.trace_id {
        Some(id) => jaeger.trace(id)?,
        None => None,
    };
    let mut traces: Vec<Trace> = own.into_iter().collect();
    let mut looked_for: BTreeSet<String> = BTreeSet::new();
    loop {
        let next = traces_check::unprocessed(&traces)
            .into_iter()
            .find(|sent| !looked_for.contains(sent.message_id));
        let Some(sent) = next else {
            return Ok(traces);
        };
        if !searches.are_worth_it() || traces.len() >= LINKED_TRACES {
            return Ok(traces);
        }
        let message_id = sent.message_id.to_owned();
        let mut candidates = jaeger.find(
            sent.consumer,
            ("messaging.message.id", &message_id),
            sent.start_us,
            LINKED_WITHIN,
            LINKED_TRACES,
        )?;
        candidates.retain(|candidate| traces.iter().all(|trace| trace.id != candidate.id));
        let known = traces.len();
        // One that was tried again links to the trace of the attempt before.
        while let Some(at) = candidates
            .iter()
            .position(|candidate| traces_check::is_linked_to(candidate, &traces))
        {
            traces.push(candidates.swap_remove(at));
        }
        searches.note(traces.len() > known);
        looked_for.insert(message_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_end_when_all_are_in_vain_and_not_when_one_led_somewhere() {
        let mut searches = Searches::default();
        searches.begin_look();
        for _ in 0..VAIN_SEARCHES {
            assert!(searches.are_worth_it());
            searches.note(false);
        }
        assert!(!searches.are_worth_it());
        // The next look tries again, with other orders.
        let turns = |searches: &Searches| -> Vec<usize> {
            (0..250).map(|number| searches.turn(number, 250)).collect()
        };
        assert_eq!(turns(&searches)[..2], [0, 1]);
        searches.begin_look();
        assert!(searches.are_worth_it());
        assert_eq!(turns(&searches)[..2], [100, 101]);
        let mut all = turns(&searches);
        all.sort_unstable();
        assert_eq!(all, (0..250).collect::<Vec<_>>());
        searches.note(true);
        for _ in 0..2 * VAIN_SEARCHES {
            searches.note(false);
        }
        assert!(searches.are_worth_it());
        searches.begin_look();
        assert!(searches.are_worth_it());
    }
}
