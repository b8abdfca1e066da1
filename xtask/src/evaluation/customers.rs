//! People of evaluations' own, known by their addresses afterwards ([`mend`]).

use super::mend;
use crate::{attacks::Person, customers, http::Client};

/// Signs somebody up and logs them in.
pub(super) fn sign_up(client: &Client, role: &str) -> anyhow::Result<Person> {
    customers::sign_up(client, role, &format!("{}{role}", mend::CUSTOMERS))
}
