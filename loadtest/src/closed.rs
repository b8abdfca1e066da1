//! The closed model: each user waits for its answer before it continues, driven by goose.
//!
//! goose starts and stops the users, limits their rate and renders the report. At the end of the run time, and on Ctrl-C,
//! it lets each user finish its current action: no request is cut off between the system's count and this one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use goose::client::GooseClientBuilder;
use goose::config::GooseConfiguration;
use goose::prelude::*;
use records::load::REPORT_FILE;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::actions::{Pace, Visitor};
use crate::gateway::{Answer, Route};
use crate::mix::Mix;
use crate::options::Options;

/// The pause after a request without an answer. A refused connection is noticed within microseconds; without a pause a
/// stopped gateway would get a hundred thousand requests per second.
const PAUSE_WITHOUT_ANSWER: Duration = Duration::from_millis(100);

/// How often the stop signal to goose is repeated.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps one user per visitor busy for the run time. Returns when the last one has its answer. A Ctrl-C that goose received
/// cancels `stop`.
pub(crate) async fn run(
    options: &Options,
    seed: u64,
    visitors: Vec<Visitor>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // By goose's index of its users. Each is only locked by its own user.
    let share = options.share();
    let users: Arc<[_]> = share
        .numbers(options.users)
        .zip(visitors)
        .map(|(index, visitor)| Mutex::new((visitor, Mix::new(options.scenario, seed, index))))
        .collect();
    let count = users.len();
    let step = Transaction::new(Arc::new(move |user| {
        let users = Arc::clone(&users);
        Box::pin(async move {
            let (visitor, mix) = &mut *users[user.weighted_users_index].lock().await;
            if visitor.act(mix.next_action(), user).await?.is_none() {
                tokio::time::sleep(PAUSE_WITHOUT_ANSWER).await;
            }
            Ok(())
        })
    }));
    let scenario = options.scenario.to_string();
    let report = options.out_dir.join(REPORT_FILE);
    let report = report.to_str().context("--out-dir must be UTF-8")?;
    let run_time_s = usize::try_from(options.run_time.as_secs())?;

    // A default configuration, not `initialize`, which would parse this program's command line.
    let attack = GooseAttack::initialize_with_config(GooseConfiguration::default())?
        .register_scenario(Scenario::new(&scenario).register_transaction(step.set_name(&scenario)))
        // This program's client sends the requests; otherwise goose would create one for each user.
        .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())?
        .set_default(GooseDefault::Host, options.base_url.as_str())?
        .set_default(GooseDefault::Users, count)?
        // All users start within a tenth of a second; goose's default is one per second.
        .set_default(
            GooseDefault::IncreaseRate,
            (count * 10).to_string().as_str(),
        )?
        .set_default(GooseDefault::RunTime, run_time_s)?
        .set_default(
            GooseDefault::ThrottleRequests,
            options.rate_limit.map_or(0, |limit| share.of_limit(limit)),
        )?
        .set_default(GooseDefault::ReportFile, report)?
        // The report covers the start as well, like the run's own measurements.
        .set_default(GooseDefault::NoResetMetrics, true)?
        .set_default(GooseDefault::NoPrintMetrics, true)?
        .set_default(GooseDefault::Quiet, 1)?
        .set_default(GooseDefault::NoTelnet, true)?
        // goose's correction would count requests that were never sent.
        .set_default(
            GooseDefault::CoordinatedOmissionMitigation,
            GooseCoordinatedOmissionMitigation::Disabled,
        )?
        .execute();
    tokio::select! {
        result = attack => result.context("goose failed")?,
        never = stop_goose(stop) => match never {},
    };
    if goose::is_killswitch_triggered() {
        stop.cancel();
    }
    Ok(())
}

/// Forwards `stop` to goose, repeatedly: goose ignores the signal until its users have started.
async fn stop_goose(stop: &CancellationToken) -> Infallible {
    stop.cancelled().await;
    loop {
        goose::trigger_killswitch("the run is to stop");
        tokio::time::sleep(STOP_INTERVAL).await;
    }
}

impl Pace for GooseUser {
    /// goose accepts no more requests: the run is over.
    type Over = Box<TransactionError>;

    /// Waits for the rate limit.
    async fn ready(&mut self) -> Result<Instant, Self::Over> {
        if let Some(throttle) = self.throttle.clone() {
            // Closed once the run is over: unsent requests aren't counted.
            throttle
                .send_async(true)
                .await
                .map_err(TransactionError::from)?;
        }
        Ok(Instant::now())
    }

    /// Adds it to goose's report.
    async fn answered<T: Sync>(
        &mut self,
        route: Route,
        answer: &Answer<T>,
    ) -> Result<(), Self::Over> {
        let failure = answer.outcome.as_ref().err().map(String::as_str);
        self.record_custom_request_duration(
            route.method.as_str(),
            route.template,
            answer.latency,
            failure.is_none(),
            answer.status,
            failure,
        )
        .await?;
        Ok(())
    }
}
