//! Killed in the middle of group commits: everything that was acknowledged is there.

use crate::{open, outbound};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use store::OutboxFilter;

/// Set for the child, which is this test binary again.
const CHILD: &str = "STORE_CRASH_CHILD";

/// Not a test by itself: writes for ever and prints each acknowledged id.
#[test]
fn child_that_writes() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(path.as_ref());
        store.opened().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for lane in 0..16 {
            let store = store.clone();
            writers.spawn(async move {
                loop {
                    let id = store
                        .write(move |tx| tx.outbox().enqueue(outbound(&lane.to_string(), "x"), 1))
                        .await
                        .unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ack {id}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
        while writers.join_next().await.is_some() {}
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.db");
    let mut acknowledged = BTreeSet::new();
    for round in 1..=5_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_that_writes", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut of_round = 0;
        while of_round < 200 * round {
            let line = lines.next().unwrap().unwrap();
            if let Some(id) = line.strip_prefix("ack ") {
                acknowledged.insert(id.to_owned());
                of_round += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still had in the pipe was acknowledged too; the last line may be cut.
        for line in lines.map_while(Result::ok) {
            if let Some(id) = line.strip_prefix("ack ").filter(|id| id.len() == 32) {
                acknowledged.insert(id.to_owned());
            }
        }
        let store = open(&path);
        store.opened().await.unwrap();
        let mut found = BTreeSet::new();
        let mut before = None;
        loop {
            let filter = OutboxFilter {
                before,
                limit: 500,
                ..OutboxFilter::default()
            };
            let page = store.read(move |r| r.outbox().list(&filter)).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.id.clone());
            found.extend(page.into_iter().map(|row| row.id));
        }
        store.close();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
    }
}
