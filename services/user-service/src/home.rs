//! The page at `/`: what this system is, with links to its documents and tools.
//!
//! One instance is enough; it is in this service beside Swagger UI. It is rendered once, at start. Left out: whether the
//! link targets are up; `cargo xtask status` shows that.

use std::str::FromStr;

use axum::Router;
use axum::body::Bytes;
use axum::response::Html;
use axum::routing::get;
use chassis::environment::{ConfigError, Env};

use crate::docs::DOCUMENTS;

/// A link to another program on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The link's text.
    what: String,
    /// Its port; 0 when it is only known once the program has started.
    port: u16,
}

/// A list of links as it is written in the environment.
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
place orders; everything else shows how they are processed.
<h2>The API</h2>
<ul>
<li><a href="/docs/">Swagger UI</a>: read the API, and try it out
{documents}</ul>
<h2>Tools</h2>
<ul>
{pages}</ul>
<p><code>cargo xtask up</code> lists all addresses, including those of programs on free ports.
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
    fn a_link_points_to_a_port_of_this_machine_and_an_unknown_port_is_left_out() {
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
    fn an_invalid_list_of_links_is_refused() {
        for bad in ["Grafana", "Grafana=", "Grafana=x", "a=1; b", "a=65536"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.starts_with("HOME_LINKS="), "{error}");
        }
    }
}
