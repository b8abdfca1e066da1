-- Every unit that an order took or gave back. `stock` can be computed from it.
CREATE TABLE stock_movements (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   uuid NOT NULL,
    product_id bigint NOT NULL,
    -- Positive: reserved; negative: released.
    quantity   integer NOT NULL CHECK (quantity <> 0),
    moved_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stock_movements_by_order ON stock_movements (order_id);

INSERT INTO stock_movements (order_id, product_id, quantity, moved_at)
SELECT order_id, product_id, quantity, settled_at FROM reservations WHERE outcome = 'reserved' ORDER BY settled_at;

-- reserved → released when the order is cancelled; cancelled: before the order itself was seen.
ALTER TABLE reservations
    DROP CONSTRAINT reservations_outcome_check,
    ADD CONSTRAINT reservations_outcome_known
        CHECK (outcome IN ('reserved', 'rejected', 'released', 'cancelled'));

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

CREATE INDEX inbox_by_age ON inbox USING brin (received_at);

-- What became of orders from before there was an outbox: nobody was told yet.
INSERT INTO outbox (event_id, subject, event_type, routing_key, payload)
SELECT told.event_id, told.order_id::text, 'agora.stock.' || told.outcome || '.v1', 'stock.' || told.outcome || '.v1',
    json_build_object(
        'specversion', '1.0', 'id', told.event_id, 'type', 'agora.stock.' || told.outcome || '.v1',
        'source', '/inventory-service', 'subject', told.order_id, 'time', told.settled_at,
        'datacontenttype', 'application/json',
        'data', json_strip_nulls(json_build_object(
            'order_id', told.order_id, 'product_id', told.product_id, 'quantity', told.quantity,
            'reason', told.reason)))
FROM (SELECT gen_random_uuid() AS event_id, reservations.* FROM reservations ORDER BY settled_at) AS told;
