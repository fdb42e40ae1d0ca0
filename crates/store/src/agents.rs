//! Conversations of agents that run here: their sessions, what was said, and the runs.

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::TxError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSession {
    /// Canonical session key (`agent:main:main`).
    pub key: String,
    pub agent: String,
    pub session_id: String,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub archived: bool,
    /// Until when a person has read it.
    pub read_ms: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub context_tokens: i64,
    /// JSON object.
    pub settings: String,
    /// JSON object.
    pub last_run: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position among all entries; grows.
    pub seq: i64,
    pub id: String,
    pub role: String,
    pub run_id: Option<String>,
    /// JSON object, as clients are shown it.
    pub message: String,
    pub at_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub run_id: String,
    pub session_key: String,
    pub session_id: String,
    pub fingerprint: String,
    pub state: RunState,
    pub started_ms: i64,
    pub ended_ms: Option<i64>,
    /// JSON, once it has ended.
    pub outcome: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Accepted,
    Ok,
    Error,
    Aborted,
}

impl RunState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Aborted => "aborted",
        }
    }

    fn of(word: &str) -> Self {
        match word {
            "ok" => Self::Ok,
            "error" => Self::Error,
            "aborted" => Self::Aborted,
            _ => Self::Accepted,
        }
    }
}

/// What became of an attempt to begin a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    New,
    /// The same id with the same input.
    Known(Run),
    /// The same id with other input.
    Conflict,
}

pub struct Agents<'a>(pub(crate) &'a Connection);

const SESSION: &str = "key, agent, session_id, created_ms, updated_ms, archived, read_ms, input_tokens, output_tokens, context_tokens, settings, last_run";
const RUN: &str =
    "run_id, session_key, session_id, fingerprint, state, started_ms, ended_ms, outcome";

fn session_of(row: &Row<'_>) -> rusqlite::Result<AgentSession> {
    Ok(AgentSession {
        key: row.get(0)?,
        agent: row.get(1)?,
        session_id: row.get(2)?,
        created_ms: row.get(3)?,
        updated_ms: row.get(4)?,
        archived: row.get(5)?,
        read_ms: row.get(6)?,
        input_tokens: row.get(7)?,
        output_tokens: row.get(8)?,
        context_tokens: row.get(9)?,
        settings: row.get(10)?,
        last_run: row.get(11)?,
    })
}

fn run_of(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        run_id: row.get(0)?,
        session_key: row.get(1)?,
        session_id: row.get(2)?,
        fingerprint: row.get(3)?,
        state: RunState::of(&row.get::<_, String>(4)?),
        started_ms: row.get(5)?,
        ended_ms: row.get(6)?,
        outcome: row.get(7)?,
    })
}

pub(crate) fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        seq: row.get(0)?,
        id: row.get(1)?,
        role: row.get(2)?,
        run_id: row.get(3)?,
        message: row.get(4)?,
        at_ms: row.get(5)?,
    })
}

impl Agents<'_> {
    pub fn session(&self, key: &str) -> Result<Option<AgentSession>, TxError> {
        Ok(self
            .0
            .prepare_cached(&format!(
                "SELECT {SESSION} FROM agent_sessions WHERE key = ?1"
            ))?
            .query_row([key], session_of)
            .optional()?)
    }

    /// The session of a key, made if there is none. `session_id` names a new one.
    pub fn open(
        &self,
        key: &str,
        agent: &str,
        session_id: &str,
        now_ms: i64,
    ) -> Result<AgentSession, TxError> {
        self.0
            .prepare_cached("INSERT INTO agent_sessions (key, agent, session_id, created_ms, updated_ms) VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT DO NOTHING")?
            .execute(params![key, agent, session_id, now_ms])?;
        self.session(key)?
            .ok_or_else(|| TxError::Sqlite(rusqlite::Error::QueryReturnedNoRows))
    }

    /// Begins the conversation of a key anew; what was said stays under the old id.
    pub fn reset(&self, key: &str, session_id: &str, now_ms: i64) -> Result<bool, TxError> {
        let changed = self
            .0
            .prepare_cached("UPDATE agent_sessions SET session_id = ?2, updated_ms = ?3, archived = 0, input_tokens = 0, output_tokens = 0, context_tokens = 0, last_run = NULL WHERE key = ?1")?
            .execute(params![key, session_id, now_ms])?;
        Ok(changed > 0)
    }

    /// Forgets a session and all that was said in it.
    pub fn delete(&self, key: &str) -> Result<bool, TxError> {
        let Some(session) = self.session(key)? else {
            return Ok(false);
        };
        self.0
            .prepare_cached("DELETE FROM agent_entries WHERE session_id = ?1 OR (session_id > ?1 || '/' AND session_id < ?1 || '0')")?
            .execute([&session.session_id])?;
        self.0
            .prepare_cached("DELETE FROM agent_sessions WHERE key = ?1")?
            .execute([key])?;
        Ok(true)
    }

    /// Latest first. `archived`: only those, or only the others.
    pub fn list(
        &self,
        agent: Option<&str>,
        archived: bool,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<AgentSession>, TxError> {
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {SESSION} FROM agent_sessions WHERE (?1 IS NULL OR agent = ?1) AND archived = ?2 ORDER BY updated_ms DESC, key LIMIT ?3 OFFSET ?4"
        ))?;
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let rows = statement.query_map(
            params![agent, archived, number(limit), number(offset)],
            session_of,
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub fn count(&self, agent: Option<&str>, archived: bool) -> Result<i64, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT count(*) FROM agent_sessions WHERE (?1 IS NULL OR agent = ?1) AND archived = ?2")?
            .query_row(params![agent, archived], |row| row.get(0))?)
    }

    /// Whether a session of an agent, other than `key`, has this label.
    pub fn is_labelled(&self, agent: &str, label: &str, key: &str) -> Result<bool, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_sessions WHERE agent = ?1 AND key <> ?3 AND trim(json_extract(settings, '$.label')) = ?2)")?
            .query_row(params![agent, label, key], |row| row.get(0))?)
    }

    pub fn set_settings(&self, key: &str, settings: &str, archived: bool) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "UPDATE agent_sessions SET settings = ?2, archived = ?3 WHERE key = ?1",
            )?
            .execute(params![key, settings, archived])?;
        Ok(())
    }

    pub fn set_read(&self, key: &str, read_ms: i64) -> Result<(), TxError> {
        self.0
            .prepare_cached("UPDATE agent_sessions SET read_ms = ?2 WHERE key = ?1")?
            .execute(params![key, read_ms])?;
        Ok(())
    }

    /// Begins a run, unless its id is known.
    pub fn begin(
        &self,
        run_id: &str,
        session: &AgentSession,
        fingerprint: &str,
        now_ms: i64,
    ) -> Result<Begun, TxError> {
        if let Some(known) = self.run(run_id)? {
            return Ok(match known.fingerprint == fingerprint {
                true => Begun::Known(known),
                false => Begun::Conflict,
            });
        }
        self.0
            .prepare_cached("INSERT INTO agent_runs (run_id, session_key, session_id, fingerprint, state, started_ms) VALUES (?1, ?2, ?3, ?4, 'accepted', ?5)")?
            .execute(params![run_id, session.key, session.session_id, fingerprint, now_ms])?;
        Ok(Begun::New)
    }

    pub fn run(&self, run_id: &str) -> Result<Option<Run>, TxError> {
        Ok(self
            .0
            .prepare_cached(&format!("SELECT {RUN} FROM agent_runs WHERE run_id = ?1"))?
            .query_row([run_id], run_of)
            .optional()?)
    }

    /// Runs that were accepted and have not ended: what a crash left.
    pub fn open_runs(&self) -> Result<Vec<Run>, TxError> {
        let mut statement = self.0.prepare_cached(&format!(
            "SELECT {RUN} FROM agent_runs WHERE state = 'accepted' ORDER BY started_ms, run_id"
        ))?;
        let rows = statement.query_map([], run_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ends a run. `false`: it had ended.
    pub fn end(
        &self,
        run_id: &str,
        state: RunState,
        outcome: &str,
        now_ms: i64,
    ) -> Result<bool, TxError> {
        let changed = self
            .0
            .prepare_cached("UPDATE agent_runs SET state = ?2, outcome = ?3, ended_ms = ?4 WHERE run_id = ?1 AND state = 'accepted'")?
            .execute(params![run_id, state.as_str(), outcome, now_ms])?;
        Ok(changed > 0)
    }

    /// Notes on a run that is open what it is at; `None`: nothing of note. Its end takes the note away.
    pub fn note(&self, run_id: &str, note: Option<&str>) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "UPDATE agent_runs SET outcome = ?2 WHERE run_id = ?1 AND state = 'accepted'",
            )?
            .execute(params![run_id, note])?;
        Ok(())
    }

    /// Opens a run again that ended without having worked, and takes back the entry that said so. Its `asked` entry comes last in
    /// its session's conversation if it is no longer in it. `false`: there is no such run.
    pub fn reopen(&self, run_id: &str, entry_id: &str, asked: &str) -> Result<bool, TxError> {
        self.0
            .prepare_cached("DELETE FROM agent_entries WHERE id = ?1")?
            .execute([entry_id])?;
        let changed = self
            .0
            .prepare_cached("UPDATE agent_runs SET state = 'accepted', outcome = NULL, ended_ms = NULL WHERE run_id = ?1")?
            .execute([run_id])?;
        // It was taken off the way meanwhile, or the conversation began anew.
        let now: Option<String> = self
            .0
            .prepare_cached(
                "SELECT s.session_id FROM agent_runs r JOIN agent_sessions s ON s.key = r.session_key WHERE r.run_id = ?1",
            )?
            .query_row([run_id], |row| row.get(0))
            .optional()?;
        if let (Some(session_id), Some(entry)) = (now, self.entry(asked)?)
            && self.placed(&session_id, asked)?.is_none()
        {
            self.0
                .prepare_cached("DELETE FROM agent_entries WHERE id = ?1")?
                .execute([asked])?;
            self.append(&session_id, &entry)?;
        }
        Ok(changed > 0)
    }

    /// Notes on a session how a run of it went.
    pub fn note_run(
        &self,
        key: &str,
        last_run: &str,
        tokens: (i64, i64),
        context_tokens: i64,
        now_ms: i64,
    ) -> Result<(), TxError> {
        self.0
            .prepare_cached("UPDATE agent_sessions SET last_run = ?2, input_tokens = input_tokens + ?3, output_tokens = output_tokens + ?4, context_tokens = max(?5, 0), updated_ms = ?6 WHERE key = ?1")?
            .execute(params![key, last_run, tokens.0, tokens.1, context_tokens, now_ms])?;
        Ok(())
    }

    /// Appends an entry, once per id. `false`: it was there.
    pub fn append(&self, session_id: &str, entry: &Entry) -> Result<bool, TxError> {
        let added = self
            .0
            .prepare_cached("INSERT INTO agent_entries (session_id, id, role, run_id, message, at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING")?
            .execute(params![session_id, entry.id, entry.role, entry.run_id, entry.message, entry.at_ms])?;
        self.0
            .prepare_cached(
                "UPDATE agent_sessions SET updated_ms = max(updated_ms, ?2) WHERE session_id = ?1",
            )?
            .execute(params![session_id, entry.at_ms])?;
        Ok(added > 0)
    }

    /// The last `limit` entries, oldest first; before `before` when given.
    /// When somebody last asked in a conversation who is none of these clients, and in no run whose id begins so.
    pub fn last_asked(
        &self,
        session_id: &str,
        clients: &[&str],
        runs: &str,
    ) -> Result<Option<i64>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT at_ms, json_extract(message, '$.__openclaw.transport.clients[0].id') FROM agent_entries
             WHERE session_id = ?1 AND role = 'user' AND (run_id IS NULL OR substr(run_id, 1, length(?2)) <> ?2)
             ORDER BY seq DESC",
        )?;
        let mut rows = statement.query(params![session_id, runs])?;
        while let Some(row) = rows.next()? {
            let client: Option<String> = row.get(1)?;
            if !client.is_some_and(|client| clients.contains(&&*client)) {
                return Ok(Some(row.get(0)?));
            }
        }
        Ok(None)
    }

    /// When the first line of a conversation was written.
    pub fn first(&self, session_id: &str) -> Result<Option<i64>, TxError> {
        Ok(self
            .0
            .prepare_cached(
                "SELECT at_ms FROM agent_entries WHERE session_id = ?1 ORDER BY seq LIMIT 1",
            )?
            .query_row([session_id], |row| row.get(0))
            .optional()?)
    }

    pub fn entries(
        &self,
        session_id: &str,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Entry>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT seq, id, role, run_id, message, at_ms FROM agent_entries WHERE session_id = ?1 AND (?2 IS NULL OR seq < ?2) ORDER BY seq DESC LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![session_id, before, limit], entry_of)?;
        let mut entries: Vec<Entry> = rows.collect::<Result<_, _>>()?;
        entries.reverse();
        Ok(entries)
    }

    /// An entry by its id, and its position in the conversation, from 1.
    pub fn placed(&self, session_id: &str, id: &str) -> Result<Option<(Entry, i64)>, TxError> {
        let entry = self
            .0
            .prepare_cached("SELECT seq, id, role, run_id, message, at_ms FROM agent_entries WHERE id = ?1 AND session_id = ?2")?
            .query_row([id, session_id], entry_of)
            .optional()?;
        let Some(entry) = entry else { return Ok(None) };
        let position = self
            .0
            .prepare_cached(
                "SELECT count(*) FROM agent_entries WHERE session_id = ?1 AND seq <= ?2",
            )?
            .query_row(params![session_id, entry.seq], |row| row.get(0))?;
        Ok(Some((entry, position)))
    }

    /// The last entry of a role in a conversation.
    pub fn last_of_role(&self, session_id: &str, role: &str) -> Result<Option<Entry>, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT seq, id, role, run_id, message, at_ms FROM agent_entries WHERE session_id = ?1 AND role = ?2 ORDER BY seq DESC LIMIT 1")?
            .query_row([session_id, role], entry_of)
            .optional()?)
    }

    pub fn count_of_role(&self, session_id: &str, role: &str) -> Result<i64, TxError> {
        Ok(self
            .0
            .prepare_cached(
                "SELECT count(*) FROM agent_entries WHERE session_id = ?1 AND role = ?2",
            )?
            .query_row([session_id, role], |row| row.get(0))?)
    }

    /// Notes how many tokens a conversation takes now.
    pub fn set_context(&self, key: &str, context_tokens: i64) -> Result<(), TxError> {
        self.0
            .prepare_cached("UPDATE agent_sessions SET context_tokens = max(?2, 0) WHERE key = ?1")?
            .execute(params![key, context_tokens])?;
        Ok(())
    }

    pub fn entry_count(&self, session_id: &str) -> Result<i64, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT count(*) FROM agent_entries WHERE session_id = ?1")?
            .query_row([session_id], |row| row.get(0))?)
    }
}
