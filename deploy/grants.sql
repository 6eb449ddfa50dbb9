-- What a Sluice daemon needs on PostgreSQL, and no more. Run after every `sluice migrate`, as a role that
-- owns the tables or may grant on them:
--
--   psql -v ON_ERROR_STOP=1 -v role=sluice -v schema=sluice [-v engine=public] -f deploy/grants.sql URL
--
-- role    the role that the daemon logs in as (CREATE ROLE sluice LOGIN …)
-- schema  `[inbox] schema`: Sluice's own tables, made by `sluice migrate` as another role
-- engine  `[engines.NAME.camunda_tables] schema`: the engine's tables; leave it out without such an engine

\set ON_ERROR_STOP on
BEGIN;

GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE
    ON :"schema".inbox,
       :"schema".node,
       :"schema".node_counter,
       :"schema".probe,
       :"schema".pending,
       :"schema".pending_start
    TO :"role";
GRANT USAGE ON SEQUENCE :"schema".inbox_position TO :"role";
-- Whether the tables fit the program; only `sluice migrate` writes here.
GRANT SELECT
    ON :"schema".schema_migration,
       :"schema".compatibility
    TO :"role";

\if :{?engine}

GRANT USAGE ON SCHEMA :"engine" TO :"role";

-- Who waits for a message, what is deployed, what became of our jobs.
GRANT SELECT
    ON :"engine".act_re_procdef,
       :"engine".act_re_deployment,
       :"engine".act_ge_bytearray,
       :"engine".act_ge_property,
       :"engine".act_ge_schema_log,
       :"engine".act_ru_execution,
       :"engine".act_ru_event_subscr,
       :"engine".act_ru_variable,
       :"engine".act_ru_job,
       :"engine".act_ru_jobdef,
       :"engine".act_ru_meter_log,
       :"engine".act_hi_procinst,
       :"engine".act_hi_varinst,
       :"engine".act_hi_detail,
       :"engine".act_hi_job_log
    TO :"role";

-- Jobs with their payload, and instances with their variables and history.
GRANT INSERT
    ON :"engine".act_ru_job,
       :"engine".act_ge_bytearray,
       :"engine".act_ru_variable,
       :"engine".act_ru_execution,
       :"engine".act_hi_procinst,
       :"engine".act_hi_varinst,
       :"engine".act_hi_detail,
       :"engine".act_hi_job_log
    TO :"role";

-- The claim of a subscription raises its revision.
GRANT UPDATE (rev_) ON :"engine".act_ru_event_subscr TO :"role";

-- The payload of a job that was deleted before it ran.
GRANT DELETE
    ON :"engine".act_ru_variable,
       :"engine".act_ge_bytearray
    TO :"role";

\endif

COMMIT;
