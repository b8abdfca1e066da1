//! The service as a process: configuration errors, logs, shutdown. One service stands for all four here, because the
//! lifecycle is the chassis's.

use sqlx::PgPool;
use testkit::{BrokerClient, Process, command, eventually, free_address, header_text};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::traces::Collector;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const BINARY: &str = env!("CARGO_BIN_EXE_order-service");

#[test]
fn an_invalid_configuration_names_the_variable_and_exits_with_2() {
    let output = command(
        BINARY,
        free_address(),
        &[("DATABASE_URL", "mysql://root:hunter2@db/orders")],
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("DATABASE_URL") && text.contains("postgres://"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn unreachable_dependencies_are_named_and_end_the_start() {
    let variables = [
        ("DATABASE_URL", "postgres://nobody:x@127.0.0.1:9/orders"),
        ("AMQP_URL", "amqp://nobody:x@127.0.0.1:9/%2f"),
        ("STARTUP_TIMEOUT_SECONDS", "2"),
    ];
    let mut process = Process::start(BINARY, &variables);
    eventually("it reports what it waits for", async || {
        process.ready().await.is_some_and(|(status, report)| {
            (
                status,
                &report["status"],
                &report["dependencies"]["postgres"],
            ) == (503, &"starting".into(), &"unreachable".into())
        })
    })
    .await;
    let error = process.logged("stopping: the service failed").await;
    assert!(
        error["error"].as_str().unwrap().contains("postgres"),
        "{error}"
    );
    assert_eq!(process.ended().await.code(), Some(1));
}

#[tokio::test]
async fn a_retry_queue_with_other_arguments_is_named_and_declared_again_once_deleted() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let queue = "inventory_events.retry.5s";
    let arguments = serde_json::json!({ "x-queue-type": "quorum", "x-message-ttl": 4000 });
    testkit::declare_queue(&broker, queue, arguments).await;
    let mut process = Process::start(
        BINARY,
        &[("DATABASE_URL", &database), ("AMQP_URL", &broker)],
    );
    let refused = process.logged("the broker refuses a declaration").await;
    let error = refused["error"].as_str().unwrap();
    let named = format!(
        "the queue `{queue}` {}",
        shared_events::topology::OTHER_ARGUMENTS
    );
    assert!(error.contains(&named), "{error}");
    assert!(error.contains("PRECONDITION_FAILED"), "{error}");
    assert_eq!(refused["level"], "ERROR");
    BrokerClient::connect(&broker)
        .await
        .delete_queue(queue)
        .await;
    process.serving().await;
}

#[tokio::test]
async fn the_broker_clients_frames_with_the_password_are_not_logged() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let mut process = Process::start(
        BINARY,
        &[
            ("DATABASE_URL", &database),
            ("AMQP_URL", &broker),
            ("LOG_LEVEL", "trace"),
        ],
    );
    let mut levels = std::collections::BTreeSet::new();
    while let Some(line) = process.log_line().await {
        if line["message"] == "serving" {
            break;
        }
        let from_client = line["target"].as_str().unwrap().starts_with("lapin");
        levels.insert((from_client, line["level"].as_str().unwrap().to_owned()));
    }
    let fine = |from_client| levels.contains(&(from_client, "TRACE".to_owned()));
    assert!(fine(false), "the level asked for is in force: {levels:?}");
    assert!(
        !fine(true) && !levels.contains(&(true, "DEBUG".to_owned())),
        "{levels:?}"
    );
}

#[tokio::test]
async fn sigterm_lets_running_requests_finish_and_flushes_spans() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let collector = Collector::start().await;

    let mut process = Process::start(
        BINARY,
        &[
            ("DATABASE_URL", &database),
            ("AMQP_URL", &broker),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
        ],
    );
    let addr = process.serving().await;
    eventually("it is ready", async || {
        process
            .ready()
            .await
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
    let healthcheck = command(
        BINARY,
        process.ops(),
        &[("DATABASE_URL", &database), ("AMQP_URL", &broker)],
    )
    .arg("healthcheck")
    .status();
    assert!(healthcheck.unwrap().success());

    // While this lock is held, the order can't be stored: the request stays in flight.
    let pool = PgPool::connect(&database).await.unwrap();
    let mut lock = chassis::database::begin(&testkit::lending_pool(&pool))
        .await
        .unwrap();
    sqlx::query("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let request = reqwest::Client::new()
        .post(format!("http://{addr}/orders/?product_id=99"))
        .header("X-User-Id", Uuid::now_v7().to_string())
        .header("X-User-Email", "ada@example.com")
        .header("traceparent", TRACEPARENT)
        .send();
    let request = tokio::spawn(request);
    eventually("the order waits for the lock", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";
        sqlx::query_scalar::<_, i64>(waiting)
            .fetch_one(&pool)
            .await
            .unwrap()
            > 0
    })
    .await;

    process.terminate();
    eventually("it reports that it is draining", async || {
        let report = process.ready().await;
        report.is_some_and(|(status, report)| status == 503 && report["status"] == "draining")
    })
    .await;
    eventually("it accepts no new connection", async || {
        TcpStream::connect(&addr).await.is_err()
    })
    .await;
    lock.rollback().await.unwrap();

    assert_eq!(request.await.unwrap().unwrap().status(), 202);
    assert_eq!(process.logged("order placed").await["trace_id"], TRACE_ID);
    assert_eq!(process.ended().await.code(), Some(0));
    // The order was committed while the service drained: its event is published after the next start at the latest.
    let mut next = Process::start(
        BINARY,
        &[("DATABASE_URL", &database), ("AMQP_URL", &broker)],
    );
    next.serving().await;
    let (_, headers) = BrokerClient::connect(&broker)
        .await
        .wait_for_message("order_events")
        .await;
    let traceparent = header_text(&headers, "traceparent").unwrap();
    assert!(traceparent.contains(TRACE_ID), "{traceparent}");
    let names = collector.names(TRACE_ID).await;
    assert!(names.contains(&"POST /orders/".to_owned()), "{names:?}");
}

/// Sends a request on a connection that is kept open; returns the head of the answer, in lower case.
async fn ask(stream: &mut BufReader<TcpStream>) -> String {
    let user = Uuid::now_v7();
    let request = format!(
        "GET /orders/ HTTP/1.1\r\nHost: agora\r\nX-User-Id: {user}\r\nX-User-Email: ada@example.com\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert!(
            stream.read_line(&mut line).await.unwrap() > 0,
            "an answer after {head:?}"
        );
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
        head.push('\n');
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    head
}

#[tokio::test]
async fn while_draining_open_connections_are_answered_and_new_ones_refused() {
    let (database, broker) = (testkit::database().await, testkit::virtual_host().await);
    let variables = [("DATABASE_URL", &*database), ("AMQP_URL", &broker)];
    let mut process = Process::start(BINARY, &variables);
    let addr = process.serving().await;
    let connect = async || BufReader::new(TcpStream::connect(addr).await.unwrap());
    let (mut used, mut idle) = (connect().await, connect().await);
    for stream in [&mut used, &mut idle] {
        let head = ask(stream).await;
        assert!(
            head.starts_with("http/1.1 200") && !head.contains("connection: close"),
            "{head}"
        );
    }
    process.terminate();
    eventually("it accepts no new connection", async || {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
    let head = ask(&mut used).await;
    assert!(
        head.starts_with("http/1.1 200") && head.contains("connection: close"),
        "{head}"
    );
    for stream in [&mut used, &mut idle] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "it is closed after the last answer");
    }
    assert_eq!(process.ended().await.code(), Some(0));
}
