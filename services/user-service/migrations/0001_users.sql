CREATE TABLE users (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    -- Lower case, as it is compared.
    email         text NOT NULL,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_email_key UNIQUE (email)
);

CREATE TABLE purchases (
    id               uuid PRIMARY KEY,
    user_id          uuid NOT NULL CONSTRAINT purchases_user REFERENCES users (id),
    product_id       bigint NOT NULL,
    product_name     text NOT NULL,
    quantity         integer NOT NULL CHECK (quantity > 0),
    unit_price_cents bigint NOT NULL CHECK (unit_price_cents >= 0),
    purchased_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX purchases_by_user ON purchases (user_id, id);
