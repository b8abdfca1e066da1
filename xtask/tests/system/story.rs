//! The seed story: sign up, log in, read, order, watch the stock drop; and the pages from which people find the rest.

use std::{fs, path::Path, time::Duration};

use crate::{
    client::{Client, TestUser, text},
    program::Call,
    system::System,
    wait,
};

#[test]
fn an_order_by_somebody_new_takes_one_from_the_stock() {
    let system = System::take_turn();
    let gateway = &system.gateway;
    gateway.get("/users/", &[]).expect_status(401);
    let ada = TestUser::new(gateway);
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
    let naive = system.with_setting("AGORA_PATTERN_INBOX", "off");
    for service in ["order-service", "inventory-service"] {
        assert_eq!(without(service), serde_json::json!(["inbox"]), "{service}");
    }
    assert_eq!(without("user-service"), serde_json::json!([]));
    let text = system.xtask(&["status"]).expect_code(0).stdout;
    assert!(text.contains("order-service runs without inbox"), "{text}");
    drop(naive);
    assert_eq!(without("order-service"), serde_json::json!([]));
}

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
/// From the order's 202 to the stock.
const STOCK_DROPS_WITHIN: Duration = Duration::from_secs(5);

/// The lines of the README's first block under the story's heading: what anybody would paste into a shell.
fn story_of_the_readme() -> String {
    let readme = fs::read_to_string(Path::new(README)).expect("the README");
    let (_, story) = readme
        .split_once("\n## The story, with plain curl\n")
        .expect("the story has a heading");
    let (_, block) = story.split_once("\n```sh\n").expect("a block of its own");
    let (lines, _) = block.split_once("\n```").expect("the block ends");
    lines.to_owned()
}

/// The originals, word for word: the README may not drift from them.
const LINES: [&str; 5] = [
    r#"curl -X POST http://localhost/auth/signup -H 'content-type: application/json' -d '{"name":"alice","email":"a@b.com","password":"hunter2"}'"#,
    r#"TOKEN=$(curl -s -X POST http://localhost/auth/login -H 'content-type: application/json' -d '{"email":"a@b.com","password":"hunter2"}' | python3 -c "import sys,json; print(json.load(sys.stdin)['access_token'])")"#,
    r#"curl http://localhost/users/ -H "Authorization: Bearer $TOKEN""#,
    r#"curl -X POST 'http://localhost/orders/?product_id=99' -H "Authorization: Bearer $TOKEN""#,
    r#"curl http://localhost/inventory/99 -H "Authorization: Bearer $TOKEN""#,
];

#[test]
fn the_storys_five_lines_work_unchanged() {
    let system = System::take_turn();
    let script = story_of_the_readme();
    assert_eq!(script.lines().collect::<Vec<_>>(), LINES);

    let reader = TestUser::new(&system.gateway);
    let before = reader.available(&system.gateway);
    // Where `localhost` is, and what became of each request, are curl's own settings.
    let folder = tempfile::tempdir().expect("a folder for the test");
    let settings = format!(
        "connect-to = \"localhost:80:{}\"\nnoproxy = \"*\"\nsilent\nmax-time = 15\nwrite-out = \"%{{stderr}}%{{http_code}}\\n\"\n",
        system.gateway.address()
    );
    fs::write(folder.path().join(".curlrc"), settings).expect("curl's settings can be written");
    let home = folder.path().to_string_lossy();
    let told = Call::new("env", [&format!("CURL_HOME={home}"), "bash", "-c", &script]).run();
    let statuses: Vec<&str> = told.stderr.lines().collect();
    assert_eq!(
        statuses,
        ["201", "200", "200", "202", "200"],
        "{}",
        told.account()
    );
    wait::until(
        "one piece less in stock",
        STOCK_DROPS_WITHIN,
        || match reader.available(&system.gateway) {
            now if now == before - 1 => Ok(()),
            now => Err(format!("{now} available, {before} before")),
        },
    );
}

#[test]
fn the_first_page_leads_to_the_documents_and_the_pages() {
    let system = System::take_turn();
    let page = system.gateway.get("/", &[]).expect_status(200);
    assert!(
        page.content_type.starts_with("text/html"),
        "{}",
        page.content_type
    );
    let links = page.body.split("href=\"").skip(1);
    let own = links
        .filter_map(|rest| rest.split('"').next())
        .filter(|address| address.starts_with('/'));
    let own: Vec<&str> = own.collect();
    assert_eq!(own.len(), 4, "{}", page.body);
    for path in own {
        system.gateway.get(path, &[]).expect_status(200);
    }
}

#[test]
fn the_gateways_dashboard_is_at_a_port_of_its_own() {
    let system = System::take_turn();
    let address = system.published("traefik", "8081");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let dashboard = Client::new(format!("http://{address}"));
    let page = dashboard.get("/dashboard/", &[]).expect_status(200);
    assert!(page.body.contains("<title>Traefik"), "{}", page.body);
    let routers = dashboard.get("/api/http/routers", &[]).expect_status(200);
    let routers = routers.json();
    let routers = routers.as_array().expect("a list of routers");
    assert!(routers.iter().any(|router| router["name"] == "orders@file"));
    dashboard
        .post("/api/http/routers", &[], None)
        .expect_status(404);
    for path in ["/api/http/routers", "/dashboard/"] {
        system.gateway.get(path, &[]).expect_status(404);
    }
}
