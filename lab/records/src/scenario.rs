//! What the users of a load run do: each scenario's name and meaning.
//!
//! Left out: which request comes next; `loadtest` chooses that.

use std::{fmt, str::FromStr};

macro_rules! scenarios {
    ($($variant:ident $name:literal $explanation:literal)+) => {
        /// What the users of a run do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Scenario {
            $(#[doc = concat!($explanation, ".")] $variant,)+
        }

        impl Scenario {
            /// Every scenario, in the order of the help text.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the command line and in records.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What its users do, for the help text: a fragment without a full stop.
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $explanation,)+
                }
            }
        }
    };
}

scenarios! {
    Browse "browse" "Read users, the own account and stock"
    Checkout "checkout" "Place an order, then read it and its stock"
    Mixed "mixed" "Of five actions three are browsing, one a checkout and one a purchase"
    Login "login" "Log in repeatedly: measures bcrypt"
    Order "order" "Place orders of one to three pieces, and nothing else"
    ChangeOfMind "change-of-mind"
        "Place orders; of five, one is for an unknown product, and two are cancelled at once"
    Purchase "purchase"
        "Make purchases, and nothing else: user-service calls product-service each time"
    Protected "protected"
        "Read the own account, and nothing else: the gateway's token check, and one row"
    Edge "edge"
        "In equal parts make a purchase, read the own account, and read a product's stock"
    Session "session"
        "Read the own account with a token from before the run; every thirtieth time log in, and read it with the new token"
    Greedy "greedy"
        "Read stock; one user, `greedy`, sends four fifths of all requests, `others` share the rest. Open model only"
}

impl Scenario {
    /// The groups whose requests are counted apart; the first is the first user alone.
    pub fn groups(self) -> Option<[&'static str; 2]> {
        (self == Self::Greedy).then_some(["greedy", "others"])
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|known| known.name() == text);
        found
            .copied()
            .ok_or_else(|| format!("there is no scenario `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_read_by_its_name_and_no_other_is() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(*scenario));
        }
        assert!("Browse".parse::<Scenario>().is_err());
    }
}
