-- How far each consumer group has come in each partition, beside the rows, so that a file that was restored says
-- where to read again.

CREATE TABLE source_position (
    group_id      TEXT    NOT NULL,
    cluster_id    TEXT    NOT NULL,
    topic         TEXT    NOT NULL,
    partition     INTEGER NOT NULL,
    -- Who claimed it last. The position is the group's: a source that is renamed goes on with it.
    source        TEXT    NOT NULL,
    -- Every record below it is stored, and beyond it these, as JSON: [[from, to], …].
    next_offset   INTEGER NOT NULL,
    ahead         TEXT    NOT NULL DEFAULT '[]',
    -- Where it began.
    since         INTEGER NOT NULL,
    -- The highest record that it counts, and its time.
    record_offset INTEGER,
    record_at_ms  INTEGER,
    -- The assignment that may advance it, and how many there were.
    claim         BLOB    NOT NULL UNIQUE,
    epoch         INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL,
    PRIMARY KEY (group_id, cluster_id, topic, partition)
) STRICT;
