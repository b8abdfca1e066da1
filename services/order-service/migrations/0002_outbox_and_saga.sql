-- Where an order stands: pending → confirmed | rejected; pending | confirmed → cancelling → cancelled.
ALTER TABLE orders DROP CONSTRAINT orders_status_check;
ALTER TABLE orders
    ADD CONSTRAINT orders_status_known
        CHECK (status IN ('pending', 'confirmed', 'rejected', 'cancelling', 'cancelled')),
    -- Why it was rejected.
    ADD COLUMN reason text,
    ADD CONSTRAINT orders_rejected_for_a_reason CHECK ((status = 'rejected') = (reason IS NOT NULL)),
    -- Since when it has this status.
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();

-- For the figure of orders that are stuck.
CREATE INDEX orders_undecided ON orders (changed_at) WHERE status IN ('pending', 'cancelling');

-- Events that were committed together with what they tell of: see chassis::outbox.
CREATE TABLE outbox (
    position     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     uuid NOT NULL UNIQUE,
    -- What must be published in order: the order's id.
    subject      text NOT NULL,
    event_type   text NOT NULL,
    routing_key  text NOT NULL,
    payload      text NOT NULL,
    traceparent  text,
    tracestate   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX outbox_waiting ON outbox (position) WHERE published_at IS NULL;
CREATE INDEX outbox_waiting_by_subject ON outbox (subject, position) WHERE published_at IS NULL;
CREATE INDEX outbox_by_age ON outbox USING brin (created_at);

-- Ids of the events whose effect is in the tables above: see chassis::inbox.
CREATE TABLE inbox (
    event_id    uuid PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX inbox_by_age ON inbox USING brin (received_at);

-- Orders from before there was an outbox: those that the broker never confirmed are announced now, under the
-- id that they were given then.
INSERT INTO outbox (event_id, subject, event_type, routing_key, payload)
SELECT event_id, id::text, 'agora.order.placed.v1', 'order.placed.v1', json_build_object(
    'specversion', '1.0', 'id', event_id, 'type', 'agora.order.placed.v1', 'source', '/order-service',
    'subject', id, 'time', placed_at, 'datacontenttype', 'application/json',
    'data', json_build_object('order_id', id, 'user_id', user_id, 'product_id', product_id, 'quantity', quantity))
FROM orders WHERE announced_at IS NULL ORDER BY id;

ALTER TABLE orders DROP COLUMN event_id, DROP COLUMN announced_at;
