-- How far each consumer group has come in each partition, beside the rows, so that a database that lost its last
-- commits says where to read again.

CREATE TABLE source_position (
    group_id      text        NOT NULL,
    cluster_id    text        NOT NULL,
    topic         text        NOT NULL,
    partition     integer     NOT NULL,
    -- Who claimed it last. The position is the group's: a source that is renamed goes on with it.
    source        text        NOT NULL,
    -- Every record below it is stored, and beyond it these: batches commit in any order.
    next_offset   bigint      NOT NULL,
    ahead         int8multirange NOT NULL DEFAULT '{}',
    -- Where it began.
    since         bigint      NOT NULL,
    -- The highest record that it counts, and its time in milliseconds since 1970: a topic that was deleted
    -- and made again has another record there.
    record_offset bigint,
    record_at_ms  bigint,
    -- The assignment that may advance it, and how many there were.
    claim         uuid        NOT NULL UNIQUE,
    epoch         bigint      NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (group_id, cluster_id, topic, partition)
) WITH (
    -- Every batch updates a row of few; with room on its page no index is touched.
    fillfactor = 20,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);
