//! `smoke`: the smoke test: everything that a new user does, once, through the gateway.
//!
//! Stops at the first step that fails, with the answer it got and the end of the service's log. Tokens and
//! passwords are never printed.

use std::time::{Duration, Instant};

use base::{outcome::Exit, progress::spell};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use system::{
    Part,
    http::{Answer, Client},
    members::{self, Member},
    project::Project,
    random,
    test_users::post_until_accepted,
    wait,
};

use crate::output::{Format, print_json};

/// The product that is ordered.
const PRODUCT: u32 = 99;
/// How long an event may take until its effect shows: the outbox, the broker, and a consumer that is connecting again.
const SHOWS_WITHIN: Duration = Duration::from_secs(20);
/// How long a token may still be valid after logging out: what user-service promises (`EFFECTIVE_WITHIN`).
const REVOKED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LOG_LINES: usize = 12;

/// The result as JSON.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Exit,
    steps: Vec<StepReport>,
    failure: Option<StepFailure>,
}

#[derive(Debug, Serialize)]
struct StepReport {
    name: &'static str,
    duration_ms: u128,
    detail: String,
}

/// The step that failed.
#[derive(Debug, Serialize)]
struct StepFailure {
    name: &'static str,
    cause: String,
    service: Part,
    log: String,
}

/// Runs the command.
pub(crate) fn run(project: &Project, format: Format) -> anyhow::Result<Exit> {
    let members = members::running(project)?;
    let client = Client::new(&members::published_by(&members, Part::Traefik)?);
    let mut teller = Teller {
        format,
        steps: Vec::new(),
    };
    let failure = tell(&mut teller, &client)
        .err()
        .map(|failed| failed.explain(&members));
    let report = Report {
        outcome: if failure.is_none() {
            Exit::Holds
        } else {
            Exit::Failed
        },
        steps: teller.steps,
        failure,
    };
    match (format, &report.failure) {
        (Format::Json, _) => print_json(&report)?,
        (Format::Text, None) => println!("The story holds: {} steps.", report.steps.len()),
        (Format::Text, Some(failure)) => {
            println!("✗ {}: {}", failure.name, failure.cause);
            println!("the log of {} ends with:\n{}", failure.service, failure.log);
        }
    }
    Ok(report.outcome)
}

/// A user who signed up.
struct TestUser {
    id: String,
    authorization: String,
}

#[derive(Deserialize)]
struct Account {
    id: String,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[derive(Deserialize)]
struct Order {
    order_id: String,
}

#[derive(Deserialize)]
struct OrderStatus {
    status: String,
}

#[derive(Deserialize)]
struct Stock {
    available: i64,
}

fn tell(teller: &mut Teller, client: &Client) -> Result<(), StepFailed> {
    let get = |path: &str, user: &TestUser| {
        client.get(path, &[("authorization", &user.authorization)], &[])
    };
    let place_path = format!("/orders/?product_id={PRODUCT}&quantity=1");
    let stock_path = format!("/inventory/{PRODUCT}");
    let name = format!(
        "smoke-{}",
        random::hex(6).map_err(|error| StepFailed::unexpected("start", error))?
    );

    teller.step("no token, no users", Part::UserService, || {
        let answer = client.get("/users/", &[], &[])?;
        expect(&answer, 401)?;
        Ok(((), "401".to_owned()))
    })?;
    let ada = teller.step("sign up", Part::UserService, || {
        let answer = sign_up(client, &name)?;
        expect(&answer, 201)?;
        let account: Account = answer.json()?;
        Ok((account, "201".to_owned()))
    })?;
    teller.step("the address is taken", Part::UserService, || {
        let answer = sign_up(client, &name)?;
        expect(&answer, 409)?;
        Ok(((), "409".to_owned()))
    })?;
    let ada = teller.step("log in", Part::UserService, || {
        Ok((
            TestUser {
                id: ada.id,
                authorization: log_in(client, &name)?,
            },
            "200".to_owned(),
        ))
    })?;
    teller.step("read the users", Part::UserService, || {
        let answer = get("/users/", &ada)?;
        expect(&answer, 200)?;
        let page: Value = answer.json()?;
        let count = page["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(count > 0, "no users in {}", answer.shown());
        Ok(((), format!("{count} on the first page")))
    })?;
    let before = teller.step("read the stock", Part::InventoryService, || {
        let stock = stock(&get(&stock_path, &ada)?)?;
        Ok((stock, format!("{stock} of product {PRODUCT}")))
    })?;
    teller.step("create a purchase", Part::UserService, || {
        let purchase = json!({ "product_id": PRODUCT, "quantity": 1 });
        let path = format!("/users/{}/purchases", ada.id);
        let answer = client.post(
            &path,
            &[("authorization", &ada.authorization)],
            Some(&purchase),
        )?;
        expect(&answer, 201)?;
        Ok(((), "priced by product-service".to_owned()))
    })?;
    let place = || {
        let headers = [
            ("authorization", ada.authorization.as_str()),
            ("idempotency-key", name.as_str()),
        ];
        let answer = client.post(&place_path, &headers, None)?;
        expect(&answer, 202)?;
        answer.json::<Order>()
    };
    let order = teller.step("order", Part::OrderService, || {
        let order = place()?;
        let detail = order.order_id.clone();
        Ok((order, detail))
    })?;
    teller.step("order again with the same key", Part::OrderService, || {
        let again = place()?;
        anyhow::ensure!(
            again.order_id == order.order_id,
            "a second order {} came of the same Idempotency-Key",
            again.order_id
        );
        Ok(((), "the same order".to_owned()))
    })?;
    let order_path = format!("/orders/{}", order.order_id);
    teller.step("read the order", Part::OrderService, || {
        Ok(((), status(&get(&order_path, &ada)?)?))
    })?;
    let becomes = |wanted: &str| -> anyhow::Result<((), String)> {
        let mut last = String::new();
        let reached = wait::until(SHOWS_WITHIN, LOOK_INTERVAL, || {
            last = status(&get(&order_path, &ada)?)?;
            Ok((last == wanted).then_some(()))
        })?;
        anyhow::ensure!(
            reached.is_some(),
            "still {last} after {}: do the events arrive? (`cargo xtask verify-dlq`)",
            spell(SHOWS_WITHIN)
        );
        Ok(((), wanted.to_owned()))
    };
    teller.step("the order's outcome", Part::OrderService, || {
        becomes("confirmed")
    })?;
    let dropped = teller.step("the stock drops", Part::InventoryService, || {
        let after = wait::until(SHOWS_WITHIN, LOOK_INTERVAL, || {
            let now = stock(&get(&stock_path, &ada)?)?;
            Ok((now < before).then_some(now))
        })?;
        match after {
            Some(after) if after == before - 1 => Ok((after, format!("{before} → {after}"))),
            Some(after) => Ok((after, format!("{before} → {after}: others are ordering as well"))),
            None => anyhow::bail!(
                "still {before} of product {PRODUCT} after {}: is the event consumed? (`cargo xtask verify-dlq`)",
                spell(SHOWS_WITHIN)
            ),
        }
    })?;
    let cancel = |user: &TestUser| {
        let path = format!("{order_path}/cancel");
        client.post(&path, &[("authorization", &user.authorization)], None)
    };
    let eve = teller.step("another user's order", Part::OrderService, || {
        let other = format!("{name}-other");
        let answer = sign_up(client, &other)?;
        expect(&answer, 201)?;
        let account: Account = answer.json()?;
        let eve = TestUser {
            id: account.id,
            authorization: log_in(client, &other)?,
        };
        expect(&get(&order_path, &eve)?, 404)?;
        Ok((eve, "404".to_owned()))
    })?;
    teller.step("another user cancels it", Part::OrderService, || {
        expect(&cancel(&eve)?, 404)?;
        Ok(((), "404".to_owned()))
    })?;
    teller.step("cancel it", Part::OrderService, || {
        let answer = cancel(&ada)?;
        expect(&answer, 202)?;
        Ok(((), format!("202, {}", status_of(&answer)?)))
    })?;
    teller.step("the order's end", Part::OrderService, || {
        becomes("cancelled")
    })?;
    teller.step("the stock is back", Part::InventoryService, || {
        let after = wait::until(SHOWS_WITHIN, LOOK_INTERVAL, || {
            let now = stock(&get(&stock_path, &ada)?)?;
            Ok((now > dropped).then_some(now))
        })?;
        match after {
            Some(after) => Ok(((), format!("{dropped} → {after}"))),
            None => anyhow::bail!(
                "still {dropped} of product {PRODUCT} after {}",
                spell(SHOWS_WITHIN)
            ),
        }
    })?;
    teller.step("log out", Part::UserService, || {
        let headers = [("authorization", ada.authorization.as_str())];
        expect(&client.post("/auth/logout", &headers, None)?, 204)?;
        let refused = wait::until(REVOKED_WITHIN, LOOK_INTERVAL, || {
            let answer = get("/users/me", &ada)?;
            Ok((answer.status == 401).then_some(()))
        })?;
        anyhow::ensure!(
            refused.is_some(),
            "the token is still good {} later",
            spell(REVOKED_WITHIN)
        );
        Ok(((), "204, and the token is refused".to_owned()))
    })
}

fn sign_up(client: &Client, name: &str) -> anyhow::Result<Answer> {
    let account = json!({ "name": name, "email": email(name), "password": password(name) });
    post_until_accepted(client, "/auth/signup", &account)
}

fn log_in(client: &Client, name: &str) -> anyhow::Result<String> {
    let credentials = json!({ "email": email(name), "password": password(name) });
    let answer = post_until_accepted(client, "/auth/login", &credentials)?;
    expect(&answer, 200)?;
    // Not through `Answer::json`: its error would show the body, and with it the token.
    let token: Token = serde_json::from_str(&answer.body)
        .map_err(|error| anyhow::anyhow!("the answer to the log-in holds no token: {error}"))?;
    Ok(format!("Bearer {}", token.access_token))
}

fn email(name: &str) -> String {
    format!("{name}@agora.example")
}

/// A password that follows from the name: the name is random, and the account worthless.
fn password(name: &str) -> String {
    format!("password of {name}")
}

/// The status in the answer to a GET of an order.
fn status(answer: &Answer) -> anyhow::Result<String> {
    expect(answer, 200)?;
    status_of(answer)
}

fn status_of(answer: &Answer) -> anyhow::Result<String> {
    Ok(answer.json::<OrderStatus>()?.status)
}

fn stock(answer: &Answer) -> anyhow::Result<i64> {
    expect(answer, 200)?;
    Ok(answer.json::<Stock>()?.available)
}

fn expect(answer: &Answer, status: u16) -> anyhow::Result<()> {
    anyhow::ensure!(
        answer.status == status,
        "expected {status}, got {}",
        answer.shown()
    );
    Ok(())
}

/// Runs the steps, records how long they took, and prints each when it ends.
struct Teller {
    format: Format,
    steps: Vec<StepReport>,
}

impl Teller {
    fn step<T>(
        &mut self,
        name: &'static str,
        service: Part,
        work: impl FnOnce() -> anyhow::Result<(T, String)>,
    ) -> Result<T, StepFailed> {
        let started = Instant::now();
        let (value, detail) = work().map_err(|error| StepFailed {
            name,
            service,
            error,
        })?;
        let duration = started.elapsed();
        let line = format!("✓ {name}: {detail} ({})", spell(duration));
        match self.format {
            Format::Text => println!("{line}"),
            Format::Json => eprintln!("{line}"),
        }
        self.steps.push(StepReport {
            name,
            duration_ms: duration.as_millis(),
            detail,
        });
        Ok(value)
    }
}

/// A failed step, and the service whose log may show why.
struct StepFailed {
    name: &'static str,
    service: Part,
    error: anyhow::Error,
}

impl StepFailed {
    fn unexpected(name: &'static str, error: anyhow::Error) -> Self {
        Self {
            name,
            service: Part::Traefik,
            error,
        }
    }

    fn explain(self, members: &[Member]) -> StepFailure {
        let member = members.iter().find(|member| member.service == self.service);
        let log = member.map_or_else(
            || "(the service has no container)".to_owned(),
            |member| members::last_lines(member, LOG_LINES),
        );
        StepFailure {
            name: self.name,
            cause: format!("{:#}", self.error),
            service: self.service,
            log,
        }
    }
}
