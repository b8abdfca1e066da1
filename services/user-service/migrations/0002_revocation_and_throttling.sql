-- Raised when the password changes: tokens carry the generation that they were made in, older ones no longer count.
ALTER TABLE users ADD COLUMN token_generation bigint NOT NULL DEFAULT 0;

-- What no longer counts although it has not expired. Replicas read what is new to them by `transaction_id`: positions or
-- times could be overtaken by a transaction that takes longer to commit.
CREATE TABLE revocations (
    -- A token's id; or a user's, whose tokens of generations below this one are revoked.
    subject        uuid PRIMARY KEY,
    generation     bigint,
    -- By then everything that it revokes has expired.
    expires_at     timestamptz NOT NULL,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE INDEX revocations_by_transaction ON revocations (transaction_id);
CREATE INDEX revocations_by_expiry ON revocations (expires_at);

-- Failed attempts in a row, for addresses with and without an account alike.
CREATE TABLE login_attempts (
    -- SHA-256 of the address as it is compared: what people mistype is not kept.
    account       bytea PRIMARY KEY,
    failures      integer NOT NULL,
    failed_at     timestamptz NOT NULL,
    -- Until then nobody is let in, with whatever password.
    blocked_until timestamptz
);

CREATE INDEX login_attempts_by_time ON login_attempts (failed_at);
