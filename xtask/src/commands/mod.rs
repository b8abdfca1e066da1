//! A module per command: its options, the calls that carry it out, and its output.
//!
//! Left out: acting on the system (`system`), checks (`checks`), experiments (`evaluation`).

pub(crate) mod alerts;
pub(crate) mod attack;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod evaluate;
pub(crate) mod fault;
pub(crate) mod heal;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod rollout;
pub(crate) mod scale;
pub(crate) mod smoke;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod up;
pub(crate) mod verify_api;
pub(crate) mod verify_dashboards;
pub(crate) mod verify_dlq;
pub(crate) mod verify_metrics;
pub(crate) mod verify_traces;
