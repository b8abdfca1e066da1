//! Signs the users of a run up and logs them in before the measurement, so that bcrypt is only measured by the scenario
//! that is about it. Its requests are counted like all others.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{Answer, Gateway, Route, UNAVAILABLE, exchange};
use records::scenario::Scenario;

use crate::options::Options;
use crate::recorder::Recorder;

/// Concurrent sign-ups of a run: bcrypt keeps the service's cores busy, more would only queue there.
const CONCURRENCY: usize = 4;

/// How much longer than the run a token must be valid: users start late, and the last requests end late.
const TOKEN_RESERVE_S: u64 = 60;

/// What services ask clients to wait after a 503 (`Retry-After`).
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a request is sent again.
const BUSY_AT_MOST: Duration = Duration::from_secs(30);

/// A user that exists in the system. Not `Debug`: it contains secrets.
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) password: String,
    /// Empty in the login scenario, which requests a new one each time.
    pub(crate) token: String,
}

/// The body of `POST /auth/login`'s answer.
#[derive(Deserialize)]
pub(crate) struct LoggedIn {
    pub(crate) access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct SignedUp {
    id: String,
    email: String,
}

/// Creates this process's accounts of the run, in the order of the users' indices. Fails with the first that fails.
pub(crate) async fn prepare(
    options: &Options,
    run_id: &str,
    gateway: &Gateway,
    recorder: &Recorder,
) -> anyhow::Result<Vec<Account>> {
    let password = Uuid::new_v4().to_string();
    stream::iter(options.share().numbers(options.users))
        .map(|index| {
            let email = format!("load-{run_id}-{index}@agora.example");
            prepare_one(options, gateway, recorder, email, password.clone())
        })
        .buffered(options.share().of_limit(CONCURRENCY).max(1))
        .try_collect()
        .await
        .context("failed to prepare the users")
}

async fn prepare_one(
    options: &Options,
    gateway: &Gateway,
    recorder: &Recorder,
    email: String,
    password: String,
) -> anyhow::Result<Account> {
    let body = json!({ "name": "Load user", "email": email, "password": password });
    let sign_up = || {
        let request = gateway.request(Route::SIGN_UP, Route::SIGN_UP.template);
        request.json(&body)
    };
    let is_theirs = |user: &SignedUp| user.email == email;
    // After any other 503 the account may be there, and its address taken.
    let again = Answer::is_overloaded;
    let signed_up = patiently(Route::SIGN_UP, recorder, sign_up, is_theirs, again).await?;
    let mut account = Account {
        id: signed_up.id,
        email,
        password,
        token: String::new(),
    };
    if options.scenario == Scenario::Login {
        return Ok(account);
    }

    let log_in = || log_in(gateway, &account);
    let again = |answer: &Answer<LoggedIn>| answer.status == Some(UNAVAILABLE);
    let LoggedIn {
        access_token,
        expires_in,
    } = patiently(Route::LOG_IN, recorder, log_in, |_| true, again).await?;
    if expires_in < options.run_time.as_secs() + TOKEN_RESERVE_S {
        bail!(
            "a token lives {expires_in} s, too short for this run: \
             choose a shorter --run-time, or raise user-service's JWT_TTL_SECONDS"
        );
    }
    account.token = access_token;
    Ok(account)
}

/// The request that logs the account in.
pub(crate) fn log_in(gateway: &Gateway, account: &Account) -> reqwest::RequestBuilder {
    gateway
        .request(Route::LOG_IN, Route::LOG_IN.template)
        .json(&json!({ "email": account.email, "password": account.password }))
}

/// Sends a request again, as clients do, while the system is too busy for it: after the answers that allow it.
async fn patiently<T: DeserializeOwned>(
    route: Route,
    recorder: &Recorder,
    request: impl Fn() -> reqwest::RequestBuilder,
    matches: impl Fn(&T) -> bool,
    again: impl Fn(&Answer<T>) -> bool,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        let answer = exchange(route, request(), Instant::now(), &matches).await;
        if again(&answer) && begun.elapsed() < BUSY_AT_MOST {
            recorder.count_preparation(route, answer.status);
            tokio::time::sleep(RETRY_AFTER).await;
            continue;
        }
        return expect(route, answer, recorder);
    }
}

fn expect<T>(route: Route, answer: Answer<T>, recorder: &Recorder) -> anyhow::Result<T> {
    recorder.count_preparation(route, answer.status);
    let next_step = match answer.status {
        None => "start the system with `cargo xtask up`",
        Some(409) => "this --run-id was used before, choose another",
        Some(_) => "look at the system with `cargo xtask status`",
    };
    answer.outcome.map_err(|reason| {
        let (method, template) = (route.method.as_str(), route.template);
        anyhow::anyhow!("{method} {template}: {reason}; {next_step}")
    })
}
