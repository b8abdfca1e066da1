//! The whole system from outside, as the people who use it meet it: the xtask binary, HTTP through the
//! gateway, and the container engine to break things with.
//!
//! `cargo xtask test` starts the system and says where it is. All tests share it, so they take turns
//! ([`system::System::take_turn`]), and each finds it healthy and without dead letters. Left out: what one service
//! does by itself; its own tests show that.

mod client;
mod program;
mod reconciliation;
mod run;
mod system;
mod wait;

mod alerts;
mod api;
mod command_errors;
mod dashboards;
mod databases;
mod dead_letters;
mod endings;
mod evaluation;
mod faults;
mod footprint;
mod identity;
mod kills;
mod ledger;
mod load;
mod mirror;
mod outages;
mod parked_events;
mod rolling;
mod settings;
mod story;
mod stuck_orders;
mod traces;
