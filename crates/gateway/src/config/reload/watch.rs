//! Notices that one of our files changed, however it was written: in place, or by renaming another over it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Editors write in several steps; this long nothing more must happen.
const SETTLED: Duration = Duration::from_millis(300);

/// Watches files by their folders, so that a file may come, go and be replaced.
pub struct Watcher {
    changed: mpsc::Receiver<()>,
    /// Ends with this.
    _watching: Option<notify::RecommendedWatcher>,
}

impl Watcher {
    /// What can't be watched (no such folder yet, no more watches) is named in the log; SIGHUP still reloads.
    pub fn new(files: &[&Path]) -> Self {
        let (tell, changed) = mpsc::channel(1);
        // What a link leads to may change as well as the link, and projected folders of Kubernetes are exchanged by `..data`.
        let targets: Vec<PathBuf> = files
            .iter()
            .filter_map(|file| file.canonicalize().ok().filter(|target| target != file))
            .collect();
        let files: Vec<&Path> = files
            .iter()
            .copied()
            .chain(targets.iter().map(PathBuf::as_path))
            .collect();
        let mut names: Vec<OsString> = files
            .iter()
            .filter_map(|file| file.file_name().map(ToOwned::to_owned))
            .collect();
        names.push("..data".into());
        let watching = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let reads_only = matches!(event.kind, notify::EventKind::Access(_));
            let ours = event.paths.iter().any(|path| {
                path.file_name()
                    .is_some_and(|name| names.iter().any(|own| own == name))
            });
            if ours && !reads_only {
                // Full means that a change is known already.
                if tell.try_send(()).is_err() {
                    tracing::trace!("a change is known already");
                }
            }
        });
        let mut watching = match watching {
            Ok(watching) => watching,
            Err(error) => {
                tracing::warn!(%error, "changes of the configuration are not noticed; send SIGHUP after a change");
                return Self {
                    changed,
                    _watching: None,
                };
            }
        };
        let mut folders: Vec<PathBuf> = files
            .iter()
            .filter_map(|file| file.parent().map(Path::to_owned))
            .collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            if let Err(error) = watching.watch(&folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), %error, "changes in this folder are not noticed; send SIGHUP after a change");
            }
        }
        Self {
            changed,
            _watching: Some(watching),
        }
    }

    /// Resolves when something changed and has settled. Never, when nothing can be watched.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while tokio::time::timeout(SETTLED, self.changed.recv())
            .await
            .is_ok_and(|more| more.is_some())
        {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_and_a_rename_are_noticed_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("openclaw.json");
        std::fs::write(&file, "{}").unwrap();
        let mut watcher = Watcher::new(&[&file]);
        std::fs::write(&file, "{ }").unwrap();
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, watcher.changed())
            .await
            .expect("a write");
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::fs::rename(dir.path().join("other"), &file).unwrap();
        tokio::time::timeout(patience, watcher.changed())
            .await
            .expect("a rename");
        std::fs::write(dir.path().join("unrelated"), "x").unwrap();
        let mut change = Box::pin(watcher.changed());
        let first =
            std::future::poll_fn(|cx| std::task::Poll::Ready(change.as_mut().poll(cx))).await;
        assert!(first.is_pending());
    }
}
