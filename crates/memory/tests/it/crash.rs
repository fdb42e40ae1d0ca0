//! Killed while writing, forgetting, indexing and making vectors: what was answered is there and found, and the indexes hold
//! what the table holds.

use crate::{Script, Step, after};
use memory::{Agent, EmbedError, Embedder, Memory, Model, Purpose, Query, Verified};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Set for the child, which is this test binary again: the database, and the seed.
const CHILD: &str = "MEMORY_CRASH_CHILD";
const SEED: &str = "MEMORY_CRASH_SEED";
/// How often it is killed; `make crash-memory` says more.
const KILLS: &str = "KILLS";
const KILLS_USUAL: usize = 6;

/// Vectors without a service: how often each letter is there.
struct Letters(Model);

fn letters() -> Letters {
    Letters(Model {
        provider: "test".to_owned(),
        name: "letters".to_owned(),
        dimensions: None,
    })
}

impl Embedder for Letters {
    fn model(&self) -> &Model {
        &self.0
    }

    fn embed(
        &self,
        _: Purpose,
        texts: &[&str],
        _: Option<Instant>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let one = |text: &&str| {
            let mut out = vec![0.5; 64];
            text.bytes().for_each(|b| out[usize::from(b) % 64] += 1.0);
            out
        };
        Ok(texts.iter().map(one).collect())
    }
}

/// Not a test by itself: writes for ever; says each step before it is begun and after it was answered.
#[test]
fn child_that_writes() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let main = Agent::parse("main").unwrap();
    let mut script = Script::new(seed);
    let mut memory = Memory::open(Path::new(&path)).unwrap();
    let mut out = std::io::stdout().lock();
    let mut say = |line: &str| {
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    for step in 0_u64.. {
        let (path, text) = script.next();
        say("begun");
        match &text {
            Some(text) => drop(memory.put(&main, &path, text).unwrap()),
            None => drop(memory.forget(&main, &path).unwrap()),
        }
        say("answered");
        match step % 7 {
            3 => drop(memory.index(&main, |_, _| {}).unwrap()),
            5 => drop(memory.embed(&main, &letters(), |_, _| {}).unwrap()),
            _ => {}
        }
        if step % 50 == 49 {
            memory.rebuild(&main, |_, _| {}).unwrap();
        }
    }
}

/// Kills a child after so many answers and says how many steps it began and had answered.
fn killed(path: &Path, seed: u64, answers: usize) -> (usize, usize) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_writes", "--nocapture"])
        .env(CHILD, path)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut begun, mut answered) = (0, 0);
    let mut count = |line: &str| {
        begun += usize::from(line == "begun");
        answered += usize::from(line == "answered");
        answered
    };
    while count(&lines.next().expect("the child writes for ever").unwrap()) < answers {}
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still had in the pipe counts too.
    for line in lines.map_while(Result::ok) {
        count(&line);
    }
    (begun, answered)
}

fn is_there(memory: &Memory, main: &Agent, steps: &[Step]) -> bool {
    let expected = after(steps);
    memory.paths(main, "").unwrap() == expected.keys().copied().collect::<Vec<_>>()
        && expected
            .iter()
            .all(|(path, text)| memory.get(main, path).unwrap().as_deref() == Some(*text))
}

#[test]
fn what_was_answered_survives_kill_9_and_the_indexes_hold_what_the_table_holds() {
    let kills = std::env::var(KILLS).map_or(KILLS_USUAL, |kills| kills.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("memory.sqlite");
    let main = Agent::parse("main").unwrap();
    let mut all: Vec<Step> = Vec::new();
    let mut dice = Script::new(7);
    for round in 0..kills {
        let seed = round as u64 + 1;
        let (begun, answered) = killed(&path, seed, 1 + dice.below(90));
        let mut script = Script::new(seed);
        all.extend((0..answered).map(|_| script.next()));
        let mut memory = Memory::open(&path).unwrap();
        if !is_there(&memory, &main, &all) {
            // The one it was at may have been kept and not told.
            assert_eq!(
                begun,
                answered + 1,
                "round {round}: something answered is lost"
            );
            all.push(script.next());
            assert!(
                is_there(&memory, &main, &all),
                "round {round}: something answered is lost"
            );
        }
        // As it was left: indexes lag behind, and lack nothing of what they say.
        let left = memory.verify(&main).unwrap();
        assert_eq!(
            (left.lacking, left.strange),
            (0, 0),
            "round {round}: {left:?}"
        );
        assert_eq!(left.broken, [""; 0], "round {round}");
        for (path, text) in after(&all) {
            let word = text.split(' ').next().unwrap();
            let found = memory.search(&main, &Query::new(word)).unwrap();
            assert!(
                found.hits.iter().all(|hit| hit.path == path),
                "round {round}: {word}"
            );
            assert!(
                !found.hits.is_empty() && found.degraded.is_none(),
                "round {round}: {word}"
            );
        }
        memory.index(&main, |_, _| {}).unwrap();
        memory.embed(&main, &letters(), |_, _| {}).unwrap();
        assert_eq!(
            memory.verify(&main).unwrap(),
            Verified::default(),
            "round {round}"
        );
        let vectors = memory.vector_status(&main, letters().model()).unwrap();
        assert_eq!(vectors.missing, 0, "round {round}");
        // What a step forgot is shortened, so that a long loop does not grow.
        let kept: Vec<Step> = after(&all)
            .into_iter()
            .map(|(path, text)| (path.to_owned(), Some(text.to_owned())))
            .collect();
        all = kept;
    }
}
