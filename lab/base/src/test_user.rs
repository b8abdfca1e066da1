//! A user of the shop that a command or an experiment has signed up.

/// Somebody with an account and a valid token.
#[derive(Debug, Clone)]
pub struct TestUser {
    /// The user's id.
    pub id: String,
    /// The e-mail address, by which an answer gives the account away.
    pub email: String,
    /// A token that is valid now.
    pub token: String,
}
