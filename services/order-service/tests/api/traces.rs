//! The spans that the service exports, as a process: which there are, how they are related, and what none contains. One
//! service stands for all four here, because the telemetry is the chassis's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use sqlx::PgPool;
use testkit::{BrokerClient, Process, eventually, header_text, text_headers};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_order-service");
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// The id of inventory-service's span.
const SENDER: &str = "b7ad6b7169203331";

/// A trace store that keeps the spans exported to it over OTLP/gRPC.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    /// How many spans of each batch it reports as rejected.
    rejects: Arc<AtomicI64>,
    /// The total that it has reported as rejected.
    reported: Arc<AtomicI64>,
}

struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
    rejects: Arc<AtomicI64>,
    reported: Arc<AtomicI64>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        self.spans.lock().await.extend(spans);
        let rejected_spans = self.rejects.load(Ordering::Relaxed);
        self.reported.fetch_add(rejected_spans, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: (rejected_spans > 0).then(|| ExportTracePartialSuccess {
                rejected_spans,
                error_message: "the trace is full".to_owned(),
            }),
        }))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let rejects = Arc::<AtomicI64>::default();
        let reported = Arc::<AtomicI64>::default();
        let receiver = Receiver {
            spans: Arc::clone(&spans),
            rejects: Arc::clone(&rejects),
            reported: Arc::clone(&reported),
        };
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver))
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
        tokio::spawn(server);
        Self {
            url,
            spans,
            rejects,
            reported,
        }
    }

    /// The names of a trace's spans.
    pub(crate) async fn names(&self, trace: &str) -> Vec<String> {
        let spans = self.spans.lock().await;
        let of_trace = spans.iter().filter(|span| hex(&span.trace_id) == trace);
        of_trace.map(|span| span.name.clone()).collect()
    }

    /// The first span of that name, once it is exported.
    async fn span(&self, name: &str) -> Span {
        let found = async || {
            let spans = self.spans.lock().await;
            spans.iter().find(|span| span.name == name).cloned()
        };
        eventually(&format!("a span {name:?} is exported"), async || {
            found().await.is_some()
        })
        .await;
        found().await.unwrap()
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parent(span: &Span) -> String {
    hex(&span.parent_span_id)
}

fn text<'a>(span: &'a Span, attribute: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|one| one.key == attribute)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The service as a process, with all its dependencies.
struct Traced {
    process: Process,
    addr: std::net::SocketAddr,
    collector: Collector,
    broker: BrokerClient,
    database: String,
}

impl Traced {
    async fn start(more: &[(&str, &str)]) -> Self {
        let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
        let collector = Collector::start().await;
        let mut variables = vec![
            ("DATABASE_URL", &*database),
            ("AMQP_URL", &*broker),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url),
        ];
        variables.extend(more);
        let mut process = Process::start(BINARY, &variables);
        let addr = process.serving().await;
        Self {
            process,
            addr,
            collector,
            broker: BrokerClient::connect(&broker).await,
            database,
        }
    }

    async fn place(&self, traceparent: &str) -> reqwest::Response {
        let request = reqwest::Client::new()
            .post(format!("http://{}/orders/?product_id=99", self.addr))
            .header("X-User-Id", Uuid::now_v7().to_string())
            .header("X-User-Email", "ada@example.com")
            .header("Authorization", "Bearer not-for-spans")
            .header("traceparent", traceparent);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 202);
        answer
    }

    /// An outcome of an unknown order, sent within another service's trace.
    async fn publish_outcome_of_an_unknown_order(&self) {
        let event = crate::reserved(&Uuid::now_v7().to_string());
        let traceparent = format!("00-{TRACE_ID}-{SENDER}-01");
        let headers = text_headers(&[("traceparent", &traceparent)]);
        self.broker
            .publish_with(
                "inventory_events",
                event.routing_key(),
                &event.encode(),
                headers,
            )
            .await;
    }
}

#[tokio::test]
async fn an_order_is_traced_from_its_caller_over_the_database_to_the_broker() {
    let traced = Traced::start(&[]).await;
    let answer = traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
    let collector = &traced.collector;

    let server = collector.span("POST /orders/").await;
    assert_eq!(hex(&server.trace_id), TRACE_ID);
    assert_eq!(parent(&server), CALLER);
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(text(&server, "url.path"), Some("/orders/"));
    let reported = answer.headers()["traceresponse"].to_str().unwrap();
    assert_eq!(
        reported,
        format!("00-{TRACE_ID}-{}-01", hex(&server.span_id))
    );

    let statement = collector.span("INSERT orders").await;
    assert_eq!(parent(&statement), hex(&server.span_id));
    assert_eq!(statement.kind(), SpanKind::Client);
    assert_eq!(text(&statement, "db.system.name"), Some("postgresql"));

    let send = collector.span("send order_events").await;
    assert_eq!(parent(&send), hex(&server.span_id));
    assert_eq!(send.kind(), SpanKind::Producer);
    assert_eq!(text(&send, "messaging.operation.type"), Some("send"));
    let (_, headers) = traced.broker.wait_for_message("order_events").await;
    let travels = header_text(&headers, "traceparent").unwrap();
    assert_eq!(travels, format!("00-{TRACE_ID}-{}-01", hex(&send.span_id)));

    let spans = collector.spans.lock().await;
    let all = format!("{spans:?}");
    // postgres://USER:PASSWORD@HOST
    let password = traced.database.split([':', '@']).nth(2).unwrap();
    for secret in ["ada@example.com", "not-for-spans", password] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[tokio::test]
async fn a_message_is_processed_and_dead_lettered_within_its_senders_trace() {
    let traced = Traced::start(&[]).await;
    traced.publish_outcome_of_an_unknown_order().await;
    let process = traced.collector.span("process inventory_events").await;
    assert_eq!(hex(&process.trace_id), TRACE_ID);
    assert_eq!(parent(&process), SENDER);
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert_eq!(process.status.unwrap().code(), StatusCode::Error);

    let dead = traced
        .collector
        .span("dead_letter inventory_events.dlx")
        .await;
    assert_eq!(parent(&dead), hex(&process.span_id));
    let (_, headers) = traced
        .broker
        .wait_for_message("inventory_events.dead")
        .await;
    let travels = header_text(&headers, "traceparent").unwrap();
    assert_eq!(travels, format!("00-{TRACE_ID}-{}-01", hex(&dead.span_id)));
}

#[tokio::test]
async fn no_span_contains_a_body_or_an_error_text() {
    let traced = Traced::start(&[]).await;
    let traceparent = format!("00-{TRACE_ID}-{SENDER}-01");
    let headers = text_headers(&[("traceparent", &traceparent), ("tracestate", "a=much")]);
    let body = br#"{"specversion":"1.0","private":"ada@example.com"}"#;
    traced
        .broker
        .publish_with("inventory_events", "stock.reserved.v1", body, headers)
        .await;
    traced
        .collector
        .span("dead_letter inventory_events.dlx")
        .await;
    // The error is in the log, whose access is restricted.
    let all = format!("{:?}", traced.collector.spans.lock().await);
    for foreign in ["ada@example.com", "missing field", "a=much", "io_loop"] {
        assert!(!all.contains(foreign), "{foreign} in {all}");
    }
}

#[tokio::test]
async fn a_retry_is_a_child_of_the_failed_attempt() {
    let traced = Traced::start(&[]).await;
    let pool = PgPool::connect(&traced.database).await.unwrap();
    let fails = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = '53100'; END $$;
                 CREATE TRIGGER fails BEFORE UPDATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION fail()";
    sqlx::raw_sql(fails).execute(&pool).await.unwrap();
    traced.publish_outcome_of_an_unknown_order().await;
    let first = traced.collector.span("process inventory_events").await;
    let statement = traced.collector.span("UPDATE orders").await;
    assert_eq!(parent(&statement), hex(&first.span_id));
    assert_eq!(text(&statement, "error.type"), Some("53100"));
    let next = traced.collector.span("retry inventory_events.retry").await;
    assert_eq!(parent(&next), hex(&first.span_id));
    assert_eq!(hex(&next.trace_id), TRACE_ID);
}

#[tokio::test]
async fn with_links_a_message_starts_a_trace_that_links_to_its_sender() {
    let traced = Traced::start(&[("AGORA_TRACE_RELATION", "link")]).await;
    traced.publish_outcome_of_an_unknown_order().await;
    let process = traced.collector.span("process inventory_events").await;
    assert_ne!(hex(&process.trace_id), TRACE_ID);
    assert_eq!(parent(&process), "");
    let links: Vec<_> = process
        .links
        .iter()
        .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
        .collect();
    assert_eq!(links, [(TRACE_ID.to_owned(), SENDER.to_owned())]);
}

#[tokio::test]
async fn without_propagation_no_context_is_sent_or_extracted() {
    let traced = Traced::start(&[("AGORA_PATTERN_TRACE_PROPAGATION", "off")]).await;
    traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
    let (_, headers) = traced.broker.wait_for_message("order_events").await;
    assert_eq!(header_text(&headers, "traceparent"), None);
    traced.publish_outcome_of_an_unknown_order().await;
    let process = traced.collector.span("process inventory_events").await;
    assert_ne!(hex(&process.trace_id), TRACE_ID);
    assert!(process.links.is_empty());
}

#[tokio::test]
async fn an_unsampled_callers_decision_is_honoured_and_its_context_propagated() {
    let mut traced = Traced::start(&[]).await;
    let answer = traced.place(&format!("00-{TRACE_ID}-{CALLER}-00")).await;
    let reported = answer.headers()["traceresponse"].to_str().unwrap();
    assert!(
        reported.starts_with(&format!("00-{TRACE_ID}-")) && reported.ends_with("-00"),
        "{reported}"
    );
    let (_, headers) = traced.broker.wait_for_message("order_events").await;
    let travels = header_text(&headers, "traceparent").unwrap();
    assert!(travels.ends_with("-00"), "{travels}");
    assert_eq!(
        traced.process.logged("order placed").await["trace_id"],
        TRACE_ID
    );
    traced.process.terminate();
    assert_eq!(traced.process.ended().await.code(), Some(0));
    assert_eq!(traced.collector.names(TRACE_ID).await, Vec::<String>::new());
}

#[tokio::test]
async fn spans_lost_in_an_outage_of_the_store_are_counted_and_cost_no_order() {
    let nowhere = format!("http://{}", testkit::free_address());
    let traced = Traced::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &nowhere)]).await;
    for _ in 0..3 {
        traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
    }
    eventually("the lost spans are counted", async || {
        traced
            .process
            .metric(r#"agora_spans_total{outcome="failed"}"#)
            .await
            >= 3.0
    })
    .await;
    let sent = traced
        .process
        .metric(r#"agora_spans_total{outcome="sent"}"#)
        .await;
    assert_eq!(sent, 0.0);
}

#[tokio::test]
async fn spans_rejected_by_the_store_are_counted_and_the_reason_is_logged() {
    let mut traced = Traced::start(&[]).await;
    let metric = async |outcome: &str| {
        let name = format!("agora_spans_total{{outcome=\"{outcome}\"}}");
        traced.process.metric(&name).await
    };
    assert_eq!(metric("failed").await, 0.0);
    traced.collector.rejects.store(1, Ordering::Relaxed);
    traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
    eventually("the rejected span is counted", async || {
        metric("failed").await >= 1.0
    })
    .await;
    // The batch also has the spans of the request and of its statements.
    assert!(metric("sent").await >= 1.0);
    let line = traced
        .process
        .logged("the trace store takes no spans, or not all: they are lost");
    let error = line.await["error"].to_string();
    assert!(error.contains("the trace is full"), "{error}");
}

/// The number comes from an event of the exporter's crate: neither the log filter nor a pattern may suppress it. (The test
/// itself waits for a log line of the chassis.)
#[tokio::test]
async fn rejected_spans_are_counted_whatever_the_log_level_and_the_export_mode() {
    for variables in [
        ("LOG_LEVEL", "off,chassis=info"),
        ("LOG_LEVEL", "trace"),
        ("AGORA_PATTERN_ASYNC_EXPORT", "off"),
    ] {
        let traced = Traced::start(&[variables]).await;
        traced.collector.rejects.store(1, Ordering::Relaxed);
        traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
        eventually("each span is counted as the store reported", async || {
            let metric = async |outcome: &str| {
                let name = format!("agora_spans_total{{outcome=\"{outcome}\"}}");
                traced.process.metric(&name).await as u64
            };
            let (failed, sent) = (metric("failed").await, metric("sent").await);
            let reported = traced.collector.reported.load(Ordering::Relaxed);
            let received = traced.collector.spans.lock().await.len() as u64;
            failed > 0 && failed == reported as u64 && sent + failed == received
        })
        .await;
    }
}

#[tokio::test]
async fn without_an_outbox_the_log_line_of_a_lost_event_has_the_trace_of_its_send() {
    let mut traced = Traced::start(&[("AGORA_PATTERN_OUTBOX", "off")]).await;
    traced
        .broker
        .unbind("order_events", "order_events", "#")
        .await;
    traced.place(&format!("00-{TRACE_ID}-{CALLER}-01")).await;
    let line = traced.process.logged("event lost").await;
    let send = traced.collector.span("send order_events").await;
    assert_eq!(line["trace_id"], TRACE_ID);
    assert_eq!(line["span_id"], hex(&send.span_id));
}

#[tokio::test]
async fn an_unmatched_request_has_no_route_in_its_span() {
    let traced = Traced::start(&[]).await;
    let url = format!("http://{}/nowhere/17", traced.addr);
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 404);
    let span = traced.collector.span("GET").await;
    assert_eq!(text(&span, "http.route"), None);
    assert_eq!(text(&span, "url.path"), Some("/nowhere/17"));
}

/// Labels come from fixed lists. Client-supplied values (ids, paths, methods) create no new series.
#[tokio::test]
async fn no_metric_label_contains_an_id_or_a_client_supplied_value() {
    let traced = Traced::start(&[]).await;
    let client = reqwest::Client::new();
    let mut series = Vec::new();
    for _ in 0..2 {
        for round in 0..5 {
            let user = Uuid::now_v7().to_string();
            let order = Uuid::now_v7();
            let invented = reqwest::Method::from_bytes(format!("INVENT{round}").as_bytes());
            for (method, path) in [
                (reqwest::Method::GET, format!("/orders/{order}")),
                (reqwest::Method::POST, format!("/orders/{order}/cancel")),
                (reqwest::Method::GET, format!("/nowhere/{order}?q={order}")),
                (reqwest::Method::POST, "/orders/?product_id=99".to_owned()),
                (invented.unwrap(), "/orders/".to_owned()),
            ] {
                let request = client
                    .request(method, format!("http://{}{path}", traced.addr))
                    .header("X-User-Id", &user)
                    .header("X-User-Email", "ada@example.com");
                request.send().await.unwrap();
            }
            traced.publish_outcome_of_an_unknown_order().await;
        }
        eventually("all messages are dead-lettered", async || {
            let dead = r#"agora_dead_letters_total{queue="inventory_events",reason="rejected"}"#;
            let expected = if series.is_empty() { 5.0 } else { 10.0 };
            traced.process.metric(dead).await == expected
        })
        .await;
        let url = format!("http://{}/metrics", traced.process.ops());
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        let names = text.lines().filter(|line| !line.starts_with('#'));
        // An exemplar follows a `#` at the end of its line; a series ends before its value.
        let names = names.map(|line| line.split(" # ").next().unwrap_or_default());
        series.push(
            names
                .filter_map(|line| line.rsplit_once(' '))
                .map(|(name, _)| name.to_owned())
                .collect::<Vec<_>>(),
        );
        let id = |word: &str| {
            word.parse::<Uuid>().is_ok()
                || word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit())
        };
        for name in series.last().unwrap() {
            let words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            for word in words {
                assert!(!id(word) && !word.contains("INVENT"), "{name}");
            }
        }
    }
    assert!(series[0].len() > 50, "{series:?}");
    assert_eq!(series[0], series[1], "more requests make no more series");
}
