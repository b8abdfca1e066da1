-- A purchase that is repeated with its key is the same row, and gives the same answer.
ALTER TABLE purchases
    ADD COLUMN idempotency_key text,
    ADD CONSTRAINT purchases_idempotency_key UNIQUE (user_id, idempotency_key),
    -- When product-service named the price, and whether it stood in for one that could not be read.
    ADD COLUMN price_as_of timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN stale boolean NOT NULL DEFAULT false;

-- Of those from before only that much is known.
UPDATE purchases SET price_as_of = purchased_at;
