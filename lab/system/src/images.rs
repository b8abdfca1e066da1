//! Third-party images: pulled where a registry answers, else built here from `images/`.
//!
//! Left out: the images of agora's own services ([`crate::service_images`]) and of optional parts ([`crate::extras`]).

use std::{collections::BTreeMap, env, path::Path, thread, time::Duration};

use base::{outcome, progress::Step};

use crate::{
    compose::{self, Compose},
    engine,
    env_file::EnvFile,
    interrupt::Interrupted,
    process::Call,
    project::Project,
};

/// The image that shows whether a registry answers at all.
pub const SMALLEST: &str = "AGORA_IMAGE_ALERTMANAGER";
/// The trace store, whose local image holds another program than the upstream one.
pub const JAEGER: &str = "AGORA_IMAGE_JAEGER";
/// How the references of locally built images begin.
const LOCAL: &str = "agora-local/";
/// The settings that name the images, the smallest image first.
const IMAGES: [&str; 6] = [
    SMALLEST,
    JAEGER,
    "AGORA_IMAGE_TRAEFIK",
    "AGORA_IMAGE_PROMETHEUS",
    "AGORA_IMAGE_RABBITMQ",
    "AGORA_IMAGE_POSTGRES",
];

/// How long a registry may take for its first word.
const REGISTRY_ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const PULL_LIMIT: Duration = Duration::from_secs(15 * 60);
const LOCAL_BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Where third-party images come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// What is here already, else a registry, else built here.
    #[default]
    Auto,
    /// From a registry (`AGORA_IMAGE_REGISTRY` names a mirror).
    Pull,
    /// Built here from Debian's packages, PyPI and crates.
    Local,
}

impl Source {
    /// Every source, in the order of the help text.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Pull, Self::Local];

    /// The value of `--images`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pull => "pull",
            Self::Local => "local",
        }
    }

    /// What it means, for the help text.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Auto => "What is here already, else a registry, else built here",
            Self::Pull => "From a registry (`AGORA_IMAGE_REGISTRY` names a mirror)",
            Self::Local => "Built here from Debian's packages, PyPI and crates",
        }
    }
}

/// Image references, e.g. `docker.io/library/postgres:17`, by the setting that names them.
pub type References = BTreeMap<&'static str, String>;

/// Makes sure that every third-party image is on this machine; returns the references to record in `.env`.
pub fn provide(
    project: &Project,
    compose: &Compose,
    env_file: &EnvFile,
    source: Source,
    step: &Step,
) -> anyhow::Result<References> {
    let upstream = upstream(project)?;
    match source {
        Source::Pull => {
            pull(project, &upstream, step)?;
            Ok(upstream)
        }
        Source::Local => build(project, compose, step),
        Source::Auto => {
            let local = local_references(project, compose)?;
            // What was chosen before comes first, unless its pin or recipe changed since.
            let chosen =
                recorded(env_file).filter(|recorded| [&upstream, &local].contains(&recorded));
            for references in [chosen.as_ref(), Some(&upstream), Some(&local)]
                .into_iter()
                .flatten()
            {
                if all_present(references)? {
                    step.result(format!("{} here already", IMAGES.len()));
                    return Ok(references.clone());
                }
            }
            step.say("asking the registry");
            match pull(project, &upstream, step) {
                Ok(()) => Ok(upstream),
                Err(error) if error.is::<Interrupted>() => Err(error),
                Err(error) => {
                    let why = format!("{error:#}");
                    let why = why.lines().next().unwrap_or_default();
                    step.say(&format!("{why}; building the images here instead"));
                    build(project, compose, step)
                }
            }
        }
    }
}

/// What people miss in images that were built here, in a sentence; `None` where they were pulled.
pub fn lacks(references: &References) -> Option<&'static str> {
    let jaeger = references.get(JAEGER)?;
    jaeger.starts_with(LOCAL).then_some(
        "Jaeger is a stand-in here: its API and UI, traces in memory only, no /api/v3, no archive, no monitor page",
    )
}

/// The mirror named by the environment, if any.
pub fn mirror() -> Option<String> {
    env::var("AGORA_IMAGE_REGISTRY")
        .ok()
        .filter(|mirror| !mirror.is_empty())
}

/// The upstream references, with the mirror in place of their registry if one is named.
pub fn upstream(project: &Project) -> anyhow::Result<References> {
    upstream_of(project, &IMAGES)
}

/// The upstream references of these settings, which are pinned in the same file.
pub(crate) fn upstream_of(project: &Project, names: &[&'static str]) -> anyhow::Result<References> {
    let pinned = pinned_of(project, names)?.into_iter();
    let pulled = pinned.map(|(name, reference)| (name, through_own_mirror(&reference)));
    Ok(pulled.collect())
}

/// The references as they are pinned, whether or not a mirror is named.
pub(crate) fn pinned(project: &Project) -> anyhow::Result<References> {
    pinned_of(project, &IMAGES)
}

fn pinned_of(project: &Project, names: &[&'static str]) -> anyhow::Result<References> {
    let pins = EnvFile::read(&project.root.join("images/upstream.env"))?;
    references_of(names, |name| pins.get(name).map(str::to_owned)).ok_or_else(|| {
        outcome::usage(
            "images/upstream.env doesn't name every image",
            "take the file as it is in the repository",
        )
    })
}

/// A reference, with the mirror in place of its registry if one is named.
pub(crate) fn through_own_mirror(reference: &str) -> String {
    match mirror() {
        Some(mirror) => through_mirror(reference, &mirror),
        None => reference.to_owned(),
    }
}

/// `docker.io/library/postgres:17` through `host/prefix` is `host/prefix/library/postgres:17`.
fn through_mirror(reference: &str, mirror: &str) -> String {
    let path = match reference.split_once('/') {
        Some((registry, path)) if registry.contains(['.', ':']) || registry == "localhost" => path,
        _ => reference,
    };
    format!("{}/{path}", mirror.trim_end_matches('/'))
}

fn recorded(env_file: &EnvFile) -> Option<References> {
    references(|name| env_file.get(name).map(str::to_owned))
}

fn references(value: impl Fn(&str) -> Option<String>) -> Option<References> {
    references_of(&IMAGES, value)
}

fn references_of(
    names: &[&'static str],
    value: impl Fn(&str) -> Option<String>,
) -> Option<References> {
    names
        .iter()
        .map(|name| Some((*name, value(name)?)))
        .collect()
}

fn all_present(references: &References) -> anyhow::Result<bool> {
    let inspect = engine::docker(
        ["image", "inspect"]
            .into_iter()
            .chain(references.values().map(String::as_str)),
    );
    Ok(inspect.output()?.status.success())
}

fn pull(project: &Project, references: &References, step: &Step) -> anyhow::Result<()> {
    let missing: Vec<&str> = IMAGES
        .iter()
        .filter_map(|name| references.get(name).map(String::as_str))
        .filter_map(|reference| match engine::image(reference) {
            Ok(None) => Some(Ok(reference)),
            Ok(Some(_)) => None,
            Err(error) => Some(Err(error)),
        })
        .collect::<anyhow::Result<_>>()?;
    let Some((first, rest)) = missing.split_first() else {
        step.result("pulled before");
        return Ok(());
    };
    pull_one(project, first).map_err(|error| not_pulled(first, &error))?;
    step.update(&format!("pulled {first}"));
    thread::scope(|scope| {
        let pulls: Vec<_> = rest
            .iter()
            .map(|reference| (reference, scope.spawn(|| pull_one(project, reference))))
            .collect();
        for (reference, pull) in pulls {
            let result = pull
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.map_err(|error| not_pulled(reference, &error))?;
            step.update(&format!("pulled {reference}"));
        }
        anyhow::Ok(())
    })?;
    step.result(format!("{} pulled", missing.len()));
    Ok(())
}

/// Pulls one image.
pub(crate) fn pull_one(project: &Project, reference: &str) -> anyhow::Result<()> {
    let call = engine::docker(["pull", reference])
        .limit(PULL_LIMIT)
        .first_output_within(REGISTRY_ANSWERS_WITHIN);
    let name = reference
        .rsplit('/')
        .next()
        .unwrap_or(reference)
        .replace(':', "-");
    call.logged(&project.log(&format!("pull-{name}")), |_| ())
}

fn not_pulled(reference: &str, error: &anyhow::Error) -> anyhow::Error {
    if error.is::<Interrupted>() {
        return Interrupted.into();
    }
    outcome::unavailable(
        format!("{reference} can't be pulled: {error:#}"),
        "name a mirror that answers with AGORA_IMAGE_REGISTRY, or build the images here: `cargo xtask up --images local`",
    )
}

/// The references of the images that the local recipes build now: a changed recipe has another reference.
fn local_references(project: &Project, compose: &Compose) -> anyhow::Result<References> {
    let text = build_script(project, compose).args(["--tags"]).read()?;
    let tags: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .collect();
    references(|name| tags.get(name).map(|tag| (*tag).to_owned())).ok_or_else(|| {
        anyhow::anyhow!("`images/build.sh --tags` doesn't name every image; it says: {text}")
    })
}

fn build(project: &Project, compose: &Compose, step: &Step) -> anyhow::Result<References> {
    let references = local_references(project, compose)?;
    if all_present(&references)? {
        step.result("built before");
        return Ok(references);
    }
    build_script(project, compose)
        .limit(LOCAL_BUILD_LIMIT)
        .logged(&project.log("images"), |line| step.say(line))?;
    step.result("built here");
    Ok(references)
}

fn build_script(project: &Project, compose: &Compose) -> Call {
    let script = Call::new("bash")
        .args([project.root.join("images/build.sh")])
        .dir(&project.root)
        .env("AGORA_COMPOSE", compose.command_line());
    compose::unmoved_from_outside(script)
}

/// A call of a tool in an image, with a folder mounted at a path and no network; `None` where the image isn't here.
///
/// # Errors
/// When the engine can't be asked.
pub fn tool(
    reference: &str,
    tool: &str,
    folder: &Path,
    mounted_at: &str,
) -> anyhow::Result<Option<Call>> {
    if reference.is_empty() || engine::image(reference)?.is_none() {
        return Ok(None);
    }
    let volume = format!("{}:{mounted_at}:ro", folder.display());
    let run = ["run", "--rm", "--network", "none", "--volume", &volume];
    Ok(Some(engine::docker(run).args([
        "--entrypoint",
        tool,
        reference,
    ])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_takes_the_registrys_place() {
        let mapped = |reference| through_mirror(reference, "127.0.0.1:5000/cache/");
        assert_eq!(
            mapped("docker.io/library/postgres:17.6"),
            "127.0.0.1:5000/cache/library/postgres:17.6"
        );
        assert_eq!(
            mapped("prom/prometheus:v3"),
            "127.0.0.1:5000/cache/prom/prometheus:v3"
        );
        assert_eq!(mapped("localhost/x:1"), "127.0.0.1:5000/cache/x:1");
    }

    #[test]
    fn only_a_locally_built_jaeger_lacks_something() {
        let lacks = |jaeger: &str| lacks(&BTreeMap::from([(JAEGER, jaeger.to_owned())]));
        assert!(lacks("agora-local/jaeger:2.14-0123").is_some());
        assert_eq!(lacks("docker.io/jaegertracing/jaeger:2.14.1"), None);
        assert_eq!(lacks("127.0.0.1:5000/jaegertracing/jaeger:2.14.1"), None);
    }

    #[test]
    fn references_are_complete_or_nothing() {
        assert!(references(|_| Some("x".to_owned())).is_some());
        assert!(
            references(|name| (name != "AGORA_IMAGE_TRAEFIK").then(|| "x".to_owned())).is_none()
        );
    }
}
