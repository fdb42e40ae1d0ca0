//! Conversations that went another way: what was taken back stays, beside what is said instead, and can be gone back to.
//!
//! What is not on the way that is followed now has a session id of its own, `<session>/<unique>/<anchor>`: the entry it
//! came after, or nothing. Entries keep their places, so that a branch put back stands where it stood.

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, params};

use crate::{Agents, Entry, TxError};

/// Of one conversation; the one that was last said something in the longest ago gives way.
const BRANCHES_MAX: usize = 64;

/// One way through a conversation, up to its last entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    pub leaf: Entry,
    /// Entries of its whole way, from the first on.
    pub entries: usize,
    pub is_active: bool,
}

/// What is off the way: its session id, and its entries' ids in order.
struct Piece {
    name: String,
    ids: Vec<String>,
    /// When its last entry was said, and its place.
    last: (i64, i64),
}

impl Piece {
    /// The entry it came after; empty: none.
    fn anchor(&self) -> &str {
        self.name.splitn(3, '/').nth(2).unwrap_or_default()
    }
}

impl Agents<'_> {
    /// The way that is followed (first), and what is off it.
    fn pieces(&self, session_id: &str) -> Result<Vec<Piece>, TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT session_id, id, at_ms, seq FROM agent_entries WHERE session_id = ?1 OR (session_id > ?1 || '/' AND session_id < ?1 || '0') ORDER BY seq",
        )?;
        let mut rows = statement.query([session_id])?;
        let empty = |name: String| Piece {
            name,
            ids: Vec::new(),
            last: (0, 0),
        };
        let mut pieces = vec![empty(session_id.to_owned())];
        let mut places = HashMap::from([(session_id.to_owned(), 0)]);
        while let Some(row) = rows.next()? {
            let (name, id): (String, String) = (row.get(0)?, row.get(1)?);
            let at = *places.entry(name.clone()).or_insert_with(|| {
                pieces.push(empty(name));
                pieces.len() - 1
            });
            pieces[at].ids.push(id);
            pieces[at].last = (row.get(2)?, row.get(3)?);
        }
        Ok(pieces)
    }

    /// The ways through a conversation: the one that is followed, then the others, latest first.
    pub fn branches(&self, session_id: &str) -> Result<Vec<Branch>, TxError> {
        let pieces = self.pieces(session_id)?;
        let mut branches = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let Some(last) = piece.ids.last() else {
                continue;
            };
            let Some(leaf) = self.entry(last)? else {
                continue;
            };
            let mut entries = piece.ids.len();
            let mut anchor = if at == 0 { "" } else { piece.anchor() };
            // Each piece is passed once.
            for _ in 0..pieces.len() {
                let place = |piece: &Piece| piece.ids.iter().position(|id| id == anchor);
                let found = pieces
                    .iter()
                    .enumerate()
                    .find_map(|(other, piece)| Some((other, place(piece)?)));
                let Some((other, place)) = found else { break };
                entries += place + 1;
                anchor = if other == 0 {
                    ""
                } else {
                    pieces[other].anchor()
                };
            }
            branches.push(Branch {
                leaf,
                entries,
                is_active: at == 0,
            });
        }
        branches.sort_by_key(|branch| (!branch.is_active, std::cmp::Reverse(branch.leaf.at_ms)));
        Ok(branches)
    }

    pub(crate) fn entry(&self, id: &str) -> Result<Option<Entry>, TxError> {
        let known = self
            .0
            .prepare_cached(
                "SELECT seq, id, role, run_id, message, at_ms FROM agent_entries WHERE id = ?1",
            )?
            .query_row([id], crate::agents::entry_of)
            .optional()?;
        Ok(known)
    }

    /// Takes an entry and all after it off the way. `unique` names what is taken, without a slash. `false`: nothing was there.
    pub fn rewind(&self, session_id: &str, from: i64, unique: &str) -> Result<bool, TxError> {
        let Some(taken) = self.take_off(session_id, from, unique)? else {
            return Ok(false);
        };
        self.prune(session_id, &[taken])?;
        Ok(true)
    }

    /// The name of the piece that an entry and all after it are now; `None`: nothing was there.
    fn take_off(
        &self,
        session_id: &str,
        from: i64,
        unique: &str,
    ) -> Result<Option<String>, TxError> {
        let anchor: Option<String> = self
            .0
            .prepare_cached(
                "SELECT id FROM agent_entries WHERE session_id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row(params![session_id, from], |row| row.get(0))
            .optional()?;
        let name = format!("{session_id}/{unique}/{}", anchor.unwrap_or_default());
        let moved = self
            .0
            .prepare_cached(
                "UPDATE agent_entries SET session_id = ?3 WHERE session_id = ?1 AND seq >= ?2",
            )?
            .execute(params![session_id, from, name])?;
        Ok((moved > 0).then_some(name))
    }

    /// Forgets what is too much, the oldest first: never what another piece hangs on, and never one of `keep`.
    fn prune(&self, session_id: &str, keep: &[String]) -> Result<(), TxError> {
        let mut pieces = self.pieces(session_id)?;
        while pieces.len() > BRANCHES_MAX + 1 {
            let is_held = |piece: &Piece| {
                let mut others = pieces[1..].iter();
                others.any(|other| piece.ids.iter().any(|id| id == other.anchor()))
            };
            let oldest = (1..pieces.len())
                .filter(|at| !keep.contains(&pieces[*at].name) && !is_held(&pieces[*at]))
                .min_by_key(|at| pieces[*at].last);
            let Some(oldest) = oldest else { break };
            let gone = pieces.remove(oldest);
            self.0
                .prepare_cached("DELETE FROM agent_entries WHERE session_id = ?1")?
                .execute([&gone.name])?;
        }
        Ok(())
    }

    /// Follows the way to a leaf; what is followed now goes beside it. `unique` as for [`Agents::rewind`].
    /// `false`: there is no such leaf.
    pub fn switch(&self, session_id: &str, leaf: &str, unique: &str) -> Result<bool, TxError> {
        let pieces = self.pieces(session_id)?;
        let mut way = Vec::new();
        let mut wanted = pieces[1..]
            .iter()
            .find(|piece| piece.ids.last().is_some_and(|last| last == leaf));
        if wanted.is_none() {
            return Ok(false);
        }
        while let Some(piece) = wanted {
            if way.len() > pieces.len() {
                return Ok(false);
            }
            way.push(piece);
            let anchor = piece.anchor();
            wanted = pieces[1..]
                .iter()
                .find(|other| other.ids.iter().any(|id| id == anchor));
        }
        let mut taken = Vec::new();
        for (step, piece) in way.iter().rev().enumerate() {
            let after: i64 = match piece.anchor() {
                "" => -1,
                anchor => match self.entry(anchor)? {
                    Some(entry) => entry.seq,
                    None => -1,
                },
            };
            taken.extend(self.take_off(session_id, after + 1, &format!("{unique}-{step}"))?);
            let attached = self
                .0
                .prepare_cached("UPDATE agent_entries SET session_id = ?2 WHERE session_id = ?1")?
                .execute(params![piece.name, session_id])?;
            if attached == 0 {
                return Err(TxError::not_found(format!("branch {}", piece.name)));
            }
        }
        // Only now: what is followed again counts no more.
        self.prune(session_id, &taken)?;
        Ok(true)
    }

    /// The place behind the last thing said, or with `is_completed` behind the last answer that ended; 0: there is none.
    pub fn end_of(&self, session_id: &str, is_completed: bool) -> Result<i64, TxError> {
        let last: Option<i64> = self
            .0
            .prepare_cached(
                "SELECT max(seq) FROM agent_entries WHERE session_id = ?1 AND (NOT ?2
                 OR (role = 'assistant' AND coalesce(json_extract(message, '$.stopReason'), '') <> 'toolUse'))",
            )?
            .query_row(params![session_id, is_completed], |row| row.get(0))?;
        Ok(last.map_or(0, |seq| seq + 1))
    }

    /// Tokens that a conversation takes by its last answer or compaction that tells; 0: none does.
    pub fn context_left(&self, session_id: &str) -> Result<i64, TxError> {
        let tokens: Option<i64> = self
            .0
            .prepare_cached(
                "SELECT CAST(coalesce(json_extract(message, '$.usage.totalTokens'), json_extract(message, '$.tokensAfter')) AS INTEGER) AS tokens
                 FROM agent_entries WHERE session_id = ?1 AND role NOT IN ('user', 'toolResult') AND tokens > 0 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row([session_id], |row| row.get(0))
            .optional()?;
        Ok(tokens.unwrap_or_default())
    }

    /// Notes on a session that its conversation has gone another way: what is known of its last run is of the other one.
    pub fn note_turned(&self, key: &str, context_tokens: i64) -> Result<(), TxError> {
        self.0
            .prepare_cached(
                "UPDATE agent_sessions SET context_tokens = max(?2, 0), last_run = NULL WHERE key = ?1",
            )?
            .execute(params![key, context_tokens])?;
        Ok(())
    }

    /// Whether a run of a session was accepted and has not ended.
    pub fn is_at_work(&self, key: &str) -> Result<bool, TxError> {
        Ok(self
            .0
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM agent_runs WHERE session_key = ?1 AND state = 'accepted')")?
            .query_row([key], |row| row.get(0))?)
    }

    /// Copies what came before an entry into another conversation, under ids of its own.
    pub fn fork(&self, session_id: &str, before: i64, into: &str) -> Result<usize, TxError> {
        Ok(self
            .0
            .prepare_cached(
                "INSERT INTO agent_entries (session_id, id, role, run_id, message, at_ms)
                 SELECT ?3, ?3 || ':' || id, role, run_id,
                        CASE WHEN json_extract(message, '$.firstKeptEntryId') IS NULL THEN message
                             ELSE json_set(message, '$.firstKeptEntryId', ?3 || ':' || json_extract(message, '$.firstKeptEntryId')) END,
                        at_ms
                 FROM agent_entries WHERE session_id = ?1 AND seq < ?2 ORDER BY seq",
            )?
            .execute(params![session_id, before, into])?)
    }

    /// What was said, latest first, in lines like `pattern` (of `LIKE`, with `\` to escape): with the session's key and id,
    /// until `on` says `false`. No more than `looked_max` lines are looked at.
    pub fn said_like(
        &self,
        pattern: &str,
        looked_max: i64,
        mut on: impl FnMut(&str, &str, Entry) -> bool,
    ) -> Result<(), TxError> {
        let mut statement = self.0.prepare_cached(
            "SELECT e.seq, e.id, e.role, e.run_id, e.message, e.at_ms, s.key, s.session_id
             FROM (SELECT * FROM agent_entries WHERE role IN ('user', 'assistant') ORDER BY seq DESC LIMIT ?2) e
             JOIN agent_sessions s ON s.session_id = e.session_id
             WHERE e.message LIKE ?1 ESCAPE '\\' ORDER BY e.seq DESC",
        )?;
        let mut rows = statement.query(params![pattern, looked_max])?;
        while let Some(row) = rows.next()? {
            let (key, session_id): (String, String) = (row.get(6)?, row.get(7)?);
            if !on(&key, &session_id, crate::agents::entry_of(row)?) {
                break;
            }
        }
        Ok(())
    }
}
