//! What the child said, over all its runs: the last lines, numbered, and how often it was started.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Lines kept; each is at most 4 KiB.
const LINES_MAX: usize = 500;

#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Counts from 1 and never repeats while this gateway runs.
    pub(crate) seq: u64,
    pub(crate) at_ms: u64,
    pub(crate) pid: u32,
    /// `stdout` or `stderr`.
    pub(crate) stream: &'static str,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct Output {
    lines: Mutex<VecDeque<Line>>,
    /// Number of the last line.
    last: watch::Sender<u64>,
    starts: AtomicU64,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            lines: Mutex::default(),
            last: watch::Sender::new(0),
            starts: AtomicU64::new(0),
        }
    }
}

impl Output {
    pub(super) fn started(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
    }

    /// Starts of a child since this gateway's own.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    pub(super) fn push(&self, pid: u32, stream: &'static str, text: String) {
        let mut lines = self.lines.lock();
        let seq = *self.last.borrow() + 1;
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line {
            seq,
            at_ms: crate::clock::now_ms(),
            pid,
            stream,
            text,
        });
        // Under the lock, so that numbers are in order.
        self.last.send_replace(seq);
    }

    /// Lines with a higher number, oldest first. What is no longer kept is missing.
    pub(crate) fn after(&self, seq: u64) -> Vec<Line> {
        let lines = self.lines.lock();
        lines
            .iter()
            .filter(|line| line.seq > seq)
            .cloned()
            .collect()
    }

    /// Resolves when there is a line with a higher number.
    pub(crate) async fn newer(&self, seq: u64) {
        // The sender is ours, so it can't be gone.
        drop(self.last.subscribe().wait_for(|last| *last > seq).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_bounded_and_waited_for() {
        let output = std::sync::Arc::new(Output::default());
        let waits = tokio::spawn({
            let output = std::sync::Arc::clone(&output);
            async move { output.newer(2).await }
        });
        for n in 1..=LINES_MAX + 3 {
            output.push(1, "stdout", format!("line {n}"));
        }
        waits.await.unwrap();
        let kept = output.after(0);
        assert_eq!(kept.len(), LINES_MAX);
        assert_eq!((kept[0].seq, kept[0].text.as_str()), (4, "line 4"));
        let last = kept.last().unwrap().seq;
        assert!(output.after(last).is_empty());
        assert_eq!(output.after(last - 1).len(), 1);
    }
}
