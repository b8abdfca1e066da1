//! Which figures are ours. `xtask/tests/dashboards.rs` reads this file, too.

/// How the names of our own figures begin; the rest belongs to Traefik, RabbitMQ, Prometheus and Jaeger.
pub const OURS: [&str; 7] = [
    "agora_",
    "db_client_",
    "http_server_",
    "messaging_",
    "process_",
    "rpc_",
    "tokio_",
];
