//! What clients were promised: orders are placed and cancelled over HTTP as the gateway forwards it, and the answers
//! recorded.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::Shop;

/// The promise of a 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The order.
    pub order_id: Uuid,
    /// Whether its cancellation was accepted as well.
    pub cancelled: bool,
}

/// All promises of a run, and the number of unanswered requests.
#[derive(Debug, Default)]
pub struct Promises {
    /// In the order in which they were made.
    pub made: Vec<Promise>,
    /// Requests whose connection broke: they may or may not have had an effect.
    pub unanswered: usize,
}

impl Promises {
    /// Places one order.
    pub async fn order(&mut self, shop: &Shop, at: SocketAddr, product_id: i64, quantity: u32) {
        match shop.place(at, product_id, quantity).await {
            Some(order_id) => self.made.push(Promise {
                order_id,
                cancelled: false,
            }),
            None => self.unanswered += 1,
        }
    }

    /// Cancels the latest order, if it was answered.
    pub async fn cancel_last(&mut self, shop: &Shop, at: SocketAddr) {
        let Some(last) = self.made.last_mut() else {
            return;
        };
        match shop.cancel(at, last.order_id).await {
            Some(accepted) => last.cancelled |= accepted,
            None => self.unanswered += 1,
        }
    }
}

impl Shop {
    /// A request as the gateway forwards it; `None` without an answer.
    pub async fn ask(&self, at: SocketAddr, method: &str, path: &str) -> Option<(u16, Value)> {
        let method = method.parse().expect("a method");
        let answer = reqwest::Client::new()
            .request(method, format!("http://{at}{path}"))
            .header("X-User-Id", self.user.to_string())
            .header("X-User-Email", "ada@agora.example")
            .timeout(Duration::from_secs(20))
            .send()
            .await
            .ok()?;
        let status = answer.status().as_u16();
        let body = answer.text().await.ok()?;
        let body = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
        Some((status, body))
    }

    /// Places an order; returns its id, or `None` without an answer.
    ///
    /// # Panics
    /// When the answer is no 202.
    pub async fn place(&self, at: SocketAddr, product_id: i64, quantity: u32) -> Option<Uuid> {
        let path = format!("/orders/?product_id={product_id}&quantity={quantity}");
        let (status, body) = self.ask(at, "POST", &path).await?;
        assert_eq!(status, 202, "{body}");
        let id = body["order_id"].as_str().expect("an order id");
        Some(id.parse().expect("a UUID"))
    }

    /// Cancels an order; returns whether that was accepted (it isn't once the order is rejected), or `None` without an
    /// answer.
    ///
    /// # Panics
    /// When the answer is anything else.
    pub async fn cancel(&self, at: SocketAddr, order_id: Uuid) -> Option<bool> {
        let path = format!("/orders/{order_id}/cancel");
        let (status, body) = self.ask(at, "POST", &path).await?;
        match status {
            202 => Some(true),
            409 => {
                assert_eq!(body["type"], "urn:agora:problem:order-rejected", "{body}");
                Some(false)
            }
            _ => panic!("{status}: {body}"),
        }
    }
}
