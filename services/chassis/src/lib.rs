//! All plumbing of a service, none of its domain: one lifecycle, configuration, telemetry, database,
//! broker, HTTP and gRPC.
//!
//! A service is a function `read` (environment → configuration) and a function `start` (configuration →
//! running tasks), which [`service::run`] runs. This crate knows [`shared_events::Event`] and no event's data.

pub mod admission;
mod backoff;
mod breaker;
pub mod broker;
pub mod config;
mod connections;
pub mod consumer;
mod crash_points;
pub mod database;
pub mod deadline;
pub mod environment;
pub mod failure;
mod finish;
pub mod grpc;
pub mod http;
pub mod idempotency;
pub mod identity;
mod inbox;
pub mod lifecycle;
pub mod message;
pub mod metrics;
pub mod openapi;
pub mod ops;
pub mod outbound;
pub mod outbox;
pub mod paging;
pub mod patterns;
pub mod pool;
pub mod problem;
pub mod readiness;
pub mod replicas;
pub mod service;
pub mod telemetry;

pub use crash_points::{arm as arm_crash_points, crash_point};
