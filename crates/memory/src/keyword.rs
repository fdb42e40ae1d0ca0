//! The keyword index of one agent: derived from the database, may be deleted at any time, one folder each.
//!
//! Its commit says up to which row it holds the database; what came later is read from there directly.

use crate::analyse::{Analyser, BETWEEN};
use crate::rank::{EXPANSIONS_MAX, Leg, Parsed, Statistics};
use crate::store::Allowed;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use tantivy::collector::{FilterCollector, TopDocs};
use tantivy::directory::error::LockError;
use tantivy::directory::{Directory as _, DirectoryLock, INDEX_WRITER_LOCK};
use tantivy::query::{
    Bm25StatisticsProvider, BooleanQuery, ConstScoreQuery, Occur, PhraseQuery, Query, TermQuery,
};
use tantivy::schema::{
    Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use tantivy::{
    Index, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, TantivyError, Term,
};

mod directory;

/// The least that tantivy takes; one thread, so that a search beside it has a core.
const WRITER_BYTES_MIN: usize = 15_000_000;
/// For filling an index: every segment that is written early is merged later.
const WRITER_BYTES_MAX: usize = 128_000_000;
/// About what a chunk takes in the writer until its segment is written.
const CHUNK_BYTES: usize = 1500;
/// Documents of a filter that are looked up one by one.
const LED_TO_MAX: usize = 256;
/// Terms come joined: the same name as before, since tantivy keeps it in the index.
const TOKENIZER: &str = "raw";

/// Up to where an index holds the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Which database: another one at the same path must not be answered from this index.
    pub(crate) store: String,
    pub(crate) chunk: i64,
    pub(crate) gone: i64,
}

impl Applied {
    fn parse(payload: &str) -> Option<Self> {
        let mut parts = payload.split(' ');
        let (store, chunk, gone) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            store: store.to_owned(),
            chunk: chunk.parse().ok()?,
            gone: gone.parse().ok()?,
        })
    }

    fn payload(&self) -> String {
        format!("{} {} {}", self.store, self.chunk, self.gone)
    }
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    terms: Field,
    words: Field,
    chunk: Field,
    document: Field,
}

fn schema() -> Schema {
    let mut builder = Schema::builder();
    let text = |record| {
        let indexing = TextFieldIndexing::default()
            .set_index_option(record)
            .set_tokenizer(TOKENIZER);
        TextOptions::default().set_indexing_options(indexing)
    };
    builder.add_text_field("terms", text(IndexRecordOption::WithFreqs));
    builder.add_text_field("words", text(IndexRecordOption::WithFreqsAndPositions));
    builder.add_u64_field("chunk", NumericOptions::default().set_fast());
    builder.add_u64_field(
        "document",
        NumericOptions::default().set_indexed().set_fast(),
    );
    builder.build()
}

impl Fields {
    /// An error for an index of another make.
    fn of(index: &Index) -> tantivy::Result<Self> {
        let schema = index.schema();
        if schema != self::schema() {
            return Err(TantivyError::SchemaError(
                "it was made by another version".to_owned(),
            ));
        }
        Ok(Self {
            terms: schema.get_field("terms")?,
            words: schema.get_field("words")?,
            chunk: schema.get_field("chunk")?,
            document: schema.get_field("document")?,
        })
    }

    fn term(&self, leg: Leg, text: &str) -> Term {
        match leg {
            Leg::Terms => Term::from_field_text(self.terms, text),
            Leg::Words => Term::from_field_text(self.words, text),
        }
    }
}

/// An index open for searching.
pub(crate) struct Keyword {
    index: Index,
    reader: IndexReader,
    fields: Fields,
    seen: Option<u64>,
    applied: Applied,
}

impl std::fmt::Debug for Keyword {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Keyword")
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Keyword {
    /// `None` when there is no index yet.
    pub(crate) fn open(folder: &Path) -> tantivy::Result<Option<Self>> {
        if !folder.join("meta.json").exists() {
            return Ok(None);
        }
        let index = Index::open(directory::Reading::open(folder)?)?;
        let fields = Fields::of(&index)?;
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()?;
        Ok(Some(Self {
            index,
            reader,
            fields,
            seen: None,
            applied: Applied::default(),
        }))
    }

    /// Takes up what was committed since, by whichever process. What it says is at most what it holds.
    pub(crate) fn refresh(&mut self) -> tantivy::Result<&Applied> {
        let meta = self.index.load_metas()?;
        if self.seen != Some(meta.opstamp) {
            self.reader.reload()?;
            self.applied = meta
                .payload
                .as_deref()
                .and_then(Applied::parse)
                .unwrap_or_default();
            self.seen = Some(meta.opstamp);
        }
        Ok(&self.applied)
    }

    /// The ids of all chunks in it.
    pub(crate) fn chunks(&self) -> tantivy::Result<BTreeSet<i64>> {
        let mut out = BTreeSet::new();
        for segment in self.reader.searcher().segment_readers() {
            let column = segment.fast_fields().u64("chunk")?;
            let ids = segment.doc_ids_alive().filter_map(|at| column.first(at));
            out.extend(ids.filter_map(|id| i64::try_from(id).ok()));
        }
        Ok(out)
    }

    pub(crate) fn statistics(&self, parsed: &Parsed) -> tantivy::Result<Statistics> {
        let searcher = self.reader.searcher();
        let expansions = self.expansions(&searcher, &parsed.prefixes)?;
        let wanted = (parsed.terms.iter().map(|(term, _)| (Leg::Terms, term)))
            .chain(
                parsed
                    .phrases
                    .iter()
                    .flatten()
                    .map(|word| (Leg::Words, word)),
            )
            .chain(expansions.iter().map(|word| (Leg::Words, word)));
        let mut frequencies = HashMap::new();
        for (leg, text) in wanted {
            let known = searcher.doc_freq(&self.fields.term(leg, text))?;
            frequencies.insert((leg, text.clone()), known);
        }
        Ok(Statistics {
            chunks: searcher.total_num_docs()?,
            terms: searcher.total_num_tokens(self.fields.terms)?,
            words: searcher.total_num_tokens(self.fields.words)?,
            frequencies,
            expansions,
        })
    }

    /// The most frequent words that begin so.
    fn expansions(&self, searcher: &Searcher, prefixes: &[String]) -> tantivy::Result<Vec<String>> {
        let mut all = Vec::new();
        for prefix in prefixes {
            let mut frequent: HashMap<String, u64> = HashMap::new();
            for segment in searcher.segment_readers() {
                let inverted = segment.inverted_index(self.fields.words)?;
                let mut stream = inverted
                    .terms()
                    .range()
                    .ge(prefix.as_bytes())
                    .into_stream()?;
                while let Some((term, info)) = stream.next() {
                    if !term.starts_with(prefix.as_bytes()) {
                        break;
                    }
                    *frequent
                        .entry(String::from_utf8_lossy(term).into_owned())
                        .or_default() += u64::from(info.doc_freq);
                }
            }
            let mut frequent: Vec<_> = frequent.into_iter().collect();
            frequent.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            all.extend(
                frequent
                    .into_iter()
                    .take(EXPANSIONS_MAX)
                    .map(|(word, _)| word),
            );
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Chunk ids with their scores, the best `limit` of them. `statistics` may count more than the index holds.
    pub(crate) fn search(
        &self,
        parsed: &Parsed,
        statistics: &Statistics,
        limit: usize,
        allowed: Option<Arc<Allowed>>,
    ) -> tantivy::Result<Vec<(i64, f64)>> {
        let searcher = self.reader.searcher();
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        let any = |leg, text: &str| -> (Occur, Box<dyn Query>) {
            (
                Occur::Should,
                Box::new(TermQuery::new(
                    self.fields.term(leg, text),
                    IndexRecordOption::WithFreqs,
                )),
            )
        };
        for (term, repeats) in &parsed.terms {
            // Said twice it is a clause twice: a boosted one would not be pruned.
            clauses.extend((0..(*repeats).min(8)).map(|_| any(Leg::Terms, term)));
        }
        clauses.extend(
            statistics
                .expansions
                .iter()
                .map(|word| any(Leg::Words, word)),
        );
        for phrase in &parsed.phrases {
            let all: Vec<Term> = phrase
                .iter()
                .map(|word| self.fields.term(Leg::Words, word))
                .collect();
            let required: Box<dyn Query> = match <[Term; 1]>::try_from(all) {
                Ok([one]) => Box::new(TermQuery::new(one, IndexRecordOption::WithFreqs)),
                Err(all) => Box::new(PhraseQuery::new(all)),
            };
            clauses.push((Occur::Must, required));
        }
        if clauses.is_empty() || searcher.num_docs() == 0 {
            return Ok(Vec::new());
        }
        let provider = Provider {
            statistics,
            fields: self.fields,
        };
        let mut query = BooleanQuery::new(clauses);
        let collector = TopDocs::with_limit(limit.max(1)).order_by_score();
        let top = match allowed {
            None => searcher.search_with_statistics_provider(&query, &collector, &provider)?,
            // Few are led to by their own postings; of many each match is asked.
            Some(allowed) if allowed.ids.len() <= LED_TO_MAX => {
                let any: Vec<(Occur, Box<dyn Query>)> = allowed
                    .ids
                    .iter()
                    .map(|id| {
                        let term = Term::from_field_u64(self.fields.document, id.unsigned_abs());
                        let one: Box<dyn Query> =
                            Box::new(TermQuery::new(term, IndexRecordOption::Basic));
                        (Occur::Should, one)
                    })
                    .collect();
                let only = ConstScoreQuery::new(Box::new(BooleanQuery::new(any)), 0.0);
                query = BooleanQuery::new(vec![
                    (Occur::Must, Box::new(query)),
                    (Occur::Must, Box::new(only)),
                ]);
                searcher.search_with_statistics_provider(&query, &collector, &provider)?
            }
            Some(allowed) => {
                let may = move |id: u64| allowed.has(id.cast_signed());
                let collector = FilterCollector::new("document".to_owned(), may, collector);
                searcher.search_with_statistics_provider(&query, &collector, &provider)?
            }
        };
        let mut ids = HashMap::new();
        top.into_iter()
            .map(|(score, at)| {
                let column = match ids.entry(at.segment_ord) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(new) => new.insert(
                        searcher
                            .segment_reader(at.segment_ord)
                            .fast_fields()
                            .u64("chunk")?,
                    ),
                };
                let id = column.first(at.doc_id).unwrap_or_default();
                Ok((i64::try_from(id).unwrap_or_default(), f64::from(score)))
            })
            .collect()
    }
}

/// Scores of index and tail are comparable because both count both.
struct Provider<'a> {
    statistics: &'a Statistics,
    fields: Fields,
}

impl Bm25StatisticsProvider for Provider<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        Ok(if field == self.fields.terms {
            self.statistics.terms
        } else {
            self.statistics.words
        })
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.statistics.chunks)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let leg = if term.field() == self.fields.terms {
            Leg::Terms
        } else {
            Leg::Words
        };
        let text = term.value().as_str().unwrap_or_default().to_owned();
        let known = self
            .statistics
            .frequencies
            .get(&(leg, text))
            .copied()
            .unwrap_or(0);
        Ok(known.min(self.statistics.chunks))
    }
}

/// The one writer of an index.
pub(crate) struct Writer {
    writer: IndexWriter,
    analyser: Analyser,
    fields: Fields,
    pub(crate) applied: Applied,
}

impl Writer {
    /// `None` when another process writes it. Makes the index when there is none. `chunks`: how many are to come.
    pub(crate) fn open(folder: &Path, chunks: usize) -> tantivy::Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let index = Index::open_or_create(directory::Reading::open(folder)?, schema())?;
        index.tokenizers().register(TOKENIZER, Cut::default());
        let fields = Fields::of(&index)?;
        let bytes = chunks.saturating_mul(CHUNK_BYTES);
        let bytes = bytes.clamp(WRITER_BYTES_MIN, WRITER_BYTES_MAX);
        let writer = match index.writer_with_num_threads(1, bytes) {
            Ok(writer) => writer,
            Err(TantivyError::LockFailure(..)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let payload = index.load_metas()?.payload;
        let applied = payload
            .as_deref()
            .and_then(Applied::parse)
            .unwrap_or_default();
        Ok(Some(Self {
            writer,
            analyser: Analyser::new(),
            fields,
            applied,
        }))
    }

    /// Whether it holds anything of another database: only an empty one may be filled.
    pub(crate) fn is_of(&self, store: &str) -> bool {
        self.applied.store == store || self.applied == Applied::default()
    }

    /// Everything goes with the next commit.
    pub(crate) fn clear(&mut self) -> tantivy::Result<()> {
        self.writer.delete_all_documents()?;
        self.applied = Applied::default();
        Ok(())
    }

    pub(crate) fn remove(&self, document: i64) {
        self.writer.delete_term(Term::from_field_u64(
            self.fields.document,
            document.unsigned_abs(),
        ));
    }

    pub(crate) fn add(&mut self, chunk: i64, document: i64, text: &str) -> tantivy::Result<()> {
        self.analyser.see(text);
        let mut row = TantivyDocument::default();
        row.add_text(self.fields.terms, self.analyser.terms.as_str());
        row.add_text(self.fields.words, self.analyser.words.as_str());
        row.add_u64(self.fields.chunk, chunk.unsigned_abs());
        row.add_u64(self.fields.document, document.unsigned_abs());
        self.writer.add_document(row)?;
        Ok(())
    }

    pub(crate) fn commit(&mut self, applied: Applied) -> tantivy::Result<()> {
        let mut commit = self.writer.prepare_commit()?;
        commit.set_payload(&applied.payload());
        commit.commit()?;
        self.applied = applied;
        Ok(())
    }

    /// Waits for merges, so that what it leaves behind is small.
    pub(crate) fn close(self) -> tantivy::Result<()> {
        self.writer.wait_merging_threads()
    }
}

/// Holds the writer's place in a folder whose index can't be opened; `None` when another process has it.
pub(crate) fn lock(folder: &Path) -> tantivy::Result<Option<DirectoryLock>> {
    match directory::Reading::open(folder)?.acquire_lock(&INDEX_WRITER_LOCK) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::LockBusy) => Ok(None),
        Err(error @ LockError::IoError(_)) => Err(TantivyError::LockFailure(error, None)),
    }
}

/// Cuts what the analyser joined. (Tantivy's own pre-cut text goes through JSON, which took most of the time.)
#[derive(Debug, Clone, Default)]
struct Cut {
    token: Token,
}

struct Pieces<'a> {
    rest: Option<&'a str>,
    token: &'a mut Token,
}

impl Tokenizer for Cut {
    type TokenStream<'a> = Pieces<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Pieces<'a> {
        self.token.reset();
        Pieces {
            rest: (!text.is_empty()).then_some(text),
            token: &mut self.token,
        }
    }
}

impl TokenStream for Pieces<'_> {
    fn advance(&mut self) -> bool {
        let Some(rest) = self.rest else {
            return false;
        };
        // A search for one character is made for longer texts than words.
        let end = rest.bytes().position(|b| b == BETWEEN as u8);
        let piece = &rest[..end.unwrap_or(rest.len())];
        self.rest = end.map(|end| &rest[end + 1..]);
        self.token.position = self.token.position.wrapping_add(1);
        self.token.text.clear();
        self.token.text.push_str(piece);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}
