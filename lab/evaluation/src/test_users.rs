//! Test users of evaluations, known by their e-mail addresses afterwards ([`crate::repair`]).
//!
//! Left out: the users of a load, which `loadtest` signs up under the same prefix.

use base::test_user::TestUser;
use system::{http::Client, test_users};

/// How the e-mail addresses of evaluations' test users begin: those of a load are `load-<run id>-…`, with the run's id
/// from [`crate::repair::load_run_id`].
pub(crate) const PREFIX: &str = "load-ev-";

/// Signs a user up and logs in; `role` is the user's name, and part of the address.
pub(super) fn sign_up(client: &Client, role: &str) -> anyhow::Result<TestUser> {
    test_users::sign_up(client, role, &format!("{}{role}", PREFIX))
}
