//! Writing files so that a reader sees the old or the new one, never a part, and only the owner reads
//! them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

/// Creates `dir` and what is missing above it, readable by the owner only.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Replaces `file` by `bytes` with mode 0600: a temporary file beside it, fsync, rename, fsync of the
/// directory. A symbolic link is kept and its target replaced.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = target_of(file)?;
    let temporary = write_beside(&target, bytes)?;
    fs::rename(&temporary, &target).inspect_err(|_| discard(&temporary))?;
    sync_dir_of(&target);
    Ok(())
}

/// Writes `file` with mode 0600 if nothing is there, in one step; `AlreadyExists` otherwise.
pub(crate) fn create_new(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_beside(file, bytes)?;
    let made = fs::hard_link(&temporary, file).or_else(|error| {
        // Not every file system has links.
        match error.kind() {
            io::ErrorKind::AlreadyExists => Err(error),
            _ if file.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            _ => fs::rename(&temporary, file),
        }
    });
    discard(&temporary);
    made?;
    sync_dir_of(file);
    Ok(())
}

/// The file a path stands for, links followed; a dangling link stands for what it points at.
pub(super) fn target_of(file: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(file) {
        Ok(target) => Ok(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(file) {
            Ok(link) => Ok(file.parent().unwrap_or(Path::new("/")).join(link)),
            Err(_) => Ok(file.to_path_buf()),
        },
        Err(error) => Err(error),
    }
}

/// `count` random bytes in hexadecimal.
pub(crate) fn random_hex(count: usize) -> io::Result<String> {
    let mut bytes = vec![0; count];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_cause| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_beside(file: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let dir = file
        .parent()
        .ok_or_else(|| io::Error::other("it has no directory"))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", random_hex(8)?));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut out| {
            // The mode at creation is subject to the umask.
            out.set_permissions(Permissions::from_mode(0o600))?;
            out.write_all(bytes)?;
            out.sync_all()
        });
    written.inspect_err(|_| discard(&temporary))?;
    Ok(temporary)
}

fn discard(temporary: &Path) {
    if let Err(error) = fs::remove_file(temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %temporary.display(), %error, "cannot remove the temporary file");
    }
}

fn sync_dir_of(file: &Path) {
    let synced = file
        .parent()
        .map(|dir| File::open(dir).and_then(|dir| dir.sync_all()));
    if let Some(Err(error)) = synced {
        // The data is on disk; only the rename could be lost by a power cut.
        tracing::debug!(file = %file.display(), %error, "cannot sync the directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").expect("write");
        std::os::unix::fs::symlink("real", &link).expect("symlink");
        replace(&link, b"new").expect("replaced");
        assert_eq!(fs::read_to_string(&real).expect("read"), "new");
        assert!(link.symlink_metadata().expect("meta").is_symlink());
        assert_eq!(
            fs::metadata(&real).expect("meta").permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2);
    }

    #[test]
    fn what_exists_is_not_created_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("f");
        create_new(&file, b"first").expect("created");
        let error = create_new(&file, b"second").expect_err("exists");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).expect("read"), b"first");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1);
    }
}
