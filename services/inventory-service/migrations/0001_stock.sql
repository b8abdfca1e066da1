CREATE TABLE stock (
    product_id bigint PRIMARY KEY CHECK (product_id > 0),
    available  bigint NOT NULL,
    reserved   bigint NOT NULL DEFAULT 0,
    CONSTRAINT stock_available_not_negative CHECK (available >= 0),
    CONSTRAINT stock_reserved_not_negative CHECK (reserved >= 0)
);

-- The range of product-service's first migration; enough that a load run doesn't sell out.
INSERT INTO stock (product_id, available)
SELECT id, 1000000 FROM generate_series(1, 100) AS id;

-- What became of each order: one row an order, whatever is delivered how often.
CREATE TABLE reservations (
    order_id   uuid PRIMARY KEY,
    product_id bigint NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    outcome    text NOT NULL CHECK (outcome IN ('reserved', 'rejected')),
    reason     text,
    settled_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((outcome = 'rejected') = (reason IS NOT NULL))
);

-- Ids of the events whose effect is in the tables above.
CREATE TABLE inbox (
    event_id    uuid PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now()
);
