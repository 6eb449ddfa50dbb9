-- What a Sluice daemon needs on PostgreSQL, and no more. Run as the role that owns the tables, after
-- `sluice migrate`, which the same role runs, and again after every further one:
--
--   DATABASE_URL=postgres://owner@host/engine sluice migrate -c sluice.toml
--   psql -v role=sluice -v schema=sluice [-v engine=public] [-v prefix=cam_] -f deploy/grants.sql \
--        postgres://owner@host/engine
--
-- role    the role that the daemon logs in as (CREATE ROLE sluice LOGIN PASSWORD …)
-- schema  `[inbox] schema`: Sluice's own tables
-- engine  `[engines.NAME.camunda_tables] schema`: the engine's tables; leave it out without such an engine.
--         Whoever runs this must own them, too, or be allowed to grant on them
-- prefix  its `table_prefix`, in lower case, where it has one
--
-- What the statements of an engine `sql` touch is granted by whoever wrote them.

\set ON_ERROR_STOP on

SELECT to_regclass(format('%I.inbox', :'schema')) IS NULL AS missing \gset
\if :missing
  \warn 'schema' :schema 'has no tables of Sluice: run `sluice migrate` first'
\endif

BEGIN;

-- Two runs at once would trip over each other.
DO $$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('sluice grants')); END $$;

GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE
    ON :"schema".inbox,
       :"schema".node,
       :"schema".node_counter
    TO :"role";
GRANT SELECT, INSERT, UPDATE ON :"schema".source_position TO :"role";
GRANT SELECT, INSERT, DELETE ON :"schema".probe TO :"role";
-- Claims are inserted and deleted; the right to update one column is the right to lock a row.
GRANT SELECT, INSERT, DELETE, UPDATE (handed_at)
    ON :"schema".pending,
       :"schema".pending_start
    TO :"role";
GRANT USAGE ON SEQUENCE :"schema".inbox_position TO :"role";
-- Whether the tables fit the program; only `sluice migrate` writes here.
GRANT SELECT
    ON :"schema".schema_migration,
       :"schema".compatibility
    TO :"role";

\if :{?engine}

\if :{?prefix}
\else
  \set prefix ''
\endif
\set property :prefix act_ge_property
\set schema_log :prefix act_ge_schema_log
\set meter_log :prefix act_ru_meter_log
\set definition :prefix act_re_procdef
\set job_definition :prefix act_ru_jobdef
\set subscription :prefix act_ru_event_subscr
\set execution :prefix act_ru_execution
\set job :prefix act_ru_job
\set variable :prefix act_ru_variable
\set bytes :prefix act_ge_bytearray
\set history_instance :prefix act_hi_procinst
\set history_variable :prefix act_hi_varinst
\set history_detail :prefix act_hi_detail
\set history_job :prefix act_hi_job_log

GRANT USAGE ON SCHEMA :"engine" TO :"role";

-- Who waits for a message, what is deployed, which history the engine keeps.
GRANT SELECT
    ON :"engine".:"property",
       :"engine".:"schema_log",
       :"engine".:"meter_log",
       :"engine".:"definition",
       :"engine".:"job_definition",
       :"engine".:"subscription"
    TO :"role";

-- The claim of one subscription among several raises its revision: the only change of a row of the engine's.
GRANT UPDATE (rev_) ON :"engine".:"subscription" TO :"role";

-- Jobs, and instances with their history; and what became of them.
GRANT SELECT, INSERT
    ON :"engine".:"execution",
       :"engine".:"job",
       :"engine".:"history_instance",
       :"engine".:"history_variable",
       :"engine".:"history_detail",
       :"engine".:"history_job"
    TO :"role";

-- Variables; and the models. What a job took along is removed once it has run.
GRANT SELECT, INSERT, DELETE
    ON :"engine".:"variable",
       :"engine".:"bytes"
    TO :"role";

\endif

COMMIT;
