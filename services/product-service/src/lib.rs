//! product-service: the catalogue, over gRPC, with health checks and reflection.
//!
//! Left out: changing the catalogue. It is seeded by the first migration.

pub mod catalog;
mod config;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use chassis::lifecycle::Lifecycle;
use chassis::readiness::Status;
use chassis::{database, grpc};
use proto::catalog::catalog_server::CatalogServer;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use crate::catalog::Catalog;
pub use crate::config::Config;

/// Composes the service; returns its gRPC address.
///
/// # Errors
/// When a dependency can't be used or the address is in use.
pub async fn start(config: Config, lifecycle: &Lifecycle) -> anyhow::Result<SocketAddr> {
    let database = database::connect(lifecycle, &config.database, &sqlx::migrate!()).await?;

    let (health_reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("failed to build the reflection service")?;
    let mut routes = Routes::builder();
    routes
        .add_service(CatalogServer::new(Catalog::new(database.pool.clone())))
        .add_service(health)
        .add_service(reflection);

    let readiness = lifecycle.readiness().clone();
    let closing = lifecycle.closing();
    lifecycle.spawn_watcher("grpc-health", async move {
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = closing.cancelled() => return Ok(()),
            }
            let serving = match readiness.report().status {
                Status::Ready => ServingStatus::Serving,
                _ => ServingStatus::NotServing,
            };
            // The server as a whole (the empty name), and its one service.
            for name in ["", CatalogServer::<Catalog>::NAME] {
                health_reporter.set_service_status(name, serving).await;
            }
        }
    });
    grpc::serve(lifecycle, config.grpc_addr, routes.routes()).await
}
