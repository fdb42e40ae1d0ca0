//! A folder that tools work in and cannot leave: not by `..`, not by an absolute path, not by a link, not by a link
//! that is put in place while they work.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

pub(super) struct Root {
    dir: OwnedFd,
    /// As the user named it.
    path: PathBuf,
    /// Without links.
    real: PathBuf,
}

impl Root {
    /// # Errors
    /// Words for the model.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let why = |error: &dyn std::fmt::Display| {
            format!(
                "the workspace {} can't be used: {error}. The user can create it, or name another in agents.defaults.workspace.",
                path.display()
            )
        };
        let real = path.canonicalize().map_err(|error| why(&error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            fs::open(&real, flags, Mode::empty()).map_err(|error| why(&io::Error::from(error)))?;
        Ok(Self {
            dir,
            path: path.to_owned(),
            real,
        })
    }

    /// A path as a model writes it, from here on. Empty for the folder itself.
    ///
    /// # Errors
    /// Words for the model when it leads out.
    pub(super) fn inside(&self, asked: &str) -> Result<PathBuf, String> {
        let outside = || {
            format!(
                "{asked} is outside of the workspace {}: tools reach only files in it",
                self.path.display()
            )
        };
        if asked.contains('\0') {
            return Err("a path can't hold a NUL character".to_owned());
        }
        let path = Path::new(asked.trim());
        let path = match path.is_absolute() {
            true => path
                .strip_prefix(&self.path)
                .or_else(|_| path.strip_prefix(&self.real))
                .map_err(|_not_under_it| outside())?,
            false => path,
        };
        let mut inside = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => inside.push(name),
                Component::CurDir => {}
                Component::ParentDir if inside.pop() => {}
                _ => return Err(outside()),
            }
        }
        Ok(inside)
    }

    /// Where a path of [`Root::inside`] is, for people.
    pub(super) fn shown(&self, inside: &Path) -> String {
        self.path.join(inside).display().to_string()
    }

    pub(super) fn open_in(&self, inside: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        beneath(self.dir.as_fd(), inside, flags)
    }

    /// A regular file, to be read; nothing that would make a reader wait.
    pub(super) fn file(&self, inside: &Path) -> Result<File, Trouble> {
        let fd = self.open_in(inside, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let file = File::from(fd);
        let kind = file.metadata()?.file_type();
        match kind {
            kind if kind.is_file() => Ok(file),
            kind if kind.is_dir() => Err(Trouble::Folder),
            _ => Err(Trouble::Special),
        }
    }

    /// The folder that holds a path, made if it is not there, and the name in it.
    pub(super) fn folder_for<'a>(&self, inside: &'a Path) -> Result<(OwnedFd, &'a Path), Trouble> {
        let (Some(name), Some(parent)) = (inside.file_name(), inside.parent()) else {
            return Err(Trouble::Folder);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = PathBuf::new();
        let mut folder = self.open_in(Path::new("."), flags)?;
        for part in parent.components() {
            at.push(part);
            folder = match self.open_in(&at, flags) {
                Err(Errno::NOENT) => {
                    match fs::mkdirat(
                        &folder,
                        Path::new(part.as_os_str()),
                        Mode::from_raw_mode(0o777),
                    ) {
                        // Somebody else was faster.
                        Ok(()) | Err(Errno::EXIST) => self.open_in(&at, flags)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                other => other?,
            };
        }
        Ok((folder, Path::new(name)))
    }
}

/// Why a file can't be used.
#[derive(Debug)]
pub(super) enum Trouble {
    Folder,
    /// A pipe, a socket, a device.
    Special,
    Os(io::Error),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::Os(error.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

impl Trouble {
    /// For the model; `shown` is the path it concerns.
    pub(super) fn words(&self, doing: &str, shown: &str) -> String {
        let Self::Os(error) = self else {
            return match self {
                Self::Folder => format!(
                    "{doing} requires a file path, but {shown} is a directory. List the directory, then name a specific file."
                ),
                _ => format!("{doing} only supports regular files: {shown}"),
            };
        };
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => format!("File not found: {shown}."),
            Some(Errno::XDEV | Errno::LOOP) => format!(
                "{shown} is or passes a link that leads out of the workspace; tools don't follow it"
            ),
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => format!(
                "{shown}: {error}. The workspace, or this part of it, is not open to that; tell the user."
            ),
            _ => format!("{shown}: {error}"),
        }
    }
}

/// Opens what is under a folder, links followed only as far as they stay there.
pub(crate) fn beneath(dir: impl AsFd, inside: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let inside = match inside.as_os_str().is_empty() {
        true => Path::new("."),
        false => inside,
    };
    let flags = flags | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    {
        let resolve = fs::ResolveFlags::BENEATH | fs::ResolveFlags::NO_MAGICLINKS;
        match fs::openat2(&dir, inside, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => {}
            done => return done,
        }
    }
    // A kernel or a sandbox without it: step by step, and no link at all.
    let mut parts = inside.components().peekable();
    let mut at = fs::openat(
        &dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    while let Some(part) = parts.next() {
        let flags = match parts.peek() {
            Some(_) => OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            None => flags,
        };
        at = fs::openat(
            &at,
            part.as_os_str(),
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("secret"), "x").expect("written");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        std::fs::write(dir.path().join("sub/own"), "y").expect("written");
        symlink(outside.path(), dir.path().join("out")).expect("linked");
        symlink(outside.path().join("secret"), dir.path().join("sub/leak")).expect("linked");
        symlink("../../../../../../../../etc/passwd", dir.path().join("up")).expect("linked");
        symlink("own", dir.path().join("sub/alias")).expect("linked");
        symlink("/proc/self/root/etc/passwd", dir.path().join("magic")).expect("linked");
        let root = Root::open(dir.path()).expect("open");
        let open = |path: &str| {
            let inside = root.inside(path)?;
            root.file(&inside)
                .map_err(|trouble| trouble.words("Read", path))
        };
        for path in [
            "../x",
            "sub/../../x",
            "/etc/passwd",
            "a\0b",
            "sub/../..",
            "/",
        ] {
            assert!(root.inside(path).is_err(), "{path}");
        }
        for path in ["out/secret", "sub/leak", "up", "magic"] {
            let error = open(path).map(drop).expect_err(path);
            assert!(error.contains("link that leads out"), "{path}: {error}");
        }
        for path in ["sub/own", "./sub/../sub/own", "sub/alias"] {
            open(path).expect(path);
        }
        open(dir.path().join("sub/own").to_str().expect("text")).expect("absolute, but inside");
        assert!(
            open("sub")
                .map(drop)
                .expect_err("a folder")
                .contains("is a directory")
        );
        assert!(root.folder_for(Path::new("out/new")).is_err());
        root.folder_for(Path::new("a/b/c")).expect("made");
        assert!(dir.path().join("a/b").is_dir());
    }
}
