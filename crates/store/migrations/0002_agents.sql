-- Conversations of agents that this gateway runs itself.

CREATE TABLE agent_sessions (
    key         TEXT    NOT NULL PRIMARY KEY,   -- canonical session key
    agent       TEXT    NOT NULL,
    session_id  TEXT    NOT NULL UNIQUE,        -- new with every reset
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    archived    INTEGER NOT NULL DEFAULT 0,
    read_ms     INTEGER NOT NULL DEFAULT 0,
    input_tokens  INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    context_tokens INTEGER NOT NULL DEFAULT 0,  -- of the last prompt
    settings    TEXT    NOT NULL DEFAULT '{}',  -- JSON: label, model and other choices for this session
    last_run    TEXT                            -- JSON: how the last run went
) WITHOUT ROWID;
CREATE INDEX agent_sessions_updated ON agent_sessions (updated_ms);

-- What was said, in order. Rows of a session that was reset stay under its old id until retention takes them.
CREATE TABLE agent_entries (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id  TEXT    NOT NULL,
    id          TEXT    NOT NULL UNIQUE,
    role        TEXT    NOT NULL,               -- user | assistant | tool | summary
    run_id      TEXT,
    message     TEXT    NOT NULL,               -- JSON, as clients are shown it
    at_ms       INTEGER NOT NULL
);
CREATE INDEX agent_entries_session ON agent_entries (session_id, seq);

-- A run is accepted before it is answered, and known again by its id.
CREATE TABLE agent_runs (
    run_id      TEXT    NOT NULL PRIMARY KEY,   -- the caller's idempotency key
    session_key TEXT    NOT NULL,
    session_id  TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,               -- of the input: the same id with other input is a conflict
    state       TEXT    NOT NULL,               -- accepted | ok | error | aborted
    started_ms  INTEGER NOT NULL,
    ended_ms    INTEGER,
    outcome     TEXT                            -- JSON
) WITHOUT ROWID;
CREATE INDEX agent_runs_open ON agent_runs (started_ms) WHERE state = 'accepted';
CREATE INDEX agent_runs_ended ON agent_runs (ended_ms) WHERE state <> 'accepted';
