//! HTTP as a client of the gateway or of RabbitMQ's management API speaks it: a status is an answer, never an
//! error, and each request has a deadline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use records::load::OVERLOADED;
use serde_json::{Value, json};
use ureq::Agent;

use crate::wait;

/// Longer than the 10 s within which a service answers or gives up.
const LIMIT: Duration = Duration::from_secs(15);

/// The story's product; load leaves it alone, so that its stock is this test's.
pub(crate) const STORY_PRODUCT: u32 = 99;
/// Everybody's.
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// From an accepted order to the stock, a consumer that is just connecting again included.
const STOCK_DROPS_WITHIN: Duration = Duration::from_secs(20);
/// How long a sign-up or log-in is sent again that was rejected for want of capacity, as by a load run.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);

pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// A client of one server.
pub(crate) struct Client {
    agent: Agent,
    base: String,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) traceresponse: Option<String>,
    pub(crate) body: String,
}

impl Client {
    /// A client of the server at `base`, e.g. `http://127.0.0.1:80`.
    pub(crate) fn new(base: String) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(LIMIT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Self { agent, base }
    }

    /// The server's host and port.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str, headers: Headers<'_>) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(path, request.call())
    }

    /// A POST with a JSON body, or an empty one.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, headers: Headers<'_>, body: Option<&Value>) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(
            path,
            match body {
                Some(body) => request.send_json(body),
                None => request.send_empty(),
            },
        )
    }

    /// A PUT with a JSON body.
    #[track_caller]
    pub(crate) fn put(&self, path: &str, headers: Headers<'_>, body: &Value) -> Answer {
        let mut request = self.agent.put(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::read(path, request.send_json(body))
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        Answer::read(
            path,
            self.agent.delete(format!("{}{path}", self.base)).call(),
        )
    }
}

impl Answer {
    #[track_caller]
    fn read(path: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Self {
        let mut answer = answer.unwrap_or_else(|error| panic!("{path}: no answer: {error}"));
        let header = |name| {
            let value = answer.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (content_type, traceresponse) = (header("content-type"), header("traceresponse"));
        Self {
            status: answer.status().as_u16(),
            content_type: content_type.unwrap_or_default(),
            traceresponse,
            body: answer
                .body_mut()
                .read_to_string()
                .unwrap_or_else(|error| panic!("{path}: the answer broke off: {error}")),
        }
    }

    /// Passes it on when it has this status.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }
}

/// A user who signed up and logged in.
pub(crate) struct TestUser {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) token: String,
    /// The value of the `Authorization` header.
    pub(crate) authorization: String,
}

impl TestUser {
    /// Signs up a new user.
    #[track_caller]
    pub(crate) fn new(gateway: &Client) -> Self {
        let email = format!("{:x}@example.org", nanoseconds());
        let account = json!({ "name": "Ada", "email": email, "password": PASSWORD });
        let account = post_until_accepted(gateway, "/auth/signup", &account)
            .expect_status(201)
            .json();
        let token = log_in(gateway, &email, PASSWORD);
        Self {
            id: text(&account, "id"),
            email,
            authorization: format!("Bearer {token}"),
            token,
        }
    }

    /// Logs in once more; returns the value of the `Authorization` header.
    #[track_caller]
    pub(crate) fn log_in_again(&self, gateway: &Client, password: &str) -> String {
        format!("Bearer {}", log_in(gateway, &self.email, password))
    }

    /// Places an order for one piece of the story's product; returns the order's id.
    #[track_caller]
    pub(crate) fn order(&self, gateway: &Client) -> String {
        let answer = self.try_to_order(gateway).expect_status(202).json();
        text(&answer, "order_id")
    }

    /// Tries to place such an order.
    #[track_caller]
    pub(crate) fn try_to_order(&self, gateway: &Client) -> Answer {
        let path = format!("/orders/?product_id={STORY_PRODUCT}&quantity=1");
        gateway.post(&path, &[("authorization", &self.authorization)], None)
    }

    /// Tries to read the stock of the story's product.
    #[track_caller]
    pub(crate) fn try_to_read_the_stock(&self, gateway: &Client) -> Answer {
        let path = format!("/inventory/{STORY_PRODUCT}");
        gateway.get(&path, &[("authorization", &self.authorization)])
    }

    /// How much of the story's product may still be ordered.
    #[track_caller]
    pub(crate) fn available(&self, gateway: &Client) -> i64 {
        self.try_to_read_the_stock(gateway)
            .expect_status(200)
            .json()["available"]
            .as_i64()
            .expect("`available` is a number")
    }

    /// Waits until no more than this many are available; returns how many are.
    #[track_caller]
    pub(crate) fn wait_for_stock(&self, gateway: &Client, at_most: i64) -> i64 {
        wait::until("the stock to drop", STOCK_DROPS_WITHIN, || {
            match self.available(gateway) {
                now if now <= at_most => Ok(now),
                now => Err(format!("{now} available, expected {at_most}")),
            }
        })
    }
}

/// The token that a login gives.
#[track_caller]
fn log_in(gateway: &Client, email: &str, password: &str) -> String {
    let login = json!({ "email": email, "password": password });
    let login = post_until_accepted(gateway, "/auth/login", &login)
        .expect_status(200)
        .json();
    text(&login, "access_token")
}

/// The answer to a request for which a password is hashed. A service whose cores have other work rejects it with a 503 and
/// `Retry-After`, as it should; then it is sent again.
#[track_caller]
fn post_until_accepted(gateway: &Client, path: &str, body: &Value) -> Answer {
    wait::until(path, ACCEPTED_WITHIN, || {
        match gateway.post(path, &[], Some(body)) {
            answer if answer.body.contains(OVERLOADED) => Err(answer.body),
            answer => Ok(answer),
        }
    })
}

/// A string of a JSON object.
#[track_caller]
pub(crate) fn text(object: &Value, name: &str) -> String {
    object[name]
        .as_str()
        .unwrap_or_else(|| panic!("no text `{name}` in {object}"))
        .to_owned()
}

/// Since 1970; tests take turns, so no two calls see the same.
fn nanoseconds() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_nanos()
}
