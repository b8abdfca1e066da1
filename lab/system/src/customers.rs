//! People of xtask's own, signed up through the gateway.

use base::test_user::TestUser;
use serde::Deserialize;
use serde_json::json;

use crate::{http::Client, random};

/// Signs somebody up, with a new address that begins with `address` and a new password, and logs them in.
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
