//! The seed story: sign up, log in, read, order, watch the stock drop.

use crate::{
    client::{Person, text},
    system::System,
};

#[test]
fn an_order_by_somebody_new_takes_one_from_the_stock() {
    let system = System::take_turn();
    let gateway = &system.gateway;
    gateway.get("/users/", &[]).expect_status(401);
    let ada = Person::new(gateway);
    let users = gateway
        .get("/users/", &[("authorization", &ada.authorization)])
        .expect_status(200)
        .json();
    assert!(
        users["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty()),
        "{users}"
    );

    let before = ada.available(gateway);
    let order = ada.order(gateway);
    let read = gateway
        .get(
            &format!("/orders/{order}"),
            &[("authorization", &ada.authorization)],
        )
        .expect_status(200)
        .json();
    assert_eq!(text(&read, "order_id"), order);
    let after = ada.wait_for_stock(gateway, before - 1);
    assert_eq!(after, before - 1);
}

#[test]
fn smoke_walks_the_whole_story() {
    let system = System::take_turn();
    let text = system.xtask(&["smoke"]).expect_code(0).stdout;
    assert!(text.contains("The story holds"), "{text}");

    let report = system
        .xtask(&["smoke", "--format", "json"])
        .expect_code(0)
        .json();
    assert_eq!(report["outcome"], "holds");
    assert!(report["failure"].is_null(), "{report}");
    let steps = report["steps"].as_array().expect("`steps` is a list");
    for name in ["the stock drops", "the order's end", "the stock is back"] {
        assert!(steps.iter().any(|step| step["name"] == name), "{report}");
    }
    for step in steps {
        assert!(
            step["duration_ms"].is_u64() && step["detail"].is_string(),
            "{step}"
        );
    }
}

#[test]
fn status_says_which_patterns_a_service_runs_without() {
    let system = System::take_turn();
    let without = |service: &str| {
        let report = system
            .xtask(&["status", "--format", "json"])
            .expect_code(0)
            .json();
        let services = report["services"].as_array().expect("`services` is a list");
        let service = services.iter().find(|found| found["service"] == service);
        service.expect("every service is listed")["patterns_off"].clone()
    };
    assert_eq!(without("order-service"), serde_json::json!([]));
    let naive = system.without("INBOX");
    for service in ["order-service", "inventory-service"] {
        assert_eq!(without(service), serde_json::json!(["inbox"]), "{service}");
    }
    assert_eq!(without("user-service"), serde_json::json!([]));
    let text = system.xtask(&["status"]).expect_code(0).stdout;
    assert!(text.contains("order-service runs without inbox"), "{text}");
    drop(naive);
    assert_eq!(without("order-service"), serde_json::json!([]));
}
