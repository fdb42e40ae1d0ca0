//! Conversations of agents that run here.

use crate::open;
use store::Entry;

fn entry(id: &str) -> Entry {
    Entry {
        seq: 0,
        id: id.into(),
        role: "user".into(),
        run_id: None,
        message: "{}".into(),
        at_ms: 1,
    }
}

#[tokio::test]
async fn an_entry_has_its_place_in_its_own_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let places = store
        .write(|tx| {
            let agents = tx.agents();
            agents.open("agent:main:a", "main", "a", 1)?;
            agents.open("agent:main:b", "main", "b", 1)?;
            // Their lines come in turn: a place is not the number of a row.
            for (session, id) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("b", "b2")] {
                agents.append(session, &entry(id))?;
            }
            let place = |session: &str, id: &str| {
                let placed = agents.placed(session, id);
                placed.map(|placed| placed.map(|(entry, place)| (entry.id, place)))
            };
            Ok([
                place("a", "a1")?,
                place("b", "b2")?,
                place("a", "b2")?,
                place("a", "none")?,
            ])
        })
        .await
        .unwrap();
    let known = |id: &str, place| Some((id.to_owned(), place));
    assert_eq!(places, [known("a1", 1), known("b2", 2), None, None]);
}

#[tokio::test]
async fn a_conversation_goes_other_ways_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let seen = store
        .write(|tx| {
            let agents = tx.agents();
            agents.open("agent:main:a", "main", "a", 1)?;
            let mut steps = 0;
            let say = |ids: &[&str]| {
                for id in ids {
                    agents.append("a", &entry(id))?;
                }
                Ok::<_, store::TxError>(())
            };
            let mut back = |id: &str| {
                let (placed, _) = agents.placed("a", id)?.expect("an entry of the way");
                steps += 1;
                agents.rewind("a", placed.seq, &steps.to_string())
            };
            let way = || -> Result<String, store::TxError> {
                let entries = agents.entries("a", None, 100)?;
                let ids: Vec<String> = entries.into_iter().map(|entry| entry.id).collect();
                Ok(ids.join(" "))
            };
            let mut seen = Vec::new();
            say(&["1", "2", "3", "4"])?;
            back("3")?;
            say(&["5", "6"])?;
            back("6")?;
            say(&["7"])?;
            seen.push(way()?);
            // One that hangs on the way, and one on what is taken off it meanwhile.
            assert!(agents.switch("a", "4", "x")?);
            seen.push(way()?);
            assert!(agents.switch("a", "6", "y")?);
            seen.push(way()?);
            assert!(!agents.switch("a", "5", "z")?);
            back("1")?;
            seen.push(way()?);
            assert!(agents.switch("a", "7", "w")?);
            seen.push(way()?);
            let mut ways: Vec<(String, usize, bool)> = agents
                .branches("a")?
                .into_iter()
                .map(|branch| (branch.leaf.id, branch.entries, branch.is_active))
                .collect();
            ways.sort();
            agents.open("agent:main:b", "main", "b", 1)?;
            let (five, _) = agents.placed("a", "5")?.expect("an entry of the way");
            agents.fork("a", five.seq, "b")?;
            let child = agents.entries("b", None, 100)?;
            seen.push(child.into_iter().map(|entry| entry.id + " ").collect());
            agents.delete("agent:main:a")?;
            assert!(agents.branches("a")?.is_empty());
            Ok((seen, ways))
        })
        .await
        .unwrap();
    let (seen, ways) = seen;
    assert_eq!(
        seen,
        ["1 2 5 7", "1 2 3 4", "1 2 5 6", "", "1 2 5 7", "b:1 b:2 "]
    );
    let way = |leaf: &str, is_active| (leaf.to_owned(), 4, is_active);
    assert_eq!(ways, [way("4", false), way("6", false), way("7", true)]);
}

#[tokio::test]
async fn a_way_that_is_gone_back_to_does_not_give_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let (switched, rewound) = store
        .write(|tx| {
            let agents = tx.agents();
            agents.open("agent:main:a", "main", "a", 1)?;
            let back = |id: &str, unique: &str| {
                let (placed, _) = agents.placed("a", id)?.expect("an entry of the way");
                agents.rewind("a", placed.seq, unique)
            };
            let leaves = || -> Result<Vec<String>, store::TxError> {
                let branches = agents.branches("a")?.into_iter();
                Ok(branches.map(|branch| branch.leaf.id).collect())
            };
            agents.append("a", &entry("first"))?;
            // As many as are kept.
            for id in (1..=64).map(|id| id.to_string()) {
                agents.append("a", &entry(&id))?;
                back(&id, &id)?;
            }
            agents.append("a", &entry("now"))?;
            assert!(agents.switch("a", "1", "x")?);
            let switched = leaves()?;
            // What is taken back is the oldest of all, and stays for being that.
            back("1", "y")?;
            Ok((switched, leaves()?))
        })
        .await
        .unwrap();
    let has = |leaves: &[String]| {
        ["1", "2", "3", "64", "now"].map(|id| leaves.iter().any(|leaf| leaf == id))
    };
    assert_eq!((switched.len(), has(&switched)), (65, [true; 5]));
    assert_eq!(
        (rewound.len(), has(&rewound)),
        (65, [true, false, true, true, true])
    );
}

#[tokio::test]
async fn a_conversation_taken_back_takes_what_its_last_answer_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let tokens = store
        .write(|tx| {
            let agents = tx.agents();
            let opened = agents.open("agent:main:a", "main", "a", 1)?;
            let say = |id: &str, role: &str, message: &str| {
                let said = Entry {
                    role: role.into(),
                    message: message.into(),
                    ..entry(id)
                };
                agents.append("a", &said)
            };
            let mut tokens = vec![agents.context_left("a")?];
            say("1", "user", "{}")?;
            say("2", "assistant", r#"{"usage":{"totalTokens":70}}"#)?;
            say("3", "assistant", r#"{"stopReason":"error"}"#)?;
            tokens.push(agents.context_left("a")?);
            say("4", "compaction", r#"{"tokensAfter":9}"#)?;
            tokens.push(agents.context_left("a")?);
            agents.note_run(&opened.key, "{}", (1, 1), 500, 2)?;
            agents.note_turned(&opened.key, 9)?;
            let turned = agents.session(&opened.key)?.expect("a session");
            assert_eq!((turned.context_tokens, turned.last_run), (9, None));
            // A run that is open is seen where it is written.
            agents.begin("r", &opened, "", 3)?;
            assert!(agents.is_at_work(&opened.key)?);
            Ok(tokens)
        })
        .await
        .unwrap();
    assert_eq!(tokens, [0, 70, 9]);
}

#[tokio::test]
async fn a_run_that_is_opened_again_has_its_input_in_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let ids = store
        .write(|tx| {
            let agents = tx.agents();
            let session = agents.open("agent:main:a", "main", "a", 1)?;
            agents.begin("r", &session, "", 1)?;
            for id in ["before", "r:user", "r:failed"] {
                agents.append("a", &entry(id))?;
            }
            let (asked, _) = agents.placed("a", "r:user")?.expect("an entry of the way");
            agents.rewind("a", asked.seq, "x")?;
            agents.append("a", &entry("instead"))?;
            assert!(agents.reopen("r", "r:failed", "r:user")?);
            let entries = agents.entries("a", None, 9)?.into_iter();
            Ok(entries.map(|entry| entry.id).collect::<Vec<_>>())
        })
        .await
        .unwrap();
    assert_eq!(ids, ["before", "instead", "r:user"]);
}
