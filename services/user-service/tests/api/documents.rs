//! The API's document, and the pages for reading it.

use testkit::document_is_the_repositorys;

use crate::{open, open_with};

#[tokio::test]
async fn the_served_document_equals_the_one_in_the_repository() {
    document_is_the_repositorys(&open().await, "user-service").await;
}

#[tokio::test]
async fn swagger_ui_loads_nothing_from_other_hosts() {
    let service = open().await;
    let page = async |path: &str| {
        let answer = service.anonymous("GET", path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        (kind, answer.bytes().await.unwrap())
    };
    // The target of a redirect.
    let (kind, html) = page("/docs").await;
    assert!(kind.starts_with("text/html"), "{kind}");
    let html = String::from_utf8_lossy(&html).into_owned();
    for file in [
        "swagger-ui-bundle.js",
        "swagger-ui.css",
        "swagger-initializer.js",
    ] {
        assert!(html.contains(file), "{html}");
        let (_, content) = page(&format!("/docs/{file}")).await;
        assert!(!content.is_empty(), "{file}");
    }
    for elsewhere in ["http://", "https://", "//"] {
        let loads = [format!("src=\"{elsewhere}"), format!("href=\"{elsewhere}")];
        assert!(
            !loads.iter().any(|load| html.contains(load.as_str())),
            "{html}"
        );
    }
    let (_, settings) = page("/docs/swagger-initializer.js").await;
    let settings = String::from_utf8_lossy(&settings).into_owned();
    for service in ["user-service", "order-service", "inventory-service"] {
        assert!(
            settings.contains(&chassis::openapi::path(service)),
            "{settings}"
        );
    }
}

#[tokio::test]
async fn the_home_page_describes_the_system_and_links_to_its_tools() {
    let links = [("HOME_LINKS", "Jaeger: the traces=16686; Prometheus=0")];
    let service = open_with(&testkit::database().await, &links).await;
    let answer = service.anonymous("GET", "/").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let html = answer.text().await.unwrap();
    assert!(html.contains("laboratory for distributed-system patterns"));
    assert!(html.contains("http://localhost:16686/") && !html.contains("Prometheus"));
    let own = html
        .split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter(|address| address.starts_with('/'))
        .filter(|path| !path.contains("order-service") && !path.contains("inventory-service"));
    let own: Vec<&str> = own.collect();
    assert_eq!(own, ["/docs/", "/openapi/user-service.json"]);
    for path in own {
        let answer = service.anonymous("GET", path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
    }
}
