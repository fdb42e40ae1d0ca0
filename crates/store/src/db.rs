//! The handle, its options, and the two ways in: [`Store::write`] through the one writer, [`Store::read`] beside it.

use crate::history::Count;
use crate::writer::{self, Job, JobOf};
use crate::{
    Agents, History, Inbox, Keys, Outbox, Pairings, Sessions, StoreError, Transcripts, TxError,
};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot, watch};

/// Sizes of one store. [`Options::default`] suits a gateway on a small machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Writes that may wait for the writer; past it [`StoreError::Busy`].
    pub queue_max: usize,
    /// Closures in one transaction.
    pub batch_max: usize,
    /// Connections that read at a time; further readers wait.
    pub readers_max: usize,
    /// Page cache of the writer, KiB. Readers have a quarter each.
    pub cache_kib: u32,
    /// Largest database, pages of 4 KiB; 0: what the disk holds.
    pub pages_max: u32,
    /// How often a store that can't write looks whether the cause is gone.
    pub probe_every: Duration,
    /// SQLite VFS by name, for tests that cut the power.
    pub vfs: Option<String>,
    /// `synchronous`: FULL, except to show that the tests would notice.
    pub synchronous: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_max: 4096,
            batch_max: 1024,
            readers_max: 2,
            cache_kib: 4096,
            pages_max: 0,
            probe_every: Duration::from_secs(1),
            vfs: None,
            synchronous: "FULL",
        }
    }
}

/// Whether the store takes writes.
#[derive(Debug, Clone)]
pub enum Health {
    /// Not opened yet.
    Opening,
    Good,
    /// Every write is refused with this until the cause is gone.
    Failing(StoreError),
}

/// The message store. Cheap to clone; the writer ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    path: PathBuf,
    shown: Arc<str>,
    options: Options,
    queue: mpsc::SyncSender<Box<dyn Job>>,
    health: watch::Receiver<Health>,
    readers: Mutex<Vec<Connection>>,
    reading: Semaphore,
    commits: Arc<AtomicU64>,
    ended: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish()
    }
}

impl Store {
    /// Starts the writer on `path`, which it creates (owner-only) if need be. A database that can't be opened is a
    /// [`Health`], not an error here: the store looks again by itself.
    ///
    /// # Errors
    /// Only when no thread can be started.
    pub fn open(path: &Path, options: Options) -> std::io::Result<Self> {
        let shown: Arc<str> = Arc::from(path.display().to_string());
        let (queue, jobs) = mpsc::sync_channel(options.queue_max);
        let (health, watching) = watch::channel(Health::Opening);
        let commits = Arc::new(AtomicU64::new(0));
        let writer = writer::Writer::new(
            path.to_owned(),
            Arc::clone(&shown),
            options.clone(),
            health,
            Arc::clone(&commits),
        );
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || writer.run(&jobs))?;
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                shown,
                reading: Semaphore::new(options.readers_max),
                options,
                queue,
                health: watching,
                readers: Mutex::new(Vec::new()),
                commits,
                ended: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Runs a closure in the writer's next transaction and answers after its commit. All of it is written or nothing.
    /// Closures run in the order of the calls. The closure must not block. Dropping the future does not take the
    /// write back.
    ///
    /// # Errors
    /// What the closure answered, or why the commit failed: then nothing was written.
    pub async fn write<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, TxError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(JobOf::new(run, reply));
        self.shared
            .queue
            .try_send(job)
            .map_err(|error| match error {
                mpsc::TrySendError::Full(_) => StoreError::Busy,
                mpsc::TrySendError::Disconnected(_) => StoreError::Closed,
            })?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Runs a closure on a connection that sees everything committed before the call.
    ///
    /// # Errors
    /// What the closure answered, or why no connection could be had.
    pub async fn read<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader<'_>) -> Result<T, TxError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&self.shared);
        // Until it was opened nothing says what a lease of the last run has become. A store that fails is still read.
        self.health()
            .wait_for(|health| !matches!(health, Health::Opening))
            .await
            .map_err(|_gone| StoreError::Closed)?;
        let _permit = permit
            .reading
            .acquire()
            .await
            .map_err(|_closed| StoreError::Closed)?;
        tokio::task::spawn_blocking(move || shared.read(run))
            .await
            .map_err(|error| StoreError::Panicked {
                detail: Arc::from(error.to_string()),
            })?
    }

    /// As [`Store::read`], on the calling thread: for point lookups (microseconds) and for threads that may block.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn read_now<T>(
        &self,
        run: impl FnOnce(&Reader<'_>) -> Result<T, TxError>,
    ) -> Result<T, StoreError> {
        self.shared.read(run)
    }

    /// What it is now, and every change of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.clone()
    }

    /// Waits for the first attempt to open.
    ///
    /// # Errors
    /// Why it does not take writes.
    pub async fn opened(&self) -> Result<(), StoreError> {
        let mut health = self.health();
        let seen = health
            .wait_for(|health| !matches!(health, Health::Opening))
            .await
            .map_err(|_gone| StoreError::Closed)?;
        match &*seen {
            Health::Failing(error) => Err(error.clone()),
            Health::Good | Health::Opening => Ok(()),
        }
    }

    /// Commits since the start: each is one fsync of the log.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Ends the writer after what is queued and waits for it. Clones answer [`StoreError::Closed`] from then on.
    pub fn close(&self) {
        let (reply, _answer) = oneshot::channel();
        if self
            .shared
            .queue
            .send(Box::new(writer::End(Some(reply))))
            .is_err()
        {
            return;
        }
        let thread = self.shared.ended.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
        self.shared.readers.lock().clear();
    }
}

/// Looks into a database that another process may own, without taking part: for command lines.
///
/// # Errors
/// Why it can't be read.
pub fn look<T>(
    path: &Path,
    run: impl FnOnce(&Reader<'_>) -> Result<T, TxError>,
) -> Result<T, StoreError> {
    let shown: Arc<str> = Arc::from(path.display().to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = open(path, flags, &Options::default())
        .map_err(|error| StoreError::sqlite(&shown, &error))?;
    run(&Reader {
        connection: &connection,
    })
    .map_err(|error| error.at(&shown))
}

impl Shared {
    fn read<T>(
        &self,
        run: impl FnOnce(&Reader<'_>) -> Result<T, TxError>,
    ) -> Result<T, StoreError> {
        let pooled = self.readers.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let outcome = run(&Reader {
            connection: &connection,
        });
        match outcome {
            Ok(answer) => {
                let mut readers = self.readers.lock();
                if readers.len() < self.options.readers_max {
                    readers.push(connection);
                }
                Ok(answer)
            }
            // The connection is not kept: it may be why.
            Err(error) => Err(error.at(&self.shown)),
        }
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        open(&self.path, flags, &self.options)
            .and_then(|connection| {
                connection.pragma_update(None, "query_only", true)?;
                let cache = -i64::from(self.options.cache_kib / 4);
                connection.pragma_update(None, "cache_size", cache)?;
                Ok(connection)
            })
            .map_err(|error| StoreError::sqlite(&self.shown, &error))
    }
}

pub(crate) fn open(
    path: &Path,
    flags: OpenFlags,
    options: &Options,
) -> rusqlite::Result<Connection> {
    let connection = match &options.vfs {
        None => Connection::open_with_flags(path, flags)?,
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs.as_str())?,
    };
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A read-only look at the tables.
#[derive(Debug)]
pub struct Reader<'a> {
    pub(crate) connection: &'a Connection,
}

impl<'a> Reader<'a> {
    pub fn pairings(&self) -> Pairings<'a> {
        Pairings(self.connection)
    }
    pub fn agents(&self) -> Agents<'a> {
        Agents(self.connection)
    }
    pub fn schedules(&self) -> crate::Schedules<'a> {
        crate::Schedules(self.connection)
    }
    pub fn transcripts(&self) -> Transcripts<'a> {
        Transcripts(self.connection)
    }
    pub fn sessions(&self) -> Sessions<'a> {
        Sessions(self.connection)
    }
    pub fn inbox(&self) -> Inbox<'a> {
        Inbox::reading(self.connection)
    }
    pub fn outbox(&self) -> Outbox<'a> {
        Outbox::reading(self.connection)
    }
    pub fn history(&self) -> History<'a> {
        History::reading(self.connection)
    }
    pub fn cursor(
        &self,
        channel: &str,
        account: &str,
        key: &str,
    ) -> Result<Option<String>, TxError> {
        crate::inbox::cursor(self.connection, channel, account, key)
    }
}

/// The open transaction, as one closure sees it.
pub struct Tx<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) counts: &'a RefCell<Vec<Count>>,
}

impl<'a> Tx<'a> {
    pub fn pairings(&self) -> Pairings<'a> {
        Pairings(self.connection)
    }
    pub fn agents(&self) -> Agents<'a> {
        Agents(self.connection)
    }
    pub fn schedules(&self) -> crate::Schedules<'a> {
        crate::Schedules(self.connection)
    }
    pub fn transcripts(&self) -> Transcripts<'a> {
        Transcripts(self.connection)
    }
    pub fn sessions(&self) -> Sessions<'a> {
        Sessions(self.connection)
    }
    pub fn inbox(&self) -> Inbox<'a> {
        Inbox::writing(self.connection, self.counts)
    }
    pub fn outbox(&self) -> Outbox<'a> {
        Outbox::writing(self.connection, self.counts)
    }
    pub fn keys(&self) -> Keys<'a> {
        Keys(self.connection)
    }
    pub fn history(&self) -> History<'a> {
        History::reading(self.connection)
    }
    pub fn maintain(
        &self,
        retention: &crate::Retention,
        now_ms: i64,
    ) -> Result<crate::Maintained, TxError> {
        crate::retention::maintain(self.connection, retention, now_ms)
    }
    /// Moves a cursor, in the transaction of the rows it stands for.
    pub fn set_cursor(
        &self,
        channel: &str,
        account: &str,
        key: &str,
        value: &str,
        now_ms: i64,
    ) -> Result<(), TxError> {
        crate::inbox::set_cursor(self.connection, channel, account, key, value, now_ms)
    }
    /// Forgets a cursor; one that is not there is no error.
    pub fn forget_cursor(&self, channel: &str, account: &str, key: &str) -> Result<(), TxError> {
        crate::inbox::forget_cursor(self.connection, channel, account, key)
    }
}
