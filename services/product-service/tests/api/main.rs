//! product-service from outside, over gRPC, on a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::future::ready;
use std::time::Duration;

use chassis::environment::Env;
use chassis::lifecycle::Lifecycle;
use chassis::pool::Pool;
use chassis::{database, deadline};
use futures_util::future::join_all;
use futures_util::stream;
use product_service::{Config, start};
use proto::catalog::catalog_client::CatalogClient;
use proto::catalog::catalog_server::Catalog as _;
use proto::catalog::{GetProductRequest, ListProductsRequest};
use testkit::cancellation::{Observer, drop_at_each_await};
use testkit::{Service, eventually};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn open() -> (Service, Channel) {
    let database = testkit::database().await;
    let variables = [("DATABASE_URL", &*database)];
    let service = Service::start("product-service", &variables, Config::read, start).await;
    let url = format!("http://{}", service.addr);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    (service, channel)
}

#[tokio::test]
async fn product_99_exists_with_a_price() {
    let (service, channel) = open().await;
    let product = CatalogClient::new(channel)
        .get_product(GetProductRequest { id: 99 })
        .await;
    let product = product.unwrap().into_inner();
    assert_eq!((product.id, product.price_cents), (99, 1999));
    let served = r#"rpc_server_call_duration_seconds_count{rpc_method="agora.catalog.v1.Catalog/GetProduct",rpc_response_status_code="OK"}"#;
    assert_eq!(service.metric(served).await, 1.0);
}

#[tokio::test]
async fn unknown_and_invalid_product_ids_have_distinct_codes() {
    let (_service, channel) = open().await;
    let mut catalog = CatalogClient::new(channel);
    for (id, code) in [
        (101, Code::NotFound),
        (0, Code::InvalidArgument),
        (-1, Code::InvalidArgument),
    ] {
        let status = catalog
            .get_product(GetProductRequest { id })
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "product {id}");
    }
}

#[tokio::test]
async fn the_catalogue_is_read_in_pages() {
    let (_service, channel) = open().await;
    let mut catalog = CatalogClient::new(channel);
    let mut prices = BTreeMap::new();
    let mut after_id = 0;
    for _ in 0..4 {
        let request = ListProductsRequest {
            page_size: 30,
            after_id,
        };
        let page = catalog.list_products(request).await.unwrap().into_inner();
        prices.extend(
            page.products
                .into_iter()
                .map(|product| (product.id, product.price_cents)),
        );
        after_id = page.next_after_id;
    }
    assert_eq!((prices.len(), after_id), (100, 0));
    let too_many = ListProductsRequest {
        page_size: 101,
        after_id: 0,
    };
    assert_eq!(
        catalog.list_products(too_many).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn health_reports_serving_and_reflection_describes_the_services() {
    let (_service, channel) = open().await;
    let health = async |service: &str, expected: ServingStatus| {
        let service = service.to_owned();
        let request = HealthCheckRequest { service };
        let answer = HealthClient::new(channel.clone()).check(request).await;
        answer.is_ok_and(|health| health.into_inner().status() == expected)
    };
    for name in ["", "agora.catalog.v1.Catalog"] {
        eventually("it is serving", async || {
            health(name, ServingStatus::Serving).await
        })
        .await;
    }

    let reflect = async |request: MessageRequest| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let mut answers = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(stream::once(ready(request)))
            .await
            .unwrap()
            .into_inner();
        let answer = answers.message().await?;
        Ok(answer.and_then(|answer| answer.message_response))
    };
    let answer = reflect(MessageRequest::ListServices(String::new())).await;
    let Ok(Some(MessageResponse::ListServicesResponse(list))) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for name in ["agora.catalog.v1.Catalog", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
        // The descriptor file: enough for a client without a .proto.
        let answer = reflect(MessageRequest::FileContainingSymbol(name.to_owned())).await;
        let Ok(Some(MessageResponse::FileDescriptorResponse(files))) = answer else {
            panic!("{name}: {answer:?}");
        };
        let (_, bare) = name.rsplit_once('.').unwrap();
        let described = |file: &Vec<u8>| String::from_utf8_lossy(file).contains(bare);
        assert!(files.file_descriptor_proto.iter().any(described), "{name}");
    }
    let unknown = MessageRequest::FileContainingSymbol("agora.Nothing".to_owned());
    let refused: Result<_, tonic::Status> = reflect(unknown).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    const IN_TIME: Duration = Duration::from_secs(4);
    let database_url = testkit::database().await;
    let variables = [("DATABASE_URL", &*database_url)];
    let config = Config::read(&Env::from_pairs(variables)).unwrap();
    let lifecycle = Lifecycle::new("product-service");
    let database = database::connect(&lifecycle, &config.database, &sqlx::migrate!()).await;
    let catalog = product_service::catalog::Catalog::new(database.unwrap().pool);
    let observer = Observer::new(&database_url, &lifecycle).await;
    let clean = async |when: &str| observer.clean(when).await;
    // With a deadline that its statement must keep, and without.
    for limit in [Some(IN_TIME), None] {
        let product = async |()| {
            let product = catalog.get_product(Request::new(GetProductRequest { id: 99 }));
            match limit {
                Some(limit) => deadline::within(limit, product).await.unwrap(),
                None => product.await,
            }
        };
        let never = std::future::pending::<()>;
        let (_, found) = drop_at_each_await("a product", async || (), product, never, clean).await;
        assert_eq!(found.unwrap().unwrap().into_inner().id, 99);
    }
    let list = async |()| {
        let all = Request::new(ListProductsRequest::default());
        catalog.list_products(all).await
    };
    let never = std::future::pending::<()>;
    let (_, found) = drop_at_each_await("the products", async || (), list, never, clean).await;
    assert!(found.unwrap().is_ok());
    assert!(lifecycle.stop(testkit::PATIENCE).await);
}

/// A pool of one connection, so that the next statement shows what was left on it.
fn pool_of_one(database_url: &str) -> Pool {
    Pool::new(database_url.parse().unwrap(), 1)
}

async fn session(pool: &Pool) -> i32 {
    let session = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pool);
    session.await.unwrap()
}

#[tokio::test]
async fn a_connection_is_lent_again_after_a_statement_and_after_a_transaction() {
    let pool = pool_of_one(&testkit::database().await);
    let first = session(&pool).await;
    assert_eq!((pool.size(), pool.idle()), (1, 1));
    for commits in [true, false] {
        let transaction = database::begin(&pool).await.unwrap();
        assert_eq!(pool.idle(), 0);
        let ended = match commits {
            true => transaction.commit().await,
            false => transaction.rollback().await,
        };
        ended.unwrap();
        assert_eq!(pool.idle(), 1);
        assert_eq!(session(&pool).await, first);
    }
}

#[tokio::test]
async fn a_statement_that_fails_or_is_dropped_costs_the_next_one_nothing() {
    let pool = pool_of_one(&testkit::database().await);
    let failed = sqlx::query("SELECT 1 / 0").execute(&pool).await;
    assert!(failed.is_err());
    session(&pool).await;
    let slow = sqlx::query("SELECT pg_sleep(0.5)").execute(&pool);
    assert!(timeout(Duration::from_millis(50), slow).await.is_err());
    session(&pool).await;
    eventually("the connection is free", async || pool.idle() == 1).await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_rolled_back_also_when_the_server_cancels_its_statement() {
    const LIMIT: Duration = Duration::from_millis(200);
    let pool = pool_of_one(&testkit::database().await);
    sqlx::query("CREATE TABLE left_behind (number int)")
        .execute(&pool)
        .await
        .unwrap();
    // Dropped before, while, and after the server cancels the statement.
    for dropped_after_ms in [20, 190, 195, 200, 205, 210, 400] {
        let work = async {
            let mut transaction = database::begin_in_time(&pool).await.unwrap();
            let insert = "INSERT INTO left_behind SELECT 1 FROM pg_sleep(0.3)";
            for statement in ["INSERT INTO left_behind VALUES (1)", insert] {
                let _ = sqlx::query(statement).execute(&mut *transaction).await;
            }
            // Dropped uncommitted, at the latest.
        };
        let in_time = deadline::within(LIMIT * 2, deadline::within(LIMIT, work));
        let _ = timeout(Duration::from_millis(dropped_after_ms), in_time).await;
        // On the same connection: it would see the row if the transaction were still open, and fail if that were aborted.
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM left_behind")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(left, 0, "dropped after {dropped_after_ms} ms");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_replaced() {
    let database_url = testkit::database().await;
    let pool = pool_of_one(&database_url);
    let first = session(&pool).await;
    let other = pool_of_one(&database_url);
    let closed: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
        .bind(first)
        .fetch_one(&other)
        .await
        .unwrap();
    assert!(closed);
    // Idle for longer than a connection is trusted without a ping.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_ne!(session(&pool).await, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_loses_no_connection_whatever_is_dropped() {
    const CONNECTIONS: u32 = 3;
    let database_url = testkit::database().await;
    let pool = Pool::new(database_url.parse().unwrap(), CONNECTIONS);
    // All are open from the start: what is dropped is their use, not their opening.
    let all = join_all((0..CONNECTIONS).map(|_| pool.acquire())).await;
    all.into_iter().for_each(|lent| lent.unwrap().keep());
    let once = async |number: u64| {
        // Some are dropped while they wait, some during a statement, some when it is done.
        let limit = Duration::from_micros(number * 7919 % 20_000);
        let work = async {
            match number % 4 {
                0 => drop(sqlx::query("SELECT 1").execute(&pool).await),
                1 => drop(sqlx::query("SELECT 1 / 0").execute(&pool).await),
                _ => {
                    let mut transaction = database::begin(&pool).await?;
                    let pause = sqlx::query("SELECT pg_sleep(0.001)");
                    pause.execute(&mut *transaction).await?;
                    if number % 4 == 2 {
                        transaction.commit().await?;
                    }
                }
            }
            Ok::<_, sqlx::Error>(())
        };
        let _ = timeout(limit, work).await;
    };
    let many = (0..30).map(async |task| {
        for number in 0..100 {
            once(task * 100 + number).await;
        }
    });
    join_all(many).await;
    eventually("all connections are free", async || {
        pool.idle() == pool.size()
    })
    .await;
    // Not at once: connections that were given up while they were opened keep the server busy for a while.
    eventually("all of them can be lent at the same time", async || {
        let lent = join_all((0..CONNECTIONS).map(|_| pool.acquire())).await;
        lent.iter().all(Result::is_ok)
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_a_connection_gets_the_first_that_is_free() {
    let database_url = testkit::database().await;
    let pool = Pool::new(database_url.parse().unwrap(), 2);
    let used = pool.acquire().await.unwrap();
    // It goes back to the pool only when its statement, which nobody awaits any more, is done.
    let dropped = sqlx::query("SELECT pg_sleep(4)").execute(&pool);
    assert!(timeout(Duration::from_millis(500), dropped).await.is_err());
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    used.keep();
    let got = timeout(Duration::from_secs(1), waiting).await;
    assert!(got.unwrap().unwrap().is_ok());
}
