//! What each table promises, and the outbox against a model of it.

use crate::{inbound, open, outbound};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use store::{
    Claim, InboxState, NewSession, OutboxFilter, OutboxState, Retention, SessionFilter, Spooled,
    Store, StoreError,
};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test]
async fn one_failing_closure_takes_back_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let good = store.write(|tx| tx.outbox().enqueue(outbound("a", "1"), 1));
    let bad = store.write(|tx| {
        tx.outbox().enqueue(outbound("b", "2"), 1)?;
        Err::<(), _>(store::TxError::not_found("on purpose"))
    });
    let panics = store.write(|tx| -> Result<(), store::TxError> {
        tx.outbox().enqueue(outbound("c", "3"), 1)?;
        panic!("on purpose")
    });
    let (good, bad, panics) = tokio::join!(good, bad, panics);
    good.unwrap();
    assert!(matches!(bad, Err(StoreError::NotFound { .. })), "{bad:?}");
    assert!(matches!(panics, Err(StoreError::Panicked { .. })));
    let rows = store
        .read(|r| {
            r.outbox().list(&OutboxFilter {
                limit: 9,
                ..OutboxFilter::default()
            })
        })
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|r| r.target.as_str()).collect::<Vec<_>>(),
        ["a"]
    );
    let counters = store.read(|r| r.history().counters()).await.unwrap();
    assert_eq!(counters, [("test".into(), "accepted".into(), 1)]);
}

#[tokio::test]
async fn what_expired_is_handed_out_once_as_dead() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let mut late = outbound("a", "late");
    late.expires_ms = Some(5);
    let lease = || store.write(|tx| tx.outbox().lease("test", "one", 10, 9));
    store
        .write(move |tx| tx.outbox().enqueue(late, 1))
        .await
        .unwrap();
    let leases = lease().await.unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].row.state, OutboxState::Dead);
    assert_eq!(lease().await.unwrap(), []);
}

#[tokio::test]
async fn what_waits_through_an_account_that_changes_hands_is_due_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    let id = store
        .write(|tx| tx.outbox().enqueue(outbound("a", "lane"), 1))
        .await
        .unwrap();
    let lease = |at| store.write(move |tx| tx.outbox().lease("test", "one", at, 9));
    assert_eq!(lease(2).await.unwrap().len(), 1);
    store
        .write(move |tx| tx.outbox().retry(&id, "refused", 500, 3))
        .await
        .unwrap();
    store
        .write(|tx| tx.outbox().hurry("test", "another", 4))
        .await
        .unwrap();
    assert_eq!(lease(5).await.unwrap(), []);
    store
        .write(|tx| tx.outbox().hurry("test", "one", 6))
        .await
        .unwrap();
    let again = lease(7).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(
        again[0].row.attempts, 1,
        "the other side's tries count anew"
    );
}

#[tokio::test]
async fn what_nobody_may_send_now_is_buried_when_it_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store
        .write(|tx| {
            let mut old = outbound("old", "lane");
            old.expires_ms = Some(10);
            tx.outbox().enqueue(old, 1)?;
            tx.outbox().enqueue(outbound("young", "lane"), 2)
        })
        .await
        .unwrap();
    let expire = |at| store.write(move |tx| tx.outbox().expire("test", "one", at, 9));
    assert_eq!(expire(9).await.unwrap(), []);
    let has = |at| store.read(move |reader| reader.outbox().has_expired("test", "one", at));
    assert!(!has(9).await.unwrap() && has(10).await.unwrap());
    let dead = expire(10).await.unwrap();
    assert_eq!((dead.len(), dead[0].state), (1, OutboxState::Dead));
    assert!(!has(10).await.unwrap());
    let since = store.read(|reader| reader.outbox().due_accounts(11));
    assert_eq!(
        since.await.unwrap(),
        [("test".to_owned(), "one".to_owned(), 2)]
    );
    let leases = store.write(|tx| tx.outbox().lease("test", "one", 11, 9));
    assert_eq!(leases.await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_writers_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for n in 0..512 {
        let store = store.clone();
        all.spawn(async move {
            store
                .write(move |tx| tx.outbox().enqueue(outbound(&n.to_string(), "x"), 1))
                .await
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap().unwrap();
    }
    assert!(store.commits() < 256, "{} commits", store.commits());
}

#[tokio::test]
async fn the_same_event_is_spooled_once_even_when_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    let first = store
        .write(|tx| tx.inbox().spool(&inbound("e1", "l"), 10))
        .await
        .unwrap();
    let Spooled::New(id) = first else {
        panic!("{first:?}")
    };
    let (a, b) = (id.clone(), id.clone());
    store
        .write(move |tx| {
            tx.inbox().begin_turn(&a, "agent:main:main", "run-1", 11)?;
            tx.set_cursor("test", "one", "offset", "7", 11)?;
            tx.inbox().done(&a, "answered", 12)
        })
        .await
        .unwrap();
    let again = store
        .write(|tx| tx.inbox().spool(&inbound("e1", "l"), 20))
        .await
        .unwrap();
    assert_eq!(again, Spooled::Duplicate(id.clone()));
    let (row, cursor, why) = store
        .read(move |r| {
            Ok((
                r.inbox().get(&b)?.unwrap(),
                r.cursor("test", "one", "offset")?,
                r.history().why("run-1")?,
            ))
        })
        .await
        .unwrap();
    assert_eq!((row.state, row.payload.as_str()), (InboxState::Done, ""));
    assert_eq!(cursor.as_deref(), Some("7"));
    assert_eq!(why.subjects, [id]);
    let steps: Vec<_> = why.steps.iter().map(|s| s.step.as_str()).collect();
    assert_eq!(steps, ["spooled", "turn", "done", "duplicate"]);
}

#[tokio::test]
async fn joined_messages_are_one_and_each_name_leads_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    let ids = store
        .write(|tx| {
            let mut ids = Vec::new();
            for (event, lane) in [("1", "a"), ("x", "b"), ("2", "a"), ("3", "a"), ("4", "a")] {
                if let Spooled::New(id) = tx.inbox().spool(&inbound(event, lane), 1)? {
                    ids.push(id);
                }
            }
            Ok(ids)
        })
        .await
        .unwrap();
    let first = ids[0].clone();
    let behind = store
        .read(move |r| r.inbox().behind("a", &first, 2))
        .await
        .unwrap();
    let events: Vec<_> = behind.iter().map(|row| row.event_id.as_str()).collect();
    assert_eq!(events, ["2", "3"]);
    let (first, others) = (ids[0].clone(), vec![ids[2].clone(), ids[3].clone()]);
    store
        .write(move |tx| tx.inbox().join(&first, "all three", &others, 5))
        .await
        .unwrap();
    let (first, second) = (ids[0].clone(), ids[2].clone());
    let (one, other, why, left) = store
        .read(move |r| {
            Ok((
                r.inbox().get(&first)?.unwrap(),
                r.inbox().get(&second)?.unwrap(),
                // By the service's own name of the second.
                r.history().why("2")?,
                r.inbox().behind("a", &first, 9)?,
            ))
        })
        .await
        .unwrap();
    assert_eq!(
        (one.state, one.payload.as_str()),
        (InboxState::Waiting, "all three")
    );
    assert_eq!(
        (other.state, other.payload.as_str()),
        (InboxState::Done, "")
    );
    assert_eq!(
        other.note.as_deref().map(|note| note.contains(&ids[0])),
        Some(true)
    );
    let mut known = [ids[0].clone(), ids[2].clone()];
    known.sort();
    assert_eq!(why.subjects, known);
    assert_eq!(left.len(), 1);
    // What came to rest is not joined again.
    let (first, gone) = (ids[0].clone(), vec![ids[3].clone()]);
    let again = store.write(move |tx| tx.inbox().join(&first, "", &gone, 6));
    assert!(again.await.is_err());
}

#[tokio::test]
async fn a_stop_ends_what_came_before_it_and_the_turns_of_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    let before = store
        .write(|tx| {
            let mut ids = Vec::new();
            for (event, lane) in [
                ("ended", "a"),
                ("turn", "a"),
                ("waits", "a"),
                ("stop", "a"),
                ("later", "a"),
                ("same", "b"),
                ("other", "c"),
            ] {
                if let Spooled::New(id) = tx.inbox().spool(&inbound(event, lane), 1)? {
                    ids.push(id);
                }
            }
            tx.inbox().done(&ids[0], "answered", 2)?;
            for (row, key) in [(1, "s"), (5, "s"), (6, "another")] {
                tx.inbox().begin_turn(&ids[row], key, &ids[row], 3)?;
            }
            let before = tx.inbox().before(&ids[3], "a", "s", 9)?;
            assert!(tx.inbox().halt(&ids[1], "stopped by ann", 4)?);
            assert!(
                !tx.inbox().halt(&ids[0], "stopped by ann", 4)?,
                "it had ended"
            );
            assert_eq!(
                tx.inbox().get(&ids[1])?.unwrap().note.as_deref(),
                Some("stopped by ann")
            );
            Ok(before)
        })
        .await
        .unwrap();
    let events: Vec<_> = before.iter().map(|row| row.event_id.as_str()).collect();
    assert_eq!(events, ["turn", "waits", "same"]);
}

#[tokio::test]
async fn heads_keep_the_order_of_a_lane() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    for (event, lane) in [("1", "a"), ("2", "a"), ("3", "b")] {
        store
            .write(move |tx| tx.inbox().spool(&inbound(event, lane), 1))
            .await
            .unwrap();
    }
    let heads = |store: &Store| {
        store
            .read_now(|r| {
                Ok(r.inbox()
                    .heads(5, 10)?
                    .into_iter()
                    .map(|h| (h.event_id, h.id))
                    .collect::<Vec<_>>())
            })
            .unwrap()
    };
    let first = heads(&store);
    assert_eq!(
        first.iter().map(|h| h.0.as_str()).collect::<Vec<_>>(),
        ["1", "3"]
    );
    let id = first[0].1.clone();
    let same = id.clone();
    store
        .write(move |tx| tx.inbox().begin_turn(&id, "k", "r", 6))
        .await
        .unwrap();
    assert_eq!(
        heads(&store)
            .iter()
            .map(|h| h.0.clone())
            .collect::<Vec<_>>(),
        ["3"]
    );
    store
        .write(move |tx| tx.inbox().wait(&same, "upstream away", 100, 7))
        .await
        .unwrap();
    assert_eq!(
        heads(&store)
            .iter()
            .map(|h| h.0.clone())
            .collect::<Vec<_>>(),
        ["3"]
    );
}

#[tokio::test]
async fn a_key_answers_the_same_and_refuses_another_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    let claim = |request: &'static str| {
        let store = store.clone();
        async move {
            store
                .write(move |tx| {
                    let claim = tx.keys().claim("api", "k", request)?;
                    if claim == Claim::New {
                        tx.keys().settle("api", "k", request, "answer", 1)?;
                    }
                    Ok(claim)
                })
                .await
        }
    };
    assert_eq!(claim("r1").await.unwrap(), Claim::New);
    assert_eq!(claim("r1").await.unwrap(), Claim::Seen("answer".into()));
    assert!(matches!(claim("r2").await, Err(StoreError::Conflict)));
}

#[tokio::test]
async fn sessions_page_by_activity() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store
        .write(|tx| {
            for n in 0..7_i64 {
                let session = NewSession {
                    key: format!("agent:main:test:direct:{n}"),
                    agent: "main".into(),
                    channel: "test".into(),
                    account: "one".into(),
                    target: n.to_string(),
                    thread: None,
                    last_route: None,
                    metadata: None,
                };
                tx.sessions().upsert(&session, n)?;
            }
            tx.sessions().touch("agent:main:test:direct:0", 100)
        })
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let filter = SessionFilter {
            before: before.clone(),
            limit: 3,
            ..SessionFilter::default()
        };
        let page = store
            .read(move |r| r.sessions().list(&filter))
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.active_ms, last.key.clone()));
        seen.extend(page.into_iter().map(|row| row.target));
    }
    assert_eq!(seen, ["0", "6", "5", "4", "3", "2", "1"]);
}

#[tokio::test]
async fn retention_forgets_in_steps_and_gives_pages_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let store = open(&path);
    for batch in 0..20 {
        store
            .write(move |tx| {
                for n in 0..100 {
                    let id = tx
                        .outbox()
                        .enqueue(outbound(&format!("{batch}-{n}"), &"x".repeat(400)), 1)?;
                    let _ = id;
                }
                for lease in tx.outbox().lease("test", "one", 2, 1000)? {
                    tx.outbox()
                        .delivered(&lease.row.id, "[]", &["p".to_owned()], 3)?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    let week = 8 * 24 * 3600 * 1000;
    let retention = Retention {
        history: std::time::Duration::from_secs(1),
        ..Retention::default()
    };
    let mut steps = 0;
    loop {
        let retention = retention.clone();
        let done = store
            .write(move |tx| tx.maintain(&retention, week))
            .await
            .unwrap();
        steps += 1;
        if !done.more {
            break;
        }
    }
    assert!(steps >= 4, "{steps} steps");
    let left = store
        .read(|r| {
            r.outbox().list(&OutboxFilter {
                limit: 5,
                ..OutboxFilter::default()
            })
        })
        .await
        .unwrap();
    assert_eq!(left, []);
    let retention_again = retention.clone();
    for _ in 0..10 {
        let retention = retention_again.clone();
        store
            .write(move |tx| tx.maintain(&retention, week))
            .await
            .unwrap();
    }
    store.close();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(
        size < 400_000,
        "{size} bytes after everything was forgotten"
    );
}

#[derive(Debug, Clone)]
enum Act {
    Enqueue(u8),
    Lease,
    Deliver,
    Retry(u16),
    Doubt,
    Bury,
    Resend,
    Later(u16),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Act::Enqueue),
        4 => Just(Act::Lease),
        3 => Just(Act::Deliver),
        2 => (1..50_u16).prop_map(Act::Retry),
        1 => Just(Act::Doubt),
        1 => Just(Act::Bury),
        1 => Just(Act::Resend),
        2 => (1..50_u16).prop_map(Act::Later),
        1 => Just(Act::Reopen),
    ]
}

/// The outbox as a person would keep it on paper.
#[derive(Default)]
struct Model {
    now: i64,
    states: BTreeMap<String, (OutboxState, u8)>,
    lanes: BTreeMap<u8, VecDeque<(String, i64)>>,
    leased: Vec<(String, u8)>,
    /// In the order in which they died or fell in doubt.
    stuck: VecDeque<(String, u8)>,
    arrived: Vec<String>,
}

impl Model {
    fn leasable(&self) -> Vec<String> {
        self.lanes
            .iter()
            .filter(|(lane, _)| !self.leased.iter().any(|(_, taken)| taken == *lane))
            .filter_map(|(_, queue)| queue.front())
            .filter(|(_, due)| *due <= self.now)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// A row keeps its place in the order of arrival, whatever happened to it.
    fn put_back(&mut self, lane: u8, id: &str, due: i64) {
        let place = |id: &str| self.arrived.iter().position(|other| other == id);
        let queue = self.lanes.entry(lane).or_default();
        let at = queue
            .iter()
            .position(|(other, _)| place(other) > place(id))
            .unwrap_or(queue.len());
        queue.insert(at, (id.to_owned(), due));
    }

    fn set(&mut self, id: &str, state: OutboxState) {
        self.states.get_mut(id).unwrap().0 = state;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_is_what_the_model_says(acts in proptest::collection::vec(act(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.db");
        let mut store = open(&path);
        let mut model = Model { now: 1000, ..Model::default() };
        let runtime = runtime();
        for act in acts {
            let now = model.now;
            match act {
                Act::Enqueue(lane) => {
                    let id = runtime.block_on(store.write(move |tx| tx.outbox().enqueue(outbound(&lane.to_string(), "x"), now))).unwrap();
                    model.arrived.push(id.clone());
                    model.states.insert(id.clone(), (OutboxState::Pending, lane));
                    model.lanes.entry(lane).or_default().push_back((id, now));
                }
                Act::Lease => {
                    let leases = runtime.block_on(store.write(move |tx| tx.outbox().lease("test", "one", now, 100))).unwrap();
                    let mut got: Vec<_> = leases.into_iter().map(|l| l.row.id).collect();
                    let mut want = model.leasable();
                    got.sort();
                    want.sort();
                    prop_assert_eq!(&got, &want);
                    for id in got {
                        let lane = model.states[&id].1;
                        model.lanes.get_mut(&lane).unwrap().pop_front();
                        model.set(&id, OutboxState::Leased);
                        model.leased.push((id, lane));
                    }
                }
                Act::Deliver => if let Some((id, _)) = model.leased.pop() {
                    model.set(&id, OutboxState::Delivered);
                    runtime.block_on(store.write(move |tx| tx.outbox().delivered(&id, "[]", &[], now))).unwrap();
                },
                Act::Retry(after) => if let Some((id, lane)) = model.leased.pop() {
                    let due = now + i64::from(after);
                    model.set(&id, OutboxState::Pending);
                    model.put_back(lane, &id, due);
                    runtime.block_on(store.write(move |tx| tx.outbox().retry(&id, "later", due, now))).unwrap();
                },
                Act::Doubt | Act::Bury => if let Some((id, lane)) = model.leased.pop() {
                    let doubt = matches!(act, Act::Doubt);
                    model.set(&id, if doubt { OutboxState::InDoubt } else { OutboxState::Dead });
                    model.stuck.push_back((id.clone(), lane));
                    runtime.block_on(store.write(move |tx| if doubt { tx.outbox().doubt(&id, "?", now) } else { tx.outbox().bury(&id, "no", now) })).unwrap();
                },
                Act::Resend => if let Some((id, lane)) = model.stuck.pop_front() {
                    model.set(&id, OutboxState::Pending);
                    model.put_back(lane, &id, now);
                    runtime.block_on(store.write(move |tx| tx.outbox().resend(&id, "by hand", now))).unwrap();
                },
                Act::Later(ms) => model.now += i64::from(ms),
                Act::Reopen => {
                    store.close();
                    store = open(&path);
                    for (id, lane) in std::mem::take(&mut model.leased) {
                        model.set(&id, OutboxState::InDoubt);
                        model.stuck.push_back((id, lane));
                    }
                }
            }
            let rows = runtime.block_on(store.read(|r| r.outbox().list(&OutboxFilter { limit: 500, ..OutboxFilter::default() }))).unwrap();
            let got: BTreeMap<_, _> = rows.into_iter().map(|r| (r.id, r.state)).collect();
            let want: BTreeMap<_, _> = model.states.iter().map(|(id, (state, _))| (id.clone(), *state)).collect();
            prop_assert_eq!(got, want);
        }
    }
}
