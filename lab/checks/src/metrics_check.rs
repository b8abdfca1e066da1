//! Compares the load generator's counts of a run with the counters of the gateway and of the services.
//!
//! A difference is explained (by what the generator itself recorded), unsettled (something beyond the run changed the
//! counters), or a defect. Left out: reading the counters. Counts go in, findings come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base::outcome::Exit;
use records::load::RequestCount;
use serde::Serialize;

use crate::routes;

/// The route that Traefik asks on behalf of every protected request.
pub const VERIFY_ROUTE: &str = "/auth/verify";
/// The job label of the gateway.
pub const GATEWAY_JOB: &str = "traefik";

/// Statuses that the gateway answers by itself: the request is too large, or the service doesn't answer.
const GATEWAY_STATUSES: [u16; 5] = [413, 500, 502, 503, 504];

/// A service's counter of requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The label `job`: the service's name.
    pub job: String,
    /// The HTTP method.
    pub method: String,
    /// The label `http_route`: the route's template, e.g. `/orders/{id}`.
    pub route: String,
    /// The HTTP status.
    pub status: u16,
}

/// The gateway's counter of requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayKey {
    /// The label `router`: Traefik's router with its provider, e.g. `orders@file`.
    pub router: String,
    /// The HTTP method.
    pub method: String,
    /// The HTTP status.
    pub status: u16,
}

/// By how much the counters rose during a run.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The services' counters.
    pub services: BTreeMap<ServiceKey, u64>,
    /// The gateway's counters.
    pub gateway: BTreeMap<GatewayKey, u64>,
    /// Jobs whose counters were reset during the run.
    pub restarted: BTreeSet<String>,
}

/// The result of one comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", content = "why", rename_all = "snake_case")]
pub enum Finding {
    /// The counts are equal.
    Equal,
    /// They differ, and the run's own records explain it; with the explanation.
    Explained(String),
    /// They may differ because something beyond the run changed the counters: inconclusive.
    Unsettled(Unsettled),
    /// They differ without an explanation; with the numbers.
    Differs(String),
}

/// Why a comparison is inconclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Unsettled {
    /// The reason in words, with the numbers of its row.
    pub why: String,
    /// The cause, which a better run has to avoid.
    pub cause: Cause,
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl From<Unsettled> for String {
    fn from(unsettled: Unsettled) -> Self {
        unsettled.why
    }
}

/// Why counters don't show the run alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// This job's counters were reset. First in the order, as it makes other jobs' rows look like other causes.
    Restarted(String),
    /// Messages from before the run were still under way when it began.
    EarlierMessages,
    /// Messages were still under way when the wait after the run was over.
    NotAtRest,
    /// The inbox was off, so that redelivered messages were applied twice.
    InboxOff,
    /// Other clients used the system.
    OtherTraffic,
    /// There is no counter, or nothing to compare it with.
    NothingToCompare,
}

impl Cause {
    /// The cause, and what to do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Restarted(job) => format!(
                "{job} restarted meanwhile or is gone: make another run in which it doesn't; `cargo xtask status` \
                 shows what runs"
            ),
            Self::EarlierMessages => "messages of before were on their way when the run began: make another run once \
                                      `cargo xtask verify-dlq --settled` holds"
                .to_owned(),
            Self::NotAtRest => "messages were still on their way long after the run: make another run with less load, \
                                once `cargo xtask verify-dlq --settled` holds"
                .to_owned(),
            Self::InboxOff => "the inbox is off, so that what came twice was applied twice: make another run with \
                               the pattern on"
                .to_owned(),
            Self::OtherTraffic => {
                "others used the system meanwhile: make another run while nobody else does".to_owned()
            }
            Self::NothingToCompare => {
                "there is nothing to compare: `cargo xtask status` shows what runs".to_owned()
            }
        }
    }
}

impl Finding {
    /// An inconclusive comparison with this cause.
    pub fn unsettled(cause: Cause, why: impl Into<String>) -> Self {
        Self::Unsettled(Unsettled {
            why: why.into(),
            cause,
        })
    }

    /// The exit code that it stands for.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Equal | Self::Explained(_) => Exit::Holds,
            Self::Unsettled(_) => Exit::Inconclusive,
            Self::Differs(_) => Exit::Failed,
        }
    }
}

/// One line of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The job whose counter it is.
    pub counter: String,
    /// What is counted, in words.
    pub requests: String,
    /// The load generator's count.
    pub sent: u64,
    /// By how much the counter rose.
    pub counted: u64,
    /// The result.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Compares a run's requests with what was observed.
pub fn compare(requests: &[RequestCount], observed: &Observed) -> Vec<Row> {
    let run = Run::of(requests);
    let gateway = gateway_rows(&run, observed);
    let surplus: BTreeMap<&GatewayKey, u64> = gateway
        .iter()
        .map(|(key, row)| (key, row.counted.saturating_sub(row.sent)))
        .filter(|(_, surplus)| *surplus > 0)
        .collect();
    let mut rows = service_rows(&run, observed, &surplus);
    rows.push(verify_row(&run, observed, surplus.values().sum()));
    gateway
        .into_iter()
        .map(|(_, row)| row)
        .chain(rows)
        .collect()
}

/// A run's requests, keyed as the counters are.
#[derive(Default)]
struct Run {
    services: BTreeMap<ServiceKey, u64>,
    gateway: BTreeMap<GatewayKey, u64>,
    /// Requests without an answer, by router and method: these may or may not have been counted, with any status.
    unanswered: BTreeMap<(String, String), u64>,
}

impl Run {
    fn of(requests: &[RequestCount]) -> Self {
        let mut run = Self::default();
        for request in requests {
            let (router, job) = routes::of_path(&request.route)
                .map_or(("", ""), |route| (&*route.router, &*route.service));
            let (router, job, method) = (router.to_owned(), job.to_owned(), request.method.clone());
            let Some(status) = request.status else {
                *run.unanswered.entry((router, method)).or_default() += request.count;
                continue;
            };
            let route = request.route.clone();
            *run.gateway
                .entry(GatewayKey {
                    router,
                    method: method.clone(),
                    status,
                })
                .or_default() += request.count;
            *run.services
                .entry(ServiceKey {
                    job,
                    method,
                    route,
                    status,
                })
                .or_default() += request.count;
        }
        run
    }

    fn unanswered(&self, router: &str, method: &str) -> u64 {
        self.unanswered
            .get(&(router.to_owned(), method.to_owned()))
            .copied()
            .unwrap_or_default()
    }
}

fn gateway_rows(run: &Run, observed: &Observed) -> Vec<(GatewayKey, Row)> {
    let keys: BTreeSet<&GatewayKey> = run.gateway.keys().chain(observed.gateway.keys()).collect();
    let rows = keys.into_iter().map(|key| {
        let sent = run.gateway.get(key).copied().unwrap_or_default();
        let counted = observed.gateway.get(key).copied().unwrap_or_default();
        let finding = match counted.checked_sub(sent) {
            Some(0) => Finding::Equal,
            _ if observed.restarted.contains(GATEWAY_JOB) => restarted(GATEWAY_JOB),
            Some(surplus) if surplus <= run.unanswered(&key.router, &key.method) => {
                unanswered(surplus)
            }
            Some(surplus) => Finding::unsettled(
                Cause::OtherTraffic,
                format!("{surplus} more than the run sent: other traffic in its time"),
            ),
            None => Finding::Differs(format!(
                "{} answers that the gateway did not count",
                sent - counted
            )),
        };
        let requests = format!("{} {} {}", key.method, key.router, key.status);
        (
            key.clone(),
            Row {
                counter: GATEWAY_JOB.to_owned(),
                requests,
                sent,
                counted,
                finding,
            },
        )
    });
    rows.collect()
}

fn service_rows(
    run: &Run,
    observed: &Observed,
    gateway_surplus: &BTreeMap<&GatewayKey, u64>,
) -> Vec<Row> {
    let keys: BTreeSet<&ServiceKey> = run
        .services
        .keys()
        .chain(observed.services.keys())
        .filter(|key| key.route != VERIFY_ROUTE)
        .collect();
    let rows = keys.into_iter().map(|key| {
        let sent = run.services.get(key).copied().unwrap_or_default();
        let counted = observed.services.get(key).copied().unwrap_or_default();
        let route = routes::of_path(&key.route);
        let router = route.map_or("", |route| &*route.router);
        let at_gateway = GatewayKey {
            router: router.to_owned(),
            method: key.method.clone(),
            status: key.status,
        };
        let others = gateway_surplus
            .get(&at_gateway)
            .copied()
            .unwrap_or_default();
        let finding = match counted.checked_sub(sent) {
            Some(0) => Finding::Equal,
            _ if observed.restarted.contains(&key.job) => restarted(&key.job),
            Some(surplus) if surplus <= run.unanswered(router, &key.method) => unanswered(surplus),
            Some(surplus) if surplus <= others => Finding::unsettled(
                Cause::OtherTraffic,
                format!("{surplus} more than the run sent; the gateway saw them too"),
            ),
            Some(surplus) => {
                Finding::Differs(format!("{surplus} more than came through the gateway"))
            }
            None if key.status == 401 && route.is_some_and(|route| route.is_protected) => {
                Finding::Explained("refused by the gateway after asking /auth/verify".to_owned())
            }
            None if GATEWAY_STATUSES.contains(&key.status) => {
                Finding::Explained("answered by the gateway itself".to_owned())
            }
            None => Finding::Differs(format!(
                "{} answers that the service did not count",
                sent - counted
            )),
        };
        let requests = format!("{} {} {}", key.method, key.route, key.status);
        Row {
            counter: key.job.clone(),
            requests,
            sent,
            counted,
            finding,
        }
    });
    rows.collect()
}

/// Each protected request asks `/auth/verify` exactly once, let through or refused.
fn verify_row(run: &Run, observed: &Observed, gateway_surplus: u64) -> Row {
    let protected =
        |router: &str| routes::of_router(router).is_some_and(|route| route.is_protected);
    let sent: u64 = run
        .gateway
        .iter()
        .filter(|(key, _)| protected(&key.router))
        .map(|(_, count)| count)
        .sum();
    let own_answers: u64 = run
        .gateway
        .iter()
        .filter(|(key, _)| protected(&key.router) && GATEWAY_STATUSES.contains(&key.status))
        .map(|(_, count)| count)
        .sum();
    let no_answer: u64 = run
        .unanswered
        .iter()
        .filter(|((router, _), _)| protected(router))
        .map(|(_, count)| count)
        .sum();
    let asked = observed
        .services
        .iter()
        .filter(|(key, _)| key.route == VERIFY_ROUTE);
    let (job, counted) = ("user-service", asked.map(|(_, count)| count).sum::<u64>());
    let finding = match counted.checked_sub(sent) {
        Some(0) => Finding::Equal,
        _ if observed.restarted.contains(job) => restarted(job),
        Some(surplus) if surplus <= no_answer => unanswered(surplus),
        Some(surplus) if surplus <= gateway_surplus + no_answer => Finding::unsettled(
            Cause::OtherTraffic,
            format!("{surplus} more than the run sent; the gateway saw them too"),
        ),
        Some(surplus) => Finding::Differs(format!(
            "asked {surplus} times more than protected requests came"
        )),
        None if sent - counted <= own_answers => {
            Finding::Explained("the gateway answered the others before asking".to_owned())
        }
        None => Finding::Differs(format!(
            "{} protected requests were answered without asking",
            sent - counted
        )),
    };
    Row {
        counter: job.to_owned(),
        requests: format!("protected requests at {VERIFY_ROUTE}"),
        sent,
        counted,
        finding,
    }
}

fn restarted(job: &str) -> Finding {
    Finding::unsettled(
        Cause::Restarted(job.to_owned()),
        format!("{job} restarted during the run or is gone, and its counters with it"),
    )
}

fn unanswered(count: u64) -> Finding {
    Finding::Explained(format!(
        "{count} got no answer on the load generator's side"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(method: &str, route: &str, status: impl Into<Option<u16>>, count: u64) -> RequestCount {
        RequestCount {
            method: method.to_owned(),
            route: route.to_owned(),
            status: status.into(),
            count,
        }
    }

    /// Two services and the gateway after a run: 2 sign-ups and 10 orders.
    fn run() -> Vec<RequestCount> {
        vec![
            sent("POST", "/auth/signup", 201, 2),
            sent("POST", "/orders/", 202, 10),
        ]
    }

    fn observed() -> Observed {
        let mut observed = Observed::default();
        service(
            &mut observed,
            "user-service",
            "POST",
            "/auth/signup",
            201,
            2,
        );
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 200, 10);
        service(&mut observed, "order-service", "POST", "/orders/", 202, 10);
        gateway(&mut observed, "signup@file", "POST", 201, 2);
        gateway(&mut observed, "orders@file", "POST", 202, 10);
        observed
    }

    fn service(
        observed: &mut Observed,
        job: &str,
        method: &str,
        route: &str,
        status: u16,
        count: u64,
    ) {
        let key = ServiceKey {
            job: job.into(),
            method: method.into(),
            route: route.into(),
            status,
        };
        observed.services.insert(key, count);
    }

    fn gateway(observed: &mut Observed, router: &str, method: &str, status: u16, count: u64) {
        observed.gateway.insert(
            GatewayKey {
                router: router.into(),
                method: method.into(),
                status,
            },
            count,
        );
    }

    fn verdict(requests: &[RequestCount], observed: &Observed) -> Exit {
        Exit::worst(
            compare(requests, observed)
                .iter()
                .map(|row| row.finding.exit()),
        )
    }

    #[test]
    fn equal_counts_hold() {
        let rows = compare(&run(), &observed());
        assert_eq!(rows.len(), 5);
        assert!(
            rows.iter().all(|row| row.finding == Finding::Equal),
            "{rows:?}"
        );
    }

    #[test]
    fn an_answer_that_the_service_never_counted_fails() {
        let mut observed = observed();
        service(&mut observed, "order-service", "POST", "/orders/", 202, 9);
        assert_eq!(verdict(&run(), &observed), Exit::Failed);
    }

    #[test]
    fn an_answer_that_the_gateway_never_counted_fails() {
        let mut observed = observed();
        gateway(&mut observed, "orders@file", "POST", 202, 9);
        assert_eq!(verdict(&run(), &observed), Exit::Failed);
    }

    #[test]
    fn a_route_under_another_name_fails() {
        let mut observed = observed();
        observed.services.retain(|key, _| key.route != "/orders/");
        service(&mut observed, "order-service", "POST", "/orders", 202, 10);
        assert_eq!(verdict(&run(), &observed), Exit::Failed);
    }

    #[test]
    fn requests_that_went_around_the_gateway_fail() {
        let mut observed = observed();
        service(&mut observed, "order-service", "POST", "/orders/", 202, 12);
        assert_eq!(verdict(&run(), &observed), Exit::Failed);
    }

    #[test]
    fn a_protected_request_that_was_not_verified_fails() {
        let mut observed = observed();
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 200, 9);
        assert_eq!(verdict(&run(), &observed), Exit::Failed);
    }

    #[test]
    fn other_traffic_through_the_gateway_is_inconclusive() {
        let mut observed = observed();
        gateway(&mut observed, "orders@file", "POST", 202, 13);
        service(&mut observed, "order-service", "POST", "/orders/", 202, 13);
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 200, 13);
        assert_eq!(verdict(&run(), &observed), Exit::Inconclusive);
    }

    #[test]
    fn a_restart_is_inconclusive() {
        let mut observed = observed();
        service(&mut observed, "order-service", "POST", "/orders/", 202, 4);
        observed.restarted.insert("order-service".to_owned());
        assert_eq!(verdict(&run(), &observed), Exit::Inconclusive);
    }

    #[test]
    fn a_request_without_an_answer_explains_one_more() {
        let mut requests = run();
        requests.push(sent("POST", "/orders/", None, 1));
        let mut observed = observed();
        gateway(&mut observed, "orders@file", "POST", 202, 11);
        service(&mut observed, "order-service", "POST", "/orders/", 202, 11);
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 200, 11);
        assert_eq!(verdict(&requests, &observed), Exit::Holds);
        gateway(&mut observed, "orders@file", "POST", 202, 12);
        assert_eq!(verdict(&requests, &observed), Exit::Inconclusive);
    }

    #[test]
    fn a_refused_token_never_reaches_the_service() {
        let mut requests = run();
        requests.push(sent("GET", "/users/", 401, 3));
        let mut observed = observed();
        gateway(&mut observed, "users@file", "GET", 401, 3);
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 401, 3);
        assert_eq!(verdict(&requests, &observed), Exit::Holds);
    }

    #[test]
    fn an_answer_of_the_gateway_itself_is_explained() {
        let mut requests = run();
        requests.push(sent("GET", "/inventory/{product_id}", 502, 1));
        let mut observed = observed();
        gateway(&mut observed, "inventory@file", "GET", 502, 1);
        service(&mut observed, "user-service", "GET", VERIFY_ROUTE, 200, 11);
        assert_eq!(verdict(&requests, &observed), Exit::Holds);
    }
}
