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
