//! Signs up test users through the gateway.
//!
//! Left out: removing them. They are known by the beginning of their e-mail address.

use std::time::Duration;

use anyhow::Context;
use base::test_user::TestUser;
use records::load::OVERLOADED;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    http::{Answer, Client},
    random, wait,
};

/// How long a request is sent again that a service rejected for want of capacity, each time after what services answer as
/// `Retry-After`.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(30);
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    let signed_up = post_until_accepted(client, "/auth/signup", &account)?;
    anyhow::ensure!(signed_up.status == 201, "sign-up: {}", signed_up.shown());
    let SignedUp { id } = signed_up.json()?;
    let credentials = json!({ "email": email, "password": password });
    let logged_in = post_until_accepted(client, "/auth/login", &credentials)?;
    anyhow::ensure!(logged_in.status == 200, "log-in: {}", logged_in.shown());
    let LoggedIn { access_token } = logged_in.json()?;
    Ok(TestUser {
        id,
        email,
        token: access_token,
    })
}

/// The answer to a POST for which user-service hashes a password. A service whose cores have other work rejects such a request with
/// a 503 and `Retry-After`; it is sent again for a bounded time.
pub fn post_until_accepted(client: &Client, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let mut rejected = None;
    let answer = wait::until(ACCEPTED_WITHIN, RETRY_AFTER, || {
        let answer = client.post(path, &[], Some(body))?;
        if !answer.body.contains(OVERLOADED) {
            return Ok(Some(answer));
        }
        rejected = Some(answer);
        Ok(None)
    })?;
    answer.or(rejected).context("no answer")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, TcpListener},
        thread,
    };

    use super::*;

    /// A server that answers with these bodies in turn, each on a connection of its own; returns the requests' paths.
    fn serve(answers: Vec<(u16, String)>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let answer = |(status, body): (u16, String)| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let head = format!(
                    "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).unwrap();
                request.split(' ').nth(1).unwrap().to_owned()
            };
            answers.into_iter().map(answer).collect()
        });
        (address, server)
    }

    #[test]
    fn what_a_busy_service_rejects_is_sent_again_and_other_refusals_are_not() {
        let overloaded = || (503, json!({ "type": OVERLOADED }).to_string());
        let (address, server) = serve(vec![
            overloaded(),
            (201, json!({ "id": "u" }).to_string()),
            overloaded(),
            (200, json!({ "access_token": "t" }).to_string()),
        ]);
        let user = sign_up(&Client::new(&address), "ada", "ada").unwrap();
        assert_eq!((user.id.as_str(), user.token.as_str()), ("u", "t"));
        assert_eq!(
            server.join().unwrap(),
            ["/auth/signup", "/auth/signup", "/auth/login", "/auth/login"]
        );

        let (address, server) = serve(vec![(503, "{}".to_owned())]);
        assert!(sign_up(&Client::new(&address), "ada", "ada").is_err());
        assert_eq!(server.join().unwrap(), ["/auth/signup"]);
    }
}
