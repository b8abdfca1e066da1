//! The catalogue, as product-service has it.

use std::time::Duration;

use chassis::grpc;
use chassis::metrics::Metrics;
use proto::catalog::GetProductRequest;
use proto::catalog::catalog_client::CatalogClient;
use shared_events::ProductId;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::PriceCents;

/// The wait for an answer, connecting included.
const DEADLINE: Duration = Duration::from_secs(2);

/// Asks product-service.
#[derive(Clone)]
pub struct Catalog {
    client: CatalogClient<Channel>,
    metrics: Metrics,
}

/// A product on sale.
#[derive(Debug, Clone)]
pub struct Product {
    /// Its name.
    pub name: String,
    /// Its price now.
    pub price: PriceCents,
}

/// Why there is no product to sell.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The catalogue doesn't have it.
    #[error("there is no product {0}")]
    Unknown(ProductId),
    /// product-service is away, slow or broken.
    #[error("the catalogue did not answer: {0}")]
    Unavailable(Status),
}

impl Catalog {
    /// Connects when first asked, and again whenever the connection is lost.
    pub fn new(endpoint: Endpoint, metrics: Metrics) -> Self {
        let channel = endpoint.connect_timeout(DEADLINE).connect_lazy();
        Self {
            client: CatalogClient::new(channel),
            metrics,
        }
    }

    /// One product.
    ///
    /// # Errors
    /// [`CatalogError`], within two seconds.
    pub async fn product(&self, id: ProductId) -> Result<Product, CatalogError> {
        let mut client = self.client.clone();
        let found = grpc::call(
            &self.metrics,
            ("agora.catalog.v1.Catalog", "GetProduct"),
            DEADLINE,
            GetProductRequest { id: id.get() },
            async |request| client.get_product(request).await,
        )
        .await
        .map_err(|status| match status.code() {
            Code::NotFound | Code::InvalidArgument => CatalogError::Unknown(id),
            _ => CatalogError::Unavailable(status),
        })?;
        let price = PriceCents::new(found.price_cents)
            .ok_or_else(|| CatalogError::Unavailable(Status::data_loss("a negative price")))?;
        Ok(Product {
            name: found.name,
            price,
        })
    }
}
