//! The vector index of one agent and model: derived from the database, may be deleted at any time, one folder each.
//!
//! Every vector is kept as one bit for each dimension, which are scanned flat, and as bytes, by which the nearest of
//! that scan are put in order. The database has the exact ones, for the last fifty. Nothing is held in memory: files
//! are read by `pread`, since what is scanned at every question is in the page cache anyway.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const VERSION: &str = "1";
/// Read at once while scanning.
const BLOCK_BYTES: usize = 256 * 1024;
/// The nearest by bits that are looked at by bytes: this many at least, and one of so many vectors.
const CANDIDATES_MIN: usize = 1000;
const CANDIDATES_MAX: usize = 4000;
const CANDIDATE_OF: usize = 500;
/// Vectors of fewer numbers have fewer bits to tell them apart: twice as many are looked at.
const FEW_DIMENSIONS: usize = 256;
/// Vectors whose mean is taken off before signs are: a model's vectors all lean to one side.
const MEAN_OF: usize = 10_000;
pub(crate) const HEAD: &str = "head";
const CODES: &str = "codes";
const ROWS: &str = "rows";
const MEAN: &str = "mean";

/// Up to where an index holds the database, and of which database and model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) store: String,
    pub(crate) dimensions: usize,
    pub(crate) count: usize,
    /// The last row of the table `vector` that is in it.
    pub(crate) applied: i64,
}

impl Head {
    fn read(folder: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(folder.join(HEAD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let parse = || {
            let mut parts = text.trim_end().split(' ');
            let version = parts.next()?;
            let head = Self {
                store: parts.next()?.to_owned(),
                dimensions: parts.next()?.parse().ok()?,
                count: parts.next()?.parse().ok()?,
                applied: parts.next()?.parse().ok()?,
            };
            (version == VERSION && head.dimensions > 0).then_some(head)
        };
        parse()
            .map(Some)
            .ok_or_else(|| broken("its head is of another make"))
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let aside = folder.join("head.new");
        let mut file = File::create(&aside)?;
        let Self {
            store,
            dimensions,
            count,
            applied,
        } = self;
        file.write_all(format!("{VERSION} {store} {dimensions} {count} {applied}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(aside, folder.join(HEAD))?;
        File::open(folder)?.sync_all()
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Bytes of one vector in each file: its document's id before its bits; its chunk's and its scale before its bytes.
const fn code_bytes(dimensions: usize) -> usize {
    8 + dimensions.div_ceil(64) * 8
}

const fn row_bytes(dimensions: usize) -> usize {
    12 + dimensions
}

/// To length one; one of zeros stays so.
pub(crate) fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_finite() && length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums, so that the compiler may take eight at a time: it must not reorder one.
    let mut sums = [0.0_f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a8.zip(b8) {
        for at in 0..8 {
            sums[at] += x[at] * y[at];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// One bit for each dimension: on which side of the mean it is.
fn bits(vector: &[f32], mean: &[f32]) -> Vec<u64> {
    let mut words = vec![0_u64; vector.len().div_ceil(64)];
    for (at, (x, mean)) in vector.iter().zip(mean).enumerate() {
        words[at / 64] |= u64::from(x > mean) << (at % 64);
    }
    words
}

fn bytes(vector: &[f32]) -> (f32, Vec<i8>) {
    let most = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = most / 127.0;
    let each = vector.iter().map(|x| {
        if scale > 0.0 {
            (x / scale).round() as i8
        } else {
            0
        }
    });
    (scale, each.collect())
}

fn byte_dot(a: &[i8], b: &[u8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| i32::from(x) * i32::from(y as i8))
        .sum()
}

fn distance(code: &[u8], query: &[u64]) -> u32 {
    code.as_chunks::<8>()
        .0
        .iter()
        .zip(query)
        .map(|(word, query)| (u64::from_le_bytes(*word) ^ query).count_ones())
        .sum()
}

/// An index open for searching.
#[derive(Debug)]
pub(crate) struct Vectors {
    pub(crate) head: Head,
    codes: File,
    rows: File,
    mean: Vec<f32>,
}

/// A vector's chunk and how near it seems, by bytes: an estimate of the cosine.
pub(crate) type Near = (i64, f32);

impl Vectors {
    /// `None` when there is none yet.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<Self>> {
        let Some(head) = Head::read(folder)? else {
            return Ok(None);
        };
        let open = |name, each: usize| {
            let file = File::open(folder.join(name))?;
            let whole = file.metadata()?.len() >= (each * head.count) as u64;
            whole
                .then_some(file)
                .ok_or_else(|| broken("it is shorter than it says"))
        };
        Ok(Some(Self {
            codes: open(CODES, code_bytes(head.dimensions))?,
            rows: open(ROWS, row_bytes(head.dimensions))?,
            mean: read_mean(folder, head.dimensions)?,
            head,
        }))
    }

    /// Whether nobody has gone on with it since.
    pub(crate) fn is_current(&self, folder: &Path) -> bool {
        matches!(Head::read(folder), Ok(Some(head)) if head == self.head)
    }

    /// The ids of all chunks in it, of some that are gone too.
    pub(crate) fn chunks(&self) -> io::Result<BTreeSet<i64>> {
        let mut out = BTreeSet::new();
        let each = row_bytes(self.head.dimensions) as u64;
        let mut id = [0; 8];
        for at in 0..self.head.count as u64 {
            self.rows.read_exact_at(&mut id, at * each)?;
            out.insert(i64::from_le_bytes(id));
        }
        Ok(out)
    }

    /// The nearest of those whose document is allowed, nearest first; `true` when the deadline ended the scan early.
    pub(crate) fn nearest(
        &self,
        query: &[f32],
        allowed: impl Fn(i64) -> bool,
        deadline: Option<Instant>,
    ) -> io::Result<(Vec<Near>, bool)> {
        if query.len() != self.head.dimensions {
            return Err(broken(
                "its vectors are of another length than the question's",
            ));
        }
        let keep = (self.head.count / CANDIDATE_OF).clamp(CANDIDATES_MIN, CANDIDATES_MAX);
        let keep = keep
            * if self.head.dimensions < FEW_DIMENSIONS {
                2
            } else {
                1
            };
        let (candidates, partial) = self.scan(&bits(query, &self.mean), keep, allowed, deadline)?;
        let (scale, query) = bytes(query);
        let mut row = vec![0; row_bytes(self.head.dimensions)];
        let mut out = Vec::with_capacity(candidates.len());
        let each_bytes = row.len() as u64;
        for (_, at) in candidates {
            self.rows.read_exact_at(&mut row, at as u64 * each_bytes)?;
            let parts = row.split_first_chunk::<8>();
            let parts =
                parts.and_then(|(chunk, rest)| Some((chunk, rest.split_first_chunk::<4>()?)));
            let (chunk, (theirs, each)) = parts.ok_or_else(|| broken("a row is short"))?;
            let near = byte_dot(&query, each) as f32 * scale * f32::from_le_bytes(*theirs);
            out.push((i64::from_le_bytes(*chunk), near));
        }
        out.sort_by(|a: &Near, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok((out, partial))
    }

    /// Distance and place of the `keep` nearest by bits, in the order of their places.
    fn scan(
        &self,
        query: &[u64],
        keep: usize,
        allowed: impl Fn(i64) -> bool,
        deadline: Option<Instant>,
    ) -> io::Result<(Vec<(u32, usize)>, bool)> {
        let each = code_bytes(self.head.dimensions);
        let block = (BLOCK_BYTES / each).max(1);
        let mut buffer = vec![0; block * each];
        let mut found: Vec<(u32, usize)> = Vec::with_capacity(keep * 3);
        let (mut limit, mut at) = (u32::MAX, 0);
        while at < self.head.count {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let here = block.min(self.head.count - at);
            let codes = &mut buffer[..here * each];
            self.codes.read_exact_at(codes, (at * each) as u64)?;
            for (place, code) in codes.chunks_exact(each).enumerate() {
                let Some((document, code)) = code.split_first_chunk::<8>() else {
                    continue;
                };
                let distance = distance(code, query);
                if distance < limit && allowed(i64::from_le_bytes(*document)) {
                    found.push((distance, at + place));
                }
            }
            if found.len() > keep * 2 {
                found.select_nth_unstable(keep);
                limit = found[keep].0;
                found.truncate(keep);
            }
            at += here;
        }
        if found.len() > keep {
            found.select_nth_unstable(keep);
            found.truncate(keep);
        }
        found.sort_unstable_by_key(|&(_, place)| place);
        Ok((found, at < self.head.count))
    }
}

fn read_mean(folder: &Path, dimensions: usize) -> io::Result<Vec<f32>> {
    let bytes = std::fs::read(folder.join(MEAN))?;
    let mean: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|x| f32::from_le_bytes(*x))
        .collect();
    (mean.len() == dimensions)
        .then_some(mean)
        .ok_or_else(|| broken("its mean is of another length"))
}

struct Waiting {
    chunk: i64,
    document: i64,
    vector: Vec<f32>,
}

/// The one writer of an index.
pub(crate) struct VectorWriter {
    folder: PathBuf,
    pub(crate) head: Head,
    /// Held as long as it writes.
    _lock: File,
    /// Not yet written; the first of an index wait for their mean.
    waiting: Vec<Waiting>,
    mean: Option<Vec<f32>>,
    codes: io::BufWriter<File>,
    rows: io::BufWriter<File>,
}

impl VectorWriter {
    /// `None` when another process writes it. One that is broken, or of another database or length, begins anew, as
    /// does any with `anew`.
    pub(crate) fn open(
        folder: &Path,
        store: &str,
        dimensions: usize,
        anew: bool,
    ) -> io::Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let fresh = Head {
            store: store.to_owned(),
            dimensions,
            ..Head::default()
        };
        let known = Vectors::open(folder).ok().flatten();
        let known = known.filter(|known| {
            !anew && known.head.store == store && known.head.dimensions == dimensions
        });
        let head = known.as_ref().map_or(fresh, |known| known.head.clone());
        if known.is_none() {
            // Readers of the old one have its files open; new ones find none until this is done.
            for name in [HEAD, CODES, ROWS, MEAN] {
                match std::fs::remove_file(folder.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        let open = |name, each: usize| -> io::Result<io::BufWriter<File>> {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(folder.join(name))?;
            // What a crash left behind the last head.
            file.set_len((each * head.count) as u64)?;
            Ok(io::BufWriter::new(file))
        };
        Ok(Some(Self {
            codes: open(CODES, code_bytes(dimensions))?,
            rows: open(ROWS, row_bytes(dimensions))?,
            mean: known.map(|known| known.mean),
            waiting: Vec::new(),
            folder: folder.to_owned(),
            _lock: lock,
            head,
        }))
    }

    /// `row`: the vector's own id in the database, growing.
    pub(crate) fn add(
        &mut self,
        row: i64,
        chunk: i64,
        document: i64,
        vector: Vec<f32>,
    ) -> io::Result<()> {
        if vector.len() != self.head.dimensions {
            return Err(broken("a vector of another length"));
        }
        self.head.applied = row;
        self.waiting.push(Waiting {
            chunk,
            document,
            vector,
        });
        if self.waiting.len() >= MEAN_OF {
            self.write()
        } else {
            Ok(())
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let mean = match self.mean.take() {
            Some(mean) => mean,
            None => {
                let mut sums = vec![0.0; self.head.dimensions];
                for one in &waiting {
                    sums.iter_mut()
                        .zip(&one.vector)
                        .for_each(|(sum, x)| *sum += x);
                }
                let mean: Vec<f32> = sums.iter().map(|sum| sum / waiting.len() as f32).collect();
                let bytes: Vec<u8> = mean.iter().flat_map(|x| x.to_le_bytes()).collect();
                std::fs::write(self.folder.join(MEAN), bytes)?;
                File::open(self.folder.join(MEAN))?.sync_all()?;
                mean
            }
        };
        for Waiting {
            chunk,
            document,
            vector,
        } in &waiting
        {
            self.codes.write_all(&document.to_le_bytes())?;
            for word in bits(vector, &mean) {
                self.codes.write_all(&word.to_le_bytes())?;
            }
            let (scale, each) = bytes(vector);
            self.rows.write_all(&chunk.to_le_bytes())?;
            self.rows.write_all(&scale.to_le_bytes())?;
            let each: Vec<u8> = each.into_iter().map(|x| x as u8).collect();
            self.rows.write_all(&each)?;
        }
        self.mean = Some(mean);
        self.head.count += waiting.len();
        Ok(())
    }

    /// What was added is in the index from here on.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        self.write()?;
        if self.head.count == 0 {
            return Ok(());
        }
        for file in [&mut self.codes, &mut self.rows] {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        self.head.write(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Points around centres, as the vectors of texts on some subjects are, the same for a seed.
    fn clustered(seed: u64, count: usize, dimensions: usize) -> Vec<Vec<f32>> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let lean: Vec<f32> = (0..dimensions).map(|_| next() * 0.5).collect();
        let centres: Vec<Vec<f32>> = (0..20)
            .map(|_| (0..dimensions).map(|_| next()).collect())
            .collect();
        (0..count)
            .map(|n| {
                let centre = &centres[n % centres.len()];
                normalised(
                    centre
                        .iter()
                        .zip(&lean)
                        .map(|(x, lean)| x + lean + next() * 1.5)
                        .collect(),
                )
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn nine_and_a_half_of_ten_are_the_exact_scans(seed: u64, dimensions in 96..400_usize, reopened: bool) {
            let dir = tempfile::tempdir().unwrap();
            let all = clustered(seed, 6000, dimensions);
            let (kept, queries) = all.split_at(5900);
            let open = || VectorWriter::open(dir.path(), "s", dimensions, false).unwrap().unwrap();
            let mut writer = open();
            for (at, vector) in kept.iter().enumerate() {
                writer.add(at as i64 + 1, at as i64, at as i64 % 11, vector.clone()).unwrap();
                if reopened && at == 4000 {
                    writer.commit().unwrap();
                    drop(writer);
                    writer = open();
                }
            }
            writer.commit().unwrap();
            let index = Vectors::open(dir.path()).unwrap().unwrap();
            prop_assert_eq!((index.head.count, index.head.applied), (kept.len(), kept.len() as i64));
            let mut same = 0;
            for query in queries {
                let mut exact: Vec<(i64, f32)> =
                    kept.iter().enumerate().map(|(at, vector)| (at as i64, dot(query, vector))).collect();
                exact.sort_by(|a, b| b.1.total_cmp(&a.1));
                let (mut near, partial) = index.nearest(query, |_| true, None).unwrap();
                prop_assert!(!partial);
                near.truncate(50);
                near.iter_mut().for_each(|(at, score)| *score = dot(query, &kept[*at as usize]));
                near.sort_by(|a, b| b.1.total_cmp(&a.1));
                same += exact[..10].iter().filter(|(at, _)| near[..10].iter().any(|(near, _)| near == at)).count();
            }
            prop_assert!(same >= queries.len() * 10 * 95 / 100, "{same} of {}", queries.len() * 10);
            // A filter is a filter, and the nearest allowed one is found.
            let (near, _) = index.nearest(&kept[77], |document| document == 0, None).unwrap();
            prop_assert!(near.iter().all(|(chunk, _)| chunk % 11 == 0));
            prop_assert_eq!(near[0].0, 77);
        }
    }

    #[test]
    fn a_crash_between_commits_mixes_nothing_and_a_foreign_index_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let all = clustered(1, 300, 40);
        let fill = |writer: &mut VectorWriter, range: std::ops::Range<usize>| {
            for at in range {
                writer
                    .add(at as i64 + 1, at as i64, 1, all[at].clone())
                    .unwrap();
            }
        };
        let open = |store| VectorWriter::open(dir.path(), store, 40, false).unwrap();
        let mut writer = open("s").unwrap();
        assert!(open("s").is_none(), "one writer");
        fill(&mut writer, 0..100);
        writer.commit().unwrap();
        drop(writer);
        for name in [CODES, ROWS] {
            let mut file = OpenOptions::new()
                .append(true)
                .open(dir.path().join(name))
                .unwrap();
            file.write_all(&[7; 33]).unwrap();
        }
        let mut writer = open("s").unwrap();
        assert_eq!(writer.head.count, 100);
        fill(&mut writer, 100..300);
        writer.commit().unwrap();
        drop(writer);
        let index = Vectors::open(dir.path()).unwrap().unwrap();
        for at in [0, 99, 100, 299] {
            assert_eq!(
                index.nearest(&all[at], |_| true, None).unwrap().0[0].0,
                at as i64
            );
        }
        let late = index
            .nearest(&all[0], |_| true, Some(Instant::now()))
            .unwrap();
        assert!(late.0.is_empty() && late.1);
        OpenOptions::new()
            .write(true)
            .open(dir.path().join(ROWS))
            .unwrap()
            .set_len(10)
            .unwrap();
        assert!(Vectors::open(dir.path()).is_err());
        assert_eq!(open("s").unwrap().head.count, 0);
        assert_eq!(open("other").unwrap().head.count, 0);
    }
}
