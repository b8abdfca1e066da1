//! The catalogue, as product-service has it, or had it a moment ago.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::grpc;
use chassis::metrics::Metrics;
use chassis::outbound::{CallError, Outbound};
use chassis::replicas::ClientChannel;
use chrono::{DateTime, Utc};
use lru::LruCache;
use proto::catalog::GetProductRequest;
use proto::catalog::catalog_client::CatalogClient;
use shared_events::ProductId;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::PriceCents;

/// Asks product-service.
#[derive(Clone)]
pub struct Catalog {
    client: CatalogClient<ClientChannel>,
    metrics: Metrics,
    calls: Outbound,
    recent: Option<Recent>,
}

/// A product on sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Its name.
    pub name: String,
    /// Its price at `price_as_of`.
    pub price: PriceCents,
    /// When product-service said so.
    pub price_as_of: DateTime<Utc>,
    /// Whether that was for an earlier purchase, as product-service doesn't answer now.
    pub stale: bool,
}

/// Why there is no product to sell.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The catalogue doesn't have it.
    #[error("there is no product {0}")]
    Unknown(ProductId),
    /// product-service is away, slow or broken, and the price was not read lately.
    #[error("the catalogue did not answer: {0}")]
    Unavailable(CallError),
    /// The request had too little time.
    #[error("the request's time was used up")]
    OutOfTime,
}

/// What was read lately; clones share it. The one that was asked for the longest ago makes room.
///
/// Answers may come in another order than they were asked for: the one that was asked for last holds.
#[derive(Clone)]
pub struct Recent {
    known: Arc<Mutex<Known>>,
    max_age: Duration,
}

/// Each with the moment at which product-service was asked.
struct Known {
    products: LruCache<ProductId, (Product, Instant)>,
    /// Apart from them: whoever asks for what never was must not push out what is.
    absent: LruCache<ProductId, Instant>,
}

impl Recent {
    /// How many products are kept.
    pub const CAPACITY: NonZeroUsize = NonZeroUsize::new(1_000).expect("more than none");

    /// Nothing yet; what is older than `max_age` isn't given out.
    pub fn new(max_age: Duration) -> Self {
        Self {
            known: Arc::new(Mutex::new(Known {
                products: LruCache::new(Self::CAPACITY),
                absent: LruCache::new(Self::CAPACITY),
            })),
            max_age,
        }
    }

    fn keep(&self, id: ProductId, product: Product, asked_at: Instant) {
        let mut known = self.lock();
        let withdrawn = known.absent.peek(&id).is_some_and(|then| *then > asked_at);
        let newer = known
            .products
            .peek(&id)
            .is_some_and(|(_, then)| *then > asked_at);
        if !withdrawn && !newer {
            known.products.put(id, (product, asked_at));
        }
    }

    fn forget(&self, id: ProductId, asked_at: Instant) {
        let mut known = self.lock();
        if known
            .products
            .peek(&id)
            .is_some_and(|(_, then)| *then <= asked_at)
        {
            known.products.pop(&id);
        }
        if known.absent.peek(&id).is_none_or(|then| *then < asked_at) {
            known.absent.put(id, asked_at);
        }
    }

    fn get(&self, id: ProductId) -> Option<Product> {
        let mut known = self.lock();
        let (product, asked_at) = known.products.get(&id)?;
        (asked_at.elapsed() <= self.max_age).then(|| Product {
            stale: true,
            ..product.clone()
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalog {
    /// Calls product-service over `channel`. `recent` stands in where `calls` bring no answer.
    pub fn new(
        channel: ClientChannel,
        metrics: Metrics,
        calls: Outbound,
        recent: Option<Recent>,
    ) -> Self {
        Self {
            client: CatalogClient::new(channel),
            metrics,
            calls,
            recent,
        }
    }

    /// One product.
    ///
    /// # Errors
    /// [`CatalogError`], within the time that `calls` have.
    pub async fn product(&self, id: ProductId) -> Result<Product, CatalogError> {
        let asked_at = Instant::now();
        let asked = self.calls.idempotent(|timeout| {
            let mut client = self.client.clone();
            grpc::call(
                &self.metrics,
                ("agora.catalog.v1.Catalog", "GetProduct"),
                timeout,
                GetProductRequest { id: id.get() },
                async move |request| client.get_product(request).await,
            )
        });
        let found = match asked.await {
            Ok(found) => found,
            Err(CallError::Failed(status))
                if matches!(status.code(), Code::NotFound | Code::InvalidArgument) =>
            {
                // What is no longer on sale must not be sold from memory.
                if let Some(recent) = &self.recent {
                    recent.forget(id, asked_at);
                }
                return Err(CatalogError::Unknown(id));
            }
            // A short deadline is no reason for a stale price.
            Err(CallError::OutOfTime) => return Err(CatalogError::OutOfTime),
            Err(error) => return self.recall(id).ok_or(CatalogError::Unavailable(error)),
        };
        let price = PriceCents::new(found.price_cents).ok_or_else(|| {
            let status = Status::data_loss("a negative price");
            CatalogError::Unavailable(CallError::Failed(status))
        })?;
        let product = Product {
            name: found.name,
            price,
            price_as_of: Utc::now(),
            stale: false,
        };
        if let Some(recent) = &self.recent {
            recent.keep(id, product.clone(), asked_at);
        }
        Ok(product)
    }

    fn recall(&self, id: ProductId) -> Option<Product> {
        let product = self.recent.as_ref()?.get(id)?;
        self.calls.fell_back();
        Some(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(60);

    fn product(name: &str) -> Product {
        Product {
            name: name.to_owned(),
            price: PriceCents::new(100).unwrap(),
            price_as_of: Utc::now(),
            stale: false,
        }
    }

    fn id(number: i64) -> ProductId {
        ProductId::try_from(number).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_lately_is_given_out_as_stale_and_not_for_longer_than_it_may() {
        let recent = Recent::new(MAX_AGE);
        assert_eq!(recent.get(id(1)), None);
        let fresh = product("lamp");
        recent.keep(id(1), fresh.clone(), Instant::now());
        tokio::time::advance(MAX_AGE).await;
        let stale = Product {
            stale: true,
            ..fresh
        };
        assert_eq!(recent.get(id(1)), Some(stale));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(recent.get(id(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_kept_than_there_is_room_for() {
        let recent = Recent::new(MAX_AGE);
        let capacity = i64::try_from(Recent::CAPACITY.get()).unwrap();
        for number in 1..=capacity + 1 {
            recent.keep(id(number), product("lamp"), Instant::now());
        }
        assert_eq!(recent.lock().products.len(), Recent::CAPACITY.get());
        assert_eq!(recent.get(id(1)), None);
        assert!(recent.get(id(capacity + 1)).is_some());
        recent.forget(id(2), Instant::now());
        assert_eq!(recent.get(id(2)), None);

        // What never was takes nobody's place.
        for number in 1..=capacity {
            recent.forget(id(10 * capacity + number), Instant::now());
        }
        assert!(recent.get(id(capacity + 1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_answers_the_one_that_was_asked_for_later_holds() {
        let recent = Recent::new(MAX_AGE);
        let before = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        let after = Instant::now();

        // Withdrawn meanwhile, known from before or not.
        recent.keep(id(1), product("lamp"), before);
        for number in [1, 2] {
            recent.forget(id(number), after);
            recent.keep(id(number), product("lamp"), before);
            assert_eq!(recent.get(id(number)), None, "{number}");
        }
        // On sale again.
        tokio::time::advance(Duration::from_secs(1)).await;
        recent.keep(id(1), product("new lamp"), Instant::now());
        recent.forget(id(1), after);
        recent.keep(id(1), product("lamp"), before);
        assert_eq!(recent.get(id(1)).unwrap().name, "new lamp");
    }
}
