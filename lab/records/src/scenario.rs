//! What the users of a load run do: each scenario's name and meaning.
//!
//! Left out: which request comes next; `loadtest` chooses that.

use std::{fmt, str::FromStr};

/// What the users of a run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Read users, the own account and stock.
    Browse,
    /// Place an order, then read it and its stock.
    Checkout,
    /// Three times browse per checkout and purchase.
    Mixed,
    /// Log in repeatedly: measures bcrypt.
    Login,
    /// Place orders of one to three pieces, and nothing else.
    Order,
    /// Place orders; of five, one is for an unknown product, and two are cancelled at once.
    ChangeOfMind,
    /// Make purchases, and nothing else: user-service calls product-service each time.
    Purchase,
    /// Read the own account, and nothing else: the gateway's token check, and one row.
    Protected,
    /// In equal parts make a purchase, read the own account, and read a product's stock.
    Edge,
    /// Read the own account with a token from before the run; every thirtieth time log in, and read it with the new
    /// token.
    Session,
    /// Read stock; one user, `greedy`, sends four fifths of all requests, `others` share the rest. Open model only.
    Greedy,
}

impl Scenario {
    /// Every scenario, in the order of the help text.
    pub const ALL: [Self; 11] = [
        Self::Browse,
        Self::Checkout,
        Self::Mixed,
        Self::Login,
        Self::Order,
        Self::ChangeOfMind,
        Self::Purchase,
        Self::Protected,
        Self::Edge,
        Self::Session,
        Self::Greedy,
    ];

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Browse => "browse",
            Self::Checkout => "checkout",
            Self::Mixed => "mixed",
            Self::Login => "login",
            Self::Order => "order",
            Self::ChangeOfMind => "change-of-mind",
            Self::Purchase => "purchase",
            Self::Protected => "protected",
            Self::Edge => "edge",
            Self::Session => "session",
            Self::Greedy => "greedy",
        }
    }

    /// What its users do, for the help text: a fragment without a full stop.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Browse => "Read users, the own account and stock",
            Self::Checkout => "Place an order, then read it and its stock",
            Self::Mixed => "Three times browse per checkout and purchase",
            Self::Login => "Log in repeatedly: measures bcrypt",
            Self::Order => "Place orders of one to three pieces, and nothing else",
            Self::ChangeOfMind => {
                "Place orders; of five, one is for an unknown product, and two are cancelled at once"
            }
            Self::Purchase => {
                "Make purchases, and nothing else: user-service calls product-service each time"
            }
            Self::Protected => {
                "Read the own account, and nothing else: the gateway's token check, and one row"
            }
            Self::Edge => {
                "In equal parts make a purchase, read the own account, and read a product's stock"
            }
            Self::Session => {
                "Read the own account with a token from before the run; every thirtieth time log in, and read it with the new token"
            }
            Self::Greedy => {
                "Read stock; one user, `greedy`, sends four fifths of all requests, `others` share the rest. Open model only"
            }
        }
    }

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
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| format!("there is no scenario `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_read_by_its_name_and_no_other_is() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!("Browse".parse::<Scenario>().is_err());
    }
}
