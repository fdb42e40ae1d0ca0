//! Copies taken while somebody writes, their check, what a restored one holds back, and the way back from an upgrade.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::{InboxState, OutboxState, Spooled, StoreError, backup};

use crate::{inbound, open, outbound};

#[tokio::test]
async fn a_copy_taken_under_writes_holds_a_moment_and_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    store.opened().await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (writer, ended) = (store.clone(), Arc::clone(&done));
    let writing = tokio::spawn(async move {
        let mut written = 0_usize;
        while !ended.load(Ordering::Relaxed) {
            // Two in one transaction: a copy has both or none.
            let text = written.to_string();
            let write = writer.write(move |tx| {
                tx.outbox().enqueue(outbound("a", &text), 1)?;
                tx.outbox().enqueue(outbound("b", &text), 1)
            });
            write.await.unwrap();
            written += 1;
        }
        written
    });
    let mut counted = Vec::new();
    for round in 0..5 {
        let copy = dir.path().join(format!("copy-{round}.db"));
        let (from, to) = (store.path().to_owned(), copy.clone());
        tokio::task::spawn_blocking(move || backup::copy(&from, &to))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(backup::check(&copy, store::SCHEMA).unwrap(), store::SCHEMA);
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let copied = rusqlite::Connection::open(&copy).unwrap();
        let of = |target: &str| -> usize {
            let count = "SELECT count(*) FROM outbox WHERE target = ?1";
            copied.query_row(count, [target], |row| row.get(0)).unwrap()
        };
        let (a, b) = (of("a"), of("b"));
        assert_eq!(a, b);
        counted.push(a);
    }
    done.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    assert!(
        counted.is_sorted() && *counted.last().unwrap() <= written,
        "{counted:?} of {written}"
    );
    let error = backup::copy(store.path(), &dir.path().join("copy-0.db")).unwrap_err();
    assert!(error.to_string().contains("copy-0.db"), "{error}");
}

#[tokio::test]
async fn a_damaged_copy_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("m.db"));
    for number in 0..200 {
        let text = format!("{number}: {}", "x".repeat(400));
        store
            .write(move |tx| tx.outbox().enqueue(outbound("a", &text), 1))
            .await
            .unwrap();
    }
    let copy = dir.path().join("copy.db");
    backup::copy(store.path(), &copy).unwrap();
    let whole = std::fs::read(&copy).unwrap();
    // A page of a table in the middle, and a file that ends too early.
    let mut torn = whole.clone();
    let middle = torn.len() / 2 / 4096 * 4096;
    torn[middle..middle + 64].fill(0xa5);
    for bytes in [&torn[..], &whole[..whole.len() / 2], b"nothing of the kind"] {
        std::fs::write(&copy, bytes).unwrap();
        let error = backup::check(&copy, store::SCHEMA).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    std::fs::write(&copy, &whole).unwrap();
    let error = backup::check(&copy, store::SCHEMA - 1).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_under_way_is_held_and_can_be_taken_up_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let store = open(&path);
    let (pending, waiting) = store
        .write(|tx| {
            let pending = tx.outbox().enqueue(outbound("a", "1"), 1)?;
            tx.outbox().enqueue(outbound("a", "2"), 1)?;
            let spooled = tx.inbox().spool(&inbound("e1", "lane"), 1)?;
            let Spooled::New(waiting) = spooled else {
                panic!("seen before: {spooled:?}")
            };
            Ok((pending, waiting))
        })
        .await
        .unwrap();
    store.close();
    drop(store);
    let held = backup::hold(&path, "restored", 5).unwrap();
    assert_eq!(
        held,
        backup::Held {
            outbound: 2,
            inbound: 1
        }
    );
    assert_eq!(
        backup::hold(&path, "restored", 6).unwrap(),
        backup::Held::default()
    );

    let store = open(&path);
    let leased = store
        .write(|tx| tx.outbox().lease("test", "one", 10, 10))
        .await
        .unwrap();
    assert!(leased.is_empty(), "sent by itself: {leased:?}");
    let id = pending.clone();
    let row = store
        .read(move |reader| reader.outbox().get(&id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.state, row.error.as_deref()),
        (OutboxState::InDoubt, Some("restored"))
    );
    let inbound = waiting.clone();
    let id = inbound.clone();
    let row = store
        .read(move |reader| reader.inbox().get(&id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.state, InboxState::Failed);
    store
        .write(move |tx| {
            tx.outbox().resend(&pending, "by hand", 20)?;
            tx.inbox().retry(&inbound, 20)
        })
        .await
        .unwrap();
    let leased = store
        .write(|tx| tx.outbox().lease("test", "one", 30, 10))
        .await
        .unwrap();
    assert_eq!(leased.len(), 1);
}

#[tokio::test]
async fn an_upgrade_keeps_what_the_last_release_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../migrations/0001_init.sql"))
        .unwrap();
    old.execute_batch("PRAGMA user_version = 1; INSERT INTO counters VALUES ('test', 'sent', 7)")
        .unwrap();
    drop(old);
    // Left behind by an upgrade that was cut off.
    std::fs::write(dir.path().join("m.db.schema-1.new"), "half").unwrap();
    let store = open(&path);
    store.opened().await.unwrap();
    store.close();
    let kept = dir.path().join("m.db.schema-1");
    assert_eq!(backup::check(&kept, 1).unwrap(), 1);
    let before = rusqlite::Connection::open(&kept).unwrap();
    let sent: i64 = before
        .query_row("SELECT value FROM counters", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sent, 7);
    drop(before);

    // As a release that knows less would find it.
    let now = rusqlite::Connection::open(&path).unwrap();
    now.pragma_update(None, "user_version", store::SCHEMA + 1)
        .unwrap();
    drop(now);
    let error = open(&path).opened().await.unwrap_err();
    assert!(
        error.to_string().contains("m.db.schema-1 in its place"),
        "{error}"
    );
}
