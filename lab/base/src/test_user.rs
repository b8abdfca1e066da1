//! A user of the shop that a command or an experiment has signed up.
//!
//! Left out: signing up (`system::test_users`).

/// Somebody with an account and a valid token.
#[derive(Debug, Clone)]
pub struct TestUser {
    /// The user's id, a UUID.
    pub id: String,
    /// The e-mail address. An answer that contains it was made for this account.
    pub email: String,
    /// An access token (JWT), valid for an hour unless configured otherwise.
    pub token: String,
}
