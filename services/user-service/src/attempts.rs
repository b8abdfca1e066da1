//! Failed password attempts, counted per address across all replicas, and the growing waits that they cause.
//!
//! After five consecutive failures, each within fifteen minutes of the previous one, the address is blocked for 30 s,
//! whatever the password; each further failure doubles the wait, up to fifteen minutes. The right password, or fifteen
//! minutes without a failure after the last wait, resets the count. Addresses without an account are counted like those
//! with one, so that an answer does not reveal which is which; a refused attempt computes no hash.
//!
//! The count is per address and not per client because guesses can come from many clients. The cost: somebody who keeps
//! guessing blocks the owner's login, fifteen minutes at a time. The owner's existing tokens stay valid meanwhile, and
//! can be used to change the password, which is counted separately. A guesser gets about 550 attempts a day at one
//! address. A wait of twice the longest was recorded before the clock was set back, and blocks nobody. An attempt whose client disconnects is counted once its hash has begun. Left out: notifying the owner;
//! trusted devices; one guess at each of many addresses.

use chassis::pool::Pool;
use chassis::problem::Problem;
use chassis::telemetry::Statement;
use sha2::{Digest, Sha256};
use shared_events::UserId;

/// The number of failures that blocks an address.
const LIMIT: i32 = 5;
/// The first wait; each further failure doubles it …
const FIRST_WAIT_SECONDS: f64 = 30.0;
/// … up to this.
const LONGEST_WAIT_SECONDS: f64 = 900.0;
/// Failures expire this long after the last one, or after the wait that it caused.
const MEMORY_SECONDS: f64 = 900.0;
/// The most rows deleted at a time.
const PRUNED_ROWS: i64 = 10_000;

/// Counts attempts; clones share the table.
#[derive(Clone)]
pub struct Attempts {
    pool: Pool,
}

/// Whose password is tried: an address, with or without an account.
#[derive(Clone, Copy)]
pub struct Account([u8; 32]);

impl Account {
    /// Of an address as the client sent it, normalised as addresses are.
    pub fn of(address: &str) -> Self {
        Self::counted_as("address", address.trim().to_ascii_lowercase().as_bytes())
    }

    /// Of a logged-in user who changes the password: counted separately, so that guesses at the login can't stop the owner
    /// from revoking a thief's tokens, and a thief can't stop the owner from logging in.
    pub fn of_user(user_id: UserId) -> Self {
        Self::counted_as("user", user_id.0.as_bytes())
    }

    /// The kind keeps addresses and users apart, whatever a client sends as an address.
    fn counted_as(kind: &str, of: &[u8]) -> Self {
        let digest = Sha256::new()
            .chain_update(kind)
            .chain_update([0])
            .chain_update(of);
        Self(digest.finalize().into())
    }
}

impl Attempts {
    /// Counts in this database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Call this before a password is checked.
    ///
    /// # Errors
    /// 429 while the account is blocked; 503 without a database.
    pub async fn admit(&self, account: Account) -> Result<(), Problem> {
        match self.look(account).await? {
            Some(Some(seconds)) => Err(refusal(seconds)),
            _ => Ok(()),
        }
    }

    /// Counts an admitted attempt. Of concurrent attempts all are admitted; those that get here after the limit was reached
    /// are refused whether the password was right or wrong.
    ///
    /// # Errors
    /// 429 when concurrent attempts have reached the limit meanwhile; 503 without a database.
    pub async fn settle(&self, account: Account, right: bool) -> Result<(), Problem> {
        if right {
            self.succeeded(account).await
        } else {
            self.failed(account).await
        }
    }

    async fn succeeded(&self, account: Account) -> Result<(), Problem> {
        match self.look(account).await? {
            None => Ok(()),
            Some(Some(seconds)) => Err(refusal(seconds)),
            Some(None) => {
                sqlx::query(
                    "DELETE FROM login_attempts
                     WHERE account = $1
                         AND (blocked_until IS NULL OR blocked_until <= clock_timestamp()
                              OR blocked_until > clock_timestamp() + make_interval(secs => $2))",
                )
                .bind(account.0)
                .bind(2.0 * LONGEST_WAIT_SECONDS)
                .execute(&self.pool)
                .traced("DELETE login_attempts")
                .await?;
                Ok(())
            }
        }
    }

    async fn failed(&self, account: Account) -> Result<(), Problem> {
        // One statement under the row's lock: each failure sees the previous one. No row changes while the account is blocked.
        let counted = sqlx::query(
            "INSERT INTO login_attempts AS known (account, failures, failed_at) VALUES ($1, 1, clock_timestamp())
             ON CONFLICT (account) DO UPDATE
             SET (failures, failed_at, blocked_until) = (
                 SELECT count, clock_timestamp(), CASE WHEN count >= $2 THEN
                     clock_timestamp() + make_interval(secs => least($4, $3 * power(2, least(count - $2, 20))))
                 END
                 FROM (SELECT CASE
                     WHEN greatest(known.failed_at, known.blocked_until)
                         < clock_timestamp() - make_interval(secs => $5) THEN 1
                     ELSE known.failures + 1
                 END AS count) AS counted
             )
             WHERE known.blocked_until IS NULL OR known.blocked_until <= clock_timestamp()
                 OR known.blocked_until > clock_timestamp() + make_interval(secs => 2 * $4)",
        )
        .bind(account.0)
        .bind(LIMIT)
        .bind(FIRST_WAIT_SECONDS)
        .bind(LONGEST_WAIT_SECONDS)
        .bind(MEMORY_SECONDS)
        .execute(&self.pool)
        .traced("INSERT login_attempts")
        .await?;
        if counted.rows_affected() > 0 {
            return Ok(());
        }
        // The block may have ended in between.
        let wait = self.look(account).await?.flatten();
        Err(refusal(wait.unwrap_or(1)))
    }

    /// `None` without failures; otherwise the seconds left to wait, if any.
    async fn look(&self, account: Account) -> Result<Option<Option<i64>>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT CASE WHEN blocked_until BETWEEN now() AND now() + make_interval(secs => $2)
                 THEN ceil(extract(epoch FROM blocked_until - now()))::bigint END
             FROM login_attempts WHERE account = $1",
        )
        .bind(account.0)
        .bind(2.0 * LONGEST_WAIT_SECONDS)
        .fetch_optional(&self.pool)
        .traced("SELECT login_attempts")
        .await
    }

    /// Deletes expired rows, a bounded number at a time.
    ///
    /// # Errors
    /// The database's.
    pub async fn prune(&self) -> Result<(), sqlx::Error> {
        sqlx::query(
            "DELETE FROM login_attempts WHERE account IN (
                 SELECT account FROM login_attempts
                 WHERE failed_at < now() - make_interval(secs => $1)
                     AND (blocked_until IS NULL OR blocked_until < now() - make_interval(secs => $1))
                 ORDER BY failed_at LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(MEMORY_SECONDS)
        .bind(PRUNED_ROWS)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn refusal(seconds: i64) -> Problem {
    let seconds = seconds.max(1).unsigned_abs();
    Problem::too_many(
        "too-many-attempts",
        format!("too many failed attempts at this address: try again in {seconds} s"),
        seconds,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_in_any_spelling() {
        let same = [" Ada@Example.COM ", "ada@example.com"].map(|address| Account::of(address).0);
        assert_eq!(same[0], same[1]);
        assert_ne!(same[0], Account::of("eve@example.com").0);
    }

    #[test]
    fn no_address_is_counted_as_a_user() {
        let user = UserId::generate();
        let bytes = user
            .0
            .as_bytes()
            .iter()
            .copied()
            .map(char::from)
            .collect::<String>();
        for address in [
            user.to_string(),
            format!(":user:{user}"),
            format!("user\0{bytes}"),
        ] {
            assert_ne!(Account::of(&address).0, Account::of_user(user).0);
        }
    }
}
