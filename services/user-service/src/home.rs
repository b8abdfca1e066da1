//! The page at `/`: what this is, and where its documents and pages are.
//!
//! It stands in this service beside Swagger UI, for the same reason: one is enough. It is made once, at the start. Left
//! out: whether what it links to runs; `cargo xtask status` says so.

use std::str::FromStr;

use axum::Router;
use axum::body::Bytes;
use axum::response::Html;
use axum::routing::get;
use chassis::environment::{ConfigError, Env};

use crate::docs::DOCUMENTS;

/// A page of another program on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What people find there.
    what: String,
    /// Its port; 0 is one that nobody knows before it starts.
    port: u16,
}

/// Several, as they are written.
struct Links(Vec<Link>);

impl Link {
    /// Reads `HOME_LINKS`.
    ///
    /// # Errors
    /// When it isn't a list of links.
    pub(crate) fn read(env: &Env) -> Result<Vec<Self>, ConfigError> {
        let links = env.optional(
            "HOME_LINKS",
            "WHAT=PORT[; WHAT=PORT], ports from 0 to 65535",
        )?;
        Ok(links.map_or_else(Vec::new, |Links(links)| links))
    }
}

impl FromStr for Links {
    type Err = InvalidLinks;

    fn from_str(text: &str) -> Result<Self, InvalidLinks> {
        let link = |part: &str| {
            let (what, port) = part.rsplit_once('=')?;
            Some(Link {
                what: what.trim().to_owned(),
                port: port.trim().parse().ok()?,
            })
        };
        let parts = text.split(';').filter(|part| !part.trim().is_empty());
        let links: Option<Vec<Link>> = parts.map(link).collect();
        links.map(Self).ok_or(InvalidLinks)
    }
}

/// Not a list of links.
struct InvalidLinks;

/// `GET /`.
pub(crate) fn router(links: &[Link]) -> Router {
    let page = Bytes::from(page(links));
    Router::new().route("/", get(async move || Html(page)))
}

fn page(links: &[Link]) -> String {
    let documents = DOCUMENTS.map(|(service, path)| item(path, service));
    let pages = links.iter().filter(|link| link.port != 0);
    let pages = pages.map(|link| item(&format!("http://localhost:{}/", link.port), &link.what));
    let (documents, pages) = (documents.concat(), pages.collect::<String>());
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>agora</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}</style>
<h1>agora</h1>
<p>A laboratory for distributed-system patterns: a small shop of four services behind this gateway. Sign up, log in and
place orders; everything else is there to show what becomes of them.
<h2>The API</h2>
<ul>
<li><a href="/docs/">Swagger UI</a>: read the API, and try it out
{documents}</ul>
<h2>What runs beside it</h2>
<ul>
{pages}</ul>
<p><code>cargo xtask up</code> lists the addresses, also of what has a free port of its own.
</html>
"#
    )
}

fn item(address: &str, what: &str) -> String {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    format!("<li><a href=\"{address}\">{what}</a>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Link>, ConfigError> {
        Link::read(&Env::from_pairs([("HOME_LINKS", text)]))
    }

    #[test]
    fn a_link_leads_to_a_port_of_this_machine_and_one_that_is_not_known_is_left_out() {
        let links = read("Grafana: dashboards=3001; R&D <b>=9; nowhere=0;").unwrap();
        let page = page(&links);
        for part in [
            "<a href=\"http://localhost:3001/\">Grafana: dashboards</a>",
            "<a href=\"http://localhost:9/\">R&amp;D &lt;b></a>",
            "<a href=\"/docs/\">",
            "<a href=\"/openapi/order-service.json\">order-service</a>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("nowhere"), "{page}");
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn what_is_no_list_of_links_is_refused() {
        for bad in ["Grafana", "Grafana=", "Grafana=x", "a=1; b", "a=65536"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.starts_with("HOME_LINKS="), "{error}");
        }
    }
}
