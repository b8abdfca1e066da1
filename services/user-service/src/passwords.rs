//! Passwords: what is accepted as one, and bcrypt, off the async threads and bounded.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chassis::problem::Problem;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use tracing::error;

/// A password that was chosen by somebody; never shown.
#[derive(Clone)]
pub struct Password(SecretString);

/// A password that can't be one; the text says what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// Too easy to guess.
    #[error("a password has at least {min} characters", min = Password::MIN_CHARS)]
    TooShort,
    /// bcrypt reads 72 bytes and no further; cutting a longer one off would make different passwords equal.
    #[error("a password has at most {max} bytes", max = Password::MAX_BYTES)]
    TooLong,
    /// bcrypt's C heritage ends a password here.
    #[error("a password has no NUL in it")]
    Nul,
}

impl Password {
    const MIN_CHARS: usize = 8;
    const MAX_BYTES: usize = 72;

    /// Checks a new password.
    ///
    /// # Errors
    /// [`InvalidPassword`].
    pub fn parse(text: &str) -> Result<Self, InvalidPassword> {
        if text.chars().count() < Self::MIN_CHARS {
            return Err(InvalidPassword::TooShort);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidPassword::TooLong);
        }
        if text.contains('\0') {
            return Err(InvalidPassword::Nul);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The password of nobody's account.
const DECOY: &str = "nobody's password";

/// How long a hash may wait for its turn before the client is told to come back.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// Hashes and verifies, a bounded number at a time.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    turns: Arc<Semaphore>,
    /// Compared with where there is no account, so that the answer takes as long as with one.
    decoy: Arc<str>,
}

impl Passwords {
    /// With bcrypt's `cost`, `concurrency` at a time.
    ///
    /// # Errors
    /// When bcrypt refuses the cost.
    pub async fn new(cost: u32, concurrency: usize) -> anyhow::Result<Self> {
        let decoy =
            tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(DECOY, cost)).await??;
        Ok(Self {
            cost,
            turns: Arc::new(Semaphore::new(concurrency)),
            decoy: decoy.into(),
        })
    }

    /// The hash to store.
    ///
    /// # Errors
    /// 503 when too many wait for a turn.
    pub async fn hash(&self, password: Password) -> Result<String, Problem> {
        let cost = self.cost;
        #[expect(
            clippy::disallowed_methods,
            reason = "a Password fits; the one that doesn't truncate refuses 72 bytes, too"
        )]
        self.in_turn(move || bcrypt::hash(password.0.expose_secret(), cost))
            .await
    }

    /// Whether `attempt` is the password behind `hash`; `None` (no such account) takes as long and is false.
    ///
    /// # Errors
    /// 503 when too many wait for a turn.
    pub async fn verify(
        &self,
        attempt: SecretString,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        // bcrypt would compare the beginning of what is longer than any password that was ever accepted.
        let hash = hash.filter(|_| attempt.expose_secret().len() <= Password::MAX_BYTES);
        let exists = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.to_string());
        let matches = self
            .in_turn(move || bcrypt::verify(attempt.expose_secret(), &hash))
            .await?;
        Ok(exists && matches)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, bcrypt::BcryptError> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned());
        let Ok(Ok(turn)) = turn.await else {
            return Err(Problem::unavailable("too many passwords are being checked"));
        };
        let worked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that goes away doesn't free its turn early.
            let _turn = turn;
            work()
        });
        match worked.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                error!(%error, "bcrypt failed");
                Err(Problem::internal())
            }
            Err(error) => {
                error!(%error, "the hashing task failed");
                Err(Problem::internal())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_refused_rather_than_truncated() {
        assert!(Password::parse("12345678").is_ok());
        assert!(Password::parse(&"x".repeat(72)).is_ok());
        assert_eq!(
            Password::parse("1234567").unwrap_err(),
            InvalidPassword::TooShort
        );
        assert_eq!(
            Password::parse(&"x".repeat(73)).unwrap_err(),
            InvalidPassword::TooLong
        );
        assert_eq!(
            Password::parse(&"é".repeat(37)).unwrap_err(),
            InvalidPassword::TooLong
        );
        assert_eq!(
            Password::parse("1234\0xyz8").unwrap_err(),
            InvalidPassword::Nul
        );
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_account_is_right() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let hash = passwords
            .hash(Password::parse("correct horse").unwrap())
            .await
            .unwrap();
        let verify = |attempt: &str, hash: Option<&str>| {
            passwords.verify(attempt.into(), hash.map(str::to_owned))
        };
        assert!(verify("correct horse", Some(&hash)).await.unwrap());
        assert!(!verify("wrong horse", Some(&hash)).await.unwrap());
        assert!(!verify(DECOY, None).await.unwrap());
        assert!(!verify(&"x".repeat(100), Some(&hash)).await.unwrap());
    }

    #[tokio::test]
    async fn the_longest_password_counts_to_its_last_byte() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let longest = "é".repeat(36);
        let hash = passwords
            .hash(Password::parse(&longest).unwrap())
            .await
            .unwrap();
        let verify = |attempt: &str| passwords.verify(attempt.into(), Some(hash.clone()));
        assert!(verify(&longest).await.unwrap());
        assert!(!verify(&format!("{}e", "é".repeat(35))).await.unwrap());
        assert!(!verify(&format!("{longest}e")).await.unwrap());
    }
}
