//! Attacks as a fault: the corpus, sent to the gateway under load.
//!
//! Left out: the attacks ([`checks::attacks`]).

use std::net::ToSocketAddrs;

use anyhow::Context;
use checks::attacks::{Cast, Ending, Finding};
use records::evaluation::{Attacks, FaultEffect};
use system::{http::Client, running::RunningSystem};

use super::{Injection, not_observed, observed};
use crate::{attacks::try_all, test_users};

/// Signs up victim and attacker, and sends the whole corpus to the gateway at `host:port`; returns a finding for each
/// attack.
pub fn attack(gateway: &str) -> anyhow::Result<Vec<Finding>> {
    let client = Client::new(gateway);
    let cast = Cast {
        victim: test_users::sign_up(&client, "victim")?,
        attacker: test_users::sign_up(&client, "attacker")?,
    };
    let address = gateway
        .to_socket_addrs()
        .with_context(|| format!("{gateway} is no address"))?
        .next()
        .with_context(|| format!("{gateway} has no address"))?;
    Ok(try_all(address, &cast))
}

/// All attacks of the corpus, once. There is nothing to heal.
#[derive(Debug, Default)]
pub(super) struct Attacked {
    seen: Option<Attacks>,
}

impl Injection for Attacked {
    fn inject(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        self.seen = Some(count(&attack(&system.gateway()?)?));
        Ok(())
    }

    fn effect(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        Ok(match &self.seen {
            Some(seen) if seen.answered > 0 => observed(format!(
                "the gateway ended {} of {} attacks with an answer or by closing the connection",
                seen.answered, seen.tried
            )),
            _ => not_observed("no attack reached the gateway".to_owned()),
        })
    }

    fn heal(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    fn attacks(&self) -> Option<Attacks> {
        self.seen.clone()
    }
}

fn count(findings: &[Finding]) -> Attacks {
    let mut seen = Attacks {
        tried: findings.len() as u64,
        ..Attacks::default()
    };
    for finding in findings {
        let name = format!("{}: {}", finding.family.name(), finding.tries);
        match &finding.ending {
            Ending::Held => seen.answered += 1,
            Ending::LetIn(_) => {
                seen.answered += 1;
                seen.let_in.push(name);
            }
            Ending::ServerError(_) => {
                seen.answered += 1;
                seen.server_errors.push(name);
            }
            Ending::Unforeseen(why) => seen.unforeseen.push(format!("{name}: {why}")),
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use checks::attacks::Family;

    #[test]
    fn every_attack_is_counted_as_what_it_came_to() {
        let finding = |ending| Finding {
            family: Family::Tokens,
            tries: "it".to_owned(),
            statuses: Vec::new(),
            ending,
        };
        let seen = count(&[
            finding(Ending::Held),
            finding(Ending::LetIn("answered 200".to_owned())),
            finding(Ending::ServerError(500)),
            finding(Ending::Unforeseen("silence".to_owned())),
        ]);
        assert_eq!((seen.tried, seen.answered), (4, 3));
        assert_eq!(seen.let_in, ["tokens: it"]);
        assert_eq!(seen.server_errors, ["tokens: it"]);
        assert_eq!(seen.unforeseen, ["tokens: it: silence"]);
    }
}
