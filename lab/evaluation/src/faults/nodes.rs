//! Faults of a cluster's nodes.
//!
//! Left out: faults of single pods ([`super::members`]).

use anyhow::Context;
use records::evaluation::FaultEffect;
use system::{Part, control, members::Member, running::RunningSystem};

use super::{
    Fault, Injection,
    declaration::{Argument, Declaration},
    effect_if,
    members::name,
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

/// Asked for as `pause-node`.
pub(super) const PAUSE_NODE: Declaration = Declaration {
    name: "pause-node",
    does: "The node of its first pod stands still, and with it every pod there; on the local cluster alone",
    proof: "the engine reports the node's container as paused",
    arguments: &[Argument::Service],
    fault: |values| Fault::PauseNode {
        service: values.service(),
    },
};

/// A node that was killed or paused.
#[derive(Debug)]
pub(super) struct HaltedNode {
    is_paused: bool,
    /// Pods that are on it.
    on_it: Vec<Member>,
    /// Services that have to be among them: the loss of a node without any costs nothing.
    answering: &'static [Part],
}

impl HaltedNode {
    /// The node of these pods, killed.
    pub(super) fn killed(on_it: Vec<Member>) -> Self {
        Self {
            is_paused: false,
            on_it,
            answering: &[],
        }
    }

    /// The node of these pods, paused.
    pub(super) fn paused(on_it: Vec<Member>) -> Self {
        Self {
            is_paused: true,
            ..Self::killed(on_it)
        }
    }

    /// The node of these pods, killed, with what accepts an order among them.
    pub(super) fn lost(on_it: Vec<Member>) -> Self {
        Self {
            answering: &[Part::UserService, Part::OrderService],
            ..Self::killed(on_it)
        }
    }
}

impl Injection for HaltedNode {
    fn inject(&mut self, _system: &RunningSystem<'_>) -> anyhow::Result<()> {
        let one = self.on_it.first().context("no pod is on such a node")?;
        if self.is_paused {
            control::pause_node(one)
        } else {
            control::kill_node(one)
        }
    }

    fn effect(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<FaultEffect> {
        let halted = system.halted_nodes(self.is_paused)?;
        let names: Vec<String> = self.on_it.iter().map(name).collect();
        let how = if self.is_paused {
            "stands still"
        } else {
            "has ended"
        };
        let proof = match halted.as_slice() {
            [] => format!("the node of {} runs", names.join(", ")),
            halted => format!("{}, with {}, {how}", halted.join(", "), names.join(", ")),
        };
        let has = |part: &Part| self.on_it.iter().any(|pod| pod.service == *part);
        match self.answering.iter().find(|part| !has(part)) {
            Some(part) => Ok(effect_if(
                false,
                format!("{proof}, and no {part} was on it"),
            )),
            None => Ok(effect_if(!halted.is_empty(), proof)),
        }
    }

    fn heal(&mut self, system: &RunningSystem<'_>) -> anyhow::Result<()> {
        system.bring_back()?;
        Ok(())
    }
}
