-- The catalogue in the app's database: what Django Admin shows of backups and of the runs on them.
--
-- rna-backup creates these tables by itself when its role may create tables in the schema `public`, keeps
-- them like the manifests in the destinations, and leaves their rows out of its dumps. The manifests are
-- the truth: whatever else is written here is overwritten by the next run. So read them, put no foreign
-- keys on them, and change nothing but by the tasks `api.backup.*`. In Django: `managed = False`.
--
-- A role that may not create tables can be given them instead, by their owner:
--
--     psql -1 -f catalog.sql
--     GRANT SELECT, INSERT, UPDATE, DELETE ON public.rna_backup_backup, public.rna_backup_run TO the_role;
--
-- The comments on the tables are how rna-backup knows its own; a table without one is left alone.
-- Later versions only add columns that may be null or have a default.

CREATE TABLE IF NOT EXISTS public.rna_backup_backup (
    backup_id     text PRIMARY KEY,        -- pg_backup_20261122_020000
    component     text NOT NULL,           -- postgres, weaviate, media
    created_at    timestamptz NOT NULL,    -- the data is of this instant
    finished_at   timestamptz,             -- when it was proven; this and much else: null for files of the app's old tasks
    label         text,
    pinned        boolean NOT NULL,        -- retention leaves it alone
    set_id        text,                    -- what the backups of one full backup share
    task_id       text,                    -- the Celery task that made it
    size_bytes    bigint NOT NULL,         -- of the archive
    source_bytes  bigint,                  -- of the data
    sha256        text,                    -- of the archive
    verified      text NOT NULL,           -- none, checksum, decode, drill: how far it was proven
    verified_at   timestamptz,
    state         text NOT NULL,           -- ok, failed, missing: the best of its copies
    destinations  jsonb NOT NULL,          -- [{"destination": "local", "location": ..., "bytes": ..., "state": ...}]
    manifest      jsonb,                   -- everything else: schemas/manifest.json
    digest        text NOT NULL            -- of this row, so that only what has changed is written again
);
CREATE INDEX IF NOT EXISTS rna_backup_backup_newest ON public.rna_backup_backup (component, created_at DESC);
CREATE INDEX IF NOT EXISTS rna_backup_backup_created ON public.rna_backup_backup (created_at DESC);

-- One row for each run on one component. Of the last 90 days, and at most 10000.
CREATE TABLE IF NOT EXISTS public.rna_backup_run (
    run_id        text PRIMARY KEY,        -- <task id>/<component>; of a command, an id of its own in place of the task's
    task_id       text,                    -- the Celery task; null: the command line
    operation     text NOT NULL,           -- backup, restore, undo, verify, drill, prune
    component     text NOT NULL,
    state         text NOT NULL,           -- running, success, failure, cancelled; lost: its worker was not heard of again
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz,
    seen_at       timestamptz NOT NULL DEFAULT now(), -- last sign of life, about every minute while it runs
    backup_id     text,                    -- what it made, restored or looked at, where that is one
    error         text,                    -- why it failed
    result        jsonb,                   -- what the task returns
    worker        text NOT NULL            -- host name
);
CREATE INDEX IF NOT EXISTS rna_backup_run_newest ON public.rna_backup_run (started_at DESC);
CREATE INDEX IF NOT EXISTS rna_backup_run_task ON public.rna_backup_run (task_id);

COMMENT ON TABLE public.rna_backup_backup IS 'rna-backup catalogue, version 1: the backups, after their manifests';
COMMENT ON TABLE public.rna_backup_run IS 'rna-backup catalogue, version 1: runs on them';
