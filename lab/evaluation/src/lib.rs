//! Experiments: the same load and the same fault with a pattern off and on, and a verdict with its evidence.
//!
//! [`experiment`] declares what one is, [`experiments`] has a file for each, [`runner`] alone knows the order of the
//! steps. The evidence of a run is [`records::evaluation`], kept as JSON. A [`verdict`] needs nothing else, so that a
//! stored run can be judged again without the system; the verdicts of a run are its [`conclusion`], which [`report`]
//! shows in every form and [`store`] keeps.
//!
//! Left out: the load itself (`loadtest`), the patterns (the services), and the terminal (`xtask`).

mod alerts;
pub mod attacks;
pub mod capacity;
pub mod conclusion;
pub mod effects;
pub mod experiment;
pub mod experiments;
pub mod faults;
pub mod history;
mod load;
pub mod measurement;
pub mod noise;
pub mod numbers;
pub mod reconciliation;
mod repair;
pub mod report;
pub mod run_journal;
pub mod runner;
mod samples;
pub mod statistics;
mod steady;
pub mod store;
mod telemetry;
mod test_users;
pub mod traces;
pub mod verdict;
