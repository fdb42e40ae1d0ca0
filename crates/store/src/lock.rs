//! One process owns the database: an advisory lock on a file beside it, which the kernel gives back when the owner
//! dies.

use crate::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    pub(crate) fn take(database: &Path, shown: &Arc<str>) -> Result<Self, StoreError> {
        let mut name = database.as_os_str().to_owned();
        name.push(".lock");
        let io = |error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::ReadOnly {
                    path: Arc::clone(shown),
                    detail: Arc::from(error.to_string()),
                }
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                StoreError::Full {
                    path: Arc::clone(shown),
                    detail: Arc::from(error.to_string()),
                }
            }
            _ => StoreError::Io {
                path: Arc::clone(shown),
                detail: Arc::from(error.to_string()),
            },
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&name)
            .map_err(|error| io(&error))?;
        match file.try_lock() {
            Ok(()) => {
                // For whoever is refused; a failure to write it takes nothing from the lock.
                let noted = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
                if let Err(error) = noted {
                    tracing::debug!(%error, "cannot note the owner in the lock file");
                }
                Ok(Self(file))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = (&mut file).take(20).read_to_string(&mut holder).is_ok()
                    && holder.parse::<u32>().is_ok();
                Err(StoreError::Locked {
                    path: Arc::clone(shown),
                    holder: if known {
                        Arc::from(format!(" (pid {holder})"))
                    } else {
                        Arc::from("")
                    },
                })
            }
            Err(TryLockError::Error(error)) => Err(io(&error)),
        }
    }
}
