//! The patterns' switches, `AGORA_PATTERN_<NAME>=on|off`, as far as they concern who starts the services. Left out:
//! what a pattern does; the services know.

use crate::{outcome, project::Settings};

const PREFIX: &str = "AGORA_PATTERN_";
/// Every pattern that has a switch. `compose.yaml` passes each on to the services that have it.
const NAMES: [&str; 13] = [
    "OUTBOX",
    "INBOX",
    "RETRY",
    "DEAD_LETTER",
    "CONFIRMS",
    "GRACEFUL_SHUTDOWN",
    "SAGA",
    "TRACE_PROPAGATION",
    "ASYNC_EXPORT",
    "ALERTING",
    "FORWARD_AUTH",
    "CIRCUIT_BREAKER",
    "DEADLINE",
];

/// The patterns that the settings turn off; an unknown switch or position is wrong usage.
pub(crate) fn off(settings: &Settings) -> anyhow::Result<Vec<String>> {
    off_among(settings.iter())
}

fn off_among<'a>(
    settings: impl Iterator<Item = (&'a str, &'a str)>,
) -> anyhow::Result<Vec<String>> {
    let mut off = Vec::new();
    for (variable, value) in settings {
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        if !NAMES.contains(&name) {
            let known = NAMES.map(|name| format!("{PREFIX}{name}"));
            return Err(outcome::usage(
                format!("{variable}: there is no such pattern"),
                format!("the switches are {}", known.join(", ")),
            ));
        }
        match value {
            // Empty counts as unset, for compose and for the services.
            "on" | "" => {}
            "off" => off.push(shown(name)),
            _ => {
                return Err(outcome::usage(
                    format!("{variable}={value}: a pattern is on or off"),
                    format!("set {variable}=on or {variable}=off, or remove it (on)"),
                ));
            }
        }
    }
    Ok(off)
}

/// The patterns that a container's environment, as `NAME=value`, turns off.
pub(crate) fn off_in(environment: &[String]) -> Vec<String> {
    let off = environment.iter().filter_map(|variable| {
        let (name, value) = variable.strip_prefix(PREFIX)?.split_once('=')?;
        (value == "off").then(|| shown(name))
    });
    off.collect()
}

/// As the services call it themselves.
fn shown(name: &str) -> String {
    name.to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::outcome::Exit;

    #[test]
    fn a_known_switch_is_on_or_off() {
        let settings = [
            ("AGORA_PATTERN_OUTBOX", "off"),
            ("AGORA_PATTERN_INBOX", "on"),
            ("AGORA_PATTERN_RETRY", ""),
            ("AGORA_HTTP_PORT", "80"),
        ];
        assert_eq!(off_among(settings.into_iter()).unwrap(), ["outbox"]);
    }

    #[test]
    fn an_unknown_switch_or_position_is_wrong_usage_that_names_the_right_ones() {
        for (variable, value, expected) in [
            ("AGORA_PATTERN_OUTBOXX", "off", "AGORA_PATTERN_OUTBOX,"),
            ("AGORA_PATTERN_outbox", "off", "AGORA_PATTERN_OUTBOX,"),
            ("AGORA_PATTERN_", "off", "AGORA_PATTERN_OUTBOX,"),
            ("AGORA_PATTERN_OUTBOX", "OFF", "AGORA_PATTERN_OUTBOX=off"),
            ("AGORA_PATTERN_OUTBOX", "false", "AGORA_PATTERN_OUTBOX=off"),
        ] {
            let error = off_among([(variable, value)].into_iter()).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn compose_passes_on_every_switch_and_no_other() {
        let compose = include_str!("../../compose.yaml");
        let lines = compose.lines().map(str::trim);
        let passed: BTreeSet<&str> = lines
            .filter(|line| line.starts_with(PREFIX))
            .map(|line| {
                let (variable, value) = line.split_once(": ").unwrap();
                assert_eq!(value, format!("${{{variable}:-on}}"));
                variable.strip_prefix(PREFIX).unwrap()
            })
            .collect();
        assert_eq!(passed, BTreeSet::from(NAMES));
    }
}
