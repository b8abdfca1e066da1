//! Signs up test users through the gateway.
//!
//! Left out: removing them. They are known by the beginning of their e-mail address.

use base::test_user::TestUser;
use serde::Deserialize;
use serde_json::json;

use crate::{http::Client, random};

/// Signs up a user with this name, a new e-mail address that begins with `address` and a new password, and logs in.
pub fn sign_up(client: &Client, name: &str, address: &str) -> anyhow::Result<TestUser> {
    #[derive(Deserialize)]
    struct SignedUp {
        id: String,
    }
    #[derive(Deserialize)]
    struct LoggedIn {
        access_token: String,
    }
    let email = format!("{address}-{}@agora.example", random::hex(8)?);
    let password = random::hex(16)?;
    let account = json!({ "name": name, "email": email, "password": password });
    let signed_up = client.post("/auth/signup", &[], Some(&account))?;
    anyhow::ensure!(signed_up.status == 201, "sign-up: {}", signed_up.shown());
    let SignedUp { id } = signed_up.json()?;
    let credentials = json!({ "email": email, "password": password });
    let logged_in = client.post("/auth/login", &[], Some(&credentials))?;
    anyhow::ensure!(logged_in.status == 200, "log-in: {}", logged_in.shown());
    let LoggedIn { access_token } = logged_in.json()?;
    Ok(TestUser {
        id,
        email,
        token: access_token,
    })
}
