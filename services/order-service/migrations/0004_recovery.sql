-- An order whose message was lost has its event published again: see orders::recovery.
ALTER TABLE orders
    -- The event that it waits for the answer to: OrderPlaced while it is pending, OrderCancelled while it is cancelling.
    -- NULL for orders from before this migration whose row is no longer in the outbox.
    ADD COLUMN event_id           uuid,
    -- How often that event was published again, in the present status, and when last.
    ADD COLUMN recoveries         integer NOT NULL DEFAULT 0,
    ADD COLUMN recovered_at       timestamptz,
    -- Set by `cargo xtask orders repair`: it is published again at the next sweep, whatever its age.
    ADD COLUMN recovery_requested boolean NOT NULL DEFAULT false;

CREATE INDEX orders_recovery_requested ON orders (changed_at) WHERE recovery_requested;

UPDATE orders SET event_id = outbox.event_id FROM outbox
WHERE outbox.subject = orders.id::text
  AND (orders.status, outbox.event_type)
      IN (('pending', 'agora.order.placed.v1'), ('cancelling', 'agora.order.cancelled.v1'));

-- The outbox is asked by order.
CREATE INDEX outbox_published_by_subject ON outbox (subject) WHERE published_at IS NOT NULL;
