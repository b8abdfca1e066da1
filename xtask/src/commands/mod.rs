//! A module per command: its options, and the function that does it.

pub(crate) mod alerts;
pub(crate) mod attack;
pub(crate) mod bench;
pub(crate) mod check;
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
