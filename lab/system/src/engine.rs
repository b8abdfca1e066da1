//! The container engine, called through the `docker` command line: nothing outside of this crate knows of it.
//!
//! Left out: providing an engine ([`crate::engine_setup`]), Compose ([`crate::compose`]), and what runs in it
//! ([`crate::members`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use base::outcome;
use serde::Deserialize;

use crate::{process::Call, project::Project};

/// The label that compose puts on everything of a project.
const PROJECT_LABEL: &str = "com.docker.compose.project";

/// A call of `docker`.
pub(crate) fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> Call {
    Call::new("docker").args(args)
}

/// A call that builds an image from a folder, with these arguments (`NAME=VALUE`). By the engine itself: other builders don't see
/// its local images.
pub(crate) fn build(context: &Path, tag: &str, arguments: &[String]) -> Call {
    let arguments = arguments.iter().flat_map(|it| ["--build-arg", it]);
    docker(["build", "--tag", tag])
        .args(arguments)
        .args([context])
        .env("BUILDX_BUILDER", "default")
}

/// The answer to a question that every engine which answers can answer.
///
/// # Errors
/// When it doesn't answer, with the next step.
pub(crate) fn answer(question: Call) -> anyhow::Result<String> {
    let output = question.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(String::from_utf8_lossy(&output.stderr).trim()))
}

/// What the engine said, as an error with the next step.
fn failure(said: &str) -> anyhow::Error {
    let next_step = if said.contains("permission denied") {
        "add yourself to the group `docker` (`sudo usermod -aG docker $USER`) and log in again"
    } else {
        "`cargo xtask up` starts it where it may; `cargo xtask doctor` names the command otherwise"
    };
    outcome::unavailable(
        format!("the container engine doesn't answer: {said}"),
        next_step,
    )
}

/// A local image.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Image {
    /// The engine's id, `sha256:…`.
    pub(crate) id: String,
    /// The size on disk, in bytes.
    pub(crate) size: u64,
}

/// The local image under a reference or id, if there is one.
pub(crate) fn image(reference: &str) -> anyhow::Result<Option<Image>> {
    let output = docker(["image", "inspect", "--format", "{{json .}}", reference]).output()?;
    if !output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Some(serde_json::from_str(&text).context(
        "failed to read what `docker image inspect` says",
    )?))
}

/// A volume of a project and the secrets it was made with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Volume {
    /// The volume's name.
    pub(crate) name: String,
    labels: Option<BTreeMap<String, String>>,
}

impl Volume {
    /// The id of the secrets that the volume was made with.
    pub(crate) fn secrets_id(&self) -> Option<&str> {
        self.labels
            .as_ref()?
            .get("agora.secrets")
            .map(String::as_str)
    }
}

/// The project's volumes.
pub(crate) fn volumes(project: &Project) -> anyhow::Result<Vec<Volume>> {
    let names = docker(["volume", "ls", "--quiet", "--filter", &of_project(project)]).read()?;
    if names.trim().is_empty() {
        return Ok(Vec::new());
    }
    let text = docker(["volume", "inspect"].into_iter().chain(names.lines())).read()?;
    serde_json::from_str(&text).context("failed to read what `docker volume inspect` says")
}

/// The ids of the project's networks.
pub(crate) fn networks(project: &Project) -> anyhow::Result<Vec<String>> {
    let ids = docker(["network", "ls", "--quiet", "--filter", &of_project(project)]).read()?;
    Ok(ids.lines().map(str::to_owned).collect())
}

/// The filter for everything of a project.
pub(crate) fn of_project(project: &Project) -> String {
    format!("label={PROJECT_LABEL}={}", project.name)
}

/// Names of containers, of whatever project, that publish a port of this machine.
pub(crate) fn publishers(port: u16) -> BTreeSet<String> {
    let filter = format!("publish={port}");
    let names = docker(["ps", "--filter", &filter, "--format", "{{.Names}}"])
        .read()
        .unwrap_or_default();
    names.lines().map(str::to_owned).collect()
}
