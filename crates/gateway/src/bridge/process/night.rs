//! Whether a child with `on_demand` sleeps, and until when: in a file, since a job is not to be missed because this gateway was
//! started anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock;

/// How it was when somebody last wrote it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
enum Record {
    /// Which jobs it has is not known.
    Awake,
    #[serde(rename_all = "camelCase")]
    Asleep {
        /// When its next job needs it, milliseconds since 1970; none without one.
        wake_at_ms: Option<u64>,
    },
}

#[derive(Debug)]
pub(super) struct Night {
    file: PathBuf,
    wake_at: Option<Instant>,
}

/// What to begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Morning {
    /// It was awake when the last gateway ended, and may have jobs that nobody else knows of.
    Start,
    /// Until somebody calls, or its next job is due.
    Sleep,
}

impl Night {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            file: state_dir.join("upstream-sleep.json"),
            wake_at: None,
        }
    }

    /// Takes over from the last gateway. One that never ran has no jobs.
    pub(super) fn begin(&mut self) -> Morning {
        let text = std::fs::read(&self.file).ok();
        match text.and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(Record::Awake) => Morning::Start,
            Some(Record::Asleep { wake_at_ms }) => {
                let left = |at: u64| Duration::from_millis(at.saturating_sub(clock::now_ms()));
                self.wake_at = wake_at_ms.map(|at| Instant::now() + left(at));
                Morning::Sleep
            }
            None => Morning::Sleep,
        }
    }

    pub(super) fn ends(&self) {
        self.write(Record::Awake);
    }

    pub(super) fn falls(&mut self, wake_in: Option<Duration>) {
        self.wake_at = wake_in.map(|wake_in| Instant::now() + wake_in);
        let ms = |wake_in: Duration| u64::try_from(wake_in.as_millis()).unwrap_or(u64::MAX);
        self.write(Record::Asleep {
            wake_at_ms: wake_in.map(|wake_in| clock::now_ms().saturating_add(ms(wake_in))),
        });
    }

    /// Resolves when a sleeping child is to be started for its next job; never, when it has none.
    pub(super) async fn is_over(wake_at: Option<Instant>) {
        match wake_at {
            Some(wake_at) => tokio::time::sleep_until(wake_at).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self) -> Option<Instant> {
        self.wake_at.take()
    }

    /// Failing to is logged: it only matters to the next gateway.
    fn write(&self, record: Record) {
        let written = serde_json::to_vec(&record)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&self.file, text));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "cannot remember whether openclaw sleeps");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_gateway_goes_on_where_this_one_was() {
        let folder = tempfile::tempdir().unwrap();
        let next = || {
            let mut night = Night::new(folder.path());
            let morning = night.begin();
            (morning, night.take())
        };
        assert_eq!(next(), (Morning::Sleep, None), "it never ran");
        let mut night = Night::new(folder.path());
        night.ends();
        assert_eq!(next(), (Morning::Start, None));
        night.falls(None);
        assert_eq!(next(), (Morning::Sleep, None));
        night.falls(Some(Duration::from_secs(3600)));
        let (morning, wake_at) = next();
        let left = wake_at.expect("a job").duration_since(Instant::now());
        assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600));
        assert_eq!(morning, Morning::Sleep);
        night.falls(Some(Duration::ZERO));
        assert!(
            next().1.expect("a job") <= Instant::now(),
            "missed by nobody"
        );
        std::fs::write(folder.path().join("upstream-sleep.json"), "{").unwrap();
        assert_eq!(next(), (Morning::Sleep, None), "a file cut short");
    }
}
