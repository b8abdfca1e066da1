//! Tokens revoked before they expire: logged out, or issued before the user's latest password change.
//!
//! `/auth/verify` is called for every protected request, so it makes no query: revocations are held in memory on every
//! replica. All are read before the service is ready; new ones are read on each `NOTIFY`, and every second as a fallback,
//! so that every replica that can reach its database refuses a revoked token within [`EFFECTIVE_WITHIN`]. During a
//! database outage the known set stays in effect and nothing can be revoked (503); a replica that alone has lost its
//! database accepts tokens that others revoke meanwhile, until it reconnects or the token expires. The alternative would
//! be to refuse every request during a database outage.
//!
//! The set is bounded: one entry per user and one per token, each of which cost a login, and each removed an hour
//! (`KEPT_BEYOND_EXPIRY`) after all that it revokes has expired. So a clock that is set forward by less than that beyond a
//! token's end, and back, makes no revoked token valid. Left out: who revoked a token, and why.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use chassis::metrics::Gauge;
use chassis::pool::Pool;
use chassis::telemetry::Statement;
use chrono::{DateTime, TimeDelta, Utc};
use shared_events::UserId;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tracing::warn;
use uuid::Uuid;

use crate::config::MAX_TOKEN_TTL_SECONDS;
use crate::tokens::Claims;

/// How long a revoked token may still be accepted by a replica that can reach its database. A replica whose connection is
/// dead without an error (dropped packets) detects that within 5 s, and reads over a new connection. The document of
/// `POST /auth/logout` repeats the value.
pub const EFFECTIVE_WITHIN: Duration = Duration::from_secs(2);

/// The channel of `NOTIFY`.
const CHANNEL: &str = "revocations";
/// The longest delay of a revocation whose notification was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// After this a connection counts as dead although it reported no error.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a revocation is kept beyond its token's end, in memory and in the database: clocks differ, and may be set back.
/// A token that is valid by the clock again must still be known as revoked.
const KEPT_BEYOND_EXPIRY: TimeDelta = TimeDelta::hours(1);
/// How often expired rows are pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// The watermark that precedes every transaction.
const FROM_THE_BEGINNING: &str = "0";

/// The revocations; clones share them.
#[derive(Clone)]
pub struct Revocations {
    pool: Pool,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    /// Keyed by token id, or by user id.
    entries: RwLock<HashMap<Uuid, Revocation>>,
    count: Gauge,
}

#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Revocation {
    subject: Uuid,
    /// For a user: tokens of generations below this are revoked. For a token: `None`.
    generation: Option<i64>,
    expires_at: DateTime<Utc>,
}

impl Revocations {
    /// Reads all revocations, and starts the task that follows new ones.
    ///
    /// # Errors
    /// When they can't be read: a service without its revocations must not start.
    pub async fn start(lifecycle: &Lifecycle, database: &Database) -> anyhow::Result<Self> {
        let (revocations, mut reader) = Self::read(lifecycle, database).await?;
        let closing = lifecycle.closing();
        lifecycle.spawn_watcher("revocations", async move {
            tokio::select! {
                () = reader.run() => {}
                () = closing.cancelled() => {}
            }
            Ok(())
        });

        let pool = database.pool.clone();
        database.every(
            lifecycle,
            "revocations pruning",
            PRUNE_INTERVAL,
            move || {
                let pool = pool.clone();
                async move { prune(&pool).await }
            },
        );
        Ok(revocations)
    }

    /// Reads all revocations; also returns the reader that follows new ones once it [runs](Reader::run).
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn read(
        lifecycle: &Lifecycle,
        database: &Database,
    ) -> anyhow::Result<(Self, Reader)> {
        let revocations = Self {
            pool: database.pool.clone(),
            known: Arc::new(Known {
                entries: RwLock::default(),
                count: lifecycle.metrics().gauge(
                    "agora_revocations_known",
                    "Revocations held in memory, until an hour after what they revoke has expired",
                ),
            }),
        };
        // A connection of its own, because requests may hold all of theirs.
        let pool = database.pool_of(1, &[]);
        let read_up_to = revocations
            .known
            .read(&pool, FROM_THE_BEGINNING)
            .await
            .context("failed to read revocations")?;
        let wake_up = Arc::new(Notify::new());
        database.listen(
            lifecycle,
            "revocations listener",
            CHANNEL,
            Arc::clone(&wake_up),
        );
        let reader = Reader {
            known: Arc::clone(&revocations.known),
            database: database.clone(),
            pool,
            read_up_to,
            wake_up,
        };
        Ok((revocations, reader))
    }

    /// Whether a verified token is revoked.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        self.known.is_revoked(claims)
    }

    /// Revokes one token: immediately on this replica, on others within [`EFFECTIVE_WITHIN`]. Idempotent.
    ///
    /// # Errors
    /// The database's; the token may be revoked nevertheless.
    pub async fn revoke(&self, claims: &Claims) -> Result<(), sqlx::Error> {
        let expires_at = claims.expires_at();
        sqlx::query(
            "WITH revoked AS (
                 INSERT INTO revocations (subject, expires_at) VALUES ($1, $2) ON CONFLICT (subject) DO NOTHING
             )
             SELECT pg_notify($3, '')",
        )
        .bind(claims.jti)
        .bind(expires_at)
        .bind(CHANNEL)
        .execute(&self.pool)
        .traced("INSERT revocations")
        .await?;
        self.known.add([Revocation {
            subject: claims.jti,
            generation: None,
            expires_at,
        }]);
        Ok(())
    }

    /// Replaces a user's password hash if it still is `old_hash`, and revokes every token of the user, in one statement:
    /// immediately on this replica, on others within [`EFFECTIVE_WITHIN`]. Returns whether it did.
    ///
    /// A token issued concurrently for the old password has the old generation, and so is revoked, too.
    ///
    /// # Errors
    /// The database's; the password may be changed nevertheless.
    pub async fn change_password(
        &self,
        user_id: UserId,
        old_hash: &str,
        new_hash: &str,
    ) -> Result<bool, sqlx::Error> {
        // Not the configured lifetime: an earlier process may have issued tokens that live longer. The extra hour is
        // for logins in progress, which issue their token after this moment; for clocks there is KEPT_BEYOND_EXPIRY.
        let expires_at =
            Utc::now() + TimeDelta::seconds(MAX_TOKEN_TTL_SECONDS.into()) + TimeDelta::hours(1);
        let generation: Option<i64> = sqlx::query_scalar(
            "WITH changed AS (
                 UPDATE users SET password_hash = $3, token_generation = token_generation + 1
                 WHERE id = $1 AND password_hash = $2
                 RETURNING id, token_generation
             ), revoked AS (
                 INSERT INTO revocations (subject, generation, expires_at)
                 SELECT id, token_generation, $4 FROM changed
                 ON CONFLICT (subject) DO UPDATE
                 SET generation = excluded.generation, expires_at = excluded.expires_at,
                     transaction_id = pg_current_xact_id()
                 RETURNING generation
             )
             SELECT generation FROM revoked, pg_notify($5, '')",
        )
        .bind(user_id.0)
        .bind(old_hash)
        .bind(new_hash)
        .bind(expires_at)
        .bind(CHANNEL)
        .fetch_optional(&self.pool)
        .traced("UPDATE users")
        .await?;
        self.known.add(generation.map(|generation| Revocation {
            subject: user_id.0,
            generation: Some(generation),
            expires_at,
        }));
        Ok(generation.is_some())
    }
}

/// Follows revocations made elsewhere; [`Revocations::start`] creates and runs one.
pub struct Reader {
    known: Arc<Known>,
    database: Database,
    pool: Pool,
    /// Everything committed before this watermark is known.
    read_up_to: String,
    wake_up: Arc<Notify>,
}

impl Reader {
    /// Runs until dropped. Safe to drop at any await and to run again: what was not recorded is read again.
    pub async fn run(&mut self) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wake_up.notified() => {}
            }
            self.known.forget_expired(Utc::now());
            self.database.wait_until_reachable().await;
            let read = self.known.read(&self.pool, &self.read_up_to);
            match tokio::time::timeout(READ_TIMEOUT, read).await {
                Ok(Ok(up_to)) => self.read_up_to = up_to,
                Ok(Err(error)) => {
                    warn!(%error, "failed to read revocations: the known ones stay in effect")
                }
                Err(_) => {
                    warn!("reading revocations timed out: the known ones stay in effect");
                    // Its connection may be dead without an error; this pool has no other one until it gives that up.
                    self.pool = self.database.pool_of(1, &[]);
                }
            }
        }
    }
}

impl Known {
    /// Adds what was committed since a watermark; returns the next watermark.
    async fn read(&self, pool: &Pool, from: &str) -> Result<String, sqlx::Error> {
        // Read before the rows: a transaction that ended below it is visible to that read, and one still in progress has
        // an id at or above it, whenever it commits.
        let up_to: String =
            sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
                .fetch_one(pool)
                .await?;
        let new: Vec<Revocation> = sqlx::query_as(
            "SELECT subject, generation, expires_at FROM revocations WHERE transaction_id >= $1::text::xid8",
        )
        .bind(from)
        .fetch_all(pool)
        .await?;
        self.add(new);
        Ok(up_to)
    }

    fn add(&self, new: impl IntoIterator<Item = Revocation>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        for revocation in new {
            let known = entries.entry(revocation.subject).or_insert(revocation);
            // A row read earlier must not undo what this replica has just done.
            if known.generation < revocation.generation {
                *known = revocation;
            }
        }
        self.count(&entries);
    }

    fn forget_expired(&self, now: DateTime<Utc>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, revocation| revocation.expires_at + KEPT_BEYOND_EXPIRY > now);
        self.count(&entries);
    }

    fn is_revoked(&self, claims: &Claims) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let current = entries.get(&claims.sub.0).and_then(|user| user.generation);
        entries.contains_key(&claims.jti)
            || current.is_some_and(|current| claims.generation < current)
    }

    fn count(&self, entries: &HashMap<Uuid, Revocation>) {
        self.count.set(entries.len() as i64);
    }
}

/// As late as memory forgets: a replica that starts meanwhile must know what others still know.
async fn prune(pool: &Pool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM revocations WHERE expires_at < now() - make_interval(secs => $1)")
        .bind(KEPT_BEYOND_EXPIRY.as_seconds_f64())
        .execute(pool)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(user: Uuid, generation: i64, expires_at: DateTime<Utc>) -> Revocation {
        Revocation {
            subject: user,
            generation: Some(generation),
            expires_at,
        }
    }

    #[test]
    fn a_generation_revokes_earlier_ones_and_never_decreases() {
        let (known, user, end) = (Known::default(), UserId::generate(), Utc::now());
        let claims = |generation| Claims::for_test(user, generation);
        assert!(!known.is_revoked(&claims(0)));
        known.add([of_user(user.0, 2, end)]);
        known.add([of_user(user.0, 1, end)]);
        let revoked = [0, 1, 2, 3].map(|generation| known.is_revoked(&claims(generation)));
        assert_eq!(revoked, [true, true, false, false]);
        assert!(!known.is_revoked(&Claims::for_test(UserId::generate(), 0)));
    }

    #[test]
    fn a_revocation_affects_one_token_and_outlives_a_clock_that_jumps_an_hour_and_back() {
        let (known, user, end) = (Known::default(), UserId::generate(), Utc::now());
        let (one, other) = (Claims::for_test(user, 0), Claims::for_test(user, 0));
        known.add([Revocation {
            subject: one.jti,
            generation: None,
            expires_at: end,
        }]);
        assert!(known.is_revoked(&one) && !known.is_revoked(&other));
        // The clock is set forward, beyond the token's end, and back, when the token is valid again.
        known.forget_expired(end + TimeDelta::minutes(59));
        assert!(known.is_revoked(&one));
        known.forget_expired(end + KEPT_BEYOND_EXPIRY);
        assert!(!known.is_revoked(&one));
    }
}
