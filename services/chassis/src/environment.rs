//! Reading environment variables: typed, with defaults and ranges, and refused with the variable's name, its value (unless
//! secret) and what was expected.
//!
//! Left out: which variables there are ([`crate::config`], and each service's own). An empty variable counts as unset, as
//! compose can't unset one.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use patterns::{POSITIONS, Pattern, Switch};
use secrecy::SecretString;

/// Where variables come from: the process, or a test's list.
pub struct Env {
    lookup: Lookup,
}

type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// A variable that is missing or can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set, and there is no default.
    #[error("{variable} is not set: expected {expected}")]
    Missing {
        /// The variable's name.
        variable: &'static str,
        /// What would be right.
        expected: String,
    },
    /// Set to something else than what is expected.
    #[error("{variable}={value:?}: expected {expected}")]
    Invalid {
        /// The variable's name.
        variable: &'static str,
        /// What it is set to; `[secret]` where it must not be shown.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl Env {
    /// The process's own environment.
    pub fn process() -> Self {
        Self {
            // What isn't UTF-8 is kept as something that no check accepts, not taken for unset.
            lookup: Box::new(|name| {
                std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
            }),
        }
    }

    /// A fixed list: later pairs win.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs: std::collections::HashMap<String, String> = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            lookup: Box::new(move |name| pairs.get(name).cloned()),
        }
    }

    fn get(&self, variable: &str) -> Option<String> {
        (self.lookup)(variable).filter(|value| !value.is_empty())
    }

    /// A value that must be set.
    ///
    /// # Errors
    /// When it is missing or doesn't parse; `expected` finishes the sentence.
    pub fn required<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &str,
    ) -> Result<T, ConfigError> {
        self.optional(variable, expected)?
            .ok_or_else(|| ConfigError::Missing {
                variable,
                expected: expected.to_owned(),
            })
    }

    /// A value that may be missing.
    ///
    /// # Errors
    /// When it is there and doesn't parse.
    pub fn optional<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.get(variable)
            .map(|value| {
                value.parse().map_err(|_| ConfigError::Invalid {
                    variable,
                    value,
                    expected: expected.to_owned(),
                })
            })
            .transpose()
    }

    /// A number within a range, or its default.
    ///
    /// # Errors
    /// When it isn't a number or lies outside.
    pub fn number(
        &self,
        variable: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.optional(variable, &expected)?.unwrap_or(default);
        if range.contains(&number) {
            return Ok(number);
        }
        Err(ConfigError::Invalid {
            variable,
            value: number.to_string(),
            expected,
        })
    }

    /// A duration in whole seconds.
    ///
    /// # Errors
    /// As [`Env::number`].
    pub fn seconds(
        &self,
        variable: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<Duration, ConfigError> {
        let seconds = self.number(variable, default, range)?;
        Ok(Duration::from_secs(seconds.into()))
    }

    /// A duration in milliseconds.
    ///
    /// # Errors
    /// As [`Env::number`].
    pub fn millis(
        &self,
        variable: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<Duration, ConfigError> {
        let millis = self.number(variable, default, range)?;
        Ok(Duration::from_millis(millis.into()))
    }

    /// The switch of a pattern; unset, it is on.
    ///
    /// # Errors
    /// When it is set to anything but `on` or `off`.
    pub fn switch(&self, pattern: Pattern) -> Result<Switch, ConfigError> {
        let switch = self.optional(pattern.variable(), POSITIONS)?;
        Ok(switch.unwrap_or(Switch::On))
    }

    /// A secret made by `parse`; neither the value nor its error ever shows it.
    ///
    /// # Errors
    /// When it is missing or `parse` refuses it.
    pub fn secret<T>(
        &self,
        variable: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let value = self.get(variable).ok_or_else(|| ConfigError::Missing {
            variable,
            expected: expected.to_owned(),
        })?;
        parse(&value).ok_or_else(|| ConfigError::Invalid {
            variable,
            value: "[secret]".to_owned(),
            expected: expected.to_owned(),
        })
    }

    /// A socket address to listen on, or its default.
    ///
    /// # Errors
    /// When it doesn't parse.
    pub fn listen_addr(
        &self,
        variable: &'static str,
        default: SocketAddr,
    ) -> Result<SocketAddr, ConfigError> {
        let expected = "an address to listen on, like 0.0.0.0:8000";
        Ok(self.optional(variable, expected)?.unwrap_or(default))
    }

    /// A URL with credentials in it, of one of the given schemes, that its client `C` can read.
    ///
    /// # Errors
    /// When it is missing, has another scheme, or the client refuses it.
    pub fn secret_url<C: FromStr>(
        &self,
        variable: &'static str,
        schemes: &[&str],
    ) -> Result<SecretString, ConfigError> {
        let expected = format!(
            "a URL of the form {}://USER:PASSWORD@HOST:PORT/NAME",
            schemes[0]
        );
        self.secret(variable, &expected, |value| {
            let url = url::Url::parse(value).ok()?;
            (schemes.contains(&url.scheme()) && value.parse::<C>().is_ok())
                .then(|| SecretString::from(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_unless_set_to_off_and_nonsense_is_refused() {
        let read = |value| Env::from_pairs([("AGORA_PATTERN_INBOX", value)]).switch(Pattern::Inbox);
        assert_eq!(read(""), Ok(Switch::On));
        assert_eq!(read("on"), Ok(Switch::On));
        assert_eq!(read("off"), Ok(Switch::Off));
        for value in ["OFF", "false", "0", "no"] {
            let text = read(value).unwrap_err().to_string();
            assert!(
                text.contains("AGORA_PATTERN_INBOX") && text.contains("on or off"),
                "{text}"
            );
        }
    }
}
