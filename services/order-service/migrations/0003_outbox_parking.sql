-- An event that the broker rejects is tried some times, and then parked with the reason: see chassis::outbox.
ALTER TABLE outbox
    ADD COLUMN rejections       integer NOT NULL DEFAULT 0,
    -- The broker's last error.
    ADD COLUMN rejected_because text,
    -- Not tried again before.
    ADD COLUMN retry_at         timestamptz,
    ADD COLUMN parked_at        timestamptz;
CREATE INDEX outbox_parked ON outbox (position) WHERE parked_at IS NOT NULL;
