//! Checks that the stored traces of accepted orders have every hop of an order.
//!
//! An order is one trace, from the gateway to the stock and back; where consumers begin a trace with a link to the
//! message's span, the linked traces are taken as one. A hop may be there more than once, as messages are redelivered
//! and retried; none may be missing. Left out: looking traces up. Orders and spans go in, findings come out.

use std::collections::{BTreeMap, BTreeSet};

use base::{
    outcome::Exit,
    trace::{Kind, Span, Trace},
};
use chrono::{DateTime, Utc};
use records::load::{CancellationEntry, LedgerEntry};
use serde::Serialize;

/// An accepted order, and where its trace should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The order's id.
    pub id: String,
    /// The trace that the answer named; 32 hexadecimal digits.
    pub trace_id: Option<String>,
    /// Whether the trace was sampled, by the answer's `traceresponse`.
    pub sampled: bool,
    /// When the answer arrived, by the client's clock.
    pub at: DateTime<Utc>,
    /// Its owner cancelled it: the cancellation may reach inventory first, which then publishes nothing for the order.
    pub cancelled: bool,
}

/// The accepted orders of a ledger, each once.
pub fn orders(ledger: &[LedgerEntry], cancellations: &[CancellationEntry]) -> Vec<Order> {
    let cancelled: BTreeSet<&str> = cancellations
        .iter()
        .filter(|entry| entry.status == Some(202))
        .map(|entry| entry.order_id.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    let accepted = ledger.iter().filter_map(|entry| {
        let id = entry.order_id.as_deref()?;
        // An answer that was repeated (`Idempotency-Key`) has a trace in which nothing is ordered.
        seen.insert(id).then(|| Order {
            id: id.to_owned(),
            trace_id: entry.trace_id.clone(),
            sampled: entry.trace_sampled.unwrap_or(true),
            at: entry.at,
            cancelled: cancelled.contains(id),
        })
    });
    accepted.collect()
}

/// At most `most` of the orders, evenly spread.
pub fn chosen(orders: &[Order], most: usize) -> Vec<&Order> {
    let count = orders.len().min(most);
    (0..count)
        .map(|number| &orders[number * orders.len() / count])
        .collect()
}

/// A step that an order's trace must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// The gateway receives the request.
    Gateway,
    /// user-service verifies the token for the gateway.
    Verify,
    /// order-service accepts the order.
    Accept,
    /// order-service stores the order.
    StoreOrder,
    /// order-service publishes `OrderPlaced`.
    SendOrder,
    /// inventory-service processes it.
    ProcessOrder,
    /// inventory-service stores the stock's movement.
    StoreStock,
    /// inventory-service publishes the outcome.
    SendOutcome,
    /// order-service processes the outcome.
    ProcessOutcome,
}

/// How a hop's spans are known.
struct Shape {
    hop: Hop,
    service: &'static str,
    kind: Kind,
    name: Name,
    /// The hop that causes it; `None` for the root.
    cause: Option<Hop>,
}

enum Name {
    Any,
    Is(&'static str),
}

const SHAPE: [Shape; 9] = {
    const fn shape(
        hop: Hop,
        service: &'static str,
        kind: Kind,
        name: Name,
        cause: Option<Hop>,
    ) -> Shape {
        Shape {
            hop,
            service,
            kind,
            name,
            cause,
        }
    }
    use Hop::*;
    use Kind::{Client, Consumer, Producer, Server};
    use Name::{Any, Is};
    const ORDERS: &str = "order-service";
    const STOCK: &str = "inventory-service";
    [
        shape(Gateway, "traefik", Server, Any, None),
        shape(
            Verify,
            "user-service",
            Server,
            Is("GET /auth/verify"),
            Some(Gateway),
        ),
        shape(Accept, ORDERS, Server, Is("POST /orders/"), Some(Gateway)),
        shape(
            StoreOrder,
            ORDERS,
            Client,
            Is("INSERT orders"),
            Some(Accept),
        ),
        shape(
            SendOrder,
            ORDERS,
            Producer,
            Is("send order_events"),
            Some(Accept),
        ),
        shape(
            ProcessOrder,
            STOCK,
            Consumer,
            Is("process order_events"),
            Some(SendOrder),
        ),
        shape(
            StoreStock,
            STOCK,
            Client,
            Is("INSERT reservations"),
            Some(ProcessOrder),
        ),
        shape(
            SendOutcome,
            STOCK,
            Producer,
            Is("send inventory_events"),
            Some(ProcessOrder),
        ),
        shape(
            ProcessOutcome,
            ORDERS,
            Consumer,
            Is("process inventory_events"),
            Some(SendOutcome),
        ),
    ]
};

impl Hop {
    /// The hop as `service: span name`, for people.
    pub fn describe(self) -> String {
        let shape = SHAPE.iter().find(|shape| shape.hop == self);
        let shape = shape.expect("every hop has a shape");
        match shape.name {
            Name::Any => format!("{}: the request", shape.service),
            Name::Is(name) => format!("{}: {name}", shape.service),
        }
    }
}

impl Shape {
    fn fits(&self, span: &Span) -> bool {
        span.service == self.service
            && span.kind == self.kind
            && match self.name {
                Name::Any => true,
                Name::Is(name) => span.name == name,
            }
    }
}

/// A message that is published by one service and consumed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent<'a> {
    /// The attribute `messaging.message.id`.
    pub message_id: &'a str,
    /// The service that consumes it.
    pub consumer: &'static str,
    /// When it was sent, in microseconds since 1970.
    pub start_us: u64,
}

/// The messages of these traces whose processing isn't in them.
pub fn unprocessed(traces: &[Trace]) -> Vec<Sent<'_>> {
    let spans = || traces.iter().flat_map(|trace| &trace.spans);
    let processed: BTreeSet<&str> = spans()
        .filter(|span| span.kind == Kind::Consumer)
        .map(|span| span.tag("messaging.message.id"))
        .collect();
    let mut sent: Vec<Sent<'_>> = spans()
        .filter(|span| span.kind == Kind::Producer)
        .filter_map(|span| {
            let consumer = match span.name.as_str() {
                "send order_events" => "inventory-service",
                "send inventory_events" => "order-service",
                _ => return None,
            };
            let message_id = span.tag("messaging.message.id");
            let is_alone = !message_id.is_empty() && !processed.contains(message_id);
            is_alone.then_some(Sent {
                message_id,
                consumer,
                start_us: span.start_us,
            })
        })
        .collect();
    // An event that was published twice is one message to look for.
    sent.dedup_by_key(|sent| sent.message_id);
    sent
}

/// Whether `other` names a span of one of these traces.
pub fn is_linked_to(other: &Trace, traces: &[Trace]) -> bool {
    let links = other.spans.iter().flat_map(|span| &span.links);
    links.into_iter().any(|link| {
        traces
            .iter()
            .any(|trace| trace.id == link.trace_id && trace.span(&link.span_id).is_some())
    })
}

/// A defect of a trace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "defect", rename_all = "snake_case")]
pub enum Defect {
    /// The order's answer named no trace, though other answers of the run did.
    Unnamed,
    /// The store has nothing under its id.
    NotStored,
    /// A hop has no span.
    Missing {
        /// The hop.
        hop: Hop,
    },
    /// A hop has a span, but not below the hop that causes it.
    Detached {
        /// The hop.
        hop: Hop,
    },
    /// The span's parent is not stored.
    Orphan {
        /// The span's service.
        service: String,
        /// The span's name.
        name: String,
    },
}

impl Defect {
    /// The defect in a phrase, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Unnamed => "the answer named no trace".to_owned(),
            Self::NotStored => "nothing is stored of the trace".to_owned(),
            Self::Missing { hop } => format!("missing: {}", hop.describe()),
            Self::Detached { hop } => {
                format!("not below what caused it: {}", hop.describe())
            }
            Self::Orphan { service, name } => format!("without its parent: {service}: {name}"),
        }
    }
}

/// The result for one order's trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// The trace's defects; empty where it is whole.
    pub defects: BTreeSet<Defect>,
    /// How many of its spans are stored.
    pub spans: usize,
    /// How many of them are the gateway's.
    pub gateway_spans: usize,
    /// How many hops over messages are there more than once.
    pub repeated: usize,
    /// How many messages were sent to a retry tier.
    pub retried: usize,
    /// How many messages were dead-lettered.
    pub dead: usize,
    /// How many other traces belong to it by span links.
    pub linked: usize,
    /// The cancellation reached inventory first, which published nothing for the order: its trace can't be whole.
    pub overtaken: bool,
    /// Nothing is stored, because the store has dropped traces of that time.
    pub forgotten: bool,
}

impl Examined {
    /// Whether the trace could have every hop, and the store could show it. What is wrong with it besides its missing
    /// answer is wrong with an overtaken order, too.
    fn is_judged(&self) -> bool {
        let excused = self.overtaken && self.defects.is_empty();
        !excused && !self.forgotten
    }
}

/// Examines an order by its own trace and those that are linked to it, its own first.
pub fn examine(order: &Order, traces: &[Trace]) -> Examined {
    if traces.iter().all(|trace| trace.spans.is_empty()) {
        return Examined {
            defects: [Defect::NotStored].into(),
            ..Examined::default()
        };
    }
    let graph = Graph::of(traces);
    let mut examined = Examined {
        spans: graph.spans.len(),
        linked: traces.len() - 1,
        ..Examined::default()
    };
    let mut found: BTreeMap<Hop, Vec<usize>> = BTreeMap::new();
    for shape in &SHAPE {
        let fitting: Vec<usize> = (0..graph.spans.len())
            .filter(|number| shape.fits(graph.spans[*number].1))
            .collect();
        let caused: Vec<usize> = match shape.cause {
            None => {
                let is_root = |number: &usize| graph.spans[*number].1.parent.is_none();
                fitting.iter().copied().filter(is_root).collect()
            }
            Some(cause) => {
                let causes = &found[&cause];
                let is_below = |number: &usize| {
                    let below = graph.cause(*number);
                    below.is_some_and(|below| causes.contains(&below))
                };
                let below: Vec<usize> = fitting.iter().copied().filter(is_below).collect();
                // What is missing above was said already: that this hangs in the air is the same defect.
                if causes.is_empty() {
                    fitting.clone()
                } else {
                    below
                }
            }
        };
        if caused.is_empty() {
            let hop = shape.hop;
            examined.defects.insert(if fitting.is_empty() {
                Defect::Missing { hop }
            } else {
                Defect::Detached { hop }
            });
        }
        if matches!(shape.kind, Kind::Producer | Kind::Consumer) {
            examined.repeated += caused.len().saturating_sub(1);
        }
        found.insert(shape.hop, caused);
    }
    for (number, (_, span)) in graph.spans.iter().enumerate() {
        examined.gateway_spans += usize::from(span.service == "traefik");
        examined.retried += usize::from(is_put_back(span, "retry "));
        examined.dead += usize::from(is_put_back(span, "dead_letter "));
        if span.parent.is_some() && graph.parent(number).is_none() {
            examined.defects.insert(Defect::Orphan {
                service: span.service.clone(),
                name: span.name.clone(),
            });
        }
    }
    let unsaid = [Hop::SendOutcome, Hop::ProcessOutcome].map(|hop| Defect::Missing { hop });
    let heard = !found[&Hop::ProcessOrder].is_empty();
    if order.cancelled
        && heard
        && unsaid
            .iter()
            .all(|defect| examined.defects.contains(defect))
    {
        examined.overtaken = true;
        for defect in &unsaid {
            examined.defects.remove(defect);
        }
    }
    examined
}

fn is_put_back(span: &Span, operation: &str) -> bool {
    span.kind == Kind::Producer && span.name.starts_with(operation)
}

/// The spans of some traces, each once, with their causes.
struct Graph<'a> {
    spans: Vec<(&'a str, &'a Span)>,
    by_id: BTreeMap<(&'a str, &'a str), usize>,
}

impl<'a> Graph<'a> {
    fn of(traces: &'a [Trace]) -> Self {
        let mut graph = Self {
            spans: Vec::new(),
            by_id: BTreeMap::new(),
        };
        for trace in traces {
            for span in &trace.spans {
                // A span that was sent twice is one.
                let number = graph.spans.len();
                graph.by_id.entry((&trace.id, &span.id)).or_insert_with(|| {
                    graph.spans.push((trace.id.as_str(), span));
                    number
                });
            }
        }
        graph
    }

    /// The span's parent, or what it links to where it has none.
    fn parent(&self, number: usize) -> Option<usize> {
        let (trace, span) = self.spans[number];
        match &span.parent {
            Some(parent) => self.by_id.get(&(trace, parent.as_str())).copied(),
            None => span.links.iter().find_map(|link| {
                let id = (link.trace_id.as_str(), link.span_id.as_str());
                self.by_id.get(&id).copied()
            }),
        }
    }

    /// The span of the request or message that caused a span: the nearest one above it. The cause of a message that was
    /// sent to a retry tier is that of its first delivery.
    fn cause(&self, number: usize) -> Option<usize> {
        let mut at = number;
        // No way up is longer than there are spans, unless it goes round in a circle.
        for _ in 0..self.spans.len() {
            let above = self.request_above(at)?;
            let (_, span) = self.spans[above];
            let put_back = is_put_back(span, "retry ") || is_put_back(span, "dead_letter ");
            if !put_back {
                return Some(above);
            }
            // The consumer that failed; above it is the delivery before.
            at = self.request_above(above)?;
        }
        None
    }

    fn request_above(&self, number: usize) -> Option<usize> {
        let mut at = number;
        for _ in 0..self.spans.len() {
            at = self.parent(at)?;
            if matches!(
                self.spans[at].1.kind,
                Kind::Server | Kind::Producer | Kind::Consumer
            ) {
                return Some(at);
            }
        }
        None
    }
}

/// The totals over the traces of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tally {
    /// How many traces were judged.
    pub judged: usize,
    /// How many of them have no defect.
    pub whole: usize,
    /// `whole` of `judged` in percent, cut after two decimals; `None` where nothing was judged.
    pub whole_percent: Option<f64>,
    /// How many orders have a trace that was not sampled.
    pub not_sampled: usize,
    /// How many orders have no trace id, in a run in which no answer had one.
    pub without_trace_id: usize,
    /// The defects, the most frequent first.
    pub missing: Vec<Lack>,
    /// The sum of [`Examined::repeated`].
    pub repeated: usize,
    /// The sum of [`Examined::retried`].
    pub retried: usize,
    /// The sum of [`Examined::dead`].
    pub dead: usize,
    /// The sum of [`Examined::linked`].
    pub linked: usize,
    /// How many orders were overtaken by their cancellation and not judged: nothing follows from such an order, so its
    /// trace can't be whole. Those with another defect are judged all the same.
    pub overtaken: usize,
    /// How many orders' traces the store has dropped.
    pub forgotten: usize,
    /// The sum of [`Examined::gateway_spans`].
    pub gateway_spans: usize,
}

/// A kind of defect, with the traces that have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lack {
    /// The defect.
    #[serde(flatten)]
    pub defect: Defect,
    /// The defect in a phrase, for people.
    pub what: String,
    /// How many traces have it.
    pub traces: usize,
    /// Some of these orders.
    pub examples: Vec<Example>,
}

/// An order whose trace has a defect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The order's id.
    pub order_id: String,
    /// The id of its trace; `None` where the answer named none.
    pub trace_id: Option<String>,
}

/// Sums up the results, with at most `examples` orders for each defect. An order that wasn't looked up (not sampled, or
/// without a trace id) has `None`.
pub fn tally(results: &[(&Order, Option<Examined>)], examples: usize) -> Tally {
    let any_named = results.iter().any(|(order, _)| order.trace_id.is_some());
    let mut tally = Tally {
        judged: 0,
        whole: 0,
        whole_percent: None,
        not_sampled: 0,
        without_trace_id: 0,
        missing: Vec::new(),
        repeated: 0,
        retried: 0,
        dead: 0,
        linked: 0,
        overtaken: 0,
        forgotten: 0,
        gateway_spans: 0,
    };
    let mut lacks: BTreeMap<Defect, Lack> = BTreeMap::new();
    for (order, examined) in results {
        let examined = match examined {
            Some(examined) => examined.clone(),
            None if order.trace_id.is_some() => {
                tally.not_sampled += 1;
                continue;
            }
            None if !any_named => {
                tally.without_trace_id += 1;
                continue;
            }
            None => Examined {
                defects: [Defect::Unnamed].into(),
                ..Examined::default()
            },
        };
        tally.repeated += examined.repeated;
        tally.retried += examined.retried;
        tally.dead += examined.dead;
        tally.linked += examined.linked;
        tally.overtaken += usize::from(examined.overtaken);
        tally.forgotten += usize::from(examined.forgotten);
        tally.gateway_spans += examined.gateway_spans;
        if !examined.is_judged() {
            continue;
        }
        tally.judged += 1;
        tally.whole += usize::from(examined.defects.is_empty());
        for defect in examined.defects {
            let lack = lacks.entry(defect).or_insert_with_key(|defect| Lack {
                defect: defect.clone(),
                what: defect.describe(),
                traces: 0,
                examples: Vec::new(),
            });
            lack.traces += 1;
            if lack.examples.len() < examples {
                lack.examples.push(Example {
                    order_id: order.id.clone(),
                    trace_id: order.trace_id.clone(),
                });
            }
        }
    }
    if tally.judged > 0 {
        let percent = tally.whole as f64 * 100.0 / tally.judged as f64;
        // Cut, not rounded: one trace of 100,000 that isn't whole must not read as 100.00.
        tally.whole_percent = Some((percent * 100.0).floor() / 100.0);
    }
    tally.missing = lacks.into_values().collect();
    // Stable: kinds of the same number stay in the order of the hops.
    tally
        .missing
        .sort_by_key(|lack| std::cmp::Reverse(lack.traces));
    tally
}

/// Holds when at least `min_percent` of the judged traces are whole; inconclusive when none was judged.
pub fn judge(tally: &Tally, min_percent: f64) -> Exit {
    match tally.judged {
        0 => Exit::Inconclusive,
        judged if tally.whole as f64 * 100.0 >= min_percent * judged as f64 => Exit::Holds,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::trace::Link;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn order(id: &str) -> Order {
        Order {
            id: id.to_owned(),
            trace_id: Some(TRACE.to_owned()),
            sampled: true,
            at: DateTime::UNIX_EPOCH,
            cancelled: false,
        }
    }

    fn span(id: &str, parent: &str, service: &str, kind: Kind, name: &str) -> Span {
        Span {
            service: service.to_owned(),
            name: name.to_owned(),
            id: id.to_owned(),
            parent: (!parent.is_empty()).then(|| parent.to_owned()),
            links: Vec::new(),
            kind,
            start_us: 0,
            tags: BTreeMap::new(),
        }
    }

    fn with(mut span: Span, name: &str, value: &str) -> Span {
        span.tags.insert(name.to_owned(), value.to_owned());
        span
    }

    fn statement(id: &str, parent: &str, service: &str, name: &str) -> Span {
        let span = span(id, parent, service, Kind::Client, name);
        with(span, "db.system.name", "postgresql")
    }

    /// A producer's or a consumer's span.
    fn message(
        id: &str,
        parent: &str,
        service: &str,
        kind: Kind,
        name: &str,
        message: &str,
    ) -> Span {
        with(
            span(id, parent, service, kind, name),
            "messaging.message.id",
            message,
        )
    }

    /// As the system leaves it.
    fn spans() -> Vec<Span> {
        use Kind::{Client, Consumer, Internal, Producer, Server};
        let (orders, stock) = ("order-service", "inventory-service");
        vec![
            span("root", "", "traefik", Server, "web"),
            span("auth", "root", "traefik", Client, "AuthRequest"),
            span("verify", "auth", "user-service", Server, "GET /auth/verify"),
            span("proxy", "root", "traefik", Client, "ReverseProxy"),
            span("post", "proxy", orders, Server, "POST /orders/"),
            span("work", "post", orders, Internal, "transaction"),
            statement("insert", "work", orders, "INSERT orders"),
            message("send", "post", orders, Producer, "send order_events", "m1"),
            message(
                "process",
                "send",
                stock,
                Consumer,
                "process order_events",
                "m1",
            ),
            statement("reserve", "process", stock, "INSERT reservations"),
            message(
                "answer",
                "process",
                stock,
                Producer,
                "send inventory_events",
                "m2",
            ),
            message(
                "end",
                "answer",
                orders,
                Consumer,
                "process inventory_events",
                "m2",
            ),
            statement("confirm", "end", orders, "UPDATE orders"),
        ]
    }

    fn trace(spans: Vec<Span>) -> Vec<Trace> {
        vec![Trace {
            id: TRACE.to_owned(),
            spans,
        }]
    }

    fn without(ids: &[&str]) -> Vec<Trace> {
        let mut spans = spans();
        spans.retain(|span| !ids.contains(&span.id.as_str()));
        trace(spans)
    }

    #[track_caller]
    fn assert_defects(traces: &[Trace], expected: &[Defect]) {
        let defects = examine(&order("o"), traces).defects;
        assert_eq!(defects, expected.iter().cloned().collect());
        let tally = tally(&[(&order("o"), Some(examine(&order("o"), traces)))], 1);
        let red = if expected.is_empty() {
            Exit::Holds
        } else {
            Exit::Failed
        };
        assert_eq!(judge(&tally, 99.9), red);
    }

    fn missing(hop: Hop) -> Defect {
        Defect::Missing { hop }
    }

    fn orphan(service: &str, name: &str) -> Defect {
        Defect::Orphan {
            service: service.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_trace_with_every_hop_is_whole() {
        let examined = examine(&order("o"), &trace(spans()));
        assert_eq!(
            examined,
            Examined {
                spans: 13,
                gateway_spans: 3,
                ..Examined::default()
            }
        );
    }

    #[test]
    fn each_hop_that_left_no_span_is_missing() {
        for (leaf, hop) in [
            ("verify", Hop::Verify),
            ("insert", Hop::StoreOrder),
            ("reserve", Hop::StoreStock),
        ] {
            assert_defects(&without(&[leaf]), &[missing(hop)]);
        }
        assert_defects(
            &without(&["end", "confirm"]),
            &[missing(Hop::ProcessOutcome)],
        );
        // What was below it is left without a parent.
        assert_defects(
            &without(&["send"]),
            &[
                missing(Hop::SendOrder),
                orphan("inventory-service", "process order_events"),
            ],
        );
        assert_defects(
            &without(&["answer"]),
            &[
                missing(Hop::SendOutcome),
                orphan("order-service", "process inventory_events"),
            ],
        );
    }

    #[test]
    fn without_the_gateway_a_trace_is_not_whole() {
        assert_defects(
            &without(&["root", "auth", "proxy"]),
            &[
                missing(Hop::Gateway),
                orphan("order-service", "POST /orders/"),
                orphan("user-service", "GET /auth/verify"),
            ],
        );
    }

    #[test]
    fn without_propagation_everything_behind_the_broker_is_missing() {
        let behind = ["process", "reserve", "answer", "end", "confirm"];
        assert_defects(
            &without(&behind),
            &[
                missing(Hop::ProcessOrder),
                missing(Hop::StoreStock),
                missing(Hop::SendOutcome),
                missing(Hop::ProcessOutcome),
            ],
        );
    }

    #[test]
    fn a_span_whose_parent_is_not_stored_is_an_orphan() {
        assert_defects(
            &without(&["work"]),
            &[
                orphan("order-service", "INSERT orders"),
                Defect::Detached {
                    hop: Hop::StoreOrder,
                },
            ],
        );
        let mut spans = spans();
        spans.push(span("x", "nobody", "user-service", Kind::Internal, "hash"));
        assert_defects(&trace(spans), &[orphan("user-service", "hash")]);
    }

    #[test]
    fn a_hop_below_another_one_than_its_cause_is_detached() {
        let mut spans = spans();
        let end = spans.iter_mut().find(|span| span.id == "end").unwrap();
        end.parent = Some("root".to_owned());
        assert_defects(
            &trace(spans),
            &[Defect::Detached {
                hop: Hop::ProcessOutcome,
            }],
        );
    }

    #[test]
    fn the_statements_of_the_outcome_are_none_of_the_order() {
        let mut spans = spans();
        spans.retain(|span| span.id != "insert");
        assert!(spans.iter().any(|span| span.id == "confirm"));
        assert_defects(&trace(spans), &[missing(Hop::StoreOrder)]);
    }

    #[test]
    fn another_statement_does_not_pass_for_the_one_that_writes() {
        for (id, name, hop) in [
            ("insert", "INSERT outbox", Hop::StoreOrder),
            ("reserve", "INSERT inbox", Hop::StoreStock),
        ] {
            let mut spans = spans();
            let statement = spans.iter_mut().find(|span| span.id == id).unwrap();
            statement.name = name.to_owned();
            assert_defects(&trace(spans), &[missing(hop)]);
        }
    }

    #[test]
    fn spans_that_go_round_in_a_circle_end() {
        let mut spans = spans();
        spans.retain(|span| span.id != "process");
        spans.push(message(
            "process",
            "round",
            "inventory-service",
            Kind::Consumer,
            "process order_events",
            "m1",
        ));
        spans.push(span(
            "round",
            "process",
            "inventory-service",
            Kind::Internal,
            "x",
        ));
        assert_defects(
            &trace(spans),
            &[Defect::Detached {
                hop: Hop::ProcessOrder,
            }],
        );
    }

    #[test]
    fn nothing_stored_is_a_defect_of_its_own() {
        assert_defects(&[], &[Defect::NotStored]);
        assert_defects(&trace(Vec::new()), &[Defect::NotStored]);
    }

    #[test]
    fn what_is_tried_again_or_delivered_twice_is_counted_and_whole() {
        use Kind::{Consumer, Producer};
        let stock = "inventory-service";
        let mut spans = spans();
        for span in &mut spans {
            if span.id == "process" {
                span.parent = Some("retry2".to_owned());
            }
        }
        for (number, parent) in [("1", "send"), ("2", "retry1")] {
            let (process, retry) = (format!("process{number}"), format!("retry{number}"));
            spans.push(message(
                &process,
                parent,
                stock,
                Consumer,
                "process order_events",
                "m1",
            ));
            spans.push(message(
                &retry,
                &process,
                stock,
                Producer,
                "retry order_events",
                "m1",
            ));
        }
        spans.push(message(
            "again",
            "answer",
            "order-service",
            Consumer,
            "process inventory_events",
            "m2",
        ));
        // Sent to the store twice.
        spans.push(spans[0].clone());
        let examined = examine(&order("o"), &trace(spans));
        assert_eq!(examined.defects, BTreeSet::new());
        assert_eq!((examined.retried, examined.repeated), (2, 3));
        assert_eq!(examined.spans, 18);
    }

    #[test]
    fn a_dead_letter_that_was_sent_again_is_whole_and_one_that_was_not_is_not() {
        use Kind::{Consumer, Producer};
        let mut spans = spans();
        for span in &mut spans {
            if span.id == "process" {
                span.parent = Some("dead".to_owned());
            }
        }
        let stock = "inventory-service";
        let name = "process order_events";
        spans.push(message("first", "send", stock, Consumer, name, "m1"));
        let name = "dead_letter order_events";
        spans.push(message("dead", "first", stock, Producer, name, "m1"));
        let examined = examine(&order("o"), &trace(spans.clone()));
        assert_eq!((examined.defects.len(), examined.dead), (0, 1));
        spans.retain(|span| {
            !["process", "reserve", "answer", "end", "confirm"].contains(&&*span.id)
        });
        let examined = examine(&order("o"), &trace(spans));
        assert_eq!(examined.defects.len(), 3, "{examined:?}");
    }

    /// Each consumer begins a trace with a link to what it was sent.
    fn linked() -> Vec<Trace> {
        let mut own = spans();
        let mut outcome = own.split_off(11);
        let mut stock = own.split_off(8);
        let link = |spans: &mut Vec<Span>, trace_id: &str, span_id: &str| {
            spans[0].parent = None;
            spans[0].links = vec![Link {
                trace_id: trace_id.to_owned(),
                span_id: span_id.to_owned(),
            }];
        };
        link(&mut stock, TRACE, "send");
        link(&mut outcome, "b", "answer");
        let trace = |id: &str, spans| Trace {
            id: id.to_owned(),
            spans,
        };
        vec![trace(TRACE, own), trace("b", stock), trace("c", outcome)]
    }

    #[test]
    fn traces_that_link_to_each_other_are_one() {
        let traces = linked();
        assert_defects(&traces, &[]);
        assert_eq!(examine(&order("o"), &traces).linked, 2);
        assert_eq!(
            unprocessed(&traces[..1]),
            [Sent {
                message_id: "m1",
                consumer: "inventory-service",
                start_us: 0
            }]
        );
        assert!(is_linked_to(&traces[1], &traces[..1]));
        assert!(!is_linked_to(&traces[2], &traces[..1]));
        assert_eq!(unprocessed(&traces), []);
    }

    #[test]
    fn a_trace_of_the_same_message_without_a_link_proves_nothing() {
        let mut traces = linked();
        traces[1].spans[0].links.clear();
        assert!(!is_linked_to(&traces[1], &traces[..1]));
        assert_defects(
            &traces,
            &[Defect::Detached {
                hop: Hop::ProcessOrder,
            }],
        );
    }

    #[test]
    fn inventory_has_nothing_to_say_of_an_order_that_was_cancelled_before_it_came() {
        let traces = without(&["answer", "end", "confirm"]);
        let cancelled = Order {
            cancelled: true,
            ..order("o")
        };
        let examined = examine(&cancelled, &traces);
        assert!(
            examined.overtaken && examined.defects.is_empty(),
            "{examined:?}"
        );
        // Left out: it is neither whole nor broken.
        let left_out = tally(&[(&cancelled, Some(examined))], 1);
        assert_eq!(
            (left_out.overtaken, left_out.judged, left_out.whole),
            (1, 0, 0)
        );
        assert_eq!(judge(&left_out, 99.9), Exit::Inconclusive);
        // What else is missing has nothing to do with the cancellation.
        let unverified = examine(
            &cancelled,
            &without(&["verify", "answer", "end", "confirm"]),
        );
        let unverified = tally(&[(&cancelled, Some(unverified))], 1);
        assert_eq!((unverified.overtaken, unverified.judged), (1, 1));
        assert_eq!(judge(&unverified, 99.9), Exit::Failed);
        assert!(!examine(&order("o"), &traces).defects.is_empty());
        // Half of an answer is none.
        let examined = examine(&cancelled, &without(&["end", "confirm"]));
        assert_eq!(examined.defects.len(), 1);
        let examined = examine(
            &cancelled,
            &without(&["process", "reserve", "answer", "end", "confirm"]),
        );
        assert!(!examined.overtaken && !examined.defects.is_empty());
    }

    #[test]
    fn the_share_is_cut_and_not_rounded_and_decides() {
        let order = order("o");
        let whole = Examined::default();
        let broken = examine(&order, &[]);
        let mut results = vec![(&order, Some(whole)); 1_999];
        results.push((&order, Some(broken.clone())));
        let one = tally(&results, 3);
        assert_eq!(
            (one.judged, one.whole, one.whole_percent),
            (2_000, 1_999, Some(99.95))
        );
        assert_eq!(judge(&one, 99.9), Exit::Holds);
        assert_eq!(judge(&one, 100.0), Exit::Failed);
        results.extend([
            (&order, Some(broken.clone())),
            (&order, Some(broken.clone())),
        ]);
        assert_eq!(judge(&tally(&results, 3), 99.9), Exit::Failed);
        let mut many = vec![(&order, Some(Examined::default())); 99_999];
        many.push((&order, Some(broken)));
        assert_eq!(tally(&many, 3).whole_percent, Some(99.99));
    }

    #[test]
    fn what_is_missing_is_listed_by_kind_with_a_few_examples() {
        let order = order("o");
        let hop = examine(&order, &without(&["verify"]));
        let gone = examine(&order, &[]);
        let results: Vec<_> = [&gone, &hop, &hop, &hop]
            .map(|examined| (&order, Some(examined.clone())))
            .into();
        let tally = tally(&results, 2);
        let lacks: Vec<(&str, usize, usize)> = tally
            .missing
            .iter()
            .map(|lack| (lack.what.as_str(), lack.traces, lack.examples.len()))
            .collect();
        assert_eq!(
            lacks,
            [
                ("missing: user-service: GET /auth/verify", 3, 2),
                ("nothing is stored of the trace", 1, 1)
            ]
        );
        assert_eq!(
            tally.missing[0].examples[0].trace_id.as_deref(),
            Some(TRACE)
        );
    }

    #[test]
    fn a_trace_that_nobody_recorded_is_not_judged() {
        let unsampled = Order {
            sampled: false,
            ..order("o")
        };
        let tally = tally(&[(&unsampled, None)], 3);
        assert_eq!((tally.not_sampled, tally.judged), (1, 0));
        assert_eq!(judge(&tally, 99.9), Exit::Inconclusive);
    }

    #[test]
    fn what_the_store_forgot_is_not_judged_and_what_it_never_had_is() {
        let order = order("o");
        let gone = examine(&order, &[]);
        assert_eq!(
            judge(&tally(&[(&order, Some(gone.clone()))], 3), 99.9),
            Exit::Failed
        );
        let forgotten = Examined {
            forgotten: true,
            ..gone
        };
        let all = tally(&[(&order, Some(forgotten.clone()))], 3);
        assert_eq!((all.forgotten, all.judged), (1, 0));
        assert_eq!(all.missing, []);
        assert_eq!(judge(&all, 99.9), Exit::Inconclusive);
        let some = tally(
            &[
                (&order, Some(forgotten)),
                (&order, Some(Examined::default())),
            ],
            3,
        );
        assert_eq!((some.forgotten, some.judged, some.whole), (1, 1, 1));
    }

    #[test]
    fn an_answer_without_a_trace_id_fails_unless_no_answer_has_one() {
        let unnamed = Order {
            trace_id: None,
            ..order("o")
        };
        let none = tally(&[(&unnamed, None)], 3);
        assert_eq!((none.without_trace_id, none.judged), (1, 0));
        assert_eq!(judge(&none, 99.9), Exit::Inconclusive);
        let order = order("p");
        let one = tally(&[(&unnamed, None), (&order, Some(Examined::default()))], 3);
        assert_eq!(one.missing[0].defect, Defect::Unnamed);
        assert_eq!(judge(&one, 99.9), Exit::Failed);
    }

    #[test]
    fn an_order_is_looked_up_once_and_orders_are_chosen_evenly() {
        let entry = |id: &str, trace_id: &str| LedgerEntry {
            intended_at: chrono::DateTime::UNIX_EPOCH,
            at: chrono::DateTime::UNIX_EPOCH,
            idempotency_key: None,
            user_id: "u".to_owned(),
            product_id: 1,
            quantity: 1,
            status: Some(202),
            order_id: (!id.is_empty()).then(|| id.to_owned()),
            trace_id: Some(trace_id.to_owned()),
            trace_sampled: Some(true),
            latency_ms: 1,
            error: None,
        };
        let cancellation = |id: &str, status: u16| CancellationEntry {
            at: chrono::DateTime::UNIX_EPOCH,
            order_id: id.to_owned(),
            status: Some(status),
            latency_ms: 1,
            error: None,
        };
        let ledger = [
            entry("a", "1"),
            entry("a", "2"),
            entry("", "3"),
            entry("b", "4"),
        ];
        let found = orders(&ledger, &[cancellation("a", 409), cancellation("b", 202)]);
        let found: Vec<_> = found
            .iter()
            .map(|order| {
                (
                    order.id.as_str(),
                    order.trace_id.as_deref(),
                    order.cancelled,
                )
            })
            .collect();
        assert_eq!(found, [("a", Some("1"), false), ("b", Some("4"), true)]);

        let many: Vec<Order> = (0..10).map(|number| order(&number.to_string())).collect();
        let ids = |most| -> String { chosen(&many, most).iter().map(|order| &*order.id).collect() };
        assert_eq!(ids(3), "036");
        assert_eq!(ids(10), "0123456789");
        assert_eq!(ids(1_000), "0123456789");
        assert!(chosen(&[], 3).is_empty());
    }
}
