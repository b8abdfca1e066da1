//! Requests and the reader of revocations, dropped at each of their awaits.

use chassis::database;
use chassis::environment::Env;
use chassis::lifecycle::Lifecycle;
use serde_json::{Value, json};
use testkit::cancellation::{Composed, Observer, drop_at_each_await, request_of, soon};
use testkit::{Service, series};
use user_service::revocations::Revocations;
use user_service::{Config, compose};
use uuid::Uuid;

use super::{KEY, PASSWORD};

const NEW_PASSWORD: &str = "another horse battery";

/// Users with the existing user's password hash, for requests that each need a new one.
async fn users(service: &Composed) -> std::vec::IntoIter<Uuid> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "INSERT INTO users (id, name, email, password_hash)
         SELECT gen_random_uuid(), name, gen_random_uuid() || '@example.com', password_hash
         FROM (SELECT * FROM users WHERE email = 'ada@example.com') AS ada, generate_series(1, 200)
         RETURNING id",
    )
    .fetch_all(service.observer().database())
    .await
    .unwrap();
    ids.into_iter()
}

#[tokio::test]
async fn a_dropped_request_leaves_nothing_behind() {
    let catalogue = testkit::database().await;
    let products = Service::start(
        "product-service",
        &[("DATABASE_URL", &*catalogue)],
        product_service::Config::read,
        product_service::start,
    )
    .await;
    let (database, prices) = (
        testkit::database().await,
        format!("http://{}", products.addr),
    );
    let variables = [
        ("DATABASE_URL", &*database),
        ("JWT_KEYS", &*format!("new:{KEY}")),
        ("PRODUCT_SERVICE_URL", &*prices),
        ("BCRYPT_COST", "4"),
    ];
    let service = Composed::new("user-service", &variables, Config::read, compose).await;
    let nobody = Uuid::nil();
    let sign_up = |email: &str| {
        let body = json!({ "name": "Ada", "email": email, "password": PASSWORD });
        request_of(nobody, "POST", "/auth/signup", &body)
    };
    assert_eq!(
        service.answer(sign_up("ada@example.com")).await.status(),
        201
    );

    let dropped = service.drop_at_each_await("a signup", async || {
        sign_up(&format!("{}@example.com", Uuid::now_v7()))
    });
    assert_eq!(dropped.await, 201);
    let taken = service.drop_at_each_await("a second signup", async || sign_up("ada@example.com"));
    assert_eq!(taken.await, 409);

    let log_in = |password: &str| {
        let body = json!({ "email": "ada@example.com", "password": password });
        request_of(nobody, "POST", "/auth/login", &body)
    };
    let dropped = service.drop_at_each_await("a login", async || log_in(PASSWORD));
    assert_eq!(dropped.await, 200);
    let with_token = async |method: &str, path: &str| {
        let answer = service.answer(log_in(PASSWORD)).await.into_body();
        let answer = axum::body::to_bytes(answer, usize::MAX).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let token = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        let mut request = request_of(nobody, method, path, &Value::Null);
        request
            .headers_mut()
            .insert("Authorization", token.parse().unwrap());
        request
    };
    let dropped =
        service.drop_at_each_await("a check", async || with_token("GET", "/auth/verify").await);
    assert_eq!(dropped.await, 200);
    let dropped = service.drop_at_each_await("a logout", async || {
        with_token("POST", "/auth/logout").await
    });
    assert_eq!(dropped.await, 204);

    let mut owners = users(&service).await;
    let dropped = service.drop_at_each_await("a new password", async || {
        let body = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
        request_of(owners.next().unwrap(), "PUT", "/users/me/password", &body)
    });
    assert_eq!(dropped.await, 204);

    let user = owners.next().unwrap();
    let purchases = format!("/users/{user}/purchases");
    let purchase = |key: Option<String>| {
        let body = json!({ "product_id": 99, "quantity": 2 });
        let mut request = request_of(user, "POST", &purchases, &body);
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("Idempotency-Key", key.parse().unwrap());
        }
        request
    };
    let dropped = service.drop_at_each_await("a purchase", async || purchase(None));
    assert_eq!(dropped.await, 201);
    let dropped = service.drop_at_each_await("a purchase with a key", async || {
        purchase(Some(Uuid::now_v7().to_string()))
    });
    assert_eq!(dropped.await, 201);
    let dropped = service.drop_at_each_await("a purchase once more", async || {
        purchase(Some("once".to_owned()))
    });
    assert_eq!(dropped.await, 201);
    let once = "SELECT count(*) FROM purchases WHERE idempotency_key = 'once'";
    assert_eq!(service.observer().count(once).await, 1);

    for path in [
        "/",
        "/users/",
        "/users/me",
        &format!("/users/{user}"),
        &purchases,
        "/openapi/user-service.json",
        "/docs/",
    ] {
        let dropped =
            service.drop_at_each_await(path, async || request_of(user, "GET", path, &Value::Null));
        assert_eq!(dropped.await, 200, "{path}");
    }
    service.stop().await;
    assert!(products.stop().await);
}

#[tokio::test]
async fn a_dropped_reader_of_revocations_misses_nothing_and_leaves_nothing_behind() {
    let database_url = testkit::database().await;
    let variables = [
        ("DATABASE_URL", &*database_url),
        ("JWT_KEYS", &*format!("new:{KEY}")),
        ("PRODUCT_SERVICE_URL", "http://127.0.0.1:9"),
    ];
    let config = Config::read(&Env::from_pairs(variables)).unwrap();
    let lifecycle = Lifecycle::new("user-service");
    let database = database::connect(&lifecycle, &config.database, &sqlx::migrate!()).await;
    let revocations = Revocations::read(&lifecycle, &database.unwrap()).await;
    let (_revocations, mut reader) = revocations.unwrap();
    let observer = Observer::new(&database_url, &lifecycle).await;

    let stored = async || observer.count("SELECT count(*) FROM revocations").await as f64;
    let known =
        || series(&lifecycle.metrics().encode(), "agora_revocations_known").unwrap_or_default();
    let (polls, _) = drop_at_each_await(
        "the reader",
        async || {
            let insert =
                "INSERT INTO revocations (subject, expires_at) VALUES ($1, now() + interval '1 h')";
            let insert = sqlx::query(insert).bind(Uuid::now_v7());
            insert.execute(observer.database()).await.unwrap();
        },
        async |()| reader.run().await,
        async || {
            let expected = stored().await;
            soon(|| "known".to_owned(), async || known() == expected).await;
        },
        async |when: &str| observer.clean(when).await,
    )
    .await;
    eprintln!("the reader: all known after {polls} polls");
    assert_eq!(known(), stored().await);
    assert!(lifecycle.stop(testkit::PATIENCE).await);
}
