-- The inbox: one row per accepted message. Run by `sluice migrate` in one transaction.
-- Times are milliseconds since 1970, UTC, by the clock of SQLite, which is this machine's.

CREATE TABLE inbox (
    id                  BLOB    NOT NULL PRIMARY KEY,
    source              TEXT    NOT NULL,
    -- Empty: no route took it.
    route               TEXT    NOT NULL,
    engine              TEXT,
    -- What makes a message the same message: see the unique index.
    scope               TEXT    NOT NULL,
    dedup_hash          BLOB    NOT NULL,
    conflict_hash       BLOB    NOT NULL,
    -- The key as people know it; NUL is replaced, as on PostgreSQL.
    dedup_key           TEXT    NOT NULL,
    payload_hash        BLOB    NOT NULL,
    -- NULL, and the envelope empty, after the payload's retention.
    payload             BLOB,
    envelope            BLOB    NOT NULL,
    coordinates         TEXT,
    sent_at_ms          INTEGER,
    -- Compared with other texts, and refused with NUL in it, as on PostgreSQL.
    message_name        TEXT    CHECK (instr(message_name, char(0)) = 0),
    business_key        TEXT    CHECK (instr(business_key, char(0)) = 0),
    announced           INTEGER NOT NULL,
    epoch               INTEGER NOT NULL,
    attempts            INTEGER NOT NULL,
    -- A newer version may know more states than this one: no CHECK.
    state               TEXT    NOT NULL,
    reason              TEXT,
    detail              TEXT    NOT NULL,
    process_instance_id TEXT,
    received_at         INTEGER NOT NULL,
    changed_at          INTEGER NOT NULL,
    due_at              INTEGER,
    expires_at          INTEGER,
    handed_at           INTEGER,
    done_at             INTEGER
) STRICT;

-- One effect per key.
CREATE UNIQUE INDEX inbox_key ON inbox (dedup_hash, scope, conflict_hash);
-- The sweeper's due rows, route by route.
CREATE INDEX inbox_due ON inbox (route, due_at, id) WHERE state = 'waiting';
-- Counts, and lists of what is not done, newest first.
CREATE INDEX inbox_unfinished ON inbox (state, id) WHERE state <> 'done';
-- Purge: payloads first, keys later.
CREATE INDEX inbox_purge_payload ON inbox (done_at) WHERE state = 'done' AND payload IS NOT NULL;
CREATE INDEX inbox_purge_key ON inbox (done_at) WHERE state = 'done';

-- Which processes there are, and when each was seen last.
CREATE TABLE node (
    incarnation BLOB    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT;

CREATE TABLE node_counter (
    incarnation BLOB    NOT NULL PRIMARY KEY,
    duplicates  INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL
) STRICT;

-- What the probe of an outage writes, and deletes in the same transaction.
CREATE TABLE probe (id BLOB NOT NULL PRIMARY KEY) STRICT;

-- The oldest migration that a program must know to run on these tables. A migration that takes
-- something away raises it; one that only adds leaves it, so that nodes can be updated one by one.
CREATE TABLE compatibility (
    one        INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    min_reader INTEGER NOT NULL
) STRICT;
INSERT INTO compatibility (min_reader) VALUES (1);
