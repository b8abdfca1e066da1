//! The running system and how to act on it: the engine and Compose, the project and its settings, images, rollouts,
//! keys, dead letters, and clients of Prometheus, Jaeger, Alertmanager and RabbitMQ's management API.
//!
//! The engines, Docker with Compose and Kubernetes, stand behind this crate: nothing outside of it names one's objects.
//!
//! Left out: whether what is read is right (`checks`), and what experiments do with it (`evaluation`).

pub mod alert_history;
pub mod binaries;
pub mod bring_up;
pub mod broker;
pub mod cluster;
mod compose;
pub mod configuration;
pub mod control;
pub mod dead_letters;
pub mod definition;
mod engine;
pub mod engine_setup;
pub mod env_file;
pub mod extras;
pub mod files;
pub mod health;
pub mod host;
pub mod http;
pub mod images;
pub mod interrupt;
pub mod jaeger;
pub mod key_rotation;
pub mod known_causes;
mod kubectl;
mod kubernetes;
pub mod load_runs;
pub mod lock;
pub mod logs;
mod member;
pub mod members;
pub mod network_policies;
pub mod operation_record;
pub mod parked_events;
pub mod part;
pub mod ports;
pub mod prerequisites;
pub mod process;
pub mod project;
pub mod prometheus;
pub mod python_shop;
pub mod random;
pub mod rolling;
pub mod running;
pub mod schemathesis;
pub mod service_images;
pub mod signing_keys;
pub mod stuck_orders;
pub mod switches;
pub mod take_down;
pub mod test_users;
mod unhealthy;
pub mod wait;
pub mod wire;

pub use part::Part;
