-- For an answer that is published again: the outbox is asked by order.
CREATE INDEX outbox_published_by_subject ON outbox (subject) WHERE published_at IS NOT NULL;
