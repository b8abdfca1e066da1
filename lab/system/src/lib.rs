//! The running system and how to act on it: the engine and Compose, the project and its settings, images, rollouts,
//! keys, dead letters, and clients of Prometheus, Jaeger, Alertmanager and RabbitMQ's management API.
//!
//! Left out: whether what is read is right (`checks`), and what experiments do with it (`evaluation`).

pub mod alert_history;
pub mod binaries;
pub mod broker;
pub mod compose;
pub mod composed;
pub mod configuration;
pub mod control;
pub mod customers;
pub mod dead_letters;
pub mod engine;
pub mod engine_setup;
pub mod env_file;
pub mod extras;
pub mod files;
pub mod http;
pub mod images;
pub mod interrupt;
pub mod jaeger;
pub mod key_rotation;
pub mod known_causes;
pub mod load_runs;
pub mod lock;
pub mod note;
pub mod ports;
pub mod process;
pub mod project;
pub mod prometheus;
pub mod random;
pub mod rolling;
pub mod running;
pub mod schemathesis;
pub mod service_images;
pub mod signing_keys;
pub mod switches;
pub mod wait;
pub mod wire;
