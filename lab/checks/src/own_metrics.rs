//! Which metrics are our own.

/// How the names of our own metrics begin; the rest belongs to Traefik, RabbitMQ, Prometheus and Jaeger.
pub const PREFIXES: [&str; 7] = [
    "agora_",
    "db_client_",
    "http_server_",
    "messaging_",
    "process_",
    "rpc_",
    "tokio_",
];
