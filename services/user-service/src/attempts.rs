//! Failed attempts at a password, counted by address over all replicas, and the waits that grow with them.
//!
//! Five failures in a row, each within fifteen minutes of the one before, and nobody is let in for 30 s, with whatever
//! password; each further failure doubles that, to fifteen minutes at most. The right password, or fifteen quiet minutes
//! after the last wait, begin anew. Addresses without an account are counted like those with one, so that an answer tells
//! nothing of it; what is refused here costs no hash.
//!
//! The count is by address and not by client, because guesses come from many places as easily as from one. The price is
//! that somebody who goes on guessing keeps the owner from logging in, fifteen minutes at a time for as long as the guesses go on;
//! tokens that the owner has are good meanwhile, and the password can be changed with one, which is counted apart. It leaves a guesser some five hundred and fifty attempts a day at one address.
//! An attempt whose client goes away is counted once its hash has begun. Left out: telling the owner; devices that are known from before; one
//! guess at each of many addresses.

use chassis::problem::Problem;
use chassis::telemetry::Statement;
use sha2::{Digest, Sha256};
use shared_events::UserId;
use sqlx::PgPool;

/// The failure with which waiting begins.
const LIMIT: i32 = 5;
/// The wait after it; each further failure doubles it …
const FIRST_WAIT_SECONDS: f64 = 30.0;
/// … to no more than this.
const LONGEST_WAIT_SECONDS: f64 = 900.0;
/// Failures are forgotten this long after the last one, or after the wait that it led to.
const MEMORY_SECONDS: f64 = 900.0;
/// How many forgotten rows go at a time.
const PRUNED_ROWS: i64 = 10_000;

/// Counts attempts; clones share the table.
#[derive(Clone)]
pub struct Attempts {
    pool: PgPool,
}

/// Whose password is tried: an address, whether or not there is an account of it.
#[derive(Clone, Copy)]
pub struct Account([u8; 32]);

impl Account {
    /// Of what somebody gave as an address, compared as addresses are.
    pub fn of(address: &str) -> Self {
        Self::counted_as("address", address.trim().to_ascii_lowercase().as_bytes())
    }

    /// Of somebody who is logged in and changes the password: counted apart, so that who guesses at the login can't keep
    /// the owner from the one thing that ends a thief's tokens, nor a thief the owner from logging in.
    pub fn of_user(user_id: UserId) -> Self {
        Self::counted_as("user", user_id.0.as_bytes())
    }

    /// Of different kinds, whatever somebody gives as an address.
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
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// To be asked before a password is looked at.
    ///
    /// # Errors
    /// 429 while the account's attempts have to wait; 503 without a database.
    pub async fn admit(&self, account: Account) -> Result<(), Problem> {
        match self.look(account).await? {
            Some(Some(seconds)) => Err(refusal(seconds)),
            _ => Ok(()),
        }
    }

    /// Counts an attempt that was admitted. Of many at the same time all are admitted; those that come to this point after
    /// the limit was reached are told as little as if they had not been, be they right or wrong.
    ///
    /// # Errors
    /// 429 when others have reached the limit meanwhile; 503 without a database.
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
                     WHERE account = $1 AND (blocked_until IS NULL OR blocked_until <= clock_timestamp())",
                )
                .bind(account.0)
                .execute(&self.pool)
                .traced("DELETE login_attempts")
                .await?;
                Ok(())
            }
        }
    }

    async fn failed(&self, account: Account) -> Result<(), Problem> {
        // One statement, and the row's lock: each failure sees the one before. No row changes while the account waits.
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
             WHERE known.blocked_until IS NULL OR known.blocked_until <= clock_timestamp()",
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
        // It may have ended in between.
        let wait = self.look(account).await?.flatten();
        Err(refusal(wait.unwrap_or(1)))
    }

    /// Whether there are failures, and the seconds that are left to wait, if any.
    async fn look(&self, account: Account) -> Result<Option<Option<i64>>, sqlx::Error> {
        sqlx::query_scalar(
            "SELECT CASE WHEN blocked_until > now() THEN ceil(extract(epoch FROM blocked_until - now()))::bigint END
             FROM login_attempts WHERE account = $1",
        )
        .bind(account.0)
        .fetch_optional(&self.pool)
        .traced("SELECT login_attempts")
        .await
    }

    /// Removes what is forgotten, a bounded number of rows at a time.
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
    fn an_address_is_counted_in_whatever_spelling() {
        let same = [" Ada@Example.COM ", "ada@example.com"].map(|address| Account::of(address).0);
        assert_eq!(same[0], same[1]);
        assert_ne!(same[0], Account::of("eve@example.com").0);
    }

    #[test]
    fn nothing_given_as_an_address_is_counted_as_a_user() {
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
