//! Password rules, and bcrypt on blocking threads with bounded concurrency.
//!
//! A password is normalised before it is hashed, so that it is the same from every keyboard. Older hashes were made from
//! the text as typed, so that is tried as well where it differs. Left out: OpaqueString's string class, because it
//! changes with Unicode and a password is never displayed.

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

/// A new password; never displayed.
#[derive(Clone)]
pub struct Password(SecretString);

/// A password that can't be accepted; the text states the requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    /// Too easy to guess.
    #[error("a password has at least {min_chars} characters")]
    TooShort {
        /// The minimum length.
        min_chars: usize,
    },
    /// bcrypt reads 72 bytes; truncating longer passwords would make different ones equal.
    #[error("a password has at most {max} bytes", max = Password::MAX_BYTES)]
    TooLong,
    /// bcrypt implementations in C end a password at NUL.
    #[error("a password has no NUL in it")]
    Nul,
}

impl Password {
    /// The longest password that bcrypt reads, in UTF-8.
    pub const MAX_BYTES: usize = 72;

    /// Normalises and checks a new password with at least `min_chars` characters.
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

/// The spellings that an attempt may have been hashed in: normalised, or as typed, before passwords were normalised. Their
/// number depends on the attempt alone, never on an account. Spellings longer than any accepted password are left out,
/// because bcrypt would compare their first 72 bytes.
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

/// The password of the decoy hash, which belongs to no account.
const DECOY: &str = "nobody's password";

/// An attempt is rejected at once when its estimated wait for a hash exceeds this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The weight of the latest hash in the moving average of hash times: high enough to follow the machine's load.
const LATEST_SHARE: f64 = 0.125;

/// Hashes and verifies passwords with bounded concurrency.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    concurrency: usize,
    permits: Arc<Semaphore>,
    queue: Arc<Queue>,
    /// Compared where there is no account, so that the answer takes as long as with one.
    decoy: Arc<str>,
}

/// How many attempts wait for a permit, and the expected wait.
struct Queue {
    waiting: AtomicUsize,
    /// The mean time of a hash, in seconds.
    mean: Mutex<f64>,
}

/// The right to compute a hash; released when the hash is done, or when this is dropped unused.
pub struct HashPermit {
    passwords: Passwords,
    permit: OwnedSemaphorePermit,
}

impl Passwords {
    /// Hashes with this `cost`, at most `concurrency` at a time.
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
            permits: Arc::new(Semaphore::new(concurrency)),
            queue: Arc::new(Queue {
                waiting: AtomicUsize::new(0),
                mean: Mutex::new(began.elapsed().as_secs_f64()),
            }),
            decoy: decoy.into(),
        })
    }

    /// Waits for a permit to hash.
    ///
    /// # Errors
    /// 503 at once when the estimated wait exceeds `LONGEST_WAIT`; 503 after that long when the estimate was too low.
    pub async fn permit(&self) -> Result<HashPermit, Problem> {
        let busy = || Problem::overloaded("too many passwords are being checked");
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = self.queue.enter();
                if self.queue.wait(waiting.before, self.concurrency) > LONGEST_WAIT {
                    return Err(busy());
                }
                let permit = Arc::clone(&self.permits).acquire_owned();
                let Ok(Ok(permit)) = tokio::time::timeout(LONGEST_WAIT, permit).await else {
                    return Err(busy());
                };
                permit
            }
        };
        Ok(HashPermit {
            passwords: self.clone(),
            permit,
        })
    }
}

impl HashPermit {
    /// Hashes a new password.
    ///
    /// # Errors
    /// 500 when bcrypt fails.
    pub async fn hash(self, password: Password) -> Result<String, Problem> {
        let cost = self.passwords.cost;
        #[expect(
            clippy::disallowed_methods,
            reason = "a Password fits; the non-truncating variant refuses 72 bytes as well"
        )]
        self.take(move || bcrypt::hash(password.0.expose_secret(), cost))
            .await
    }

    /// Whether `attempt` is the password of `hash`; `None` (no such account) takes as long and is false. A wrong attempt
    /// that isn't normalised computes two hashes with this permit.
    ///
    /// # Errors
    /// 500 when bcrypt fails.
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
            // Held by the work itself: a client that disconnects doesn't release the permit early.
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

/// A waiting attempt, until dropped.
struct Waiting<'a> {
    queue: &'a Queue,
    /// How many were waiting already.
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

    /// The estimated wait of a new attempt: all permits are taken, and `before` attempts are ahead of it.
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
        let permit = async || passwords.permit().await.unwrap();
        let hash = permit()
            .await
            .hash(Password::parse("correct horse", MIN_CHARS).unwrap())
            .await
            .unwrap();
        let verify = async |attempt: &str, hash: Option<&str>| {
            let permit = permit().await;
            permit.verify(attempt.into(), hash.map(str::to_owned)).await
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
        let permit = async || passwords.permit().await.unwrap();
        let hash = permit()
            .await
            .hash(Password::parse(&longest, MIN_CHARS).unwrap())
            .await
            .unwrap();
        let verify = async |attempt: &str| {
            let permit = permit().await;
            permit.verify(attempt.into(), Some(hash.clone())).await
        };
        assert!(verify(&longest).await.unwrap());
        assert!(!verify(&format!("{}e", "é".repeat(35))).await.unwrap());
        assert!(!verify(&format!("{longest}e")).await.unwrap());
    }

    #[test]
    fn a_password_is_measured_after_normalisation() {
        // Seven characters of two code points each, and 36 that exceed 72 bytes until they are composed.
        assert!(Password::parse(&"e\u{301}".repeat(7), MIN_CHARS).is_err());
        assert!(Password::parse(&"e\u{301}".repeat(36), MIN_CHARS).is_ok());
        assert!(Password::parse("hunter2", 7).is_ok());
    }

    #[tokio::test]
    async fn a_password_is_the_same_from_every_keyboard() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let permit = async || passwords.permit().await.unwrap();
        let composed = "caf\u{e9} au lait";
        let decomposed = "cafe\u{301}\u{a0}au\u{2003}lait";
        for (chosen, typed) in [(composed, decomposed), (decomposed, composed)] {
            let password = Password::parse(chosen, MIN_CHARS).unwrap();
            let hash = permit().await.hash(password).await.unwrap();
            for attempt in [chosen, typed] {
                let verified = permit().await.verify(attempt.into(), Some(hash.clone()));
                assert!(verified.await.unwrap(), "{attempt:?}");
            }
            let other = permit()
                .await
                .verify("cafe au lait".into(), Some(hash.clone()));
            assert!(!other.await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_hash_of_the_password_as_typed_still_verifies() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        let permit = async || passwords.permit().await.unwrap();
        // The last one is longer than 72 bytes once it is normalised.
        for typed in [
            "cafe\u{301} au lait",
            "caf\u{e9}\u{a0}au lait",
            &"\u{958}".repeat(23),
        ] {
            let before = bcrypt::non_truncating_hash(typed, 4).unwrap();
            let verified = permit().await.verify(typed.into(), Some(before.clone()));
            assert!(verified.await.unwrap(), "{typed:?}");
            let other = format!("{typed}\u{301}");
            let verified = permit().await.verify(other.as_str().into(), Some(before));
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
    async fn an_attempt_with_too_long_an_estimated_wait_is_refused_at_once() {
        let passwords = Passwords::new(4, 2).await.unwrap();
        // As on a machine where a hash takes a second.
        *passwords.queue.mean() = 1.0;
        let held = [
            passwords.permit().await.unwrap(),
            passwords.permit().await.unwrap(),
        ];
        // Two at a time: the eighth waiting attempt gets a permit after four seconds and the running hash.
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.permit().await.map(drop) })
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
            let refused = passwords.permit().await.map(drop).unwrap_err();
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
        assert!(passwords.permit().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_waits_longer_than_the_limit() {
        let passwords = Passwords::new(4, 1).await.unwrap();
        *passwords.queue.mean() = 0.001;
        let _held = passwords.permit().await.unwrap();
        let asked = tokio::time::Instant::now();
        assert!(passwords.permit().await.is_err());
        assert_eq!(asked.elapsed(), LONGEST_WAIT);
    }
}
