-- The tables of the demo's shop. No key is unique, on purpose: a double must be possible, or its absence would
-- prove nothing.
CREATE TABLE orders (
    order_id TEXT    NOT NULL,
    amount   INTEGER NOT NULL,
    paid     INTEGER NOT NULL DEFAULT 0,
    -- The message that changed it last.
    message  TEXT    NOT NULL
) STRICT;
CREATE INDEX orders_by_id ON orders (order_id);

-- Every effect leaves a row, which stays.
CREATE TABLE effects (
    message TEXT NOT NULL
) STRICT;
CREATE TRIGGER order_placed AFTER INSERT ON orders
BEGIN
    INSERT INTO effects (message) VALUES (NEW.message);
END;
CREATE TRIGGER payment_received AFTER UPDATE OF paid ON orders
BEGIN
    INSERT INTO effects (message) VALUES (NEW.message);
END;
CREATE TRIGGER effects_stay BEFORE DELETE ON effects
BEGIN
    SELECT raise(ABORT, 'effects are only appended');
END;
CREATE TRIGGER effects_stay_as_they_are BEFORE UPDATE ON effects
BEGIN
    SELECT raise(ABORT, 'effects are only appended');
END;
