-- Jobs that agents of this gateway do by the clock, and what became of each run.
CREATE TABLE cron_jobs (
  id TEXT NOT NULL PRIMARY KEY,
  -- JSON, as clients are shown it, without `state`.
  job TEXT NOT NULL,
  -- JSON: `state` of the same.
  state TEXT NOT NULL,
  -- When it is due; NULL: not by itself.
  next_ms INTEGER,
  -- The run at work.
  run_id TEXT
) STRICT;
CREATE INDEX cron_jobs_due ON cron_jobs (next_ms) WHERE next_ms IS NOT NULL;

CREATE TABLE cron_runs (
  seq INTEGER NOT NULL PRIMARY KEY,
  run_id TEXT NOT NULL UNIQUE,
  job_id TEXT NOT NULL,
  started_ms INTEGER NOT NULL,
  -- JSON, as clients are shown it; NULL: at work, or cut off by a stop.
  entry TEXT
) STRICT;
CREATE INDEX cron_runs_of_job ON cron_runs (job_id, seq);
