//! The power goes at every point of a recorded run: what was answered is there, whole, and found.

use crate::vfs::{Cut, Disk, Fault, Op, Shared, after_power_cut, mount};
use crate::{Script, Step, after};
use memory::{Agent, Memory, Query};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;

const STEPS: usize = 24;

fn apply(memory: &mut Memory, main: &Agent, (path, text): &Step) {
    match text {
        Some(text) => drop(memory.put(main, path, text).unwrap()),
        None => drop(memory.forget(main, path).unwrap()),
    }
}

/// Writes as a gateway does, opened anew half-way (so that the log is folded into the file), on a disk that records.
fn record(vfs: &str, path: &Path) -> (Vec<Op>, Vec<Step>) {
    let disk: Shared = Arc::new(Mutex::new(Disk::default()));
    mount(vfs, &disk);
    let main = Agent::parse("main").unwrap();
    let mut script = Script::new(20_261_130);
    let mut memory = Memory::open_on(path, vfs).unwrap();
    let mut steps = Vec::new();
    for at in 0..STEPS {
        if at == STEPS / 2 {
            drop(memory);
            memory = Memory::open_on(path, vfs).unwrap();
        }
        let step = script.next();
        apply(&mut memory, &main, &step);
        steps.push(step);
        disk.lock().log.push(Op::Acknowledged(at.to_string()));
    }
    drop(memory);
    let log = std::mem::take(&mut disk.lock().log);
    (log, steps)
}

/// What is wrong after a power cut, if anything.
fn damage(
    checker: &Shared,
    vfs: &str,
    path: &Path,
    (log, steps): (&[Op], &[Step]),
    cut: Cut,
) -> Option<String> {
    let answered = log.iter().rev().find_map(|op| match op {
        Op::Acknowledged(step) => step.parse::<usize>().ok(),
        _ => None,
    });
    let answered = answered.map_or(0, |step| step + 1);
    *checker.lock() = Disk {
        files: after_power_cut(log, cut),
        ..Disk::default()
    };
    let main = Agent::parse("main").unwrap();
    let look = || -> Result<Option<String>, memory::MemoryError> {
        let memory = Memory::open_on(path, vfs)?;
        let verified = memory.verify(&main)?;
        if !verified.broken.is_empty() {
            return Ok(Some(verified.broken.join("; ")));
        }
        let paths = memory.paths(&main, "")?;
        let mut found = Vec::new();
        for path in &paths {
            found.push((path.as_str(), memory.get(&main, path)?.unwrap_or_default()));
        }
        // The step at work when the power went is there or not, never in part.
        let is_state = |count: usize| {
            let expected = after(&steps[..count.min(steps.len())]);
            found.len() == expected.len()
                && found
                    .iter()
                    .all(|(path, text)| expected.get(path) == Some(&text.as_str()))
        };
        if !is_state(answered) && !is_state(answered + 1) {
            return Ok(Some(format!(
                "after {answered} answers there are {paths:?}"
            )));
        }
        for (path, text) in &found {
            let word = text.split(' ').next().unwrap_or_default();
            let hits = memory.search(&main, &Query::new(word))?.hits;
            if hits.is_empty() || hits.iter().any(|hit| hit.path != *path) {
                return Ok(Some(format!(
                    "{word} of {path} is found {} times",
                    hits.len()
                )));
            }
        }
        Ok(None)
    };
    look().unwrap_or_else(|error| Some(error.to_string()))
}

#[test]
fn nothing_answered_is_lost_or_torn_at_any_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory.sqlite");
    let (log, steps) = record("memory-record", &path);
    let checker: Shared = Arc::new(Mutex::new(Disk::default()));
    mount("memory-check", &checker);
    let mut states = 0;
    for end in 0..=log.len() {
        for cut in [Cut::Dropped, Cut::Kept, Cut::Torn(end as u64 * 2 + 1)] {
            states += 1;
            let found = damage(&checker, "memory-check", &path, (&log[..end], &steps), cut);
            assert_eq!(
                found,
                None,
                "after {end} of {} operations, {cut:?}",
                log.len()
            );
        }
    }
    assert!(states > 500, "only {states} states were checked");
}

#[test]
fn a_disk_that_takes_nothing_is_an_error_and_costs_nothing_that_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory.sqlite");
    let disk: Shared = Arc::new(Mutex::new(Disk::default()));
    mount("memory-faults", &disk);
    let main = Agent::parse("main").unwrap();
    let mut memory = Memory::open_on(&path, "memory-faults").unwrap();
    memory.put(&main, "a.md", "a zebra").unwrap();
    for fault in [Fault::Full, Fault::WriteError, Fault::SyncError] {
        disk.lock().fault = Some(fault);
        let refused = memory
            .put(&main, "a.md", "an otter")
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("check that its disk has room"),
            "{fault:?}: {refused}"
        );
        memory.forget(&main, "a.md").unwrap_err();
        assert_eq!(
            memory.get(&main, "a.md").unwrap().as_deref(),
            Some("a zebra"),
            "{fault:?}"
        );
        assert_eq!(
            memory
                .search(&main, &Query::new("zebra"))
                .unwrap()
                .hits
                .len(),
            1
        );
        disk.lock().fault = None;
        assert!(memory.verify(&main).unwrap().broken.is_empty(), "{fault:?}");
    }
    memory.put(&main, "a.md", "an otter").unwrap();
    assert_eq!(
        memory
            .search(&main, &Query::new("otter"))
            .unwrap()
            .hits
            .len(),
        1
    );
}

/// The check would notice: what was answered and never synced is missing.
#[test]
fn the_check_notices_a_missing_sync() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory.sqlite");
    let (mut log, steps) = record("memory-unsynced", &path);
    log.retain(|op| !matches!(op, Op::Sync { .. }));
    let checker: Shared = Arc::new(Mutex::new(Disk::default()));
    mount("memory-check-unsynced", &checker);
    let last = log.len();
    let cut = damage(
        &checker,
        "memory-check-unsynced",
        &path,
        (&log[..last], &steps),
        Cut::Dropped,
    );
    assert!(cut.is_some(), "a disk without a sync went unnoticed");
}
