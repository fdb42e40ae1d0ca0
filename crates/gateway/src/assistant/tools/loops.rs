//! Notices a model that asks for the same again and gets the same again.
//!
//! Source: docs/tools/loop-detection.md of the package at 2026.9.6. There it is off unless asked for; here a turn has no
//! person who watches every call, so it is on unless `tools.loopDetection.enabled` is `false`.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value};

/// The same outcome so often: the model is told.
const TOLD_AT: usize = 5;
/// And so often: the turn ends.
const ENDS_AT: usize = 10;
const REMEMBERED: usize = 60;

#[derive(Debug)]
pub(crate) struct Loops {
    is_on: bool,
    seen: VecDeque<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// To be added to the result.
    Tell(String),
    /// Why the turn ends.
    End(String),
}

impl Loops {
    pub(crate) fn new(config: &Value, entry: Option<&Map<String, Value>>) -> Self {
        let setting = |tools: Option<&Value>| tools?.pointer("/loopDetection/enabled")?.as_bool();
        Self {
            is_on: setting(entry.and_then(|entry| entry.get("tools")))
                .or_else(|| setting(config.get("tools")))
                .unwrap_or(true),
            seen: VecDeque::new(),
        }
    }

    pub(crate) fn note(&mut self, name: &str, arguments: &str, result: &str) -> Verdict {
        if !self.is_on {
            return Verdict::Fine;
        }
        let mut hasher = DefaultHasher::new();
        (name, arguments, result).hash(&mut hasher);
        let call = hasher.finish();
        self.seen.push_back(call);
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        match self.seen.iter().filter(|seen| **seen == call).count() {
            times if times >= ENDS_AT => Verdict::End(format!(
                "the model called {name} {times} times with the same arguments and the same result; the turn was ended"
            )),
            times if times >= TOLD_AT => Verdict::Tell(format!(
                "\n\n[You have called {name} {times} times with the same arguments and the same result. Calling it again changes nothing: go on differently, or answer.]"
            )),
            _ => Verdict::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_again_is_told_and_then_ended() {
        let verdicts = |config: Value, result: &dyn Fn(usize) -> String| {
            let mut loops = Loops::new(&config, None);
            (0..12)
                .map(|at| loops.note("read", "{}", &result(at)))
                .collect::<Vec<_>>()
        };
        let same = verdicts(json!({}), &|_| "x".to_owned());
        assert!(same[..4].iter().all(|verdict| *verdict == Verdict::Fine));
        assert!(matches!(same[4], Verdict::Tell(_)) && matches!(same[9], Verdict::End(_)));
        let progress = verdicts(json!({}), &|at| at.to_string());
        assert!(progress.iter().all(|verdict| *verdict == Verdict::Fine));
        let off = verdicts(
            json!({ "tools": { "loopDetection": { "enabled": false } } }),
            &|_| "x".to_owned(),
        );
        assert!(off.iter().all(|verdict| *verdict == Verdict::Fine));
    }
}
