//! The images of agora's own services and tools: built where their content changed, and held to a size limit.
//!
//! Left out: compiling ([`crate::binaries`]).

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use base::{outcome, progress::Step};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Part,
    compose::Compose,
    engine,
    project::{Project, Settings},
    random,
};

/// The most that a service image may weigh, in bytes.
pub const SIZE_LIMIT_BYTES: u64 = 20 * 1_000_000;
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// The name of a service's image, with its tag.
pub fn tag(service: Part) -> String {
    format!("agora/{service}:dev")
}

/// The size of a local image on disk, in bytes; `None` where it isn't here any more.
///
/// # Errors
/// When the engine can't be asked.
pub fn size_bytes(image: &str) -> anyhow::Result<Option<u64>> {
    Ok(engine::image(image)?.map(|image| image.size))
}

/// What an image was built from and what came out.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    content: String,
    image_id: String,
}

/// Builds the images whose binary or recipe changed since they were built, and no others.
pub fn build(
    project: &Project,
    compose: &Compose,
    settings: &Settings,
    step: &Step,
) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for service in Part::built() {
        if !is_fresh(project, service)? {
            stale.push(service);
        }
    }
    if stale.is_empty() {
        step.result("unchanged");
        return Ok(());
    }
    compose
        .call(
            project,
            settings,
            ["build"]
                .into_iter()
                .chain(stale.iter().map(|part| part.name())),
        )
        .limit(BUILD_LIMIT)
        .logged(&project.log("service-images"), |line| step.update(line))?;
    for &service in &stale {
        let image = engine::image(&tag(service))?
            .with_context(|| format!("compose built no image {} for {service}", tag(service)))?;
        check_size(service, image.size)?;
        let stamp = Stamp {
            content: content(project, service)?,
            image_id: image.id,
        };
        let path = stamp_path(project, service);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, serde_json::to_vec(&stamp)?)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    let names: Vec<&str> = stale.iter().map(|part| part.name()).collect();
    step.result(names.join(", "));
    Ok(())
}

fn is_fresh(project: &Project, service: Part) -> anyhow::Result<bool> {
    let Ok(text) = fs::read(stamp_path(project, service)) else {
        return Ok(false);
    };
    let Ok(stamp) = serde_json::from_slice::<Stamp>(&text) else {
        return Ok(false);
    };
    let Some(image) = engine::image(&tag(service))? else {
        return Ok(false);
    };
    Ok(stamp
        == Stamp {
            content: content(project, service)?,
            image_id: image.id,
        })
}

fn check_size(service: Part, size_bytes: u64) -> anyhow::Result<()> {
    if size_bytes <= SIZE_LIMIT_BYTES {
        return Ok(());
    }
    Err(outcome::failed(
        format!(
            "the image of {service} weighs {} MB; a service image may weigh {} MB",
            size_bytes / 1_000_000,
            SIZE_LIMIT_BYTES / 1_000_000
        ),
        "look for a new large dependency, or for debug symbols in the release profile",
    ))
}

/// A hash of everything that goes into a service's image.
fn content(project: &Project, service: Part) -> anyhow::Result<String> {
    let sources = [
        project.binaries().join(service.name()).join(service.name()),
        project.root.join("services/Dockerfile"),
    ];
    let mut hasher = Sha256::new();
    for source in sources {
        let bytes =
            fs::read(&source).with_context(|| format!("failed to read {}", source.display()))?;
        // With its length, so that bytes can't move from one file to the next unnoticed.
        hasher.update(bytes.len().to_be_bytes());
        hasher.update(bytes);
    }
    Ok(random::spelled(&hasher.finalize()))
}

fn stamp_path(project: &Project, service: Part) -> PathBuf {
    project
        .outputs()
        .join("stamps")
        .join(format!("{service}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_over_the_limit_is_refused_by_name() {
        assert!(check_size(Part::OrderService, 20_000_000).is_ok());
        let error = check_size(Part::OrderService, 21_000_000)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("order-service") && error.contains("21 MB"),
            "{error}"
        );
    }
}
