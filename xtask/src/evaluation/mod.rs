//! Experiments: the same load and the same fault with a pattern off and on, and a verdict with its evidence.
//!
//! [`experiment`] says what one is, `experiments/` holds a file for each, [`runner`] alone knows the order of steps.
//! What a run saw is [`evidence`], kept as JSON; [`verdict`] is judged from that alone, so that a stored run can be
//! judged again without the system: that is a [`conclusion`], which `report/` shows in every form and [`store`] keeps.
//! Left out: the load itself (`loadtest`) and the patterns (the services).

mod alerts;
pub(crate) mod books;
pub(crate) mod conclusion;
mod customers;
pub(crate) mod evidence;
pub(crate) mod experiment;
pub(crate) mod experiments;
pub(crate) mod faults;
pub(crate) mod lab;
pub(crate) mod load;
pub(crate) mod mend;
pub(crate) mod note;
pub(crate) mod report;
pub(crate) mod runner;
pub(crate) mod samples;
pub(crate) mod statistics;
pub(crate) mod steady;
pub(crate) mod store;
mod telemetry;
pub(crate) mod under_way;
pub(crate) mod verdict;
