//! Spans sent over real gRPC and HTTP, and read back over Jaeger's query API.

use std::{fs, io::Write, net::Ipv4Addr, process::Command};

use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
    },
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::codec::CompressionEncoding;

use super::*;

const ANY_PORTS: Ports = Ports {
    otlp_grpc: 0,
    otlp_http: 0,
    query: 0,
    health: 0,
    metrics: 0,
};
/// The start of the test spans, in seconds since 1970.
const THEN_S: u64 = 1_795_671_823;

/// A server per test.
struct Server {
    running: Running,
    _ui: TempDir,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let ui = tempfile::tempdir().unwrap();
        let page = "<script>const JAEGER_CONFIG = DEFAULT_CONFIG;const JAEGER_VERSION = DEFAULT_VERSION;</script>";
        fs::write(ui.path().join("index.html"), page).unwrap();
        fs::create_dir(ui.path().join("static")).unwrap();
        fs::write(ui.path().join("static/index.js"), "let jaeger;").unwrap();
        let running = start(Ipv4Addr::LOCALHOST.into(), ANY_PORTS, limits, ui.path())
            .await
            .unwrap();
        Self { running, _ui: ui }
    }

    async fn export(&self, spans: Vec<ResourceSpans>) -> ExportTraceServiceResponse {
        let address = format!("http://{}", self.running.addresses.otlp_grpc);
        let client = TraceServiceClient::connect(address).await.unwrap();
        let mut client = client.send_compressed(CompressionEncoding::Gzip);
        let request = ExportTraceServiceRequest {
            resource_spans: spans,
        };
        client.export(request).await.unwrap().into_inner()
    }

    /// Status and body of a GET at the query API.
    async fn get(&self, path: &str) -> (u16, Value) {
        let address = self.running.addresses.query;
        let answer = reqwest::get(format!("http://{address}{path}"))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn data(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!((status, &body["errors"]), (200, &Value::Null), "{path}");
        body["data"].clone()
    }

    async fn metrics(&self) -> String {
        let address = self.running.addresses.metrics;
        let answer = reqwest::get(format!("http://{address}/metrics"))
            .await
            .unwrap();
        answer.text().await.unwrap()
    }
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn of(service: &str, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource {
            attributes: vec![text("service.name", service), text("service.version", "1")],
            ..Resource::default()
        }),
        scope_spans: vec![ScopeSpans {
            spans,
            ..ScopeSpans::default()
        }],
        ..ResourceSpans::default()
    }
}

/// A server span of one second; its id and its start come from `number`.
fn span(trace: u8, number: u8, parent: Option<u8>) -> Span {
    let start_ns = (THEN_S + u64::from(number)) * 1_000_000_000;
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![number; 8],
        parent_span_id: parent.map_or_else(Vec::new, |parent| vec![parent; 8]),
        name: format!("step {number}"),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start_ns,
        end_time_unix_nano: start_ns + 1_000_000_000,
        ..Span::default()
    }
}

fn id(trace: u8) -> String {
    hex::encode([trace; 16])
}

fn tag<'a>(span: &'a Value, key: &str) -> &'a Value {
    let mut tags = span["tags"].as_array().unwrap().iter();
    tags.find(|tag| tag["key"] == key)
        .map_or(&Value::Null, |tag| &tag["value"])
}

fn search(more: &str) -> String {
    let (start, end) = (THEN_S * 1_000_000, (THEN_S + 3_600) * 1_000_000);
    format!("/api/traces?service=shop&start={start}&end={end}{more}")
}

fn found(data: &Value) -> Vec<&str> {
    let traces = data.as_array().unwrap().iter();
    traces
        .map(|trace| trace["traceID"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_trace_of_two_services_is_read_as_it_was_sent() {
    let server = Server::start(Limits::DEFAULT).await;
    let mut failed = span(1, 3, Some(2));
    failed.kind = SpanKind::Consumer.into();
    failed.attributes = vec![
        attribute("attempt", any_value::Value::IntValue(2)),
        attribute("huge", any_value::Value::IntValue(i64::MAX)),
    ];
    failed.status = Some(Status {
        code: StatusCode::Error.into(),
        message: "no stock".to_owned(),
    });
    failed.links = vec![Link {
        trace_id: vec![9; 16],
        span_id: vec![8; 8],
        ..Link::default()
    }];
    failed.events = vec![Event {
        name: "rejected".to_owned(),
        time_unix_nano: THEN_S * 1_000_000_000,
        ..Event::default()
    }];
    let spans = vec![
        of("stock", vec![failed]),
        of("shop", vec![span(1, 2, Some(1)), span(1, 1, None)]),
    ];
    let response = server.export(spans).await;
    assert_eq!(response.partial_success, None);

    let data = server.data(&format!("/api/traces/{}", id(1))).await;
    let trace = &data[0];
    let spans = trace["spans"].as_array().unwrap();
    let names: Vec<_> = spans.iter().map(|span| &span["operationName"]).collect();
    assert_eq!(names, ["step 1", "step 2", "step 3"]);
    let service =
        |span: &Value| &trace["processes"][span["processID"].as_str().unwrap()]["serviceName"];
    assert_eq!(service(&spans[0]), "shop");
    assert_eq!(service(&spans[2]), "stock");
    assert_eq!(spans[0]["references"], json!([]));
    assert_eq!(spans[0]["startTime"], (THEN_S + 1) * 1_000_000);
    assert_eq!(spans[0]["duration"], 1_000_000);
    assert_eq!(tag(&spans[0], "span.kind"), "server");
    assert_eq!(tag(&spans[0], "error"), &Value::Null);
    assert_eq!(
        spans[2]["references"],
        json!([
            {"refType": "CHILD_OF", "traceID": id(1), "spanID": "0202020202020202"},
            {"refType": "FOLLOWS_FROM", "traceID": id(9), "spanID": "0808080808080808"},
        ])
    );
    assert_eq!(tag(&spans[2], "span.kind"), "consumer");
    assert_eq!(tag(&spans[2], "otel.status_code"), "ERROR");
    assert_eq!(tag(&spans[2], "otel.status_description"), "no stock");
    assert_eq!(tag(&spans[2], "error"), true);
    assert_eq!(tag(&spans[2], "attempt"), 2);
    assert_eq!(tag(&spans[2], "huge"), "9223372036854775807");
    assert_eq!(spans[2]["logs"][0]["fields"][0]["value"], "rejected");

    assert_eq!(server.data("/api/services").await, json!(["shop", "stock"]));
    assert_eq!(
        server.data("/api/services/shop/operations").await,
        json!(["step 1", "step 2"])
    );
    assert_eq!(
        server
            .data("/api/operations?service=stock&spanKind=consumer")
            .await,
        json!([{"name": "step 3", "spanKind": "consumer"}])
    );
    let end_ms = (THEN_S + 60) * 1_000;
    let dependencies = format!("/api/dependencies?endTs={end_ms}&lookback=3600000");
    assert_eq!(
        server.data(&dependencies).await,
        json!([{"parent": "shop", "child": "stock", "callCount": 1}])
    );
}

#[tokio::test]
async fn a_search_returns_traces_that_meet_every_condition_latest_first() {
    let server = Server::start(Limits::DEFAULT).await;
    let mut slow = span(2, 2, None);
    slow.end_time_unix_nano += 1_000_000_000;
    slow.attributes = vec![
        text("order", "17"),
        text("message", "c0ffee-1"),
        attribute("attempt", any_value::Value::IntValue(2)),
        attribute("digest", any_value::Value::BytesValue(vec![0xc0, 0xde])),
        attribute("late", any_value::Value::BoolValue(true)),
    ];
    let spans = vec![span(1, 1, None), slow, span(3, 3, None)];
    server.export(vec![of("shop", spans)]).await;

    for (more, expected) in [
        ("", vec![3, 2, 1]),
        ("&limit=2", vec![3, 2]),
        ("&operation=step%201", vec![1]),
        ("&minDuration=1500ms", vec![2]),
        ("&maxDuration=1.5s", vec![3, 1]),
        ("&tags=%7B%22order%22%3A%2217%22%7D", vec![2]),
        ("&tag=order:17&tag=service.version:1", vec![2]),
        ("&tag=order:18", vec![]),
        ("&tag=message:c0ffee-1", vec![2]),
        ("&tag=message:c0ffee-2", vec![]),
        ("&tag=attempt:2", vec![2]),
        ("&tag=digest:c0de", vec![2]),
        ("&tag=late:true", vec![2]),
        // Of no attribute.
        ("&tag=span.kind:server", vec![3, 2, 1]),
        ("&tag=span.kind:client", vec![]),
    ] {
        let data = server.data(&search(more)).await;
        let expected: Vec<String> = expected.into_iter().map(id).collect();
        assert_eq!(found(&data), expected, "{more}");
    }
    let (_, body) = server
        .get(&format!("/api/traces?traceID={}&traceID={}", id(3), id(7)))
        .await;
    assert_eq!(found(&body["data"]), [id(3)]);
    assert_eq!(body["errors"][0]["traceID"], id(7));
}

#[tokio::test]
async fn invalid_queries_are_refused_with_jaegers_messages() {
    let server = Server::start(Limits::DEFAULT).await;
    for (path, status, message) in [
        ("/api/traces/xyz".to_owned(), 400, "malformed trace id"),
        (format!("/api/traces/{}0", id(1)), 400, "malformed trace id"),
        (format!("/api/traces/{}", id(1)), 404, "trace not found"),
        ("/api/traces".to_owned(), 400, "'service' is required"),
        (search("&limit=0"), 400, "'limit'"),
        (search("&limit=many"), 400, "'limit'"),
        (
            "/api/traces?service=shop&start=yesterday".to_owned(),
            400,
            "'start'",
        ),
        (search("&minDuration=5"), 400, "'minDuration'"),
        (
            search("&minDuration=2s&maxDuration=1s"),
            400,
            "'maxDuration'",
        ),
        (search("&tags=order"), 400, "'tags'"),
        (search("&tag=order"), 400, "'tag'"),
        ("/api/dependencies".to_owned(), 400, "'endTs'"),
        ("/api/archive/1".to_owned(), 404, "doesn't have"),
    ] {
        let (got, body) = server.get(&path).await;
        assert_eq!(got, status, "{path}");
        assert_eq!(body["data"], Value::Null, "{path}");
        assert_eq!(body["errors"][0]["code"], status, "{path}");
        let text = body["errors"][0]["msg"].as_str().unwrap();
        assert!(text.contains(message), "{path}: {text}");
    }
}

#[tokio::test]
async fn the_oldest_traces_are_evicted_for_new_ones() {
    let server = Server::start(Limits {
        traces: 2,
        ..Limits::DEFAULT
    })
    .await;
    for trace in 1..=3 {
        server
            .export(vec![of("shop", vec![span(trace, trace, None)])])
            .await;
    }
    assert_eq!(server.get(&format!("/api/traces/{}", id(1))).await.0, 404);
    assert_eq!(found(&server.data(&search("")).await), [id(3), id(2)]);
    let metrics = server.metrics().await;
    for line in [
        "jaeger_stand_in_evicted_traces_total 1",
        "jaeger_stand_in_spans 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn the_store_is_limited_in_bytes_too() {
    let server = Server::start(Limits {
        bytes: 4_096,
        ..Limits::DEFAULT
    })
    .await;
    for trace in 1..=100 {
        server
            .export(vec![of("shop", vec![span(trace, 1, None)])])
            .await;
    }
    let kept = found(&server.data(&search("")).await).len();
    assert!((5..50).contains(&kept), "{kept}");
}

fn sender(number: usize) -> ResourceSpans {
    let mut batch = of(
        "shop",
        vec![span(u8::try_from(number % 250).unwrap() + 1, 1, None)],
    );
    let large = format!("{number:0>10000}");
    let resource = batch.resource.as_mut().unwrap();
    resource.attributes.push(text("host.name", &large));
    let scope = &mut batch.scope_spans[0].scope;
    scope.get_or_insert_default().name = large;
    batch
}

#[test]
fn senders_of_spans_count_too_and_are_evicted_with_them() {
    let limits = Limits {
        bytes: 1_000_000,
        ..Limits::DEFAULT
    };
    let store = Store::new(limits);
    for number in 0..200 {
        store.add(vec![sender(number)]);
        let fill = store.fill();
        assert!(fill.bytes <= limits.bytes, "{fill:?}");
    }
    // Each takes just over 20,000 bytes, nearly all of it for its sender.
    let fill = store.fill();
    assert!((40..50).contains(&fill.traces), "{fill:?}");
    // A sender whose spans are all refused is not stored.
    let mut nameless = sender(1_000);
    nameless.scope_spans[0].spans[0].trace_id.clear();
    assert_eq!(store.add(vec![nameless]).refused, 1);
    assert_eq!(store.fill(), fill);
}

#[test]
fn a_trace_is_limited_to_the_size_of_an_answer() {
    let limits = Limits {
        bytes_per_trace: 100_000,
        ..Limits::DEFAULT
    };
    let store = Store::new(limits);
    let mut large = span(1, 0, None);
    large.attributes = vec![text("body", &"x".repeat(20_000))];
    let spans = (1..=9).map(|number| Span {
        span_id: vec![number; 8],
        ..large.clone()
    });
    let received = store.add(vec![of("shop", spans.collect())]);
    assert_eq!((received.accepted, received.refused), (4, 5));
    assert!(received.reason.unwrap().contains("bytes"), "{received:?}");
    // A first span that is too large leaves no empty trace behind.
    large.trace_id = vec![2; 16];
    large.span_id = vec![1; 8];
    large.attributes = vec![text("body", &"x".repeat(200_000))];
    assert_eq!(store.add(vec![of("shop", vec![large])]).refused, 1);
    assert_eq!(store.fill().traces, 1);
}

#[test]
fn operation_names_are_limited_in_bytes() {
    let store = Store::new(Limits::DEFAULT);
    for number in 1..=9 {
        let mut named = span(number, 1, None);
        named.name = format!("{number}{}", "x".repeat(1024 * 1024));
        store.add(vec![of("shop", vec![named])]);
    }
    assert_eq!(store.operations("shop").len(), 3);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_and_a_smaller_one_returned() {
    let server = Server::start(Limits::DEFAULT).await;
    for trace in 1..=5 {
        let mut large = span(trace, trace, None);
        large.attributes = vec![text("body", &"x".repeat(2 * 1024 * 1024))];
        server.export(vec![of("shop", vec![large])]).await;
    }
    let ids = (1..=5).map(|trace| format!("traceID={}&", id(trace)));
    let by_id = format!("/api/traces?{}", ids.collect::<String>());
    for path in [search(""), by_id] {
        let (status, body) = server.get(&path).await;
        assert_eq!(status, 413, "{path}");
        let text = body["errors"][0]["msg"].as_str().unwrap();
        assert!(text.contains("fewer traces"), "{text}");
    }
    assert_eq!(found(&server.data(&search("&limit=3")).await).len(), 3);
}

#[tokio::test]
async fn refused_spans_are_counted_and_reported() {
    let server = Server::start(Limits {
        spans_per_trace: 2,
        ..Limits::DEFAULT
    })
    .await;
    let mut nameless = span(1, 4, None);
    nameless.trace_id = vec![0; 16];
    let spans = vec![
        span(1, 1, None),
        span(1, 2, None),
        span(1, 3, None),
        nameless,
    ];
    let response = server.export(vec![of("shop", spans)]).await;
    let partial = response.partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert!(
        partial.error_message.contains("trace id"),
        "{}",
        partial.error_message
    );
    let metrics = server.metrics().await;
    for line in [
        r#"otelcol_receiver_accepted_spans_total{receiver="otlp",transport="grpc"} 2"#,
        r#"otelcol_receiver_refused_spans_total{receiver="otlp",transport="grpc"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_batch_sent_twice_is_stored_once() {
    let server = Server::start(Limits::DEFAULT).await;
    for _ in 0..2 {
        server
            .export(vec![of("shop", vec![span(1, 1, None)])])
            .await;
    }
    let data = server.data(&format!("/api/traces/{}", id(1))).await;
    assert_eq!(data[0]["spans"].as_array().unwrap().len(), 1);
    assert!(server.metrics().await.contains(r#"transport="grpc"} 2"#));
}

#[tokio::test]
async fn protobuf_over_http_is_accepted_with_and_without_gzip() {
    let server = Server::start(Limits::DEFAULT).await;
    let request = |trace| {
        let resource_spans = vec![of("shop", vec![span(trace, 1, None)])];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    };
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&request(2)).unwrap();
    let post = async |kind: &str, encoding: &str, body: Vec<u8>| {
        let address = server.running.addresses.otlp_http;
        let call = reqwest::Client::new()
            .post(format!("http://{address}/v1/traces"))
            .header("content-type", kind)
            .header("content-encoding", encoding);
        call.body(body).send().await.unwrap().status().as_u16()
    };
    let protobuf = "application/x-protobuf";
    assert_eq!(post(protobuf, "identity", request(1)).await, 200);
    assert_eq!(post(protobuf, "gzip", packed.finish().unwrap()).await, 200);
    assert_eq!(post(protobuf, "gzip", request(3)).await, 400);
    assert_eq!(post(protobuf, "identity", vec![255; 9]).await, 400);
    assert_eq!(
        post("application/json", "identity", b"{}".to_vec()).await,
        415
    );
    assert_eq!(found(&server.data(&search("")).await).len(), 2);
}

#[tokio::test]
async fn the_ui_has_its_files_and_a_page_for_every_other_path() {
    let server = Server::start(Limits::DEFAULT).await;
    let get = async |path: &str| {
        let address = server.running.addresses.query;
        let answer = reqwest::get(format!("http://{address}{path}"))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, page) = get("/trace/0af7651916cd43dd8448eb211c80319c").await;
    assert_eq!(status, 200);
    assert!(!page.contains("DEFAULT_"), "{page}");
    assert_eq!(get("/search").await, (200, page));
    assert_eq!(
        get("/static/index.js").await,
        (200, "let jaeger;".to_owned())
    );
    assert_eq!(get("/static/../index.html").await.0, 200);
    assert_eq!(get("/static/missing.js").await.0, 404);
    let health = server.running.addresses.health;
    let answer = reqwest::get(format!("http://{health}/status"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
}

#[test]
fn an_unsupported_ui_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("index.html"), "<html>").unwrap();
    let error = Ui::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("JAEGER_CONFIG"), "{error}");
}

/// The memory of 20,000 traces: run by hand, it prints the process's memory.
#[test]
#[ignore = "a measurement: prints what the process takes with full memory"]
fn measure_memory() {
    let store = Store::new(Limits::DEFAULT);
    for number in 0_u64..21_000 {
        let mut trace_id = vec![1; 16];
        trace_id[..8].copy_from_slice(&number.to_be_bytes());
        let spans = (1..=20).map(|n| Span {
            trace_id: trace_id.clone(),
            attributes: (0..8)
                .map(|i| text(&format!("messaging.attribute.{i}"), "some value"))
                .collect(),
            ..span(1, n, Some(1))
        });
        store.add(vec![of("shop", spans.collect())]);
    }
    let out = Command::new("grep")
        .args(["VmRSS", &format!("/proc/{}/status", std::process::id())])
        .output()
        .unwrap();
    println!(
        "{:?} {}",
        store.fill(),
        String::from_utf8_lossy(&out.stdout)
    );
}
