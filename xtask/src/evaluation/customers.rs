//! People of evaluations' own: signed up through the gateway, and known by their addresses afterwards ([`mend`]).

use serde::Deserialize;
use serde_json::json;

use super::mend;
use crate::{attacks::Person, env_file, http::Client};

/// Signs somebody up, with a new address and password, and logs them in.
pub(super) fn sign_up(client: &Client, role: &str) -> anyhow::Result<Person> {
    #[derive(Deserialize)]
    struct SignedUp {
        id: String,
    }
    #[derive(Deserialize)]
    struct LoggedIn {
        access_token: String,
    }
    let name = env_file::random_hex(8)?;
    let email = format!("{}{role}-{name}@agora.example", mend::CUSTOMERS);
    let password = env_file::random_hex(16)?;
    let account = json!({ "name": role, "email": email, "password": password });
    let signed_up = client.post("/auth/signup", &[], Some(&account))?;
    anyhow::ensure!(signed_up.status == 201, "sign-up: {}", signed_up.shown());
    let SignedUp { id } = signed_up.json()?;
    let credentials = json!({ "email": email, "password": password });
    let logged_in = client.post("/auth/login", &[], Some(&credentials))?;
    anyhow::ensure!(logged_in.status == 200, "log-in: {}", logged_in.shown());
    let LoggedIn { access_token } = logged_in.json()?;
    Ok(Person {
        id,
        email,
        token: access_token,
    })
}
