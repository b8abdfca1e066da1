//! Tokens that no longer count although they have not expired: logged out, or older than their user's password.
//!
//! `/auth/verify` is asked for every protected request, so it asks no database: each replica holds what is revoked in
//! memory. All of it is read before the service is ready; what is new is read when the database says that there is
//! something (`NOTIFY`), and each second behind that, so that every replica that reaches its database refuses a revoked
//! token within [`EFFECTIVE_WITHIN`]. While the database is away the known set holds and nothing can be revoked (503); a
//! replica that alone has lost it lets through what others revoke meanwhile, until it is back or the token expires. The
//! other choice would be to refuse everybody whenever the database is away.
//!
//! The set is bounded by what can be revoked and has not expired: one entry a user, and one a token, each of which cost
//! somebody a login. An entry goes when all that it revokes has expired. Left out: who revoked what, and why.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use chassis::database::Database;
use chassis::lifecycle::Lifecycle;
use chassis::metrics::Gauge;
use chassis::telemetry::Statement;
use chrono::{DateTime, TimeDelta, Utc};
use shared_events::UserId;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tracing::warn;
use uuid::Uuid;

use crate::config::MAX_TOKEN_TTL_SECONDS;
use crate::tokens::Claims;

/// How long a revoked token may still pass at a replica that reaches its database. One that has lost it without a word (its
/// packets vanish) finds that out within 5 s, and reads over a new connection from then on. The document of
/// `POST /auth/logout` has it in words.
pub const EFFECTIVE_WITHIN: Duration = Duration::from_secs(2);

/// The channel of `NOTIFY`.
const CHANNEL: &str = "revocations";
/// How long a revocation may wait whose notification was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Past it the connection is dead, and nobody has said so.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How often expired rows are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// The watermark before everything.
const FROM_THE_BEGINNING: &str = "0";

/// What is revoked; clones share it.
#[derive(Clone)]
pub struct Revocations {
    pool: PgPool,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    /// By a token's id, or a user's.
    entries: RwLock<HashMap<Uuid, Revocation>>,
    count: Gauge,
}

#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct Revocation {
    subject: Uuid,
    /// Of a user: its tokens of generations below this one. Of a token: none.
    generation: Option<i64>,
    expires_at: DateTime<Utc>,
}

impl Revocations {
    /// Reads all that is revoked, and keeps up with it from then on.
    ///
    /// # Errors
    /// When it can't be read: a service that doesn't know what is revoked must not begin.
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

    /// Reads all that is revoked; and who keeps up with it, once it [runs](Reader::run).
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
                    "Revocations that this replica knows of and that have not expired",
                ),
            }),
        };
        // Not behind requests, who may hold all connections of theirs.
        let pool = database.pool_of(1, &[]);
        let read_up_to = revocations
            .known
            .read(&pool, FROM_THE_BEGINNING)
            .await
            .context("failed to read which tokens are revoked")?;
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

    /// Whether a token of ours no longer counts.
    pub fn is_revoked(&self, claims: &Claims) -> bool {
        self.known.is_revoked(claims)
    }

    /// Revokes one token: here at once, elsewhere within [`EFFECTIVE_WITHIN`]. A second time changes nothing.
    ///
    /// # Errors
    /// The database's; the token may be revoked all the same.
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

    /// Replaces a user's password hash, if it still is `old_hash`, and revokes every token of theirs, in one statement:
    /// here at once, elsewhere within [`EFFECTIVE_WITHIN`]. Answers whether it was.
    ///
    /// A token that is made of the old password in the same moment has the old generation, and so is revoked, too.
    ///
    /// # Errors
    /// The database's; the password may be changed all the same.
    pub async fn change_password(
        &self,
        user_id: UserId,
        old_hash: &str,
        new_hash: &str,
    ) -> Result<bool, sqlx::Error> {
        // Not by today's setting: an earlier process may have made tokens that live longer. And an hour more: a login that
        // is under way makes its token after this moment, and clocks differ.
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

/// Keeps up with what is revoked elsewhere; [`Revocations::start`] makes one and runs it.
pub struct Reader {
    known: Arc<Known>,
    database: Database,
    pool: PgPool,
    /// What was committed before it is known.
    read_up_to: String,
    wake_up: Arc<Notify>,
}

impl Reader {
    /// For as long as it is polled. It may be dropped at any await, and run again: what it had not noted is read once more.
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
                Ok(Err(error)) => warn!(%error, "revocations not read: the known ones hold"),
                Err(_) => {
                    warn!("no answer about revocations: the known ones hold");
                    // Its connection may be dead without an error, and the pool pings it before it takes it back.
                    self.pool = self.database.pool_of(1, &[]);
                }
            }
        }
    }
}

impl Known {
    /// Adds what was committed since a watermark; returns the next one.
    async fn read(&self, pool: &PgPool, from: &str) -> Result<String, sqlx::Error> {
        // Taken before the rows are read: what ends below it is seen by that read, and what is still under way will have
        // an id that is not below it, whenever it commits.
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
            // What was read a moment ago must not undo what this replica has just done.
            if known.generation < revocation.generation {
                *known = revocation;
            }
        }
        self.count(&entries);
    }

    fn forget_expired(&self, now: DateTime<Utc>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, revocation| revocation.expires_at > now);
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

/// An hour late, for clocks that disagree: a replica that starts meanwhile must know what others still do.
async fn prune(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM revocations WHERE expires_at < now() - interval '1 hour'")
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
    fn a_generation_revokes_the_ones_before_it_and_never_falls_back() {
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
    fn a_token_is_revoked_alone_and_forgotten_once_it_has_expired() {
        let (known, user, end) = (Known::default(), UserId::generate(), Utc::now());
        let (one, other) = (Claims::for_test(user, 0), Claims::for_test(user, 0));
        known.add([Revocation {
            subject: one.jti,
            generation: None,
            expires_at: end,
        }]);
        assert!(known.is_revoked(&one) && !known.is_revoked(&other));
        known.forget_expired(end - TimeDelta::seconds(1));
        assert!(known.is_revoked(&one));
        known.forget_expired(end);
        assert!(!known.is_revoked(&one));
    }
}
