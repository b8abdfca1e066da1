//! The switches of patterns and the numbers that override a pattern's defaults, in settings and in a container's
//! environment.
//!
//! Left out: which patterns there are ([`patterns`]) and what they do (the services).

use std::collections::BTreeMap;

use base::outcome;
use patterns::Pattern;

use crate::project::Settings;

/// Settings that say how much a pattern lets through, or how long it waits, whole numbers from 1 on. `compose.yaml` has
/// their defaults, and passes them on under the same names.
pub const OVERRIDES: [&str; 5] = [
    "AGORA_RATE_LIMIT_AVERAGE",
    "AGORA_RATE_LIMIT_BURST",
    "AGORA_SAGA_RECOVERY_AFTER_SECONDS",
    "AGORA_SAGA_RECOVERY_INTERVAL_SECONDS",
    "AGORA_SHUTDOWN_DELAY_MS",
];

/// The setting that says on which nodes of Kubernetes the services and the gateways are: on as many as there are, or, with the value
/// [`ONE_NODE`], on one, with what Kubernetes does by default when it is lost.
pub const PLACEMENT: &str = "AGORA_PLACEMENT";
/// Everything on one node.
pub const ONE_NODE: &str = "one-node";
/// The default: on several nodes.
pub const SPREAD: &str = "spread";

/// Those of them that each gateway counts by itself.
const PER_GATEWAY: [&str; 2] = ["AGORA_RATE_LIMIT_AVERAGE", "AGORA_RATE_LIMIT_BURST"];
/// How many gateways there are on Kubernetes.
pub(crate) const GATEWAYS: u32 = 2;

/// What each gateway on Kubernetes has to have of a setting, so that all together have what it says, rounded up.
pub(crate) fn share_of_each_gateway(variable: &str, value: &str) -> String {
    per_gateway(variable, value, |all| all.div_ceil(GATEWAYS))
}

/// What all gateways on Kubernetes together have of a setting of each.
pub(crate) fn sum_of_all_gateways(variable: &str, value: &str) -> String {
    per_gateway(variable, value, |each| each.saturating_mul(GATEWAYS))
}

fn per_gateway(variable: &str, value: &str, change: impl Fn(u32) -> u32) -> String {
    match value.parse() {
        Ok(number) if PER_GATEWAY.contains(&variable) => change(number).to_string(),
        _ => value.to_owned(),
    }
}

/// Refuses an override that isn't a number: the gateway would take no route at all from a file with it, and a service
/// would not start. The same for a placement that isn't known.
pub fn check_overrides(settings: &Settings) -> anyhow::Result<()> {
    check_overrides_among(settings.iter())
}

fn check_overrides_among<'a>(
    settings: impl Iterator<Item = (&'a str, &'a str)>,
) -> anyhow::Result<()> {
    for (variable, value) in settings {
        if variable == PLACEMENT && !["", SPREAD, ONE_NODE].contains(&value) {
            return Err(outcome::usage(
                format!("{variable}={value}: there is no such placement"),
                format!("set it to `{SPREAD}` or `{ONE_NODE}`, or remove it ({SPREAD})"),
            ));
        }
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
        if !variable.starts_with(patterns::PREFIX) {
            continue;
        }
        let Some(pattern) = Pattern::of_variable(variable) else {
            let known: Vec<&str> = Pattern::ALL.iter().map(|known| known.variable()).collect();
            return Err(outcome::usage(
                format!("{variable}: there is no such pattern"),
                format!("the switches are {}", known.join(", ")),
            ));
        };
        match value {
            // Empty counts as unset, for compose and for the services.
            "on" | "" => {}
            "off" => off.push(pattern.name().to_owned()),
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
pub fn off_in(environment: &[String]) -> Vec<String> {
    let off = environment.iter().filter_map(|variable| {
        let (name, value) = variable.split_once('=')?;
        let pattern = Pattern::of_variable(name)?;
        (value == "off").then(|| pattern.name().to_owned())
    });
    off.collect()
}

#[cfg(test)]
mod tests {
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
    fn a_placement_is_one_that_is_known() {
        let check = |value| check_overrides_among([(PLACEMENT, value)].into_iter());
        assert!(check("").is_ok() && check(SPREAD).is_ok() && check(ONE_NODE).is_ok());
        let error = check("everywhere").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains(ONE_NODE), "{error}");
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
}
