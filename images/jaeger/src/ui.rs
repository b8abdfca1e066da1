//! Jaeger's UI: its files, and its page for every other path, which the UI routes itself.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use axum::{
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};

/// The placeholders that Jaeger's query service replaces in the page, and their values here: no menu for what is left out.
const REPLACED: [(&str, &str); 2] = [
    (
        "const JAEGER_CONFIG = DEFAULT_CONFIG;",
        r#"const JAEGER_CONFIG = {"monitor": {"menuEnabled": false}, "archiveEnabled": false};"#,
    ),
    (
        "const JAEGER_VERSION = DEFAULT_VERSION;",
        r#"const JAEGER_VERSION = {"gitCommit": "", "gitVersion": "stand-in, UI 2.14.1", "buildDate": ""};"#,
    ),
];

/// The built UI.
#[derive(Debug)]
pub(crate) struct Ui {
    page: String,
    /// By request path.
    files: HashMap<String, PathBuf>,
}

impl Ui {
    /// The UI in a folder: `index.html`, and files in `static/`.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
        };
        let mut page = read(folder.join("index.html"))?;
        for (placeholder, value) in REPLACED {
            if !page.contains(placeholder) {
                bail!("the UI's page lacks `{placeholder}`: it is not the supported version");
            }
            page = page.replace(placeholder, value);
        }
        let entries =
            fs::read_dir(folder.join("static")).context("failed to list the UI's files")?;
        let files = entries
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Ok((format!("/static/{name}"), entry.path()))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { page, files })
    }

    /// A file, or the page.
    pub(crate) async fn answer(&self, uri: &Uri) -> Response {
        let path = uri.path();
        if !path.starts_with("/static/") {
            let no_cache = [(header::CACHE_CONTROL, "no-cache")];
            return (no_cache, Html(self.page.clone())).into_response();
        }
        let Some(file) = self.files.get(path) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        match tokio::fs::read(file).await {
            Ok(bytes) => {
                let kind = media_type(path);
                // Their names change with their content.
                let cache = "max-age=31536000, immutable";
                let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache)];
                (headers, bytes).into_response()
            }
            Err(error) => {
                eprintln!("jaeger: failed to read {}: {error}", file.display());
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        _ => "application/octet-stream",
    }
}
