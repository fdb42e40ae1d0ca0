-- Append-only: a released migration is never edited. Times are milliseconds since the epoch.

-- Where a conversation goes, and where its answer goes back to.
CREATE TABLE route_sessions (
    key         TEXT    NOT NULL PRIMARY KEY,   -- canonical session key
    agent       TEXT    NOT NULL,
    channel     TEXT    NOT NULL DEFAULT '',
    account     TEXT    NOT NULL DEFAULT '',
    target      TEXT    NOT NULL DEFAULT '',
    thread      TEXT,
    last_route  TEXT,                           -- JSON: the route of the last inbound message
    metadata    TEXT,                           -- JSON
    created_ms  INTEGER NOT NULL,
    active_ms   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX route_sessions_active ON route_sessions (active_ms);

-- Inbound spool. A finished row stays as a tombstone (no payload) so that the event is known again.
CREATE TABLE inbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    channel     TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    event_id    TEXT    NOT NULL,
    lane        TEXT    NOT NULL,               -- order is kept within a lane
    state       TEXT    NOT NULL,               -- waiting | turn | done | failed
    payload     TEXT    NOT NULL,
    session_key TEXT,
    run_id      TEXT,
    note        TEXT,                           -- why it is in this state
    attempts    INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    UNIQUE (channel, account, event_id)
);
CREATE INDEX inbox_open ON inbox (lane, seq) WHERE state IN ('waiting', 'turn');
CREATE INDEX inbox_closed ON inbox (updated_ms) WHERE state IN ('done', 'failed');

-- Where receiving goes on after a restart; committed with the rows it stands for.
CREATE TABLE cursors (
    channel     TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    updated_ms  INTEGER NOT NULL,
    PRIMARY KEY (channel, account, key)
) WITHOUT ROWID;

-- Outbound messages. One row is one message; a long one goes out in parts, in order.
CREATE TABLE outbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    channel     TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    target      TEXT    NOT NULL,
    lane        TEXT    NOT NULL,
    state       TEXT    NOT NULL,               -- pending | leased | delivered | in_doubt | dead
    payload     TEXT    NOT NULL,
    source      TEXT    NOT NULL,               -- api | rpc | reply | …
    cause       TEXT,                           -- id of the inbox row it answers
    parts       TEXT,                           -- JSON array once it was split
    receipts    TEXT    NOT NULL DEFAULT '[]',  -- JSON array, one per part sent
    attempts    INTEGER NOT NULL DEFAULT 0,
    error       TEXT,
    not_before_ms INTEGER NOT NULL,
    expires_ms  INTEGER,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL
);
CREATE INDEX outbox_open ON outbox (lane, seq) WHERE state = 'pending';
CREATE INDEX outbox_state ON outbox (state, seq) WHERE state <> 'delivered';
CREATE INDEX outbox_delivered ON outbox (updated_ms) WHERE state = 'delivered';
CREATE INDEX outbox_cause ON outbox (cause) WHERE cause IS NOT NULL;

-- One row per lane with work: its head alone may be leased.
CREATE TABLE outbox_lanes (
    lane        TEXT    NOT NULL PRIMARY KEY,
    channel     TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    busy        INTEGER NOT NULL DEFAULT 0,
    due_ms      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbox_lanes_due ON outbox_lanes (channel, account, busy, due_ms);

-- A repeated request gets the first one's answer.
CREATE TABLE idempotency (
    scope       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    request     TEXT    NOT NULL,               -- fingerprint of the request
    answer      TEXT    NOT NULL,
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_ms);

-- What happened to a message, step by step.
CREATE TABLE history (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    subject     TEXT    NOT NULL,               -- id of an inbox or outbox row
    at_ms       INTEGER NOT NULL,
    step        TEXT    NOT NULL,
    detail      TEXT    NOT NULL DEFAULT ''
);
CREATE INDEX history_subject ON history (subject, seq);
CREATE INDEX history_age ON history (at_ms);

-- Other names of a message: the service's id, a run's.
CREATE TABLE aliases (
    alias       TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    at_ms       INTEGER NOT NULL,
    PRIMARY KEY (alias, subject)
) WITHOUT ROWID;
CREATE INDEX aliases_subject ON aliases (subject);
CREATE INDEX aliases_age ON aliases (at_ms);

-- What was ever counted, per channel.
CREATE TABLE counters (
    channel     TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    value       INTEGER NOT NULL,
    PRIMARY KEY (channel, name)
) WITHOUT ROWID;

-- Who asked to be let in to a channel by direct message, and who was.
CREATE TABLE channel_pairings (
    channel     TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    sender      TEXT    NOT NULL,
    name        TEXT,
    code        TEXT    NOT NULL,
    approved    INTEGER NOT NULL DEFAULT 0,
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (channel, account, sender)
) WITHOUT ROWID;
CREATE INDEX channel_pairings_code ON channel_pairings (channel, code);

-- What was said in the built-in web chat, where no agent keeps the transcript.
CREATE TABLE transcripts (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    session_key TEXT    NOT NULL,
    role        TEXT    NOT NULL,               -- user | assistant
    text        TEXT    NOT NULL,
    message_id  TEXT    NOT NULL UNIQUE,
    at_ms       INTEGER NOT NULL
);
CREATE INDEX transcripts_session ON transcripts (session_key, seq);
