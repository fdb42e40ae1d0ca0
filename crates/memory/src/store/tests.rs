use super::*;
use crate::terms;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn agent(name: &str) -> Agent {
    Agent::parse(name).unwrap()
}

fn memory() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
    (dir, memory)
}

fn paths(memory: &Memory, who: &str, text: &str) -> Vec<String> {
    let found = memory.search(&agent(who), &Query::new(text)).unwrap();
    found.hits.into_iter().map(|hit| hit.path).collect()
}

#[test]
fn what_is_written_is_found_at_once_with_its_lines_best_first() {
    let (_dir, mut memory) = memory();
    let main = agent("main");
    memory
        .put(&main, "a.md", "the cat sat\non the mat")
        .unwrap();
    memory
        .put(&main, "b.md", "# Notes\n\nset retry_after to 30\n")
        .unwrap();
    assert!(
        !memory
            .put(&main, "a.md", "the cat sat\non the mat")
            .unwrap()
    );
    let found = memory
        .search(&main, &Query::new("what is retry_after?"))
        .unwrap();
    assert_eq!(found.hits[0].path, "b.md");
    assert_eq!((found.hits[0].start_line, found.hits[0].end_line), (1, 3));
    assert!((found.hits[0].score - 1.0).abs() < 1e-9 && !found.partial);
    assert!(memory.forget(&main, "b.md").unwrap() && !memory.forget(&main, "b.md").unwrap());
    assert_eq!(paths(&memory, "main", "retry_after"), [""; 0]);
    assert_eq!(
        memory.status(&main).unwrap(),
        Status {
            documents: 1,
            chunks: 1,
            pending: 1,
            degraded: None
        }
    );
}

#[test]
fn a_rare_word_weighs_more_than_a_common_one() {
    let (_dir, mut memory) = memory();
    for n in 0..8 {
        memory
            .put(&agent("main"), &format!("{n}.md"), "deploy deploy deploy")
            .unwrap();
    }
    memory
        .put(&agent("main"), "rare.md", "the zebra walks home")
        .unwrap();
    assert_eq!(paths(&memory, "main", "deploy zebra")[0], "rare.md");
}

#[test]
fn no_agent_sees_or_changes_anothers() {
    let (_dir, mut memory) = memory();
    memory.put(&agent("a"), "same.md", "secret of a").unwrap();
    memory.put(&agent("b"), "same.md", "secret of b").unwrap();
    assert!(!memory.forget(&agent("c"), "same.md").unwrap());
    memory.forget(&agent("a"), "same.md").unwrap();
    assert_eq!(
        memory.get(&agent("b"), "same.md").unwrap().unwrap(),
        "secret of b"
    );
    assert_eq!(paths(&memory, "a", "secret"), [""; 0]);
    assert_eq!(paths(&memory, "b", "secret"), ["same.md"]);
    assert!(matches!(Agent::parse(" "), Err(MemoryError::Agent)));
}

#[test]
fn limits_hold() {
    let (_dir, mut memory) = memory();
    let main = agent("main");
    let huge = "x".repeat(DOCUMENT_BYTES_MAX + 1);
    assert!(matches!(
        memory.put(&main, "huge", &huge),
        Err(MemoryError::TooLarge { .. })
    ));
    memory.put(&main, "nul", "zero\0byte").unwrap();
    assert_eq!(paths(&memory, "main", "byte"), ["nul"]);
    let late = Query {
        deadline: Some(Instant::now()),
        ..Query::new("byte")
    };
    assert!(memory.search(&main, &late).unwrap().partial);
}

#[test]
fn a_foreign_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.sqlite");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        Memory::open(&path),
        Err(MemoryError::Schema { found: 0, .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

fn indexed(memory: &mut Memory, who: &str) {
    assert!(matches!(
        memory.index(&agent(who), |_, _| {}).unwrap(),
        Indexed::Done(_)
    ));
}

/// Three words of twelve in each of 300 documents, the same for every run.
fn fill(memory: &mut Memory, who: &str, range: std::ops::Range<usize>) {
    let words = [
        "deploy",
        "zebra",
        "retry_after",
        "garden",
        "payment",
        "letter",
        "running",
        "friday",
        "kitchen",
        "router",
        "cafe",
        "東京都",
    ];
    let mut seed = 7_u64;
    let mut next = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        words[(seed >> 33) as usize % words.len()]
    };
    for n in 0..range.end {
        let text = format!("{} {} {} {}", next(), next(), next(), next());
        if range.contains(&n) {
            memory.put(&agent(who), &format!("{n}.md"), &text).unwrap();
        }
    }
}

const QUERIES: [&str; 9] = [
    "zebra",
    "deploy the router on friday",
    "retry_after",
    "\"payment letter\"",
    "\"zebra\" garden",
    "gard* kit*",
    "runs",
    "Café",
    "京都",
];

#[test]
fn an_index_finds_what_reading_everything_finds_in_the_same_order_and_half_an_index_too() {
    let (_dir, mut plain) = memory();
    let (_other, mut half) = memory();
    fill(&mut plain, "main", 0..300);
    fill(&mut half, "main", 0..150);
    indexed(&mut half, "main");
    fill(&mut half, "main", 150..300);
    let ask = |memory: &Memory, text: &str| {
        let query = Query {
            limit: 300,
            ..Query::new(text)
        };
        let found = memory.search(&agent("main"), &query).unwrap();
        assert_eq!((found.partial, found.degraded), (false, None));
        assert!(!found.hits.is_empty(), "{text}");
        found.hits
    };
    let scores =
        |hits: &[Hit]| -> Vec<f64> { hits.iter().map(|hit| (hit.score * 1e3).round()).collect() };
    let sorted =
        |hits: Vec<Hit>| -> BTreeSet<String> { hits.into_iter().map(|hit| hit.path).collect() };
    for text in QUERIES {
        assert_eq!(
            scores(&ask(&half, text)),
            scores(&ask(&plain, text)),
            "{text}"
        );
    }
    indexed(&mut half, "main");
    assert_eq!(half.status(&agent("main")).unwrap().pending, 0);
    for text in QUERIES {
        assert_eq!(
            scores(&ask(&half, text)),
            scores(&ask(&plain, text)),
            "{text}"
        );
    }
    // Replaced twice: the index holds rows that are gone, which weigh a little until they are merged away.
    for n in 100..200 {
        let path = format!("{n}.md");
        let text = half.get(&agent("main"), &path).unwrap().unwrap();
        half.put(&agent("main"), &path, "for now").unwrap();
        half.put(&agent("main"), &path, &text).unwrap();
    }
    for _ in 0..2 {
        for text in QUERIES {
            assert_eq!(
                sorted(ask(&half, text)),
                sorted(ask(&plain, text)),
                "{text}"
            );
        }
        indexed(&mut half, "main");
    }
}

#[test]
fn a_broken_or_foreign_index_is_said_and_made_again_and_the_answer_stays() {
    let (dir, mut memory) = memory();
    fill(&mut memory, "main", 0..300);
    indexed(&mut memory, "main");
    let before = paths(&memory, "main", "zebra");
    let folder = dir.path().join("memory.sqlite.index/1");
    std::fs::write(folder.join("meta.json"), "{").unwrap();
    let again = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
    let found = again.search(&agent("main"), &Query::new("zebra")).unwrap();
    assert!(found.degraded.unwrap().contains("memory rebuild"));
    let found: Vec<String> = found.hits.into_iter().map(|hit| hit.path).collect();
    assert_eq!(found.len(), before.len());
    assert!(again.status(&agent("main")).unwrap().degraded.is_some());
    let mut again = again;
    indexed(&mut again, "main");
    assert_eq!(again.status(&agent("main")).unwrap().degraded, None);
    assert_eq!(paths(&again, "main", "zebra"), before);

    // The same folder beside another database.
    let (other_dir, mut other) = self::memory();
    other.put(&agent("main"), "x.md", "one zebra").unwrap();
    let theirs = other_dir.path().join("memory.sqlite.index");
    std::fs::rename(dir.path().join("memory.sqlite.index"), &theirs).unwrap();
    assert_eq!(paths(&other, "main", "zebra"), ["x.md"]);
    indexed(&mut other, "main");
    assert_eq!(paths(&other, "main", "zebra"), ["x.md"]);
    assert_eq!(other.status(&agent("main")).unwrap().pending, 0);
}

#[test]
fn an_index_that_breaks_under_an_open_reader_costs_no_hit() {
    let (dir, mut memory) = memory();
    fill(&mut memory, "main", 0..300);
    indexed(&mut memory, "main");
    let before = paths(&memory, "main", "zebra");
    for entry in std::fs::read_dir(dir.path().join("memory.sqlite.index/1")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "idx") {
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap();
        }
    }
    let found = memory.search(&agent("main"), &Query::new("zebra")).unwrap();
    assert!(found.degraded.is_some());
    let found: Vec<String> = found.hits.into_iter().map(|hit| hit.path).collect();
    assert_eq!(found, before);
}

#[test]
fn while_one_process_writes_an_index_another_goes_on() {
    let (dir, mut memory) = memory();
    fill(&mut memory, "main", 0..300);
    let held = Writer::open(&dir.path().join("memory.sqlite.index/1"), 0).unwrap();
    assert!(held.is_some());
    assert_eq!(
        memory.index(&agent("main"), |_, _| {}).unwrap(),
        Indexed::Busy
    );
    assert!(!paths(&memory, "main", "zebra").is_empty());
    // Neither an empty nor a broken index is taken from whoever writes it.
    let meta = dir.path().join("memory.sqlite.index/1/meta.json");
    let whole = std::fs::read(&meta).unwrap();
    for content in [&whole[..], b"{"] {
        std::fs::write(&meta, content).unwrap();
        let rebuilt = memory.rebuild(&agent("main"), |_, _| {}).unwrap();
        assert_eq!(rebuilt, Indexed::Busy);
        assert_eq!(std::fs::read(&meta).unwrap(), content);
    }
    std::fs::write(&meta, whole).unwrap();
    drop(held);
    indexed(&mut memory, "main");
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, String),
    Forget(u8, u8),
    Reopen,
    Index,
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2u8, 0..4u8, "([a-d]{1,2} ){0,6}").prop_map(|(who, doc, text)| Step::Put(who, doc, text)),
        2 => (0..2u8, 0..4u8).prop_map(|(who, doc)| Step::Forget(who, doc)),
        1 => Just(Step::Reopen),
        2 => Just(Step::Index),
        1 => Just(Step::Rebuild),
    ];
    proptest::collection::vec(step, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn after_any_steps_a_search_finds_what_a_map_would(steps in steps(), query in "([a-d]{1,2} ){1,3}") {
        let (dir, mut memory) = memory();
        let mut model: BTreeMap<(u8, String), String> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(who, doc, text) => {
                    memory.put(&agent(&who.to_string()), &doc.to_string(), &text).unwrap();
                    model.insert((who, doc.to_string()), text);
                }
                Step::Forget(who, doc) => {
                    let had = memory.forget(&agent(&who.to_string()), &doc.to_string()).unwrap();
                    prop_assert_eq!(had, model.remove(&(who, doc.to_string())).is_some());
                }
                Step::Index => {
                    for who in 0..2u8 {
                        memory.index(&agent(&who.to_string()), |_, _| {}).unwrap();
                    }
                }
                Step::Rebuild => {
                    memory.rebuild(&agent("0"), |_, _| {}).unwrap();
                }
                Step::Reopen => memory = Memory::open(&dir.path().join("memory.sqlite")).unwrap(),
            }
        }
        let wanted: BTreeSet<String> = terms(&query).into_iter().collect();
        for who in 0..2u8 {
            let expected: BTreeSet<String> = model.iter()
                .filter(|((owner, _), text)| *owner == who && terms(text).iter().any(|term| wanted.contains(term)))
                .map(|((_, path), _)| path.clone())
                .collect();
            let found: BTreeSet<String> = paths(&memory, &who.to_string(), &query).into_iter().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
