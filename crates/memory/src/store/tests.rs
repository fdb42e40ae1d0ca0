mod files;

use super::*;
use crate::{
    EmbedError, Embedder, EmbedderSettings, Filter, Found, Hit, Mode, Model, Purpose, Query, terms,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

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
    assert_eq!((found.hits[0].start_line, found.hits[0].end_line), (1, 4));
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

/// Texts by the letters they have in threes, hashed to 64 numbers: near is alike, and nobody is asked.
struct Letters {
    model: Model,
    asked: std::sync::atomic::AtomicUsize,
    broken: bool,
}

fn letters(name: &str) -> Letters {
    Letters {
        model: Model {
            provider: "test".to_owned(),
            name: name.to_owned(),
            dimensions: None,
        },
        asked: 0.into(),
        broken: false,
    }
}

fn letters_of(text: &str) -> Vec<f32> {
    let mut out = vec![0.01; 64];
    for three in text.to_lowercase().as_bytes().windows(3) {
        let at = three
            .iter()
            .fold(7_usize, |at, &b| at.wrapping_mul(31) + usize::from(b));
        out[at % 64] += 1.0;
    }
    out
}

impl Embedder for Letters {
    fn model(&self) -> &Model {
        &self.model
    }

    fn embed(
        &self,
        _: Purpose,
        texts: &[&str],
        _: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        if self.broken {
            return Err(EmbedError::Settings("out of order".to_owned()));
        }
        self.asked
            .fetch_add(texts.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(texts.iter().map(|text| letters_of(text)).collect())
    }
}

fn by_meaning(memory: &Memory, who: &str, query: &Query, embedder: &Letters) -> Found {
    memory
        .search_with(&agent(who), query, Some(embedder))
        .unwrap()
}

#[test]
fn what_no_word_finds_is_found_by_meaning_and_no_embedder_costs_no_word() {
    let (_dir, mut memory) = memory();
    let main = agent("main");
    for (path, text) in [
        ("a.md", "deployments happen on fridays"),
        ("b.md", "the zebra sleeps"),
        ("c.md", "colours of autumn"),
    ] {
        memory.put(&main, path, text).unwrap();
        memory
            .put(&agent("other"), path, &format!("{text} redeployment"))
            .unwrap();
    }
    let mut embedder = letters("one");
    let query = Query::new("redeployment");
    let before = by_meaning(&memory, "main", &query, &embedder);
    assert!(before.hits.is_empty() && before.degraded.unwrap().contains("memory index"));
    assert_eq!(
        memory.embed(&main, &embedder, |_, _| {}).unwrap(),
        Embedded {
            chunks: 3,
            asked: 3
        }
    );
    let status = VectorStatus {
        dimensions: 64,
        vectors: 3,
        missing: 0,
    };
    assert_eq!(
        memory.vector_status(&main, &embedder.model).unwrap(),
        status
    );
    let found = by_meaning(&memory, "main", &query, &embedder);
    assert_eq!((found.mode, &found.degraded), (Mode::Hybrid, &None));
    assert_eq!(found.hits[0].path, "a.md");
    let explain = found.hits[0].explain;
    assert!(
        explain.keyword.is_none() && explain.vector.unwrap() > 0.3 && found.hits[0].score == 1.0
    );
    // Both legs: the word's hit is first, and says so.
    let both = by_meaning(&memory, "main", &Query::new("zebra"), &embedder);
    assert_eq!(both.hits[0].path, "b.md");
    assert!(both.hits[0].explain.keyword.is_some() && both.hits[0].explain.vector.is_some());
    // A phrase is for the words alone.
    let phrase = by_meaning(&memory, "main", &Query::new("\"zebra sleeps\""), &embedder);
    assert_eq!((phrase.mode, phrase.hits.len()), (Mode::Keyword, 1));
    // A text that is known is not asked for again, under whatever name or agent.
    let asked = embedder.asked.load(std::sync::atomic::Ordering::Relaxed);
    memory.forget(&main, "b.md").unwrap();
    memory
        .put(&agent("third"), "x.md", "the zebra sleeps")
        .unwrap();
    let again = memory.embed(&agent("third"), &embedder, |_, _| {}).unwrap();
    assert_eq!(
        again,
        Embedded {
            chunks: 1,
            asked: 0
        }
    );
    assert_eq!(
        embedder.asked.load(std::sync::atomic::Ordering::Relaxed),
        asked
    );
    let found = by_meaning(&memory, "main", &Query::new("zebra"), &embedder);
    assert!(found.hits.iter().all(|hit| hit.path != "b.md"));
    embedder.broken = true;
    let broken = by_meaning(&memory, "main", &Query::new("autumn"), &embedder);
    assert_eq!(
        (broken.mode, &broken.hits[0].path[..]),
        (Mode::Keyword, "c.md")
    );
    assert!(broken.degraded.unwrap().contains("out of order"));
    assert!(memory.embed(&agent("other"), &embedder, |_, _| {}).is_err());
}

#[test]
fn a_model_is_never_mixed_with_another() {
    let (_dir, mut memory) = memory();
    let main = agent("main");
    fill(&mut memory, "main", 0..40);
    let (one, two) = (letters("one"), letters("two"));
    memory.embed(&main, &one, |_, _| {}).unwrap();
    let found = by_meaning(&memory, "main", &Query::new("zebra"), &two);
    assert_eq!(found.mode, Mode::Keyword);
    memory.embed(&main, &two, |_, _| {}).unwrap();
    assert_eq!(
        by_meaning(&memory, "main", &Query::new("zebra"), &two).mode,
        Mode::Hybrid
    );
    assert_eq!(memory.vector_status(&main, &one.model).unwrap().vectors, 40);
    struct Longer(Model);
    impl Embedder for Longer {
        fn model(&self) -> &Model {
            &self.0
        }
        fn embed(
            &self,
            _: Purpose,
            texts: &[&str],
            _: Option<Instant>,
        ) -> Result<Vec<Vec<f32>>, EmbedError> {
            Ok(texts.iter().map(|_| vec![1.0; 65]).collect())
        }
    }
    let longer = Longer(one.model);
    memory.put(&main, "new.md", "one more").unwrap();
    let error = memory.embed(&main, &longer, |_, _| {}).unwrap_err();
    assert!(matches!(
        error,
        MemoryError::Dimensions {
            known: 64,
            other: 65,
            ..
        }
    ));
    let found = memory
        .search_with(&main, &Query::new("zebra"), Some(&longer))
        .unwrap();
    assert!(found.mode == Mode::Keyword && found.degraded.unwrap().contains("64 numbers"));
}

#[test]
fn a_filter_lets_nothing_else_through_on_either_leg_indexed_or_not() {
    let (_dir, mut memory) = memory();
    let main = agent("main");
    let document = |path: &'static str, kind, at| Document {
        kind,
        at,
        ..Document::new(path, "the zebra walks")
    };
    memory
        .put_documents(
            &main,
            &[
                document("memory/a.md", "memory", Some(1000)),
                document("memory/b.md", "memory", Some(2000)),
                document("memory/c.md", "memory", None),
                document("sessions/a.jsonl", "sessions", Some(3000)),
            ],
        )
        .unwrap();
    let many: Vec<String> = (0..400).map(|n| format!("many/{n}.md")).collect();
    let many: Vec<Document<'_>> = many
        .iter()
        .map(|path| Document::new(path, "a zebra in many"))
        .collect();
    memory.put_documents(&main, &many).unwrap();
    let embedder = letters("one");
    for round in 0..3 {
        let check = |filter: Filter, expected: &[&str]| {
            let query = Query {
                filter,
                limit: 500,
                ..Query::new("zebra walks")
            };
            let plain = memory.search(&main, &query).unwrap();
            let both = by_meaning(&memory, "main", &query, &embedder);
            for found in [plain, both] {
                let mut found: Vec<String> = found.hits.into_iter().map(|hit| hit.path).collect();
                found.sort();
                if expected.is_empty() {
                    assert!(
                        found.len() == 400 && found.iter().all(|path| path.starts_with("many/"))
                    );
                } else {
                    assert_eq!(found, expected, "round {round}");
                }
            }
        };
        let all = Filter::default;
        check(
            Filter {
                kinds: vec!["sessions".to_owned()],
                ..all()
            },
            &["sessions/a.jsonl"],
        );
        check(
            Filter {
                under: Some("memory/".to_owned()),
                ..all()
            },
            &["memory/a.md", "memory/b.md", "memory/c.md"],
        );
        check(
            Filter {
                since: Some(1500),
                ..all()
            },
            &["memory/b.md", "sessions/a.jsonl"],
        );
        check(
            Filter {
                since: Some(1000),
                until: Some(2000),
                ..all()
            },
            &["memory/a.md", "memory/b.md"],
        );
        check(
            Filter {
                kinds: vec!["memory".to_owned()],
                since: Some(1500),
                ..all()
            },
            &["memory/b.md"],
        );
        check(
            Filter {
                under: Some("many/".to_owned()),
                ..all()
            },
            &[],
        );
        if round == 0 {
            indexed(&mut memory, "main");
        } else {
            memory.embed(&main, &embedder, |_, _| {}).unwrap();
        }
    }
    // Said again with another kind, the same text stays as it is.
    assert_eq!(
        memory
            .put_documents(&main, &[document("memory/a.md", "sessions", None)])
            .unwrap(),
        0
    );
    let query = Query {
        filter: Filter {
            kinds: vec!["sessions".to_owned()],
            until: Some(1000),
            ..Filter::default()
        },
        ..Query::new("zebra")
    };
    assert_eq!(
        memory.search(&main, &query).unwrap().hits[0].path,
        "memory/a.md"
    );
}

#[test]
fn age_and_variety_move_hits_only_when_asked_for() {
    let (_dir, mut memory) = memory();
    for (path, text) in [
        ("memory/2026-01-01.md", "router address"),
        ("memory/2026-03-01.md", "the router address of the house"),
        (
            "MEMORY.md",
            "about the router and much else that is of no matter here",
        ),
    ] {
        memory.put(&agent("main"), path, text).unwrap();
    }
    let ask = |query: Query| -> Vec<String> {
        let found = memory.search(&agent("main"), &query).unwrap();
        assert_eq!(found.hits[0].score, 1.0);
        found.hits.into_iter().map(|hit| hit.path).collect()
    };
    let plain = ask(Query::new("router address"));
    assert_eq!(plain[0], "memory/2026-01-01.md");
    let recency = crate::Recency {
        now: 1_772_323_200_000,
        half_life_days: 30.0,
    };
    let aged = ask(Query {
        recency: Some(recency),
        ..Query::new("router address")
    });
    assert_eq!(
        aged,
        ["memory/2026-03-01.md", "memory/2026-01-01.md", "MEMORY.md"]
    );
    assert_eq!(
        ask(Query {
            mmr: Some(1.0),
            ..Query::new("router address")
        }),
        plain
    );
}

#[test]
fn settings_of_an_embedder_are_kept_by_agent_and_an_older_database_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(CREATE).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1; INSERT INTO agent (name) VALUES ('main');
         INSERT INTO document (agent, path, text) VALUES (1, 'a.md', 'old zebra');
         INSERT INTO chunk (agent, document, start_line, end_line, text) VALUES (1, 1, 1, 1, 'old zebra');",
    )
    .unwrap();
    drop(old);
    let mut memory = Memory::open(&path).unwrap();
    assert_eq!(paths(&memory, "main", "zebra"), ["a.md"]);
    let settings = EmbedderSettings {
        model: letters("one").model,
        at: "http://127.0.0.1:1".to_owned(),
        key_variable: Some("KEY".to_owned()),
    };
    memory
        .set_embedder(&agent("main"), Some(&settings))
        .unwrap();
    memory = Memory::open(&path).unwrap();
    assert_eq!(memory.embedder(&agent("main")).unwrap(), Some(settings));
    assert_eq!(memory.embedder(&agent("b")).unwrap(), None);
    memory.set_embedder(&agent("main"), None).unwrap();
    assert_eq!(memory.embedder(&agent("main")).unwrap(), None);
}

#[test]
fn vectors_are_found_alike_from_the_index_without_it_and_from_a_broken_one() {
    let (dir, mut memory) = memory();
    let main = agent("main");
    fill(&mut memory, "main", 0..300);
    let embedder = letters("one");
    memory.embed(&main, &embedder, |_, _| {}).unwrap();
    let query = Query {
        limit: 20,
        ..Query::new("kitchens")
    };
    let ask = |memory: &Memory| -> Vec<(String, i64)> {
        let found = by_meaning(memory, "main", &query, &embedder);
        let hits = found.hits.into_iter();
        hits.map(|hit| (hit.path, (hit.score * 1e4).round() as i64))
            .collect()
    };
    let scores =
        |all: &[(String, i64)]| -> Vec<i64> { all.iter().map(|(_, score)| *score).collect() };
    let from_index = ask(&memory);
    assert_eq!(from_index.len(), 20);
    let folder = dir.path().join("memory.sqlite.index/1-vectors-1");
    std::fs::write(folder.join("rows"), "").unwrap();
    let again = Memory::open(&dir.path().join("memory.sqlite")).unwrap();
    assert_eq!(scores(&ask(&again)), scores(&from_index));
    assert!(
        by_meaning(&again, "main", &query, &embedder)
            .degraded
            .unwrap()
            .contains("memory rebuild")
    );
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(scores(&ask(&again)), scores(&from_index));
    memory.rebuild(&main, |_, _| {}).unwrap();
    assert!(folder.join("head").exists());
    assert_eq!(scores(&ask(&memory)), scores(&from_index));
    // Half of it replaced: what is gone is not found, and the index is made anew when much is.
    for n in 0..150 {
        memory.put(&main, &format!("{n}.md"), "replaced").unwrap();
    }
    memory.embed(&main, &embedder, |_, _| {}).unwrap();
    memory.rebuild(&main, |_, _| {}).unwrap();
    let from_index = ask(&memory);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(scores(&ask(&memory)), scores(&from_index));
}
