CREATE TABLE orders (
    -- UUIDv7: sorts by the time of the order.
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL,
    product_id      bigint NOT NULL,
    quantity        integer NOT NULL CHECK (quantity > 0),
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending')),
    idempotency_key text,
    placed_at       timestamptz NOT NULL DEFAULT now(),
    -- The OrderPlaced event: its id, and when the broker confirmed it.
    event_id        uuid NOT NULL,
    announced_at    timestamptz,
    CONSTRAINT orders_idempotency_key UNIQUE (user_id, idempotency_key)
);

CREATE INDEX orders_by_user ON orders (user_id, id);
