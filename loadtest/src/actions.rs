//! The actions of a shop user, for both load models.
//!
//! Requests are sent and counted here, so that every request is counted exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use records::load::{CancellationEntry, LedgerEntry};
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{Answer, Gateway, Route, exchange};
use crate::mix::Action;
use crate::preparation::{self, Account, LoggedIn};
use crate::recorder::Recorder;
use crate::routes::Group;

/// The quantity of a checkout and of a purchase.
const QUANTITY: u32 = 1;

/// `None` without an answer.
pub(crate) type Status = Option<u16>;

/// What a load model does around each request of an action.
pub(crate) trait Pace {
    /// Why the action ends here.
    type Over;

    /// Waits until the next request may be sent. Returns the time from which its latency counts.
    async fn ready(&mut self) -> Result<Instant, Self::Over>;

    /// Called after the answer, or its absence.
    async fn answered<T: Sync>(
        &mut self,
        route: Route,
        answer: &Answer<T>,
    ) -> Result<(), Self::Over>;
}

/// One user of the shop.
pub(crate) struct Visitor {
    pub(crate) account: Account,
    pub(crate) group: Group,
    pub(crate) gateway: Gateway,
    pub(crate) recorder: Arc<Recorder>,
    /// Whether orders carry an `Idempotency-Key`.
    pub(crate) idempotency_keys: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "items")]
    _items: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Me {
    id: String,
}

#[derive(Deserialize)]
struct Stock {
    product_id: i64,
}

#[derive(Deserialize)]
struct Purchase {
    /// Whether it was made at a stale price.
    stale: bool,
}

#[derive(Deserialize)]
struct AcceptedOrder {
    order_id: String,
}

#[derive(Deserialize)]
struct Order {
    order_id: String,
    product_id: i64,
}

/// The two expected answers to a cancellation.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cancellation {
    Accepted {
        order_id: String,
    },
    Refused {
        #[serde(rename = "type")]
        kind: String,
    },
}

impl Visitor {
    /// Performs one action. Returns the status of its last request.
    pub(crate) async fn act<P: Pace>(
        &self,
        action: Action,
        pace: &mut P,
    ) -> Result<Status, P::Over> {
        match action {
            Action::LogIn => {
                let request = preparation::log_in(&self.gateway, &self.account);
                let answer = self
                    .send(pace, Route::LOG_IN, request, |_: &LoggedIn| true)
                    .await?;
                Ok(answer.status)
            }
            Action::ListUsers => {
                let request = self.request(Route::LIST_USERS, Route::LIST_USERS.template);
                let answer = self
                    .send(pace, Route::LIST_USERS, request, |_: &Page| true)
                    .await?;
                Ok(answer.status)
            }
            Action::LogInAndReadMe => {
                let request = preparation::log_in(&self.gateway, &self.account);
                let answer = self
                    .send(pace, Route::LOG_IN, request, |_: &LoggedIn| true)
                    .await?;
                match answer.outcome {
                    Ok(logged_in) => self.read_me(pace, &logged_in.access_token).await,
                    Err(_) => Ok(answer.status),
                }
            }
            Action::ReadMe => self.read_me(pace, &self.account.token).await,
            Action::ReadStock { product_id } => self.read_stock(pace, product_id).await,
            Action::Purchase { product_id } => {
                let path = format!("/users/{}/purchases", self.account.id);
                let request = self
                    .request(Route::PURCHASE, &path)
                    .json(&json!({ "product_id": product_id, "quantity": QUANTITY }));
                let answer = self
                    .send(pace, Route::PURCHASE, request, |_: &Purchase| true)
                    .await?;
                if answer.outcome.is_ok_and(|purchase| purchase.stale) {
                    let whose = (Route::PURCHASE, self.group);
                    self.recorder.count_stale(whose, answer.since);
                }
                Ok(answer.status)
            }
            Action::CheckOut { product_id } => self.check_out(pace, product_id).await,
            Action::Order {
                product_id,
                quantity,
            } => Ok(self.place_order(pace, product_id, quantity).await?.status),
            Action::OrderAndCancel {
                product_id,
                quantity,
            } => self.order_and_cancel(pace, product_id, quantity).await,
        }
    }

    async fn read_me<P: Pace>(&self, pace: &mut P, token: &str) -> Result<Status, P::Over> {
        let request = self.request_with(token, Route::READ_ME, Route::READ_ME.template);
        let is_me = |me: &Me| me.id == self.account.id;
        let answer = self.send(pace, Route::READ_ME, request, is_me).await?;
        Ok(answer.status)
    }

    /// Places an order, then reads it and the stock. A failed request ends the action.
    async fn check_out<P: Pace>(&self, pace: &mut P, product_id: i64) -> Result<Status, P::Over> {
        let placed = self.place_order(pace, product_id, QUANTITY).await?;
        let Ok(AcceptedOrder { order_id }) = placed.outcome else {
            return Ok(placed.status);
        };

        let request = self.request(Route::READ_ORDER, &format!("/orders/{order_id}"));
        let is_the_order =
            |order: &Order| order.order_id == order_id && order.product_id == product_id;
        let read = self
            .send(pace, Route::READ_ORDER, request, is_the_order)
            .await?;
        if read.outcome.is_err() {
            return Ok(read.status);
        }

        self.read_stock(pace, product_id).await
    }

    /// Places an order, and cancels it at once if it was accepted.
    async fn order_and_cancel<P: Pace>(
        &self,
        pace: &mut P,
        product_id: i64,
        quantity: u32,
    ) -> Result<Status, P::Over> {
        let placed = self.place_order(pace, product_id, quantity).await?;
        let Ok(AcceptedOrder { order_id }) = placed.outcome else {
            return Ok(placed.status);
        };

        let request = self.request(Route::CANCEL_ORDER, &format!("/orders/{order_id}/cancel"));
        let is_about_the_order = |cancellation: &Cancellation| match cancellation {
            Cancellation::Accepted { order_id: id } => *id == order_id,
            Cancellation::Refused { kind } => kind == "urn:agora:problem:order-rejected",
        };
        let answer = self
            .send(pace, Route::CANCEL_ORDER, request, is_about_the_order)
            .await?;
        self.recorder.record_cancellation(&CancellationEntry {
            at: self
                .recorder
                .beginning()
                .date(answer.since + answer.latency),
            order_id,
            status: answer.status,
            latency_ms: whole_ms(answer.latency),
            error: answer.outcome.err(),
        });
        Ok(answer.status)
    }

    async fn place_order<P: Pace>(
        &self,
        pace: &mut P,
        product_id: i64,
        quantity: u32,
    ) -> Result<Answer<AcceptedOrder>, P::Over> {
        let path = format!("/orders/?product_id={product_id}&quantity={quantity}");
        let mut request = self.request(Route::PLACE_ORDER, &path);
        // Not from the seed: a repeated run must place new orders, not get the earlier ones back.
        let idempotency_key = self.idempotency_keys.then(|| Uuid::new_v4().to_string());
        if let Some(key) = &idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let has_an_id = |order: &AcceptedOrder| !order.order_id.is_empty();
        let answer = self
            .send(pace, Route::PLACE_ORDER, request, has_an_id)
            .await?;
        let beginning = self.recorder.beginning();
        self.recorder.record_order(&LedgerEntry {
            intended_at: beginning.date(answer.since),
            at: beginning.date(answer.since + answer.latency),
            idempotency_key,
            user_id: self.account.id.clone(),
            product_id,
            quantity,
            status: answer.status,
            order_id: answer
                .outcome
                .as_ref()
                .ok()
                .map(|order| order.order_id.clone()),
            trace_id: answer.trace.as_ref().map(|trace| trace.trace_id.clone()),
            trace_sampled: answer.trace.as_ref().map(|trace| trace.sampled),
            latency_ms: whole_ms(answer.latency),
            error: answer.outcome.as_ref().err().cloned(),
        });
        Ok(answer)
    }

    async fn read_stock<P: Pace>(&self, pace: &mut P, product_id: i64) -> Result<Status, P::Over> {
        let request = self.request(Route::READ_STOCK, &format!("/inventory/{product_id}"));
        let is_the_product = |stock: &Stock| stock.product_id == product_id;
        let answer = self
            .send(pace, Route::READ_STOCK, request, is_the_product)
            .await?;
        Ok(answer.status)
    }

    fn request(&self, route: Route, path: &str) -> RequestBuilder {
        self.request_with(&self.account.token, route, path)
    }

    fn request_with(&self, token: &str, route: Route, path: &str) -> RequestBuilder {
        self.gateway
            .request(route, path)
            .bearer_auth(token)
            // The gateway replaces these by the token's identity. Without the auth hop (`AGORA_PATTERN_FORWARD_AUTH=off`)
            // services have nothing else.
            .header("X-User-Id", &self.account.id)
            .header("X-User-Email", &self.account.email)
    }

    /// Sends one request when the pace permits, and counts its answer.
    async fn send<P: Pace, T: DeserializeOwned + Sync>(
        &self,
        pace: &mut P,
        route: Route,
        request: RequestBuilder,
        answers_the_question: impl FnOnce(&T) -> bool,
    ) -> Result<Answer<T>, P::Over> {
        // Before the first request: no time before the beginning is measured.
        self.recorder.beginning();
        let since = pace.ready().await?;
        let answer = exchange(route, request, since, answers_the_question).await;
        self.recorder.count_measured(route, self.group, &answer);
        pace.answered(route, &answer).await?;
        Ok(answer)
    }
}

fn whole_ms(latency: Duration) -> u64 {
    u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)
}
