//! Small private files: replaced whole, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::secret;

/// Writes `bytes` so that after a crash the file holds either the old or the new content. Readable by the owner
/// only; missing directories are made for the owner only.
///
/// # Errors
/// Whatever the file system says; the old file is then untouched.
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("the path has no directory"))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temp = dir.join(format!(".{name}.{}.tmp", secret::random_base64url::<9>()));
    let written = write_synced(&temp, bytes).and_then(|()| fs::rename(&temp, path));
    if let Err(error) = written {
        // The temporary file is never read; leaving one behind costs its bytes only.
        drop(fs::remove_file(&temp));
        return Err(error);
    }
    File::open(dir)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes what crashed writers of `path` left behind.
pub(super) fn sweep_temporaries(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let own = entry.file_name().to_string_lossy().into_owned();
        if own.starts_with(&prefix) && own.ends_with(".tmp") {
            drop(fs::remove_file(entry.path()));
        }
    }
}
