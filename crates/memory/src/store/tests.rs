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
            chunks: 1
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

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8, String),
    Forget(u8, u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2u8, 0..4u8, "([a-d]{1,2} ){0,6}").prop_map(|(who, doc, text)| Step::Put(who, doc, text)),
        2 => (0..2u8, 0..4u8).prop_map(|(who, doc)| Step::Forget(who, doc)),
        1 => Just(Step::Reopen),
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
