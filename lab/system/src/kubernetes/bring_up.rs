//! Applying the system to a namespace, and waiting until every replica is ready.
//!
//! Left out: building images ([`crate::bring_up`]), and optional parts, which have no manifests.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base::{outcome, progress::Progress};

use super::{
    images::{self, Image},
    kept_down,
    manifests::{self, Replicas},
    tool, workloads,
};
use crate::{
    Part,
    images::References,
    interrupt,
    kubectl::{ANSWER_WITHIN, Target},
    members::{self, Member},
    project::Settings,
    unhealthy::explain,
    wait,
};

/// How long a change of the cluster may take until the API server has taken it.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long pods may take until all are ready: a database that is made takes the longest.
const READY_WITHIN: Duration = Duration::from_secs(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const KUSTOMIZE: &str = "--kustomize";
/// How long a reason in [`FINAL`] may be one of before, or of a moment.
const FINAL_AFTER: Duration = Duration::from_secs(15);
/// Reasons for which a container doesn't start that no waiting removes.
const FINAL: [&str; 5] = [
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ImagePullBackOff",
];

/// Applies the system and waits until it is ready.
///
/// # Errors
/// When the cluster refuses, or a pod doesn't get ready in time, with its log.
pub(crate) fn bring_up(
    target: &Arc<Target>,
    settings: &Settings,
    references: &References,
    progress: &Progress,
) -> anyhow::Result<()> {
    progress.step("cluster", |step| {
        let version = target.version()?;
        let context = target.context().unwrap_or("local");
        let namespace = target.namespace();
        step.result(format!(
            "{context}, Kubernetes {version}, namespace {namespace}"
        ));
        anyhow::Ok(())
    })?;
    let images = progress.step("images in the cluster", |step| {
        images::provide(target, references, step)
    })?;
    progress.step("manifests", |_| {
        apply(target, manifests::namespace(target, settings)?)?;
        // What killed commands left: members that are kept down, and a tool that still runs.
        kept_down::bring_back(target)?;
        tool::remove_all(target)?;
        apply(target, manifests::secrets(settings)?)?;
        apply_system(target, settings, &images, &Replicas::new())
    })?;
    progress.step("pods", |step| {
        let members = wait_until_ready(target, settings, |text| step.update(text))?;
        step.result(format!("{members} ready"));
        Ok(())
    })
}

/// Sets the system up with these settings and so many replicas; pods of `renewed` are replaced in any case. Returns when all are
/// ready, and those of before are gone.
///
/// # Errors
/// When the cluster refuses, or a pod doesn't get ready in time, with its log.
pub(crate) fn configure(
    target: &Arc<Target>,
    settings: &Settings,
    replicas: &Replicas,
    renewed: &[Part],
) -> anyhow::Result<()> {
    apply_system(target, settings, &manifests::images(target)?, replicas)?;
    renewed.iter().try_for_each(|part| restart(target, *part))?;
    wait_until_ready(target, settings, |_| ())?;
    Ok(())
}

/// Replaces a part's pods as its Deployment does it: a new one is ready before an old one ends.
///
/// # Errors
/// As those of [`configure`].
pub(crate) fn renew(target: &Arc<Target>, settings: &Settings, part: Part) -> anyhow::Result<()> {
    restart(target, part)?;
    wait_until_ready(target, settings, |_| ())?;
    Ok(())
}

/// Ends all of a part's pods and then makes as many new ones, as a Deployment with the strategy `Recreate` does it.
///
/// # Errors
/// As those of [`configure`].
pub(crate) fn recreate(
    target: &Arc<Target>,
    settings: &Settings,
    part: Part,
    count: usize,
) -> anyhow::Result<()> {
    let gone = scale(target, part, 0).and_then(|()| wait_until_ready(target, settings, |_| ()));
    // Also after Ctrl-C, which would leave nobody to serve.
    interrupt::set_aside(|| {
        scale(target, part, count)?;
        wait_until_ready(target, settings, |_| ())
    })?;
    gone.map(drop)
}

fn scale(target: &Target, part: Part, count: usize) -> anyhow::Result<()> {
    let count = format!("--replicas={count}");
    let scale = [
        "scale",
        &format!("deployment/{part}"),
        &count,
        ANSWER_WITHIN,
    ];
    target.kubectl(scale).limit(TAKEN_WITHIN).read()?;
    Ok(())
}

fn restart(target: &Target, part: Part) -> anyhow::Result<()> {
    let restart = ["rollout", "restart", &format!("deployment/{part}")];
    let restart = target.kubectl(restart).args([ANSWER_WITHIN]);
    restart.limit(TAKEN_WITHIN).read()?;
    Ok(())
}

/// What the command lines of [`configure`]'s call have in common, and no others.
pub(crate) fn configuring(target: &Target) -> [String; 2] {
    let folder = manifests::folder(target.project());
    [KUSTOMIZE.to_owned(), folder.display().to_string()]
}

fn apply_system(
    target: &Target,
    settings: &Settings,
    images: &[Image],
    replicas: &Replicas,
) -> anyhow::Result<()> {
    let folder = manifests::write(target, settings, images, replicas)?;
    let applied = target
        .kubectl([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=agora",
        ])
        .args([ANSWER_WITHIN, KUSTOMIZE])
        .args([folder])
        .limit(TAKEN_WITHIN);
    applied.logged(&target.log("apply"), |_| ())
}

fn apply(target: &Target, manifest: String) -> anyhow::Result<()> {
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=agora-up",
    ];
    let applied = target.kubectl(apply).args([ANSWER_WITHIN, "--filename=-"]);
    applied.limit(TAKEN_WITHIN).reading(manifest).read()?;
    Ok(())
}

/// Waits until every replica is a new one and ready, and the others are gone; returns how many members there are.
fn wait_until_ready(
    target: &Arc<Target>,
    settings: &Settings,
    say: impl Fn(&str),
) -> anyhow::Result<usize> {
    let began = Instant::now();
    let mut missing = Vec::new();
    let mut failing: BTreeMap<String, (Instant, Member)> = BTreeMap::new();
    let ready = wait::until(READY_WITHIN, LOOK_INTERVAL, || {
        missing = workloads::incomplete(&workloads::of_target(target)?);
        let (found, ending) = members::of_target_and_ending(target)?;
        missing.extend(ending);
        say(&format!("waiting for {}", missing.join(", ")));
        if missing.is_empty() {
            return Ok(Some(()));
        }
        failing = found
            .into_iter()
            .filter(|member| FINAL.contains(&member.state.as_str()))
            .map(|member| {
                let since = failing.get(&member.id).map(|(since, _)| *since);
                let since = since.unwrap_or_else(Instant::now);
                (member.id.clone(), (since, member))
            })
            .collect();
        let mut failing = failing.values();
        match failing.find(|(since, _)| since.elapsed() > FINAL_AFTER) {
            Some((_, member)) => Err(cannot_start(member)),
            None => Ok(None),
        }
    })?;
    let found = members::of_target(target)?;
    if ready.is_none() {
        let error = format!("not in time: {}", missing.join(", "));
        return Err(explain(settings, &found, &error, began));
    }
    Ok(found.len())
}

fn cannot_start(member: &Member) -> anyhow::Error {
    let image = if member.state.contains("Image") {
        format!(": {}", member.image)
    } else {
        String::new()
    };
    outcome::failed(
        format!("{} can't start: {}{image}", member.service, member.state),
        "`kubectl describe pod` says more; deploy/kubernetes/README.md has what each pod needs",
    )
}
