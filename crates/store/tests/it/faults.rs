//! Bad disks and bad files: a clear error, nothing acknowledged, and on it goes when the cause is gone.

use crate::vfs::{Disk, Fault, Shared, mount};
use crate::{open, outbound};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use store::{Health, Options, OutboxFilter, Store, StoreError};

const PATIENCE: Duration = Duration::from_secs(90);

async fn until_good(store: &Store) {
    let mut health = store.health();
    tokio::time::timeout(
        PATIENCE,
        health.wait_for(|health| matches!(health, Health::Good)),
    )
    .await
    .expect("it did not recover")
    .unwrap();
}

async fn until_failing(store: &Store) -> StoreError {
    let mut health = store.health();
    let seen = tokio::time::timeout(
        PATIENCE,
        health.wait_for(|health| matches!(health, Health::Failing(_))),
    )
    .await
    .expect("it did not notice")
    .unwrap();
    match &*seen {
        Health::Failing(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn quick() -> Options {
    Options {
        probe_every: Duration::from_millis(20),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_failing_disk_refuses_and_recovers_by_itself() {
    for (fault, name) in [
        (Fault::Full, "full"),
        (Fault::WriteError, "write"),
        (Fault::SyncError, "sync"),
    ] {
        let disk: Shared = Arc::new(Mutex::new(Disk::default()));
        mount(&format!("fault-{name}"), &disk);
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            vfs: Some(format!("fault-{name}")),
            ..quick()
        };
        let store = Store::open(&dir.path().join("m.db"), options).unwrap();
        store.opened().await.unwrap();
        let first = store
            .write(|tx| tx.outbox().enqueue(outbound("a", "1"), 1))
            .await
            .unwrap();
        disk.lock().fault = Some(fault);
        let refused = store
            .write(|tx| tx.outbox().enqueue(outbound("a", "2"), 1))
            .await
            .unwrap_err();
        match fault {
            Fault::Full => assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}"),
            Fault::WriteError | Fault::SyncError => {
                assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}")
            }
        }
        assert!(refused.to_string().contains("m.db"), "{refused}");
        until_failing(&store).await;
        disk.lock().fault = None;
        until_good(&store).await;
        let second = store
            .write(|tx| tx.outbox().enqueue(outbound("a", "3"), 1))
            .await
            .unwrap();
        // On this disk only the writer may look.
        let rows = store
            .write(|tx| {
                tx.outbox().list(&OutboxFilter {
                    limit: 9,
                    ..OutboxFilter::default()
                })
            })
            .await
            .unwrap();
        let ids: Vec<_> = rows.into_iter().map(|row| row.id).collect();
        assert_eq!(ids, [second, first], "after {name}");
    }
}

#[tokio::test]
async fn a_size_limit_refuses_until_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(
        &dir.path().join("m.db"),
        Options {
            pages_max: 60,
            ..quick()
        },
    )
    .unwrap();
    store.opened().await.unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        match store
            .write(|tx| tx.outbox().enqueue(outbound("a", &"x".repeat(3000)), 1))
            .await
        {
            Ok(id) => kept.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    let rows = store
        .read(|r| {
            r.outbox().list(&OutboxFilter {
                limit: 500,
                ..OutboxFilter::default()
            })
        })
        .await
        .unwrap();
    assert_eq!(rows.len(), kept.len());
    assert!(!kept.is_empty());
}

#[tokio::test]
async fn a_second_owner_is_refused_by_name_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let first = open(&path);
    first.opened().await.unwrap();
    let second = Store::open(&path, quick()).unwrap();
    let error = second.opened().await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(
        error
            .to_string()
            .contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
    first.close();
    drop(first);
    until_good(&second).await;
    second
        .write(|tx| tx.outbox().enqueue(outbound("a", "1"), 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_named_and_a_good_one_in_its_place_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    std::fs::write(&path, vec![7; 20_000]).unwrap();
    let store = Store::open(&path, quick()).unwrap();
    let error = store.opened().await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let refused = store
        .write(|tx| tx.outbox().enqueue(outbound("a", "1"), 1))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }));
    std::fs::rename(&path, dir.path().join("aside.db")).unwrap();
    until_good(&store).await;
    store
        .write(|tx| tx.outbox().enqueue(outbound("a", "2"), 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", store::SCHEMA + 1)
        .unwrap();
    drop(connection);
    let store = Store::open(&path, quick()).unwrap();
    let error = store.opened().await.unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named_and_taken_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later/m.db");
    let store = Store::open(&path, quick()).unwrap();
    let error = store.opened().await.unwrap_err();
    assert!(error.to_string().contains("later/m.db"), "{error}");
    std::fs::create_dir(dir.path().join("later")).unwrap();
    until_good(&store).await;
}

#[tokio::test]
async fn too_much_at_once_is_refused_and_not_queued_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(
        &dir.path().join("m.db"),
        Options {
            queue_max: 2,
            ..quick()
        },
    )
    .unwrap();
    store.opened().await.unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let holding = store.clone();
    let held = tokio::spawn(async move {
        holding
            .write(move |_| {
                wait.recv().ok();
                Ok(())
            })
            .await
    });
    let mut waiting = tokio::task::JoinSet::new();
    let refused = loop {
        let store = store.clone();
        let mut write = Box::pin(async move { store.write(|_| Ok(())).await });
        // The first poll queues it.
        let first =
            std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx))).await;
        match first {
            std::task::Poll::Ready(Err(error)) => break error,
            std::task::Poll::Ready(Ok(())) => {}
            std::task::Poll::Pending => drop(waiting.spawn(write)),
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(refused, StoreError::Busy), "{refused:?}");
    go.send(()).unwrap();
    held.await.unwrap().unwrap();
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
}
