//! The measured part: what each user does, driven by goose.
//!
//! goose starts and stops the users, limits their rate and draws the report. Sending and counting
//! are ours, so that every request that leaves is counted exactly once. At the end of the run time, and at
//! Ctrl-C, goose lets each user finish the action it is in: no request is cut off between the
//! system's count and this one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::prelude::*;
use load_record::{LedgerEntry, REPORT_FILE};
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::gateway::{Answer, Gateway, Route, exchange};
use crate::mix::{Action, Mix};
use crate::options::Options;
use crate::preparation::{self, Account, LoggedIn};
use crate::recorder::Recorder;

/// After a request without an answer. A refused connection is noticed within microseconds; without a
/// pause a stopped gateway would be asked a hundred thousand times a second.
const PAUSE_WITHOUT_ANSWER: Duration = Duration::from_millis(100);

const QUANTITY: u32 = 1;

/// `None` where no answer came.
type Status = Option<u16>;

/// goose takes no more requests: the run is over.
type Stopped = Box<TransactionError>;

/// Keeps a user for each account busy for the run time. Returns when the last one has its answer.
pub(crate) async fn run(
    options: &Options,
    seed: u64,
    gateway: &Gateway,
    accounts: Vec<Account>,
    recorder: &Arc<Recorder>,
) -> anyhow::Result<()> {
    // By goose's index of its users. Each is locked by its own user only.
    let visitors: Arc<[_]> = accounts
        .into_iter()
        .enumerate()
        .map(|(index, account)| {
            Mutex::new(Visitor {
                account,
                mix: Mix::new(options.scenario, seed, index),
                gateway: gateway.clone(),
                recorder: Arc::clone(recorder),
            })
        })
        .collect();
    let step = Transaction::new(Arc::new(move |user| {
        let visitors = Arc::clone(&visitors);
        Box::pin(async move {
            let mut visitor = visitors[user.weighted_users_index].lock().await;
            visitor.step(user).await
        })
    }));
    let scenario = options.scenario.to_string();
    let report = options.out_dir.join(REPORT_FILE);
    let report = report.to_str().context("--out-dir must be UTF-8")?;
    let run_time_s = usize::try_from(options.run_time.as_secs())?;

    // A default configuration, not `initialize`, which would read our command line.
    GooseAttack::initialize_with_config(GooseConfiguration::default())?
        .register_scenario(Scenario::new(&scenario).register_transaction(step.set_name(&scenario)))
        // Ours sends the requests; without this goose makes a client for each user.
        .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())?
        .set_default(GooseDefault::Host, options.base_url.as_str())?
        .set_default(GooseDefault::Users, options.users)?
        // All users within a tenth of a second; one a second is goose's own default.
        .set_default(
            GooseDefault::IncreaseRate,
            (options.users * 10).to_string().as_str(),
        )?
        .set_default(GooseDefault::RunTime, run_time_s)?
        .set_default(
            GooseDefault::ThrottleRequests,
            options.rate_limit.unwrap_or(0),
        )?
        .set_default(GooseDefault::ReportFile, report)?
        // The report covers the start as well, as our own figures do.
        .set_default(GooseDefault::NoResetMetrics, true)?
        .set_default(GooseDefault::NoPrintMetrics, true)?
        .set_default(GooseDefault::Quiet, 1)?
        .set_default(GooseDefault::NoTelnet, true)?
        // Its corrections would count requests that were never sent.
        .set_default(
            GooseDefault::CoordinatedOmissionMitigation,
            GooseCoordinatedOmissionMitigation::Disabled,
        )?
        .execute()
        .await
        .context("goose failed")?;
    Ok(())
}

/// One user of the shop.
struct Visitor {
    account: Account,
    mix: Mix,
    gateway: Gateway,
    recorder: Arc<Recorder>,
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
struct AcceptedOrder {
    order_id: String,
}

#[derive(Deserialize)]
struct Order {
    order_id: String,
    product_id: i64,
}

impl Visitor {
    /// Does the next action. An error is goose's: the run is over.
    async fn step(&mut self, user: &mut GooseUser) -> TransactionResult {
        let last_status = match self.mix.next_action() {
            Action::LogIn => {
                let request = preparation::log_in(&self.gateway, &self.account);
                self.send(user, Route::LOG_IN, request, |_: &LoggedIn| true)
                    .await?
                    .status
            }
            Action::ListUsers => {
                let request = self.request(Route::LIST_USERS, Route::LIST_USERS.template);
                self.send(user, Route::LIST_USERS, request, |_: &Page| true)
                    .await?
                    .status
            }
            Action::ReadMe => {
                let request = self.request(Route::READ_ME, Route::READ_ME.template);
                let is_me = |me: &Me| me.id == self.account.id;
                self.send(user, Route::READ_ME, request, is_me)
                    .await?
                    .status
            }
            Action::ReadStock { product_id } => self.read_stock(user, product_id).await?,
            Action::CheckOut { product_id } => self.check_out(user, product_id).await?,
            Action::Purchase { product_id } => {
                let path = format!("/users/{}/purchases", self.account.id);
                let request = self
                    .request(Route::PURCHASE, &path)
                    .json(&json!({ "product_id": product_id, "quantity": QUANTITY }));
                self.send(user, Route::PURCHASE, request, |_: &IgnoredAny| true)
                    .await?
                    .status
            }
        };
        if last_status.is_none() {
            tokio::time::sleep(PAUSE_WITHOUT_ANSWER).await;
        }
        Ok(())
    }

    /// Orders, then reads the order and the stock. A failed request ends the action.
    async fn check_out(&self, user: &mut GooseUser, product_id: i64) -> Result<Status, Stopped> {
        let placed = self.place_order(user, product_id).await?;
        let Ok(AcceptedOrder { order_id }) = placed.outcome else {
            return Ok(placed.status);
        };

        let request = self.request(Route::READ_ORDER, &format!("/orders/{order_id}"));
        let is_the_order =
            |order: &Order| order.order_id == order_id && order.product_id == product_id;
        let read = self
            .send(user, Route::READ_ORDER, request, is_the_order)
            .await?;
        if read.outcome.is_err() {
            return Ok(read.status);
        }

        self.read_stock(user, product_id).await
    }

    async fn place_order(
        &self,
        user: &mut GooseUser,
        product_id: i64,
    ) -> Result<Answer<AcceptedOrder>, Stopped> {
        // Not from the seed: a repeated run must place new orders, not get the old ones back.
        let idempotency_key = Uuid::new_v4().to_string();
        let path = format!("/orders/?product_id={product_id}&quantity={QUANTITY}");
        let request = self
            .request(Route::PLACE_ORDER, &path)
            .header("idempotency-key", &idempotency_key);
        let has_an_id = |order: &AcceptedOrder| !order.order_id.is_empty();
        let answer = self
            .send(user, Route::PLACE_ORDER, request, has_an_id)
            .await?;
        let at = Utc::now();
        self.recorder.record_order(&LedgerEntry {
            intended_at: at - answer.latency,
            at,
            idempotency_key: Some(idempotency_key),
            user_id: self.account.id.clone(),
            product_id,
            quantity: QUANTITY,
            status: answer.status,
            order_id: answer
                .outcome
                .as_ref()
                .ok()
                .map(|order| order.order_id.clone()),
            latency_ms: u64::try_from(answer.latency.as_millis()).unwrap_or(u64::MAX),
            error: answer.outcome.as_ref().err().cloned(),
        });
        Ok(answer)
    }

    async fn read_stock(&self, user: &mut GooseUser, product_id: i64) -> Result<Status, Stopped> {
        let request = self.request(Route::READ_STOCK, &format!("/inventory/{product_id}"));
        let is_the_product = |stock: &Stock| stock.product_id == product_id;
        Ok(self
            .send(user, Route::READ_STOCK, request, is_the_product)
            .await?
            .status)
    }

    fn request(&self, route: Route, path: &str) -> RequestBuilder {
        self.gateway
            .request(route, path)
            .bearer_auth(&self.account.token)
    }

    /// Sends one request when the rate limit allows it, and counts its answer here and in goose's report.
    async fn send<T: DeserializeOwned>(
        &self,
        user: &mut GooseUser,
        route: Route,
        request: RequestBuilder,
        answers_the_question: impl FnOnce(&T) -> bool,
    ) -> Result<Answer<T>, Stopped> {
        if let Some(throttle) = user.throttle.clone() {
            // Closed once the run is over: what wasn't sent isn't counted.
            throttle
                .send_async(true)
                .await
                .map_err(TransactionError::from)?;
        }
        let answer = exchange(route, request, answers_the_question).await;
        let failure = answer.outcome.as_ref().err().map(String::as_str);
        self.recorder
            .count_measured(route, answer.status, answer.latency, failure);
        user.record_custom_request_duration(
            route.method.as_str(),
            route.template,
            answer.latency,
            failure.is_none(),
            answer.status,
            failure,
        )
        .await?;
        Ok(answer)
    }
}
