//! A tantivy folder whose files are read by `pread`: mapped pages would count as resident memory of the gateway
//! (107 MB at a million chunks), while the page cache holds them just the same.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes, WatchCallback,
    WatchHandle, WritePtr,
};

#[derive(Debug, Clone)]
pub(super) struct Reading {
    folder: PathBuf,
    /// Everything but reading.
    rest: MmapDirectory,
}

impl Reading {
    pub(super) fn open(folder: &Path) -> tantivy::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            rest: MmapDirectory::open(folder)?,
        })
    }
}

#[derive(Debug)]
struct File {
    file: std::fs::File,
    len: usize,
}

impl HasLen for File {
    fn len(&self) -> usize {
        self.len
    }
}

impl FileHandle for File {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        Ok(OwnedBytes::new(bytes))
    }
}

impl Directory for Reading {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let full = self.folder.join(path);
        let open = || -> io::Result<File> {
            let file = std::fs::File::open(&full)?;
            let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            Ok(File { file, len })
        };
        match open() {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(OpenReadError::FileDoesNotExist(path.to_owned()))
            }
            Err(error) => Err(OpenReadError::wrap_io_error(error, path.to_owned())),
        }
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.rest.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.rest.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.rest.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.rest.atomic_read(path)
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.rest.atomic_write(path, data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.rest.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.rest.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.rest.watch(callback)
    }
}
