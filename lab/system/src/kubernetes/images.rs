//! Images of this machine's engine, on the nodes of a cluster: of the local cluster, of kind and of k3d.
//!
//! An image is named by its contents, so that a new one replaces pods and an old one is loaded once. Left out: building
//! them ([`crate::service_images`], [`crate::images`]), and registries.

use std::{
    fs,
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use anyhow::Context;
use base::{outcome, progress::Step};
use serde::{Deserialize, Serialize};

use crate::{
    Part,
    cluster::{self, Cluster},
    engine::{self, docker},
    files,
    images::{self, References},
    kubectl::Target,
    process::Call,
    service_images,
};

/// As long as the largest image takes on a busy machine.
const LOADED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// The file with the images that were put on the nodes.
const IMAGES: &str = "images.json";

/// An image that the manifests name, and the one that takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Image {
    /// The manifests' name, without a tag.
    pub(super) in_manifests: String,
    /// The name on the nodes.
    pub(super) name: String,
    /// The tag on the nodes.
    pub(super) tag: String,
}

impl Image {
    pub(super) fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// How images get into a cluster.
enum Way {
    /// Into the nodes of the project's own.
    Local,
    /// By a program that takes references and then further arguments.
    Program(&'static str, &'static [&'static str], Vec<String>),
    /// The user does it.
    ByHand,
}

/// Names the system's images by their contents and loads those that the cluster lacks; where it can't be loaded into, says which it has
/// to have.
///
/// # Errors
/// When an image is missing here, or can't be loaded.
pub(super) fn provide(
    target: &Target,
    references: &References,
    step: &Step,
) -> anyhow::Result<Vec<Image>> {
    let mut images = third_party(target, references)?;
    images.extend(own()?);
    load(target, &images, step)?;
    Ok(images)
}

/// The same for the images of ours alone, and notes them as those that are there.
///
/// # Errors
/// When `up` hasn't noted any, for new ones where it can't load any, or as those of [`provide`].
pub(crate) fn load_services(target: &Target, step: &Step) -> anyhow::Result<()> {
    let own = own()?;
    let mut images = noted(target)?;
    let new: Vec<String> = own
        .iter()
        .filter(|image| !images.contains(image))
        .map(Image::reference)
        .collect();
    if !new.is_empty() && matches!(way(target.context()), Way::ByHand) {
        return Err(outcome::unavailable(
            format!(
                "images can't be loaded into this cluster by agora: its nodes lack {}",
                new.join(", ")
            ),
            "load them, then `cargo xtask up`",
        ));
    }
    load(target, &own, step)?;
    images.retain(|image| {
        let is_same = |new: &Image| new.in_manifests == image.in_manifests;
        !own.iter().any(is_same)
    });
    images.extend(own);
    note(target, &images)
}

/// The images that the last `up` or `rollout` has put there.
///
/// # Errors
/// When they can't be read.
pub(super) fn noted(target: &Target) -> anyhow::Result<Vec<Image>> {
    let path = target.folder().join(IMAGES);
    let text = fs::read(&path).map_err(|error| {
        outcome::unavailable(
            format!("failed to read {}: {error}", path.display()),
            "`cargo xtask up` makes it",
        )
    })?;
    serde_json::from_slice(&text).with_context(|| format!("failed to read {}", path.display()))
}

/// Notes the images as those that are there.
///
/// # Errors
/// When the file can't be written.
pub(super) fn note(target: &Target, images: &[Image]) -> anyhow::Result<()> {
    let folder = target.folder();
    fs::create_dir_all(&folder)?;
    files::replace(&folder.join(IMAGES), &serde_json::to_vec(images)?)?;
    Ok(())
}

/// The images of ours, named by their contents.
fn own() -> anyhow::Result<Vec<Image>> {
    let built = Part::built().filter(|part| *part != Part::TrivialService);
    let images = built.map(|part| {
        let from = service_images::tag(part);
        let id = engine::image(&from)?
            .with_context(|| format!("there is no image {from}"))?
            .id;
        let digest = id.rsplit(':').next().unwrap_or_default();
        let image = Image {
            in_manifests: own_name(part),
            name: format!("docker.io/agora/{part}"),
            tag: digest.chars().take(12).collect(),
        };
        docker(["tag", &from, &image.reference()]).read()?;
        Ok(image)
    });
    images.collect()
}

fn load(target: &Target, images: &[Image], step: &Step) -> anyhow::Result<()> {
    let all: Vec<String> = images.iter().map(Image::reference).collect();
    match way(target.context()) {
        Way::Local => load_into_nodes(target, &all, step)?,
        Way::Program(program, before, after) => {
            step.update(&format!("{program} loads {} images", all.len()));
            Call::new(program)
                .args(before)
                .args(&all)
                .args(after)
                .limit(LOADED_WITHIN * u32::try_from(all.len())?)
                .logged(&target.log("images"), |line| step.update(line))?;
        }
        Way::ByHand => step.say(&format!(
            "images can't be loaded into this cluster by agora: its nodes have to have {}",
            all.join(", ")
        )),
    }
    Ok(())
}

/// The manifests' name of an image of ours.
pub(super) fn own_name(part: Part) -> String {
    format!("agora/{part}")
}

/// Refuses a cluster whose own program for loading images isn't here.
pub(super) fn require_loader(target: &Target) -> anyhow::Result<()> {
    let Way::Program(program, ..) = way(target.context()) else {
        return Ok(());
    };
    Call::new(program).args(["version"]).read().map_err(|error| {
        outcome::unavailable(
            format!("images are loaded into this cluster by `{program}`, which doesn't run: {error:#}"),
            format!("install {program}, or make it reachable by PATH"),
        )
    })?;
    Ok(())
}

/// By the name of a context, as kind and k3d make them.
fn way(context: Option<&str>) -> Way {
    let Some(context) = context else {
        return Way::Local;
    };
    if let Some(cluster) = context.strip_prefix("kind-") {
        let of = vec!["--name".to_owned(), cluster.to_owned()];
        return Way::Program("kind", &["load", "docker-image"], of);
    }
    if let Some(cluster) = context.strip_prefix("k3d-") {
        let of = vec!["--cluster".to_owned(), cluster.to_owned()];
        return Way::Program("k3d", &["image", "import"], of);
    }
    Way::ByHand
}

/// The images of PostgreSQL and so on: pulled ones have the manifests' name, local ones another.
fn third_party(target: &Target, references: &References) -> anyhow::Result<Vec<Image>> {
    let upstream = images::pinned(target.project())?;
    let mut found = Vec::new();
    for (setting, reference) in references {
        let pinned = upstream
            .get(setting)
            .with_context(|| format!("images/upstream.env has no {setting}"))?;
        let (in_manifests, _) = split(pinned);
        let (name, tag) = split(reference);
        found.push(Image {
            in_manifests: in_manifests.to_owned(),
            name: with_registry(name),
            tag: tag.to_owned(),
        });
    }
    Ok(found)
}

/// Name and tag. Pure.
fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

/// As Kubernetes names what Docker names without a registry. Pure.
fn with_registry(name: &str) -> String {
    match name.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Loads what a node lacks, into all nodes side by side.
fn load_into_nodes(target: &Target, references: &[String], step: &Step) -> anyhow::Result<()> {
    let cluster = Cluster::new(target.project());
    let nodes = cluster.nodes_by_container()?;
    if nodes.is_empty() {
        return Err(outcome::unavailable(
            "the local cluster has no node",
            "`cargo xtask cluster up` starts one",
        ));
    }
    step.update("asking what the nodes have");
    let loaded = thread::scope(|scope| {
        let (say, said) = mpsc::channel();
        let loads: Vec<_> = nodes
            .iter()
            .map(|(name, container)| {
                let say = say.clone();
                scope.spawn(move || load_into_node(name, container, references, &say))
            })
            .collect();
        drop(say);
        said.iter().for_each(|text: String| step.update(&text));
        let results = loads.into_iter().map(|load| {
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.sum::<anyhow::Result<usize>>()
    })?;
    step.result(match loaded {
        0 => "all nodes have them".to_owned(),
        loaded => format!("{loaded} loaded into {} nodes", nodes.len()),
    });
    Ok(())
}

/// Loads what this node lacks; returns how many.
fn load_into_node(
    name: &str,
    container: &str,
    references: &[String],
    say: &Sender<String>,
) -> anyhow::Result<usize> {
    let there = docker(["exec", container])
        .args(cluster::IMAGES)
        .args(["list", "--quiet"])
        .read()?;
    let missing: Vec<&str> = references
        .iter()
        .map(String::as_str)
        .filter(|reference| !there.lines().any(|line| line == *reference))
        .collect();
    for (reference, number) in missing.iter().zip(1..) {
        // Whoever listens is there until this ends.
        let _ = say.send(format!("{name}: image {number} of {}", missing.len()));
        // By a pipe between the two: a file would be as large as the image.
        let script = r#"set -o pipefail; docker save "$1" | docker exec --interactive "$2" "${@:3}" import -"#;
        Call::new("bash")
            .args(["-c", script, "bash", reference, container])
            .args(cluster::IMAGES)
            .limit(LOADED_WITHIN)
            .read()?;
    }
    Ok(missing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_named_as_kubernetes_names_them() {
        assert_eq!(split("registry:5000/a/b"), ("registry:5000/a/b", "latest"));
        assert_eq!(
            split("agora-local/traefik:v3-1"),
            ("agora-local/traefik", "v3-1")
        );
        assert_eq!(
            with_registry("agora-local/traefik"),
            "docker.io/agora-local/traefik"
        );
        assert_eq!(with_registry("ghcr.io/a/b"), "ghcr.io/a/b");
        assert_eq!(with_registry("postgres"), "docker.io/library/postgres");
    }

    #[test]
    fn a_context_of_kind_and_of_k3d_is_loaded_by_its_own_program() {
        let program = |context| match way(context) {
            Way::Program(program, _, after) => format!("{program} {}", after.join(" ")),
            Way::Local => "local".to_owned(),
            Way::ByHand => "by hand".to_owned(),
        };
        assert_eq!(program(None), "local");
        assert_eq!(program(Some("kind-try")), "kind --name try");
        assert_eq!(program(Some("k3d-try")), "k3d --cluster try");
        assert_eq!(program(Some("production")), "by hand");
    }
}
