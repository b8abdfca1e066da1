//! Sends the attack corpus to a gateway.
//!
//! Left out: the attacks and their judgement ([`checks::attacks`]), and signing up their two users.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use checks::attacks::{Cast, Finding, corpus, statuses};
use system::wire;

/// How many attacks are sent at once.
const AT_ONCE: usize = 4;

/// Sends the whole corpus to the gateway at an address, each attack on a connection of its own; returns the findings in
/// the corpus's order. Each attack takes a few seconds at most: no answer within a limit is a finding.
pub fn try_all(gateway: SocketAddr, cast: &Cast) -> Vec<Finding> {
    let attacks = corpus(cast);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut findings = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(attack) = attacks.get(index) else {
                return findings;
            };
            findings.push((index, {
                let answers = wire::converse(gateway, &attack.bytes, |answers| {
                    !statuses(answers).is_empty()
                });
                Finding::of(attack, cast, answers)
            }));
        }
    };
    let mut findings: Vec<(usize, Finding)> = thread::scope(|scope| {
        let threads = [(); AT_ONCE].map(|()| scope.spawn(work));
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(findings) => findings,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.flatten().collect()
    });
    findings.sort_by_key(|(index, _)| *index);
    findings.into_iter().map(|(_, finding)| finding).collect()
}
