//! Faults that a debug build commits on purpose, so that tests can see what is done about them.

use std::time::Duration;

use wire::error::ErrorShape;

use crate::messages::methods::Task;

/// What a native row does instead of only answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answers later.
    Delay(Duration),
    /// Answers `UNAVAILABLE`.
    Fail,
    Panic,
    /// Is compared with the upstream's as if it answered something else.
    Differ,
}

/// What is planted for a method: the file that `OPENCLAW_RS_FAULTS` names has lines such as `health delay 300`, and may
/// change while the gateway runs. Nothing in release builds.
pub(crate) fn planted(method: &str) -> Option<Fault> {
    if !cfg!(debug_assertions) {
        return None;
    }
    static FILE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var("OPENCLAW_RS_FAULTS").ok());
    of(&std::fs::read_to_string(file.as_ref()?).ok()?, method)
}

fn of(text: &str, method: &str) -> Option<Fault> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != method {
            return None;
        }
        match (words.next()?, words.next()) {
            ("delay", Some(ms)) => Some(Fault::Delay(Duration::from_millis(ms.parse().ok()?))),
            ("fail", None) => Some(Fault::Fail),
            ("panic", None) => Some(Fault::Panic),
            ("differ", None) => Some(Fault::Differ),
            _ => None,
        }
    })
}

impl Fault {
    /// The row's own work behind the fault.
    pub(crate) fn before(self, task: Task) -> Task {
        Box::pin(async move {
            match self {
                Self::Delay(time) => tokio::time::sleep(time).await,
                Self::Fail => return Err(ErrorShape::retryable("planted", None)),
                Self::Panic => panic!("planted"),
                Self::Differ => {}
            }
            task.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_for_one_method() {
        let text = "last-heartbeat panic\nhealth delay 300\nmemory.search\n";
        let wanted = Fault::Delay(Duration::from_millis(300));
        assert_eq!(of(text, "health"), Some(wanted));
        assert_eq!(of(text, "last-heartbeat"), Some(Fault::Panic));
        assert_eq!(of(text, "memory.search"), None);
        assert_eq!(of(text, "status"), None);
    }
}
