//! The power goes at every point of a recorded run: nothing acknowledged is missing, and the database is whole.

use crate::vfs::{Cut, Disk, Op, Shared, after_power_cut, mount};
use crate::{inbound, outbound};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Options, Store};

/// Writes through the store as a gateway does, on a disk that records.
async fn record(vfs: &str, synchronous: &'static str) -> (Vec<Op>, String) {
    let disk: Shared = Arc::new(Mutex::new(Disk::default()));
    mount(vfs, &disk);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("power.db");
    let options = Options {
        vfs: Some(vfs.to_owned()),
        synchronous,
        ..Options::default()
    };
    let store = Store::open(&path, options).unwrap();
    store.opened().await.unwrap();
    for round in 0..12_i64 {
        let mut all = tokio::task::JoinSet::new();
        for lane in 0..6 {
            let (store, disk) = (store.clone(), Arc::clone(&disk));
            all.spawn(async move {
                let id = store
                    .write(move |tx| {
                        tx.inbox()
                            .spool(&inbound(&format!("{round}-{lane}"), "l"), round)?;
                        tx.outbox()
                            .enqueue(outbound(&lane.to_string(), &"text ".repeat(100)), round)
                    })
                    .await
                    .unwrap();
                disk.lock().log.push(Op::Acknowledged(id));
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
        // Changes of rows that are there already, so that pages are written twice.
        let ids = store
            .write(move |tx| {
                let leases = tx.outbox().lease("test", "one", round, 3)?;
                for lease in &leases {
                    tx.outbox().delivered(&lease.row.id, "[]", &[], round)?;
                }
                Ok(leases.len())
            })
            .await
            .unwrap();
        assert_eq!(ids, 3);
    }
    store.close();
    let log = std::mem::take(&mut disk.lock().log);
    (log, path.display().to_string())
}

/// What is wrong after a power cut, if anything.
fn damage(checker: &Shared, vfs: &str, path: &str, log: &[Op], cut: Cut) -> Option<String> {
    let acknowledged: BTreeSet<&str> = log
        .iter()
        .filter_map(|op| match op {
            Op::Acknowledged(id) => Some(id.as_str()),
            _ => None,
        })
        .collect();
    let files = after_power_cut(log, cut);
    if !files.contains_key(path) {
        return (!acknowledged.is_empty()).then(|| "the file is gone".to_owned());
    }
    *checker.lock() = Disk {
        files,
        ..Disk::default()
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let look = || -> rusqlite::Result<(String, BTreeSet<String>)> {
        let connection = Connection::open_with_flags_and_vfs(path, flags, vfs)?;
        let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if acknowledged.is_empty() {
            // The tables may not be there yet.
            return Ok((whole, BTreeSet::new()));
        }
        let ids = connection
            .prepare("SELECT id FROM outbox")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok((whole, ids))
    };
    match look() {
        Err(error) => Some(error.to_string()),
        Ok((whole, _)) if whole != "ok" => Some(whole),
        Ok((_, found)) => acknowledged
            .iter()
            .find(|id| !found.contains(**id))
            .map(|id| format!("acknowledged and gone: {id}")),
    }
}

/// States checked, and the first damage.
fn check(vfs: &str, path: &str, log: &[Op]) -> (usize, Option<String>) {
    let checker: Shared = Arc::new(Mutex::new(Disk::default()));
    mount(vfs, &checker);
    let mut states = 0;
    for end in 0..=log.len() {
        for cut in [
            Cut::Dropped,
            Cut::Kept,
            Cut::Torn(end as u64 * 2 + 1),
            Cut::Torn(end as u64 * 2 + 2),
        ] {
            states += 1;
            if let Some(what) = damage(&checker, vfs, path, &log[..end], cut) {
                return (
                    states,
                    Some(format!(
                        "after {end} of {} operations, {cut:?}: {what}",
                        log.len()
                    )),
                );
            }
        }
    }
    (states, None)
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_at_any_power_cut() {
    let (log, path) = record("record-full", "FULL").await;
    let (states, damage) = check("check-full", &path, &log);
    assert_eq!(damage, None);
    assert!(states > 1000, "only {states} states were checked");
}

/// The check would notice: with less than FULL a commit is acknowledged before it is on the disk.
#[tokio::test]
async fn the_check_notices_a_missing_sync() {
    for (synchronous, record_as, check_as) in [
        ("NORMAL", "record-normal", "check-normal"),
        ("OFF", "record-off", "check-off"),
    ] {
        let (log, path) = record(record_as, synchronous).await;
        let (_, damage) = check(check_as, &path, &log);
        assert!(damage.is_some(), "synchronous={synchronous} went unnoticed");
    }
}
