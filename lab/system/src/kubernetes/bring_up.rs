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
    manifests::{self, Replicas, remove_old_keys},
    nodes, tool,
    workloads::{self, Rollback, Workload},
};
use crate::{
    Part,
    images::References,
    interrupt,
    kubectl::{ANSWER_WITHIN, PART_LABEL, Target},
    members::{self, Member},
    project::Settings,
    signing_keys::SERVICE,
    switches::{ONE_NODE, PLACEMENT},
    unhealthy::explain,
    wait,
};

/// How long a change of the cluster may take until the API server has taken it.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// How long pods may take until all are ready: a database that is made takes the longest.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// How much longer for each replica: product-service's count as available 35 s after they are ready (`minReadySeconds`).
const ONE_READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const KUSTOMIZE: &str = "--kustomize";
/// Of a Deployment's ready pods, the one with the lowest cost goes first.
const LEAVES_FIRST: &str = "controller.kubernetes.io/pod-deletion-cost=-1";
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
        apply_system(
            target,
            settings,
            &images,
            &replicas(&workloads::of_target(target)?),
        )
    })?;
    progress.step("pods", |step| {
        let members = wait_until_ready(target, settings, None, |text| step.update(text))?;
        remove_old_keys(target, settings)?;
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
    apply_system(target, settings, &images::noted(target)?, replicas)?;
    renewed.iter().try_for_each(|part| restart(target, *part))?;
    wait_until_ready(target, settings, None, |_| ())?;
    Ok(())
}

/// Sets one part up with these settings and replaces its pods as its Deployment does it: a new one is ready before an old one ends.
/// The other parts stay as they are. When a new pod doesn't get ready, or at Ctrl-C, the Deployment goes back to the old ones.
///
/// # Errors
/// As those of [`configure`].
pub(crate) fn renew(target: &Arc<Target>, settings: &Settings, part: Part) -> anyhow::Result<()> {
    let before = workloads::of_part(target, part)?;
    let renewed = apply_part(target, settings, part, before.replicas()).and_then(|()| {
        // With other settings, other keys or another image they are replaced already.
        if workloads::of_part(target, part)?.revision() == before.revision() {
            restart(target, part)?;
        }
        wait_for(target, settings, part)
    });
    renewed.map_err(|error| {
        let back = interrupt::set_aside(|| {
            let now = workloads::of_part(target, part)?;
            let revision = match workloads::rollback(&before, &now) {
                Rollback::NotNeeded => return Ok(()),
                Rollback::To(revision) => revision,
                Rollback::Impossible => {
                    anyhow::bail!("another rollout was under way before: the Deployment goes on")
                }
            };
            let revision = format!("--to-revision={revision}");
            let undo = ["rollout", "undo", &deployment(part), &revision];
            let undo = target.kubectl(undo).args([ANSWER_WITHIN]);
            undo.limit(TAKEN_WITHIN).read()?;
            wait_for(target, settings, part)
        });
        with_rollback(error, back)
    })?;
    // Only now that nothing goes back; and pods of a part that stayed as it is may need other keys.
    if part == SERVICE {
        remove_old_keys(target, settings)?;
    }
    Ok(())
}

/// Ends all of a part's pods and then makes as many new ones with these settings, as a Deployment with the strategy `Recreate`
/// does it.
///
/// # Errors
/// As those of [`configure`].
pub(crate) fn recreate(
    target: &Arc<Target>,
    settings: &Settings,
    part: Part,
) -> anyhow::Result<()> {
    let count = workloads::of_part(target, part)?.replicas();
    // So that `heal` and `up` know how many there were, whatever ends this.
    kept_down::keep_down(target, &deployment(part))?;
    let gone = wait_for(target, settings, part);
    // Also after Ctrl-C, which would leave nobody to serve.
    let back = interrupt::set_aside(|| {
        apply_part(target, settings, part, count)?;
        kept_down::restore_replicas(target, &deployment(part), count)?;
        wait_for(target, settings, part)
    });
    match gone {
        Ok(()) => back,
        Err(error) => Err(with_rollback(error, back)),
    }
}

/// Gives a part one replica more. When it doesn't get ready, or at Ctrl-C, it goes again.
///
/// # Errors
/// As those of [`configure`].
pub(crate) fn add_replica(
    target: &Arc<Target>,
    settings: &Settings,
    part: Part,
) -> anyhow::Result<()> {
    let count = workloads::of_part(target, part)?.replicas();
    let added =
        set_replicas(target, part, count + 1).and_then(|()| wait_for(target, settings, part));
    added.map_err(|error| {
        let back = interrupt::set_aside(|| set_replicas(target, part, count));
        with_rollback(error, back)
    })
}

/// Takes a part this pod, and with it one of its replicas; returns when it is gone.
///
/// # Errors
/// As those of [`configure`], and when Kubernetes ended another pod instead.
pub(crate) fn remove_replica(
    target: &Arc<Target>,
    settings: &Settings,
    part: Part,
    pod: &str,
) -> anyhow::Result<()> {
    let count = workloads::of_part(target, part)?.replicas();
    let first = ["annotate", "--overwrite", "pod", pod, LEAVES_FIRST];
    let first = target.kubectl(first).args([ANSWER_WITHIN]);
    first.limit(TAKEN_WITHIN).read()?;
    set_replicas(target, part, count.saturating_sub(1))?;
    wait_for(target, settings, part)?;
    let found = members::of_target(target)?;
    if found.iter().any(|member| member.id == pod) {
        return Err(outcome::failed(
            format!("Kubernetes ended another pod of {part} instead of {pod}"),
            "run it again: `cargo xtask status` shows how many there are",
        ));
    }
    Ok(())
}

/// The first error, and that of the way back, if that failed too.
fn with_rollback(error: anyhow::Error, rollback: anyhow::Result<()>) -> anyhow::Error {
    match rollback {
        Ok(()) => error,
        Err(rollback) => outcome::failed(
            format!("{error:#}\nit didn't go back to what was before: {rollback:#}"),
            "`cargo xtask status` shows what runs, and `cargo xtask up` brings up what is built",
        ),
    }
}

/// Waits until all replicas of one part are new and ready, whatever the others are.
fn wait_for(target: &Arc<Target>, settings: &Settings, part: Part) -> anyhow::Result<()> {
    wait_until_ready(target, settings, Some(part), |_| ())?;
    Ok(())
}

/// How many replicas the services have, where they have any: `up` keeps as many. Pure.
fn replicas(workloads: &[Workload]) -> Replicas {
    let of = |part: Part| {
        let mut found = workloads.iter();
        let found = found.find(|workload| workload.is_of(part))?;
        Some((part, found.replicas())).filter(|(_, count)| *count > 0)
    };
    Part::services().filter_map(of).collect()
}

fn deployment(part: Part) -> String {
    format!("deployment/{part}")
}

fn set_replicas(target: &Target, part: Part, count: u64) -> anyhow::Result<()> {
    let count = format!("--replicas={count}");
    let scale = ["scale", &deployment(part), &count, ANSWER_WITHIN];
    target.kubectl(scale).limit(TAKEN_WITHIN).read()?;
    Ok(())
}

fn restart(target: &Target, part: Part) -> anyhow::Result<()> {
    // Alertmanager's is a StatefulSet.
    let workload = workloads::of_part(target, part)?.name();
    let restart = ["rollout", "restart", &workload, ANSWER_WITHIN];
    target.kubectl(restart).limit(TAKEN_WITHIN).read()?;
    Ok(())
}

/// What the command lines of [`configure`]'s call have in common, and no others.
pub(crate) fn configuring(target: &Target) -> [String; 2] {
    let folder = target.folder();
    [KUSTOMIZE.to_owned(), folder.display().to_string()]
}

fn apply_system(
    target: &Arc<Target>,
    settings: &Settings,
    images: &[Image],
    replicas: &Replicas,
) -> anyhow::Result<()> {
    apply_selected(target, settings, images, replicas, "")
}

/// Applies what belongs to one part or to all, and to no other part.
fn apply_part(
    target: &Arc<Target>,
    settings: &Settings,
    part: Part,
    count: u64,
) -> anyhow::Result<()> {
    let others = Part::required().filter(|other| *other != part);
    let others: Vec<&str> = others.map(Part::name).collect();
    let selector = format!("{PART_LABEL} notin ({})", others.join(","));
    let replicas = [(part, count)].into();
    apply_selected(
        target,
        settings,
        &images::noted(target)?,
        &replicas,
        &selector,
    )
}

/// The node for everything, where the settings ask for one.
fn one_node(target: &Arc<Target>, settings: &Settings) -> anyhow::Result<Option<String>> {
    if settings.get(PLACEMENT) != Some(ONE_NODE) {
        return Ok(None);
    }
    let members = members::of_target(target)?;
    let has_database = members.iter().any(|it| it.service == Part::Postgres);
    let mut nodes = nodes::by_expendability(&members);
    if !has_database || nodes.len() < 2 {
        return Err(outcome::unavailable(
            format!("{PLACEMENT}={ONE_NODE}: no node is known that hasn't the database"),
            format!(
                "it needs two nodes and a system that is up: `cargo xtask up` without {PLACEMENT} first"
            ),
        ));
    }
    Ok(Some(nodes.swap_remove(0)))
}

/// Applies the Secrets, and what of the system the selector has; the empty one has all.
fn apply_selected(
    target: &Arc<Target>,
    settings: &Settings,
    images: &[Image],
    replicas: &Replicas,
    selector: &str,
) -> anyhow::Result<()> {
    apply(target, manifests::secrets(settings)?)?;
    let node = one_node(target, settings)?;
    let placement = settings.get(PLACEMENT).filter(|it| !it.is_empty());
    let placement = placement.map(|placement| (placement, node.as_deref()));
    let folder = manifests::write(target, settings, images, replicas, placement)?;
    let applied = target
        .kubectl([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=agora",
        ])
        .args([ANSWER_WITHIN, "--selector", selector, KUSTOMIZE])
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

/// Waits until every replica is a new one and ready, and the others are gone, of one part or of all; returns how many members
/// there are.
fn wait_until_ready(
    target: &Arc<Target>,
    settings: &Settings,
    only: Option<Part>,
    say: impl Fn(&str),
) -> anyhow::Result<usize> {
    let began = Instant::now();
    let is_meant = |part: Part| only.is_none_or(|only| only == part);
    let look = || {
        let mut workloads = workloads::of_target(target)?;
        workloads.retain(|workload| only.is_none_or(|only| workload.is_of(only)));
        anyhow::Ok(workloads)
    };
    // One after the other.
    let most = look()?.iter().map(Workload::replicas).max();
    let limit = READY_WITHIN + ONE_READY_WITHIN * u32::try_from(most.unwrap_or_default())?;
    let mut missing = Vec::new();
    let mut failing: BTreeMap<String, (Instant, Member)> = BTreeMap::new();
    let ready = wait::until(limit, LOOK_INTERVAL, || {
        missing = workloads::incomplete(&look()?);
        let (mut found, mut ending) = members::of_target_and_ending(target)?;
        found.retain(|member| is_meant(member.service));
        ending.retain(|pod| only.is_none_or(|only| pod.starts_with(&format!("{only}-"))));
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
    let mut found = members::of_target(target)?;
    found.retain(|member| is_meant(member.service));
    if ready.is_none() {
        let error = format!("not in time: {}", missing.join(", "));
        return Err(explain(settings, &found, &error, began));
    }
    Ok(found.len())
}

fn cannot_start(member: &Member) -> anyhow::Error {
    let image = if member.state.as_str().contains("Image") {
        format!(": {}", member.image)
    } else {
        String::new()
    };
    outcome::failed(
        format!("{} can't start: {}{image}", member.service, member.state),
        "`kubectl describe pod` says more; deploy/kubernetes/README.md has what each pod needs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_keeps_as_many_of_a_service_as_there_are_and_of_nothing_else() {
        let workload = |name: &str, replicas: u32| {
            format!(
                r#"{{"kind":"Deployment","metadata":{{"name":"{name}"}},"spec":{{"replicas":{replicas}}}}}"#
            )
        };
        let items = [
            workload("order-service", 3),
            workload("user-service", 0),
            workload("traefik", 5),
        ];
        let found = workloads::read(&format!(r#"{{"items":[{}]}}"#, items.join(","))).unwrap();
        assert_eq!(replicas(&found), [(Part::OrderService, 3)].into());
    }
}
