//! The optional parts, which exist as upstream images only: Grafana, Loki, and Alloy, which feeds it.
//!
//! `up` starts those whose images it has, after everything else, and says of the others what is missing and what that
//! costs. No failure of theirs makes `up` fail: the system is complete without them. Left out: all other images
//! ([`crate::images`]).

use std::{collections::BTreeMap, thread, time::Duration};

use base::progress::Step;

use crate::{
    Part,
    compose::Compose,
    engine,
    env_file::EnvFile,
    health,
    images::{self, References, Source},
    interrupt::Interrupted,
    members::{self, Member},
    ports,
    project::{GRAFANA, Project, Settings},
};

/// Loki's service, and its port inside the container; it publishes none.
pub const LOKI: (Part, u16) = (Part::Loki, 3100);

/// How long the parts may take until they are healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(120);

/// A part that the system can do without.
#[derive(Debug, Clone, Copy)]
struct Extra {
    part: Part,
    /// The setting that names its image.
    setting: &'static str,
    /// Another part without which it is of no use.
    needs: Option<Part>,
    /// What its absence costs, and what serves in its place.
    without: &'static str,
}

const EXTRAS: [Extra; 3] = [
    Extra {
        part: Part::Loki,
        setting: "AGORA_IMAGE_LOKI",
        needs: None,
        without: "log lines can't be searched in a browser: use `cargo xtask logs` and `logs --trace ID`",
    },
    Extra {
        part: Part::Alloy,
        setting: "AGORA_IMAGE_ALLOY",
        needs: Some(Part::Loki),
        without: "nothing ships log lines to Loki: `cargo xtask logs` reads them from the engine",
    },
    Extra {
        part: Part::Grafana,
        setting: "AGORA_IMAGE_GRAFANA",
        needs: None,
        without: "no dashboards: use Prometheus's and Jaeger's own pages; `cargo xtask verify-dashboards` asks what \
                  the panels would",
    },
];

/// The parts' pins, with the mirror in place of their registry if one is named.
pub fn upstream(project: &Project) -> anyhow::Result<References> {
    images::upstream_of(project, &EXTRAS.map(|extra| extra.setting))
}

/// What to do for a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Its image is here.
    Start,
    /// A registry may have it.
    Pull,
    Leave,
}

/// A registry is asked only once, and only where it gave the other images or that is demanded: an `up` with nothing to
/// do needs no network.
fn plan(source: Source, others_pulled: bool, here: bool, asked_before: bool) -> Plan {
    match source {
        _ if here => Plan::Start,
        Source::Pull => Plan::Pull,
        Source::Auto if others_pulled && !asked_before => Plan::Pull,
        Source::Auto | Source::Local => Plan::Leave,
    }
}

/// Starts the parts whose images can be had, and reports each missing one in a line. `others` are the images of all
/// other services.
///
/// # Errors
/// When the engine, `.env` or `images/upstream.env` can't be read, and after Ctrl-C.
pub fn start(
    project: &Project,
    compose: &Compose,
    settings: &Settings,
    source: Source,
    others: &References,
    step: &Step,
) -> anyhow::Result<()> {
    if project.is_for_tests() {
        step.result("none: no test needs them");
        return Ok(());
    }
    let pins = upstream(project)?;
    let mut file = EnvFile::read(&project.env_file)?;
    let others_pulled = *others == images::upstream(project)?;
    let mut missing = obtain(project, &pins, &file, source, others_pulled, step)?;
    for Extra { part, setting, .. } in EXTRAS {
        // An empty reference records that the registry didn't have it.
        let reference = match missing.get(&part) {
            None => pins[setting].as_str(),
            Some(_) => "",
        };
        if !reference.is_empty() || file.get(setting).is_some() || others_pulled {
            file.set(setting, reference);
        }
    }
    file.save()?;
    if let Some(taken) = port_conflict(settings, &members::all(project)?)? {
        missing.entry(Part::Grafana).or_insert(taken);
    }
    let chosen = startable(&missing);
    let names: Vec<&str> = chosen.iter().map(|part| part.name()).collect();
    if !chosen.is_empty() {
        let settings = settings.with(&pins);
        if let Err(error) = start_all(project, compose, &settings, &chosen, step) {
            if error.is::<Interrupted>() {
                return Err(error);
            }
            step.say(&format!(
                "not all of {} are healthy; `cargo xtask logs SERVICE` says why, and the rest of the system is not \
                 concerned",
                names.join(", ")
            ));
        }
    }
    for Extra { part, without, .. } in EXTRAS {
        if !chosen.contains(&part) {
            let why = missing
                .get(&part)
                .map_or("it is of no use alone", String::as_str);
            step.say(&format!("no {part} ({why}): {without}"));
        }
    }
    step.result(match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    });
    Ok(())
}

/// Pulls the images that can be had; returns the parts without one, each with the reason.
fn obtain(
    project: &Project,
    pins: &References,
    file: &EnvFile,
    source: Source,
    others_pulled: bool,
    step: &Step,
) -> anyhow::Result<BTreeMap<Part, String>> {
    let mut missing = BTreeMap::new();
    let mut to_pull = Vec::new();
    for Extra { part, setting, .. } in EXTRAS {
        let here = engine::image(&pins[setting])?.is_some();
        let asked_before = file.get(setting) == Some("");
        match plan(source, others_pulled, here, asked_before) {
            Plan::Start => {}
            Plan::Pull => to_pull.push((part, setting)),
            Plan::Leave if asked_before => {
                let why = "the registry didn't have it; `cargo xtask up --images pull` asks again";
                missing.insert(part, why.to_owned());
            }
            Plan::Leave => {
                missing.insert(part, "there is no local recipe for it".to_owned());
            }
        }
    }
    if to_pull.is_empty() {
        return Ok(missing);
    }
    step.update("pulling");
    thread::scope(|scope| {
        let pulls: Vec<_> = to_pull
            .iter()
            .map(|&(part, setting)| {
                let reference = &pins[setting];
                let pull = scope.spawn(|| images::pull_one(project, reference));
                (part, reference, pull)
            })
            .collect();
        for (part, reference, pull) in pulls {
            let pulled = pull
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match pulled {
                Ok(()) => {}
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(_) => {
                    missing.insert(part, format!("{reference} can't be pulled"));
                }
            }
        }
        Ok(missing)
    })
}

/// The parts that can be started and are of use, given those that are missing.
fn startable(missing: &BTreeMap<Part, String>) -> Vec<Part> {
    let usable = EXTRAS.into_iter().filter(|extra| {
        let has = |part| !missing.contains_key(&part);
        has(extra.part) && extra.needs.is_none_or(has)
    });
    usable.map(|extra| extra.part).collect()
}

/// Why Grafana can't have its port. A port that another program has is no reason to fail.
fn port_conflict(settings: &Settings, own: &[Member]) -> anyhow::Result<Option<String>> {
    let conflict = ports::conflict(settings, own, &GRAFANA)?;
    Ok(conflict
        .map(|conflict| format!("{conflict}; `{}=<port> cargo xtask up`", conflict.variable)))
}

/// Returns when all are healthy.
fn start_all(
    project: &Project,
    compose: &Compose,
    settings: &Settings,
    chosen: &[Part],
    step: &Step,
) -> anyhow::Result<()> {
    compose
        .up(project, settings, chosen.iter().map(|part| part.name()))
        .logged(&project.log("compose-up-optional"), |line| {
            step.update(line)
        })?;
    let look = || {
        let mut members = members::all(project)?;
        members.retain(|member| chosen.contains(&member.service));
        Ok(members)
    };
    let members = health::wait(HEALTHY_WITHIN, look, health::one_ended)?;
    anyhow::ensure!(
        members.iter().all(Member::is_healthy),
        "not all are healthy"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn missing(parts: &[Part]) -> BTreeMap<Part, String> {
        let parts = parts.iter();
        parts.map(|part| (*part, "gone".to_owned())).collect()
    }

    #[test]
    fn what_is_here_is_started_wherever_the_other_images_came_from() {
        for source in [Source::Auto, Source::Pull, Source::Local] {
            assert_eq!(plan(source, false, true, true), Plan::Start);
        }
    }

    #[test]
    fn a_registry_that_gave_the_other_images_is_asked_once() {
        assert_eq!(plan(Source::Auto, true, false, false), Plan::Pull);
        assert_eq!(plan(Source::Auto, true, false, true), Plan::Leave);
        assert_eq!(plan(Source::Pull, true, false, true), Plan::Pull);
    }

    #[test]
    fn without_a_registry_nobody_is_asked() {
        assert_eq!(plan(Source::Auto, false, false, false), Plan::Leave);
        assert_eq!(plan(Source::Local, true, false, false), Plan::Leave);
    }

    #[test]
    fn one_missing_part_keeps_only_those_away_that_need_it() {
        use Part::{Alloy, Grafana, Loki};
        assert_eq!(startable(&missing(&[])), [Loki, Alloy, Grafana]);
        assert_eq!(startable(&missing(&[Grafana])), [Loki, Alloy]);
        assert_eq!(startable(&missing(&[Alloy])), [Loki, Grafana]);
        assert_eq!(startable(&missing(&[Loki])), [Grafana]);
        assert_eq!(startable(&missing(&[Loki, Alloy, Grafana])), []);
    }

    #[test]
    fn every_part_has_a_pin_and_a_service_that_only_a_profile_starts() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let pins = EnvFile::read(&root.join("images/upstream.env")).unwrap();
        let compose = std::fs::read_to_string(root.join("compose.yaml")).unwrap();
        let parts: Vec<Part> = EXTRAS.iter().map(|extra| extra.part).collect();
        assert_eq!(parts, Vec::from_iter(Part::optional()));
        for Extra { part, setting, .. } in EXTRAS {
            assert!(
                pins.get(setting).is_some_and(|pin| pin.contains(':')),
                "{setting}"
            );
            let service = format!(
                "\n  {part}:\n    <<: *bounded\n    profiles: [pulled]\n    image: ${{{setting}:-"
            );
            assert!(compose.contains(&service), "{part}");
        }
    }
}
