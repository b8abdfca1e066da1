CREATE TABLE products (
    id          bigint PRIMARY KEY CHECK (id > 0),
    name        text   NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents >= 0)
);

-- The shop's range. inventory-service seeds stock for the same ids.
INSERT INTO products (id, name, price_cents)
SELECT id, 'Product ' || id, 100 + (id * 37) % 9900
FROM generate_series(1, 100) AS id;
UPDATE products SET name = 'Ninety-nine red balloons', price_cents = 1999 WHERE id = 99;
