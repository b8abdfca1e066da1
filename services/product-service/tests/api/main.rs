//! product-service from outside, over gRPC, on a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::future::ready;
use std::time::Duration;

use chassis::environment::Env;
use chassis::lifecycle::Lifecycle;
use chassis::{database, deadline};
use futures_util::stream;
use product_service::{Config, start};
use proto::catalog::catalog_client::CatalogClient;
use proto::catalog::catalog_server::Catalog as _;
use proto::catalog::{GetProductRequest, ListProductsRequest};
use testkit::cancellation::{Observer, drop_at_each_await};
use testkit::{Service, eventually};
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
