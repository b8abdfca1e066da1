//! People of evaluations' own, known by their addresses afterwards ([`repair`]).

use base::test_user::TestUser;
use system::{customers, http::Client};

/// Signs somebody up and logs them in.
/// How the e-mail addresses of evaluations' customers begin: see `loadtest`'s preparation and [`load_run_id`].
pub(crate) const PREFIX: &str = "load-ev-";

pub(super) fn sign_up(client: &Client, role: &str) -> anyhow::Result<TestUser> {
    customers::sign_up(client, role, &format!("{}{role}", PREFIX))
}
