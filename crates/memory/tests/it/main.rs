//! The memory from outside: what it promises over kills and power cuts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod crash;
mod power;
#[path = "../../../store/tests/it/vfs.rs"]
mod vfs;

use std::collections::BTreeMap;

/// What is done to a memory, in an order that a seed gives, and what is there afterwards.
pub(crate) struct Script {
    dice: u64,
    step: usize,
}

/// One step: a document's path and its text, or none for one that is forgotten.
pub(crate) type Step = (String, Option<String>);

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: seed.wrapping_mul(2) | 1,
            step: 0,
        }
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) as usize % end
    }

    /// One of ten paths: new, in place of what was there, or forgotten. Each text has a word of its own.
    pub(crate) fn next(&mut self) -> Step {
        self.step += 1;
        let path = format!("{}.md", self.below(10));
        if self.below(4) == 0 {
            return (path, None);
        }
        let lines = 1 + self.below(60);
        let word = format!("word{}x{:x}", self.step, self.dice);
        let mut text = format!("{word} is here\n");
        for line in 0..lines {
            text.push_str(&format!("line {line} of many, told at length by {word}\n"));
        }
        (path, Some(text))
    }
}

/// Documents after these steps.
pub(crate) fn after(steps: &[Step]) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    for (path, text) in steps {
        match text {
            Some(text) => drop(all.insert(path.as_str(), text.as_str())),
            None => drop(all.remove(path.as_str())),
        }
    }
    all
}
