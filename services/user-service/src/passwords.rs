//! Passwords: what is accepted as one, and bcrypt, off the async threads and bounded.
//!
//! A password is hashed as `normalised` has it, so that it is the same one from every keyboard. Hashes from before were
//! made of what was typed, so that is tried, too, where it differs. Left out: the string class that OpaqueString allows, as
//! it changes with Unicode, and a password is never shown.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chassis::problem::Problem;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::error;
use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// A password that was chosen by somebody; never shown.
#[derive(Clone)]
pub struct Password(SecretString);

/// A password that can't be one; the text says what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// Too easy to guess.
    #[error("a password has at least {min_chars} characters")]
    TooShort {
        /// How many there have to be.
        min_chars: usize,
    },
    /// bcrypt reads 72 bytes and no further; cutting a longer one off would make different passwords equal.
    #[error("a password has at most {max} bytes", max = Password::MAX_BYTES)]
    TooLong,
    /// bcrypt's C heritage ends a password here.
    #[error("a password has no NUL in it")]
    Nul,
}

impl Password {
    /// The longest that bcrypt reads, in UTF-8.
    pub const MAX_BYTES: usize = 72;

    /// Normalises and checks a new password, of `min_chars` characters at least.
    ///
    /// # Errors
    /// [`InvalidPassword`].
    pub fn parse(text: &str, min_chars: usize) -> Result<Self, InvalidPassword> {
        let text = normalised(text);
        if text.chars().count() < min_chars {
            return Err(InvalidPassword::TooShort { min_chars });
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

/// One spelling of each password: any space is U+0020, and characters are composed (NFC).
/// Source: RFC 8265, section 4.2.2 (OpaqueString).
fn normalised(text: &str) -> String {
    let one_space = |character: char| match character.general_category() {
        GeneralCategory::SpaceSeparator => ' ',
        _ => character,
    };
    text.chars().map(one_space).nfc().collect()
}

/// What an attempt may have been hashed as: normalised, or as it was typed, before passwords were normalised. How many
/// there are depends on the attempt alone, never on an account. What is longer than any password that was ever accepted is
/// not among them, as bcrypt would compare its beginning.
fn spellings(attempt: &SecretString) -> Vec<SecretString> {
    let typed = attempt.expose_secret();
    let normalised = normalised(typed);
    let mut spellings = vec![normalised.as_str()];
    if typed != normalised {
        spellings.push(typed);
    }
    spellings.retain(|text| text.len() <= Password::MAX_BYTES);
    spellings.into_iter().map(SecretString::from).collect()
}

/// The password of nobody's account.
const DECOY: &str = "nobody's password";

/// A request is rejected at once when the estimated wait for a hash exceeds this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How much of the measured time of a hash the latest one is: enough to follow a machine that gets busy.
const LATEST_SHARE: f64 = 0.125;

/// Hashes and verifies, a bounded number at a time.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    concurrency: usize,
    turns: Arc<Semaphore>,
    queue: Arc<Queue>,
    /// Compared with where there is no account, so that the answer takes as long as with one.
    decoy: Arc<str>,
}

/// Who waits for a turn, and for how long that will be.
struct Queue {
    waiting: AtomicUsize,
    /// The mean time of a hash, in seconds.
    mean: Mutex<f64>,
}

/// The right to one hash; the next one is let in when it is done, or when this is dropped unused.
pub struct Turn {
    passwords: Passwords,
    permit: OwnedSemaphorePermit,
}

impl Passwords {
    /// With bcrypt's `cost`, `concurrency` at a time.
    ///
    /// # Errors
    /// When bcrypt refuses the cost.
    pub async fn new(cost: u32, concurrency: usize) -> anyhow::Result<Self> {
        let began = Instant::now();
        let decoy =
            tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(DECOY, cost)).await??;
        Ok(Self {
            cost,
            concurrency,
            turns: Arc::new(Semaphore::new(concurrency)),
            queue: Arc::new(Queue {
                waiting: AtomicUsize::new(0),
                mean: Mutex::new(began.elapsed().as_secs_f64()),
            }),
            decoy: decoy.into(),
        })
    }

    /// Waits for a turn to hash.
    ///
    /// # Errors
    /// 503 at once when the wait would be longer than five seconds, as those before need them; 503 after as long should they have been
    /// quicker until now.
    pub async fn turn(&self) -> Result<Turn, Problem> {
        let busy = || Problem::overloaded("too many passwords are being checked");
        let permit = match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = self.queue.enter();
                if self.queue.wait(waiting.before, self.concurrency) > LONGEST_WAIT {
                    return Err(busy());
                }
                let turn = Arc::clone(&self.turns).acquire_owned();
                let Ok(Ok(permit)) = tokio::time::timeout(LONGEST_WAIT, turn).await else {
                    return Err(busy());
                };
                permit
            }
        };
        Ok(Turn {
            passwords: self.clone(),
            permit,
        })
    }
}

impl Turn {
    /// The hash to store.
    ///
    /// # Errors
    /// 500 should bcrypt fail.
    pub async fn hash(self, password: Password) -> Result<String, Problem> {
        let cost = self.passwords.cost;
        #[expect(
            clippy::disallowed_methods,
            reason = "a Password fits; the one that doesn't truncate refuses 72 bytes, too"
        )]
        self.take(move || bcrypt::hash(password.0.expose_secret(), cost))
            .await
    }

    /// Whether `attempt` is the password behind `hash`; `None` (no such account) takes as long and is false. A wrong
    /// attempt that isn't normalised takes two hashes of this turn.
    ///
    /// # Errors
    /// 500 should bcrypt fail.
    pub async fn verify(
        self,
        attempt: SecretString,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        let mut spellings = spellings(&attempt);
        let exists = hash.is_some() && !spellings.is_empty();
        if spellings.is_empty() {
            spellings.push(attempt);
        }
        let hash = hash.filter(|_| exists);
        let hash = hash.unwrap_or_else(|| self.passwords.decoy.to_string());
        let matches = self
            .take(move || {
                for spelling in spellings {
                    if bcrypt::verify(spelling.expose_secret(), &hash)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
            .await?;
        Ok(exists && matches)
    }

    async fn take<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, bcrypt::BcryptError> + Send + 'static,
    ) -> Result<T, Problem> {
        let worked = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that goes away doesn't free its turn early.
            let _permit = self.permit;
            let began = Instant::now();
            let done = work();
            self.passwords.queue.took(began.elapsed());
            done
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

/// Somebody who waits, until dropped.
struct Waiting<'a> {
    queue: &'a Queue,
    /// How many waited already.
    before: usize,
}

impl Queue {
    fn enter(&self) -> Waiting<'_> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            queue: self,
            before,
        }
    }

    /// How long the turn of somebody new will take to come: all turns are taken, and so many wait before.
    fn wait(&self, before: usize, concurrency: usize) -> Duration {
        let hashes = (before + concurrency) as f64 / concurrency as f64;
        Duration::from_secs_f64(*self.mean() * hashes)
    }

    fn took(&self, elapsed: Duration) {
        let mut mean = self.mean();
        *mean += (elapsed.as_secs_f64() - *mean) * LATEST_SHARE;
    }

    fn mean(&self) -> MutexGuard<'_, f64> {
        self.mean.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_CHARS: usize = 8;

    #[test]
    fn a_password_is_refused_rather_than_truncated() {
        assert!(Password::parse("12345678", MIN_CHARS).is_ok());
        assert!(Password::parse(&"x".repeat(72), MIN_CHARS).is_ok());
        assert_eq!(
            Password::parse("1234567", MIN_CHARS).unwrap_err(),
            InvalidPassword::TooShort { min_chars: 8 }
        );
        assert_eq!(
            Password::parse(&"x".repeat(73), MIN_CHARS).unwrap_err(),
            InvalidPassword::TooLong
        );
        assert_eq!(
            Password::parse(&"é".repeat(37), MIN_CHARS).unwrap_err(),
            InvalidPassword::TooLong
        );
        assert_eq!(
            Password::parse("1234\0xyz8", MIN_CHARS).unwrap_err(),
            InvalidPassword::Nul
        );
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_account_is_right() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let turn = async || passwords.turn().await.unwrap();
        let hash = turn()
            .await
            .hash(Password::parse("correct horse", MIN_CHARS).unwrap())
            .await
            .unwrap();
        let verify = async |attempt: &str, hash: Option<&str>| {
            let turn = turn().await;
            turn.verify(attempt.into(), hash.map(str::to_owned)).await
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
        let turn = async || passwords.turn().await.unwrap();
        let hash = turn()
            .await
            .hash(Password::parse(&longest, MIN_CHARS).unwrap())
            .await
            .unwrap();
        let verify = async |attempt: &str| {
            let turn = turn().await;
            turn.verify(attempt.into(), Some(hash.clone())).await
        };
        assert!(verify(&longest).await.unwrap());
        assert!(!verify(&format!("{}e", "é".repeat(35))).await.unwrap());
        assert!(!verify(&format!("{longest}e")).await.unwrap());
    }

    #[test]
    fn a_password_is_counted_as_it_is_hashed() {
        // Seven characters of two each, and 36 that are longer than 72 bytes until they are composed.
        assert!(Password::parse(&"e\u{301}".repeat(7), MIN_CHARS).is_err());
        assert!(Password::parse(&"e\u{301}".repeat(36), MIN_CHARS).is_ok());
        assert!(Password::parse("hunter2", 7).is_ok());
    }

    #[tokio::test]
    async fn a_password_is_the_same_from_every_keyboard() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let turn = async || passwords.turn().await.unwrap();
        let composed = "caf\u{e9} au lait";
        let decomposed = "cafe\u{301}\u{a0}au\u{2003}lait";
        for (chosen, typed) in [(composed, decomposed), (decomposed, composed)] {
            let password = Password::parse(chosen, MIN_CHARS).unwrap();
            let hash = turn().await.hash(password).await.unwrap();
            for attempt in [chosen, typed] {
                let verified = turn().await.verify(attempt.into(), Some(hash.clone()));
                assert!(verified.await.unwrap(), "{attempt:?}");
            }
            let other = turn()
                .await
                .verify("cafe au lait".into(), Some(hash.clone()));
            assert!(!other.await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_hash_of_what_was_typed_still_counts() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let turn = async || passwords.turn().await.unwrap();
        // The last one is longer than 72 bytes once it is normalised.
        for typed in [
            "cafe\u{301} au lait",
            "caf\u{e9}\u{a0}au lait",
            &"\u{958}".repeat(23),
        ] {
            let before = bcrypt::non_truncating_hash(typed, 4).unwrap();
            let verified = turn().await.verify(typed.into(), Some(before.clone()));
            assert!(verified.await.unwrap(), "{typed:?}");
            let other = format!("{typed}\u{301}");
            let verified = turn().await.verify(other.as_str().into(), Some(before));
            assert!(!verified.await.unwrap(), "{typed:?}");
        }
    }

    #[test]
    fn an_attempt_costs_two_hashes_at_most_and_one_if_it_is_normalised() {
        let count = |attempt: &str| spellings(&attempt.into()).len();
        assert_eq!(count("correct horse"), 1);
        assert_eq!(count("caf\u{e9} au lait"), 1);
        assert_eq!(count("cafe\u{301}\u{a0}au lait"), 2);
        assert_eq!(count(&"x".repeat(73)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_is_refused_at_once() {
        let passwords = Passwords::new(4, 2).await.unwrap();
        // As on a machine on which a hash takes a second.
        *passwords.queue.mean() = 1.0;
        let held = [
            passwords.turn().await.unwrap(),
            passwords.turn().await.unwrap(),
        ];
        // Two at a time: the eighth of those who wait has its turn after four seconds and the one that runs.
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.turn().await.map(drop) })
            })
            .collect();
        while passwords.queue.waiting.load(Ordering::Relaxed) < waiting.len() {
            tokio::task::yield_now().await;
        }
        let asked = tokio::time::Instant::now();
        for _ in 0..20 {
            let wait = passwords.queue.wait(8, 2);
            assert_eq!(wait, Duration::from_secs(5), "just short enough");
            let ninth = passwords.queue.enter();
            let refused = passwords.turn().await.map(drop).unwrap_err();
            assert_eq!(
                refused,
                Problem::overloaded("too many passwords are being checked")
            );
            drop(ninth);
        }
        assert_eq!(asked.elapsed(), Duration::ZERO);
        drop(held);
        for waited in waiting {
            assert_eq!(waited.await.unwrap(), Ok(()));
        }
        assert!(passwords.turn().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_was_promised_either() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        *passwords.queue.mean() = 0.001;
        let _held = passwords.turn().await.unwrap();
        let asked = tokio::time::Instant::now();
        assert!(passwords.turn().await.is_err());
        assert_eq!(asked.elapsed(), LONGEST_WAIT);
    }
}
