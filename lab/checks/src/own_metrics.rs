//! How agora's own metrics are told from those of the programs that it runs.

/// Prefixes of the names of agora's own metrics; all others belong to Traefik, RabbitMQ, Prometheus and Jaeger.
pub const PREFIXES: [&str; 7] = [
    "agora_",
    "db_client_",
    "http_server_",
    "messaging_",
    "process_",
    "rpc_",
    "tokio_",
];
