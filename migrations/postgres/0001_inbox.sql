-- The inbox: one row per accepted message. Run by `sluice migrate`, which sets the search path to the
-- configured schema, in one transaction.

CREATE TABLE inbox (
    id                  uuid        NOT NULL PRIMARY KEY,
    source              text        NOT NULL,
    -- Empty: no route took it.
    route               text        NOT NULL,
    engine              text,
    -- What makes a message the same message: see the unique index.
    scope               text        NOT NULL,
    dedup_hash          bytea       NOT NULL,
    conflict_hash       bytea       NOT NULL DEFAULT '',
    -- The key as people know it; NUL, which text cannot hold, is replaced.
    dedup_key           text        NOT NULL,
    payload_hash        bytea       NOT NULL,
    -- NULL, and the envelope empty, after the payload's retention.
    payload             bytea,
    envelope            bytea       NOT NULL,
    coordinates         text,
    -- Milliseconds since 1970 by the broker's or the producer's clock; any number, so not a time.
    sent_at_ms          bigint,
    message_name        text,
    business_key        text,
    -- The engine's wake join finds the row by these two as soon as somebody waits for it.
    announced           boolean     NOT NULL DEFAULT false,
    order_scope         text,
    order_key           text,
    -- Larger for every later message of the same order key.
    position            bigint,
    epoch               bigint      NOT NULL,
    attempts            integer     NOT NULL,
    -- A newer version may know more states than this one: no CHECK.
    state               text        NOT NULL,
    reason              text,
    detail              text        NOT NULL,
    process_instance_id text,
    received_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Of a waiting row; NULL while an earlier one of its order key is not finished.
    due_at              timestamptz,
    expires_at          timestamptz,
    handed_at           timestamptz,
    done_at             timestamptz
) WITH (
    -- Every row is updated once or twice and deleted in the end; the defaults would let a busy inbox
    -- grow by a fifth before anything is cleaned, and keep statistics of a table that was empty.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02
);

-- One effect per key. The hash stands first, so that a key can be looked up without its scope.
CREATE UNIQUE INDEX inbox_key ON inbox (dedup_hash, scope, conflict_hash);
-- The sweeper's due rows, route by route.
CREATE INDEX inbox_due ON inbox (route, due_at, id) WHERE state = 'waiting';
-- The wake join of an engine: subscriptions that became free with the rows that wait for them.
CREATE INDEX inbox_wake ON inbox (engine, message_name, business_key, id) WHERE state = 'waiting' AND announced;
-- Rows that wait until the engine has caught up, in their order.
CREATE INDEX inbox_backlog ON inbox (engine, id) WHERE state = 'waiting' AND reason = 'backlog';
-- The head of an order key.
CREATE INDEX inbox_order ON inbox (order_scope, order_key, position)
    WHERE order_key IS NOT NULL AND state <> 'done';
-- Rows behind another of their order key.
CREATE INDEX inbox_behind ON inbox (due_at, id) WHERE state = 'waiting' AND due_at IS NULL;
-- Counts, and lists of what is not done, newest first.
CREATE INDEX inbox_unfinished ON inbox (state, id) INCLUDE (route, reason, received_at)
    WHERE state <> 'done';
-- Purge: payloads first, keys later.
CREATE INDEX inbox_purge_payload ON inbox (done_at) WHERE state = 'done' AND payload IS NOT NULL;
CREATE INDEX inbox_purge_key ON inbox (done_at) WHERE state = 'done';

-- One number per batch; the rows of a batch add their place in it. A batch is smaller than the step.
CREATE SEQUENCE inbox_position AS bigint INCREMENT BY 65536 CACHE 1;

-- Which processes there are, and when each was seen last.
CREATE TABLE node (
    incarnation uuid        NOT NULL PRIMARY KEY,
    name        text        NOT NULL,
    version     text        NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Written in the transactions of batches, so each session has a row of its own: batches of one node must
-- not wait for each other, nor the beat for a commit that waits for a standby.
CREATE TABLE node_counter (
    incarnation uuid        NOT NULL,
    session     integer     NOT NULL DEFAULT pg_backend_pid(),
    duplicates  bigint      NOT NULL DEFAULT 0,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (incarnation, session)
);

-- What the probe of an outage writes, and deletes in the same transaction.
CREATE TABLE probe (id uuid NOT NULL PRIMARY KEY);

-- Engine `camunda_tables`: which subscription is claimed by which row, until its receipt is seen.
CREATE TABLE pending (
    engine              text        NOT NULL,
    subscription_id     text        NOT NULL,
    row_id              uuid        NOT NULL,
    epoch               bigint      NOT NULL,
    variant             text        NOT NULL,
    job_id              text        NOT NULL,
    scope_id            text        NOT NULL,
    receipt_name        text        NOT NULL,
    receipt             text        NOT NULL,
    process_instance_id text        NOT NULL,
    activity_id         text,
    -- Variant C, whose job correlates all subscriptions of the name in the instance.
    message_name        text,
    handed_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (engine, subscription_id),
    UNIQUE (row_id, subscription_id)
);
CREATE INDEX pending_job ON pending (engine, job_id);
-- One hand-over at a time for what a job of variant C can consume.
CREATE UNIQUE INDEX pending_name ON pending (engine, process_instance_id, message_name)
    WHERE message_name IS NOT NULL;

-- Engine `camunda_tables`: starts whose first job has not run yet.
CREATE TABLE pending_start (
    engine              text        NOT NULL,
    process_instance_id text        NOT NULL,
    tenant_id           text        NOT NULL DEFAULT '',
    definition_key      text,
    business_key        text,
    job_id              text        NOT NULL,
    exclusive           boolean     NOT NULL,
    row_id              uuid        NOT NULL,
    handed_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (engine, process_instance_id)
);
CREATE UNIQUE INDEX pending_start_exclusive
    ON pending_start (engine, tenant_id, definition_key, business_key) WHERE exclusive;
CREATE INDEX pending_start_business_key ON pending_start (engine, business_key);
CREATE INDEX pending_start_job ON pending_start (engine, job_id);

-- The oldest migration that a program must know to run on these tables. A migration that takes
-- something away raises it; one that only adds leaves it, so that nodes can be updated one by one.
CREATE TABLE compatibility (
    one        boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    min_reader bigint  NOT NULL
);
INSERT INTO compatibility (min_reader) VALUES (1);
