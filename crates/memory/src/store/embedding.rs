//! Vectors: made by an embedder in batches, kept by their texts' hashes, and looked up by nearness.

use super::search::Allowed;
use super::{Memory, owner_made};
use crate::vector::{VectorWriter, Vectors, dot, normalised};
use crate::{Agent, Embedder, EmbedderSettings, Found, Indexed, MemoryError, Model, Purpose};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

/// Texts of one transaction; embedders take fewer at once.
const BATCH: usize = 256;
/// By how many the exact vectors decide, for the index has bytes only.
const EXACT: usize = 50;
/// Vectors of texts that are gone, kept in case they come again.
const SPARE: usize = 20_000;
/// Part of an index that may be gone from the database before it is made anew.
const GONE_OF: usize = 4;

/// What of an agent's memory can be found by meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorStatus {
    pub dimensions: usize,
    /// Chunks with a vector of this model.
    pub vectors: usize,
    /// Chunks without.
    pub missing: usize,
}

/// What [`Memory::embed`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Embedded {
    /// Chunks that have a vector now.
    pub chunks: usize,
    /// Texts the embedder was asked for; the others were known.
    pub asked: usize,
}

impl Memory {
    /// Where this agent's vectors come from, if it was said.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn embedder(&self, agent: &Agent) -> Result<Option<EmbedderSettings>, MemoryError> {
        let mut select = self.db.prepare_cached(
            "SELECT provider, embedder.name, asked, place, key_variable FROM embedder
             JOIN agent ON agent.id = agent WHERE agent.name = ?1",
        )?;
        let row = select.query_row([agent.as_str()], |row| {
            Ok(EmbedderSettings {
                model: Model {
                    provider: row.get(0)?,
                    name: row.get(1)?,
                    dimensions: Some(row.get(2)?).filter(|&asked| asked > 0),
                },
                at: row.get(3)?,
                key_variable: row.get(4)?,
            })
        });
        Ok(row.optional()?)
    }

    /// From now on; `None` is none. Vectors that are there stay, for the day that it comes back.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn set_embedder(
        &mut self,
        agent: &Agent,
        settings: Option<&EmbedderSettings>,
    ) -> Result<(), MemoryError> {
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let owner = owner_made(&tx, agent)?;
        tx.execute("DELETE FROM embedder WHERE agent = ?1", [owner])?;
        if let Some(EmbedderSettings {
            model,
            at,
            key_variable,
        }) = settings
        {
            tx.execute(
                "INSERT INTO embedder (agent, provider, name, asked, place, key_variable) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![owner, model.provider, model.name, model.dimensions.unwrap_or(0), at, key_variable],
            )?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Gives every chunk of the agent that has none a vector of this model, then brings its vector index up to them.
    /// What was made before an error stays. `progress` is told chunks done and chunks in all.
    ///
    /// # Errors
    /// [`MemoryError::Embedding`] when the embedder has no answer; [`MemoryError::VectorIndex`]; SQLite's own.
    pub fn embed(
        &mut self,
        agent: &Agent,
        embedder: &dyn Embedder,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Embedded, MemoryError> {
        let mut out = Embedded::default();
        let Some(owner) = self.owner(agent)? else {
            return Ok(out);
        };
        let known = self.model(embedder.model())?;
        // No model has the number 0: every chunk lacks its vector.
        let mut model = known.map_or(0, |(id, _)| id);
        let total: usize = self.db.query_row(
            "SELECT count(*) FROM chunk WHERE agent = ?1
             AND NOT EXISTS (SELECT 1 FROM vector WHERE chunk = chunk.id AND model = ?2)",
            [owner, model],
            |row| row.get(0),
        )?;
        let mut upto = 0;
        loop {
            let batch = self.without_vector(owner, model, upto)?;
            let Some((last, ..)) = batch.last() else {
                break;
            };
            upto = *last;
            let mut vectors = self.known_vectors(model, &batch)?;
            let mut texts: HashMap<&[u8], &str> = HashMap::new();
            for (_, hash, text) in &batch {
                if !vectors.contains_key(hash) {
                    texts.insert(hash, text);
                }
            }
            let (hashes, texts): (Vec<&[u8]>, Vec<&str>) = texts.into_iter().unzip();
            let mut new = Vec::new();
            if !texts.is_empty() {
                let made = embedder.embed(Purpose::Document, &texts, None)?;
                out.asked += texts.len();
                for (hash, vector) in hashes.into_iter().zip(made) {
                    new.push(hash.to_vec());
                    vectors.insert(hash.to_vec(), normalised(vector));
                }
            }
            let Some(dimensions) = vectors.values().next().map(Vec::len) else {
                break;
            };
            out.chunks += batch.len();
            model = self.keep(owner, embedder.model(), dimensions, &batch, &vectors, &new)?;
            progress(out.chunks, total.max(out.chunks));
        }
        if model > 0 {
            self.index_vectors(owner, model)?;
            self.db.execute(
                "DELETE FROM embedding WHERE rowid IN (
                    SELECT embedding.rowid FROM embedding WHERE NOT EXISTS (
                        SELECT 1 FROM vector WHERE vector.model = embedding.model AND vector.hash = embedding.hash)
                    ORDER BY rowid DESC LIMIT -1 OFFSET ?1)",
                [SPARE],
            )?;
        }
        Ok(out)
    }

    /// # Errors
    /// SQLite's own.
    pub fn vector_status(&self, agent: &Agent, model: &Model) -> Result<VectorStatus, MemoryError> {
        let (id, dimensions) = self.model(model)?.unwrap_or_default();
        let owner = self.owner(agent)?.unwrap_or_default();
        let (vectors, chunks): (usize, usize) = self.db.query_row(
            "SELECT (SELECT count(*) FROM vector WHERE agent = ?1 AND model = ?2),
                (SELECT count(*) FROM chunk WHERE agent = ?1)",
            [owner, id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(VectorStatus {
            dimensions,
            vectors,
            missing: chunks - vectors,
        })
    }

    /// Brings the index up to the database, anew if much of it is gone from there.
    fn index_vectors(&self, owner: i64, model: i64) -> Result<Indexed, MemoryError> {
        let (count, dimensions): (usize, usize) = self.db.query_row(
            "SELECT (SELECT count(*) FROM vector WHERE agent = ?1 AND model = ?2),
                (SELECT dimensions FROM model WHERE id = ?2)",
            [owner, model],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let folder = self.vector_folder(owner, model);
        let open = |anew| VectorWriter::open(&folder, &self.store, dimensions, anew);
        let Some(mut writer) = open(false)? else {
            return Ok(Indexed::Busy);
        };
        let held = writer.head.count;
        let live: usize = self.db.query_row(
            "SELECT count(*) FROM vector WHERE agent = ?1 AND model = ?2 AND id <= ?3",
            [owner, model, writer.head.applied],
            |row| row.get(0),
        )?;
        if live > held || (held - live) * GONE_OF > count.max(1) {
            drop(writer);
            match open(true)? {
                Some(anew) => writer = anew,
                None => return Ok(Indexed::Busy),
            }
        }
        let mut rows = self.db.prepare_cached(TAIL)?;
        let mut rows = rows.query([owner, model, writer.head.applied])?;
        let mut done = 0;
        while let Some(row) = rows.next()? {
            let vector = numbers(row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?);
            writer.add(row.get(0)?, row.get(1)?, row.get(2)?, vector)?;
            done += 1;
        }
        writer.commit()?;
        self.open_vectors.borrow_mut().remove(&(owner, model));
        Ok(Indexed::Done(done))
    }

    /// Chunks by how near their vectors are, exactly; nearest first. What the index lacks is read from the database.
    #[expect(clippy::too_many_arguments, reason = "one question, all of it needed")]
    pub(super) fn nearest(
        &self,
        owner: i64,
        model: i64,
        question: &[f32],
        allowed: Option<&Allowed>,
        deadline: Option<Instant>,
        limit: usize,
        found: &mut Found,
    ) -> Result<Vec<(i64, f64)>, MemoryError> {
        let may = |document| allowed.is_none_or(|allowed| allowed.has(document));
        let mut near: Vec<(i64, f64)> = Vec::new();
        let mut upto = 0;
        match self.vectors(owner, model, |index| {
            Ok((index.head.applied, index.nearest(question, may, deadline)?))
        }) {
            Ok(None) => {}
            Ok(Some((applied, (candidates, partial)))) => {
                upto = applied;
                found.partial |= partial;
                let mut exact = self.db.prepare_cached(
                    "SELECT embedding.vector FROM vector JOIN embedding USING (model, hash)
                     WHERE vector.chunk = ?1 AND vector.model = ?2 AND vector.agent = ?3",
                )?;
                for (chunk, _) in candidates {
                    if near.len() == limit.max(EXACT) {
                        break;
                    }
                    // What is no longer in the database takes no place.
                    let cosine = exact
                        .query_row([chunk, model, owner], |row| {
                            Ok(dot(question, &numbers(row.get_ref(0)?.as_blob()?)))
                        })
                        .optional()?;
                    near.extend(cosine.map(|cosine| (chunk, f64::from(cosine))));
                }
            }
            Err(error) => found.degrade(&format!(
                "the vector index can't be used ({error}); every vector was read instead: run `memory rebuild`"
            )),
        }
        let mut rows = self.db.prepare_cached(TAIL)?;
        let mut rows = rows.query([owner, model, upto])?;
        while let Some(row) = rows.next()? {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                found.partial = true;
                break;
            }
            if may(row.get(2)?) {
                let vector = numbers(row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?);
                near.push((row.get(1)?, f64::from(dot(question, &vector))));
            }
        }
        near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        near.truncate(limit);
        Ok(near)
    }

    /// The model's row and the length of its vectors, once it has made one.
    pub(super) fn model(&self, model: &Model) -> rusqlite::Result<Option<(i64, usize)>> {
        let mut select = self.db.prepare_cached(
            "SELECT id, dimensions FROM model WHERE provider = ?1 AND name = ?2 AND asked = ?3",
        )?;
        let asked = model.dimensions.unwrap_or(0);
        select
            .query_row(params![model.provider, model.name, asked], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
    }

    /// Id, hash and text.
    fn without_vector(
        &self,
        owner: i64,
        model: i64,
        upto: i64,
    ) -> rusqlite::Result<Vec<(i64, Vec<u8>, String)>> {
        let mut select = self.db.prepare_cached(
            "SELECT id, text FROM chunk WHERE agent = ?1 AND id > ?3
             AND NOT EXISTS (SELECT 1 FROM vector WHERE chunk = chunk.id AND model = ?2) ORDER BY id LIMIT ?4",
        )?;
        let rows = select.query_map(params![owner, model, upto, BATCH], |row| {
            let text: String = row.get(1)?;
            let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
            Ok((row.get(0)?, hash.as_ref().to_vec(), text))
        })?;
        rows.collect()
    }

    fn known_vectors(
        &self,
        model: i64,
        batch: &[(i64, Vec<u8>, String)],
    ) -> rusqlite::Result<HashMap<Vec<u8>, Vec<f32>>> {
        let mut select = self
            .db
            .prepare_cached("SELECT vector FROM embedding WHERE model = ?1 AND hash = ?2")?;
        let mut out = HashMap::new();
        for (_, hash, _) in batch {
            let known = select
                .query_row(params![model, hash], |row| {
                    Ok(numbers(row.get_ref(0)?.as_blob()?))
                })
                .optional()?;
            out.extend(known.map(|vector| (hash.clone(), vector)));
        }
        Ok(out)
    }

    /// All of a batch or nothing; returns the model's row.
    fn keep(
        &mut self,
        owner: i64,
        model: &Model,
        dimensions: usize,
        batch: &[(i64, Vec<u8>, String)],
        vectors: &HashMap<Vec<u8>, Vec<f32>>,
        new: &[Vec<u8>],
    ) -> Result<i64, MemoryError> {
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let asked = model.dimensions.unwrap_or(0);
        tx.execute(
            "INSERT OR IGNORE INTO model (provider, name, asked, dimensions) VALUES (?1, ?2, ?3, ?4)",
            params![model.provider, model.name, asked, dimensions],
        )?;
        let (id, known): (i64, usize) = tx.query_row(
            "SELECT id, dimensions FROM model WHERE provider = ?1 AND name = ?2 AND asked = ?3",
            params![model.provider, model.name, asked],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        if let Some(other) = vectors.values().map(Vec::len).find(|&len| len != known) {
            return Err(MemoryError::Dimensions {
                model: model.name.clone(),
                known,
                other,
            });
        }
        for hash in new {
            let bytes: Vec<u8> = vectors[hash].iter().flat_map(|x| x.to_le_bytes()).collect();
            tx.prepare_cached(
                "INSERT OR REPLACE INTO embedding (model, hash, vector) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![id, hash, bytes])?;
        }
        for (chunk, hash, _) in batch {
            // It may have been replaced while its vector was made.
            tx.prepare_cached(
                "INSERT OR IGNORE INTO vector (agent, model, chunk, hash)
                 SELECT agent, ?2, id, ?3 FROM chunk WHERE id = ?1 AND agent = ?4",
            )?
            .execute(params![chunk, id, hash, owner])?;
        }
        tx.commit()?;
        Ok(id)
    }

    fn vector_folder(&self, owner: i64, model: i64) -> PathBuf {
        self.indexes.join(format!("{owner}-vectors-{model}"))
    }

    /// `None` when there is no index of this database yet.
    pub(super) fn vectors<T>(
        &self,
        owner: i64,
        model: i64,
        ask: impl FnOnce(&Vectors) -> std::io::Result<T>,
    ) -> std::io::Result<Option<T>> {
        let mut open = self.open_vectors.borrow_mut();
        // Another process may have gone on with it, or begun anew: its head is a line.
        let folder = self.vector_folder(owner, model);
        let known = open.remove(&(owner, model));
        let index = match known {
            Some(index) if index.is_current(&folder) => index,
            _ => match Vectors::open(&folder)? {
                Some(index) if index.head.store == self.store => index,
                _ => return Ok(None),
            },
        };
        let answer = ask(&index)?;
        open.insert((owner, model), index);
        Ok(Some(answer))
    }

    /// Makes the agent's vector indexes anew from the vectors that are kept.
    pub(super) fn rebuild_vectors(&self, owner: i64) -> Result<(), MemoryError> {
        let models: Vec<i64> = models_of(&self.db, owner)?;
        for model in models {
            let folder = self.vector_folder(owner, model);
            // Only the head: whoever writes keeps the lock, and finds that it begins anew.
            match std::fs::remove_file(folder.join(crate::vector::HEAD)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
            self.index_vectors(owner, model)?;
        }
        Ok(())
    }
}

pub(super) fn models_of(db: &Connection, owner: i64) -> rusqlite::Result<Vec<i64>> {
    let mut select = db.prepare_cached("SELECT DISTINCT model FROM vector WHERE agent = ?1")?;
    let rows = select.query_map([owner], |row| row.get(0))?;
    rows.collect()
}

/// Vectors after a row: row, chunk, document, numbers.
const TAIL: &str = "SELECT vector.id, chunk.id, chunk.document, embedding.vector FROM vector
    JOIN chunk ON chunk.id = vector.chunk JOIN embedding ON embedding.model = vector.model AND embedding.hash = vector.hash
    WHERE vector.agent = ?1 AND vector.model = ?2 AND vector.id > ?3 ORDER BY vector.id";

fn numbers(blob: &[u8]) -> Vec<f32> {
    blob.as_chunks()
        .0
        .iter()
        .map(|x| f32::from_le_bytes(*x))
        .collect()
}
