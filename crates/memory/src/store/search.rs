//! A search: the keyword leg, the vector leg, and what becomes of both.

use super::{Memory, unusable};
use crate::fuse::{self, Candidate};
use crate::rank::{Parsed, Scorer, Statistics};
use crate::{Agent, Embedder, Explain, Filter, Found, Hit, MemoryError, Mode, Purpose, Query};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

const HITS_MAX: usize = 1000;
/// Of each leg, for the two to be put together: one that is first in neither may be first in both.
const POOL: usize = 50;
/// Questions longer than any model reads are cut for their vector only.
const QUESTION_CHARS_MAX: usize = 8000;

/// The documents that a filter lets through, one bit for each id.
pub(crate) struct Allowed {
    bits: Vec<u64>,
    pub(crate) ids: Vec<i64>,
}

impl Allowed {
    pub(crate) fn has(&self, document: i64) -> bool {
        usize::try_from(document)
            .ok()
            .and_then(|at| {
                self.bits
                    .get(at / 64)
                    .map(|word| word >> (at % 64) & 1 == 1)
            })
            .unwrap_or(false)
    }
}

/// A question's vector, or why there is none.
type Asked = Option<Result<(i64, Vec<f32>), String>>;

impl Memory {
    /// The agent's chunks that say something of the query, best first. Reads only.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn search(&self, agent: &Agent, query: &Query) -> Result<Found, MemoryError> {
        self.search_with(agent, query, None)
    }

    /// [`Memory::search`] by meaning too, over the vectors that [`Memory::embed`] has made with this embedder. A query
    /// with phrases is for the words alone. Without an answer of the embedder the words answer, and that is said.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn search_with(
        &self,
        agent: &Agent,
        query: &Query,
        embedder: Option<&dyn Embedder>,
    ) -> Result<Found, MemoryError> {
        let parsed = Parsed::new(&query.text);
        let asked = match embedder {
            // No transaction is open while a service is waited for.
            Some(embedder) if parsed.phrases.is_empty() && !query.text.trim().is_empty() => {
                self.asked(query, embedder)?
            }
            _ => None,
        };
        let mut broken = None;
        loop {
            if let Some(found) = self.attempt(agent, query, &parsed, &asked, &mut broken)? {
                return Ok(found);
            }
        }
    }

    fn asked(&self, query: &Query, embedder: &dyn Embedder) -> Result<Asked, MemoryError> {
        let Some((model, dimensions)) = self.model(embedder.model())? else {
            return Ok(Some(Err(
                "no vectors have been made with this model yet, the words answer alone: run `memory index`".to_owned(),
            )));
        };
        let text: String = query.text.chars().take(QUESTION_CHARS_MAX).collect();
        // The words need some of the time too.
        let deadline = query.deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Instant::now() + left * 3 / 5
        });
        let answer = embedder.embed(Purpose::Query, &[&text], deadline);
        Ok(Some(match answer.map(|mut all| all.pop()) {
            Ok(Some(vector)) if vector.len() == dimensions => {
                Ok((model, crate::vector::normalised(vector)))
            }
            Ok(_) => Err(format!(
                "the embedder no longer answers with the {dimensions} numbers of the vectors that are kept, the words answer alone: \
                 give it another name, so that they are made again"
            )),
            Err(error) => Err(format!("{error}; the words answer alone")),
        }))
    }

    /// `None` when the index failed half-way: what it holds was not read, so the next attempt goes without it.
    fn attempt(
        &self,
        agent: &Agent,
        query: &Query,
        parsed: &Parsed,
        asked: &Asked,
        broken: &mut Option<String>,
    ) -> Result<Option<Found>, MemoryError> {
        let mut found = Found {
            hits: Vec::new(),
            partial: false,
            degraded: broken.clone(),
            mode: Mode::Keyword,
        };
        let by_meaning = match asked {
            Some(Ok((model, vector))) => Some((*model, vector)),
            Some(Err(why)) => {
                found.degrade(why);
                None
            }
            None => None,
        };
        // All of one moment, or a replaced chunk would be missing between tail and texts.
        let read = self.db.unchecked_transaction()?;
        let Some(owner) = self
            .owner(agent)?
            .filter(|_| !parsed.is_empty() || by_meaning.is_some())
        else {
            return Ok(Some(found));
        };
        let allowed = allowed(&read, owner, &query.filter)?.map(Arc::new);
        let limit = query.limit.clamp(1, HITS_MAX);
        // Before the words, which take what time there is when their index is broken.
        let mut near = Vec::new();
        if let Some((model, vector)) = by_meaning {
            let wanted = limit.max(POOL);
            near = self.nearest(
                owner,
                model,
                vector,
                allowed.as_deref(),
                query.deadline,
                wanted,
                &mut found,
            )?;
            found.mode = Mode::Hybrid;
        }
        let known = match broken {
            Some(_) => Ok(None),
            None => self.keyword(owner, |index, applied| {
                Ok((applied.chunk, index.statistics(parsed)?))
            }),
        };
        let (upto, statistics) = match known {
            Ok(known) => known.unwrap_or_default(),
            Err(error) => {
                found.degrade(&unusable(&error));
                (0, Statistics::default())
            }
        };
        let mut scorer = Scorer::new(parsed, statistics);
        let mut kept_out = HashSet::new();
        let mut tail = read.prepare_cached(
            "SELECT id, text, document FROM chunk WHERE agent = ?1 AND id > ?2 ORDER BY id",
        )?;
        let mut rows = tail.query([owner, upto])?;
        while let Some(row) = rows.next()? {
            if query
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                found.partial = true;
                break;
            }
            let id = row.get(0)?;
            // What is filtered out counts for how rare a word is, as it does in the index.
            scorer.see(id, row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?);
            if let Some(allowed) = &allowed
                && !allowed.has(row.get(2)?)
            {
                kept_out.insert(id);
            }
        }
        drop(rows);
        let statistics = scorer.statistics();
        let mut tail = scorer.scored();
        tail.retain(|(id, _)| !kept_out.contains(id));
        let pool = match near.is_empty() && query.mmr.is_none() && query.recency.is_none() {
            true => limit,
            false => limit.saturating_mul(2).max(POOL),
        };
        let mut ask = pool * 2 + 20;
        loop {
            let indexed = match upto {
                0 => Ok(None),
                _ => self.keyword(owner, |index, _| {
                    index.search(parsed, &statistics, ask, allowed.clone())
                }),
            };
            let indexed = match indexed {
                Ok(indexed) => indexed.unwrap_or_default(),
                Err(error) => {
                    *broken = Some(unusable(&error));
                    return Ok(None);
                }
            };
            let more = indexed.len() == ask;
            let (words, full) = live(&read, owner, &merged(&tail, indexed), pool)?;
            // Rows that the index still has and the database no longer may have taken all places.
            if !full && more {
                ask *= 4;
                continue;
            }
            let candidates = fuse::fused(words, &near);
            found.hits = hydrate(&read, owner, candidates, query, limit)?;
            break;
        }
        if query.limit == 0 {
            found.hits.clear();
        }
        found.hits.retain(|hit| hit.score >= query.min_score);
        Ok(Some(found))
    }
}

fn allowed(db: &Connection, owner: i64, filter: &Filter) -> rusqlite::Result<Option<Allowed>> {
    if *filter == Filter::default() {
        return Ok(None);
    }
    let mut select = db.prepare_cached(
        "SELECT id, kind FROM document WHERE agent = ?1 AND substr(path, 1, length(?2)) = ?2
         AND (?3 IS NULL OR at >= ?3) AND (?4 IS NULL OR at <= ?4) ORDER BY id",
    )?;
    let under = filter.under.as_deref().unwrap_or_default();
    let mut rows = select.query(params![owner, under, filter.since, filter.until])?;
    let mut allowed = Allowed {
        bits: Vec::new(),
        ids: Vec::new(),
    };
    while let Some(row) = rows.next()? {
        let kind = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        if !filter.kinds.is_empty() && !filter.kinds.iter().any(|wanted| wanted == kind) {
            continue;
        }
        let id: i64 = row.get(0)?;
        let at = usize::try_from(id).unwrap_or_default();
        if allowed.bits.len() <= at / 64 {
            allowed.bits.resize(at / 64 + 1, 0);
        }
        allowed.bits[at / 64] |= 1 << (at % 64);
        allowed.ids.push(id);
    }
    Ok(Some(allowed))
}

/// Best first, the earliest id first among equals. A row of the tail that the index already has counts once.
fn merged(tail: &[(i64, f64)], indexed: Vec<(i64, f64)>) -> Vec<(i64, f64)> {
    let known: HashSet<i64> = tail.iter().map(|&(id, _)| id).collect();
    let mut all = tail.to_vec();
    all.extend(indexed.into_iter().filter(|(id, _)| !known.contains(id)));
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

/// The first that the database still has, and whether there were enough.
fn live(
    db: &Connection,
    owner: i64,
    ranked: &[(i64, f64)],
    limit: usize,
) -> rusqlite::Result<(Vec<(i64, f64)>, bool)> {
    let mut known = db.prepare_cached("SELECT 1 FROM chunk WHERE id = ?1 AND agent = ?2")?;
    let mut out = Vec::new();
    for &(id, score) in ranked {
        if out.len() == limit {
            break;
        }
        if known.exists([id, owner])? {
            out.push((id, score));
        }
    }
    let full = out.len() == limit;
    Ok((out, full))
}

fn hydrate(
    db: &Connection,
    owner: i64,
    candidates: Vec<Candidate>,
    query: &Query,
    limit: usize,
) -> rusqlite::Result<Vec<Hit>> {
    let mut fetch = db.prepare_cached(
        "SELECT path, start_line, end_line, chunk.text, kind, at FROM chunk
         JOIN document ON document.id = chunk.document WHERE chunk.id = ?1 AND chunk.agent = ?2",
    )?;
    // What neither time nor variety can move is not read.
    let read = match query.mmr.is_none() && query.recency.is_none() {
        true => limit,
        false => candidates.len(),
    };
    let mut hits: Vec<Hit> = Vec::new();
    for candidate in candidates.into_iter().take(read) {
        let row = fetch.query_row([candidate.chunk, owner], |row| {
            let path: String = row.get(0)?;
            let at: Option<i64> = row.get(5)?;
            let kind: String = row.get(4)?;
            let recency = query
                .recency
                .map_or(1.0, |recency| recency.weight(&path, &kind, at));
            Ok(Hit {
                path,
                start_line: row.get(1)?,
                end_line: row.get(2)?,
                text: row.get(3)?,
                score: candidate.score * recency,
                kind,
                at,
                explain: Explain {
                    keyword: candidate.keyword,
                    vector: candidate.vector,
                    fused: candidate.score,
                    recency,
                },
            })
        });
        hits.extend(row.optional()?);
    }
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
    let best = hits
        .first()
        .map_or(1.0, |hit| hit.score.max(f64::MIN_POSITIVE));
    hits.iter_mut().for_each(|hit| hit.score /= best);
    Ok(match query.mmr {
        Some(lambda) => fuse::varied(hits, lambda, limit),
        None => {
            hits.truncate(limit);
            hits
        }
    })
}
