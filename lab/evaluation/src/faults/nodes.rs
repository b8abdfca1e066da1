//! Faults of a cluster's nodes.
//!
//! Left out: faults of single pods ([`super::members`]).

use records::evaluation::FaultEffect;
use system::{Part, control, members::Member, running::RunningSystem};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    effect_if,
    members::{first_by_id, name},
};

/// Asked for as `kill-node`.
pub(super) const KILL_NODE: Declaration = Declaration {
    name: "kill-node",
    does: "The node of its first pod is killed, and with it every pod there; on the local cluster alone",
    proof: "the node's container has ended",
    arguments: &[Argument::Service],
    fault: |values| Fault::KillNode {
        service: values.service(),
    },
};

/// A node that was killed.
#[derive(Debug)]
pub(super) struct KilledNode {
    /// The pod whose node it is.
    on_it: Vec<Member>,
}

impl KilledNode {
    pub(super) fn new(system: &RunningSystem<'_>, service: Part) -> anyhow::Result<Self> {
        Ok(Self {
            on_it: first_by_id(system.members_of(service)?),
        })
    }
}

impl Injection for KilledNode {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        self.on_it.iter().try_for_each(control::kill_node)
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let ended = system.ended_nodes()?;
        let names: Vec<String> = self.on_it.iter().map(name).collect();
        let proof = match ended.as_slice() {
            [] => format!("the node of {} runs", names.join(", ")),
            ended => format!("{}, with {}, has ended", ended.join(", "), names.join(", ")),
        };
        Ok(effect_if(!ended.is_empty(), proof))
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        system.bring_back()?;
        Ok(())
    }
}
