//! The patterns' switches, `AGORA_PATTERN_<NAME>=on|off`, as far as they concern who starts the services. Left out:
//! what a pattern does; the services know. And the numbers that override a pattern's defaults.

use std::collections::BTreeMap;

use base::outcome;

use crate::project::Settings;

const PREFIX: &str = "AGORA_PATTERN_";
/// Every pattern that has a switch. `compose.yaml` passes each on to the services that have it.
const NAMES: [&str; 17] = [
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
    "CLIENT_LOAD_BALANCING",
    "LOAD_SHEDDING",
    "RATE_LIMIT",
    "SAGA_RECOVERY",
];

/// Settings that say how much a pattern lets through, or how long it waits, whole numbers from 1 on. `compose.yaml` has their defaults, and
/// passes them on under the same names.
pub const OVERRIDES: [&str; 4] = [
    "AGORA_RATE_LIMIT_AVERAGE",
    "AGORA_RATE_LIMIT_BURST",
    "AGORA_SAGA_RECOVERY_AFTER_SECONDS",
    "AGORA_SAGA_RECOVERY_INTERVAL_SECONDS",
];

/// Refuses an override that isn't a number: the gateway would take no route at all from a file with it, and a service would not start.
pub fn check_overrides(settings: &Settings) -> anyhow::Result<()> {
    check_overrides_among(settings.iter())
}

fn check_overrides_among<'a>(
    settings: impl Iterator<Item = (&'a str, &'a str)>,
) -> anyhow::Result<()> {
    for (variable, value) in settings {
        let wrong = !value.is_empty() && !value.parse::<u32>().is_ok_and(|number| number > 0);
        if OVERRIDES.contains(&variable) && wrong {
            return Err(outcome::usage(
                format!("{variable}={value}: not a number from 1 on"),
                "remove it for the default; a pattern's switch (AGORA_PATTERN_…=off) turns it off as a whole",
            ));
        }
    }
    Ok(())
}

/// The overrides in a container's environment, as `NAME=value`.
pub fn overrides_in(environment: &[String]) -> BTreeMap<String, String> {
    let overrides = environment.iter().filter_map(|variable| {
        let (name, value) = variable.split_once('=')?;
        (OVERRIDES.contains(&name)).then(|| (name.to_owned(), value.to_owned()))
    });
    overrides.collect()
}

/// The patterns that the settings turn off; an unknown switch or position is wrong usage.
pub fn off(settings: &Settings) -> anyhow::Result<Vec<String>> {
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

/// Whether a pattern with this name, as the services call it, has a switch.
pub fn is_known(name: &str) -> bool {
    NAMES.iter().any(|known| shown(known) == name)
}

/// The patterns that a container's environment, as `NAME=value`, turns off.
pub fn off_in(environment: &[String]) -> Vec<String> {
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
    use base::outcome::Exit;

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
    fn an_override_is_a_number_from_1_on() {
        let check = |value| check_overrides_among([("AGORA_RATE_LIMIT_BURST", value)].into_iter());
        assert!(check("20").is_ok() && check("").is_ok());
        for value in ["0", "-1", "many", "1.5", "99999999999"] {
            let error = check(value).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(
                error.to_string().contains("AGORA_RATE_LIMIT_BURST="),
                "{error}"
            );
        }
    }

    #[test]
    fn compose_passes_on_every_override() {
        let compose = include_str!("../../../compose.yaml");
        for variable in OVERRIDES {
            assert!(
                compose.contains(&format!("{variable}: ${{{variable}:-")),
                "{variable}"
            );
        }
    }

    #[test]
    fn compose_passes_on_every_switch_and_no_other() {
        let compose = include_str!("../../../compose.yaml");
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
