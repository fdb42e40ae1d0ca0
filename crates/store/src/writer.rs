//! The one writer: takes closures, commits many at once, answers after the commit.

use crate::db::{self, Health, Options, Tx};
use crate::history::Count;
use crate::lock::Lock;
use crate::{StoreError, TxError, history, migrate, outbox};
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use tokio::sync::{oneshot, watch};

/// A closure on its way to the writer and its answer on the way back.
pub(crate) trait Job: Send {
    /// Runs inside a savepoint; on an error that is rolled back.
    fn run(&mut self, tx: &Tx<'_>, path: &Arc<str>) -> Result<(), StoreError>;
    /// Once, after the commit or its failure.
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
    fn is_end(&self) -> bool {
        false
    }
}

pub(crate) struct JobOf<T, F> {
    run: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> JobOf<T, F> {
    pub(crate) fn new(run: F, reply: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self {
            run: Some(run),
            outcome: None,
            reply,
        }
    }
}

impl<T, F> Job for JobOf<T, F>
where
    T: Send,
    F: FnOnce(&Tx<'_>) -> Result<T, TxError> + Send,
{
    fn run(&mut self, tx: &Tx<'_>, path: &Arc<str>) -> Result<(), StoreError> {
        let Some(run) = self.run.take() else {
            return Err(StoreError::Closed);
        };
        let outcome = match catch_unwind(AssertUnwindSafe(|| run(tx))) {
            Ok(outcome) => outcome.map_err(|error| error.at(path)),
            Err(panic) => {
                let detail = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "a panic".to_owned());
                Err(StoreError::Panicked {
                    detail: Arc::from(detail),
                })
            }
        };
        let verdict = outcome.as_ref().map(drop).map_err(Clone::clone);
        self.outcome = Some(outcome);
        verdict
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (self.outcome, committed) {
            (Some(Ok(value)), Ok(())) => Ok(value),
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (None, Ok(())) => Err(StoreError::Closed),
        };
        // Whoever asked may have gone; the write stands.
        drop(self.reply.send(answer));
    }
}

/// The order to end.
pub(crate) struct End(pub(crate) Option<oneshot::Sender<()>>);

impl Job for End {
    fn run(&mut self, _tx: &Tx<'_>, _path: &Arc<str>) -> Result<(), StoreError> {
        Ok(())
    }
    fn finish(mut self: Box<Self>, _committed: Result<(), StoreError>) {
        if let Some(reply) = self.0.take()
            && reply.send(()).is_err()
        {
            tracing::trace!("nobody waits for the end");
        }
    }
    fn is_end(&self) -> bool {
        true
    }
}

pub(crate) struct Writer {
    path: PathBuf,
    shown: Arc<str>,
    options: Options,
    health: watch::Sender<Health>,
    commits: Arc<AtomicU64>,
    lock: Option<Lock>,
    connection: Option<Connection>,
    counts: RefCell<Vec<Count>>,
    /// Old leases were put in doubt.
    looked_back: bool,
}

impl Writer {
    pub(crate) fn new(
        path: PathBuf,
        shown: Arc<str>,
        options: Options,
        health: watch::Sender<Health>,
        commits: Arc<AtomicU64>,
    ) -> Self {
        Self {
            path,
            shown,
            options,
            health,
            commits,
            lock: None,
            connection: None,
            counts: RefCell::new(Vec::new()),
            looked_back: false,
        }
    }

    /// Until the last handle is gone or the order to end came.
    pub(crate) fn run(mut self, jobs: &Receiver<Box<dyn Job>>) {
        self.open();
        let mut batch: Vec<Box<dyn Job>> = Vec::new();
        loop {
            let first = if matches!(*self.health.borrow(), Health::Good) {
                match jobs.recv() {
                    Ok(job) => job,
                    Err(_all_gone) => break,
                }
            } else {
                match jobs.recv_timeout(self.options.probe_every) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.probe();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            };
            batch.push(first);
            while batch.len() < self.options.batch_max
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            let ends = batch.iter().any(|job| job.is_end());
            let committed = self.commit(&mut batch);
            for job in batch.drain(..) {
                job.finish(committed.clone());
            }
            if ends {
                break;
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err((_, error)) = connection.close()
        {
            tracing::warn!(%error, "the message store did not close cleanly");
        }
    }

    /// One transaction for all. An error in one closure takes back that closure alone; an error of the disk takes
    /// back all of them.
    fn commit(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        if self.connection.is_none() {
            self.open();
        }
        let Some(connection) = &self.connection else {
            return Err(match &*self.health.borrow() {
                Health::Failing(error) => error.clone(),
                Health::Opening | Health::Good => StoreError::Closed,
            });
        };
        let outcome = transact(connection, &self.counts, batch, &self.shown);
        match &outcome {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                self.recovered();
            }
            Err(error) => {
                if !connection.is_autocommit()
                    && let Err(error) = connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "cannot roll back; the connection is given up");
                }
                self.failing(error.clone());
            }
        }
        outcome
    }

    fn open(&mut self) {
        match self.try_open() {
            Ok(connection) => {
                self.connection = Some(connection);
                self.recovered();
            }
            Err(error) => self.failing(error),
        }
    }

    fn try_open(&mut self) -> Result<Connection, StoreError> {
        if self.lock.is_none() {
            self.lock = Some(Lock::take(&self.path, &self.shown)?);
        }
        let sqlite = |error: rusqlite::Error| StoreError::sqlite(&self.shown, &error);
        private(&self.path);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = db::open(&self.path, flags, &self.options).map_err(sqlite)?;
        // Before the first table: it can't be changed afterwards.
        connection
            .pragma_update(None, "auto_vacuum", "INCREMENTAL")
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "synchronous", self.options.synchronous)
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "temp_store", "MEMORY")
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "cache_size", -i64::from(self.options.cache_kib))
            .map_err(sqlite)?;
        // A burst makes the log long; it is cut back at the next checkpoint.
        connection
            .pragma_update(None, "journal_size_limit", 8 * 1024 * 1024)
            .map_err(sqlite)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", 1000)
            .map_err(sqlite)?;
        if self.options.pages_max > 0 {
            connection
                .pragma_update(None, "max_page_count", self.options.pages_max)
                .map_err(sqlite)?;
        }
        migrate::run(&mut connection, &self.path, &self.shown)?;
        // What was being sent when the last owner died may have arrived. Leases of this process live on.
        if !self.looked_back {
            let found = outbox::recover(&connection).map_err(|error| error.at(&self.shown))?;
            self.looked_back = true;
            if found.in_doubt > 0 {
                tracing::warn!(
                    messages = found.in_doubt,
                    "the last run ended while these were being sent; they are in doubt"
                );
            }
        }
        Ok(connection)
    }

    /// Looks whether the cause of an outage is gone.
    fn probe(&mut self) {
        let Some(connection) = &self.connection else {
            return self.open();
        };
        // A write that changes a page, so that the disk is really asked.
        let tried = connection.execute_batch(
            "BEGIN IMMEDIATE;
             INSERT INTO counters (channel, name, value) VALUES ('', 'probes', 1)
                 ON CONFLICT DO UPDATE SET value = value + 1;
             COMMIT;",
        );
        match tried {
            Ok(()) => self.recovered(),
            Err(error) => {
                if !connection.is_autocommit()
                    && let Err(error) = connection.execute_batch("ROLLBACK")
                {
                    tracing::debug!(%error, "cannot roll back the probe");
                }
                self.failing(StoreError::sqlite(&self.shown, &error));
            }
        }
    }

    fn recovered(&self) {
        if !matches!(*self.health.borrow(), Health::Good) {
            if matches!(*self.health.borrow(), Health::Failing(_)) {
                tracing::info!(path = %self.shown, "the message store takes writes again");
            }
            self.health.send_replace(Health::Good);
        }
    }

    fn failing(&mut self, error: StoreError) {
        if !error.is_outage() {
            return;
        }
        // A new connection sees a file that was put in place of the old one, and a disk that came back.
        if !matches!(error, StoreError::Full { .. })
            && let Some(connection) = self.connection.take()
            && let Err((_, error)) = connection.close()
        {
            tracing::debug!(%error, "the connection did not close cleanly");
        }
        let known = matches!(&*self.health.borrow(), Health::Failing(old) if old.to_string() == error.to_string());
        if !known {
            tracing::error!(%error, "the message store takes no writes");
            self.health.send_replace(Health::Failing(error));
        }
    }
}

fn transact(
    connection: &Connection,
    counts: &RefCell<Vec<Count>>,
    batch: &mut [Box<dyn Job>],
    path: &Arc<str>,
) -> Result<(), StoreError> {
    let sqlite = |error: rusqlite::Error| StoreError::sqlite(path, &error);
    let run = |sql: &str| -> Result<(), StoreError> {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(sqlite)
    };
    run("BEGIN IMMEDIATE")?;
    counts.borrow_mut().clear();
    let mut all: Vec<Count> = Vec::new();
    let tx = Tx { connection, counts };
    for job in batch {
        run("SAVEPOINT one")?;
        match job.run(&tx, path) {
            // The disk's trouble is everybody's: nobody of this batch is told that it was written.
            Err(error) if error.is_outage() => return Err(error),
            Err(_only_this_one) => {
                counts.borrow_mut().clear();
                run("ROLLBACK TO one")?;
            }
            Ok(()) => all.append(&mut counts.borrow_mut()),
        }
        run("RELEASE one")?;
    }
    history::add_counts(connection, &all).map_err(sqlite)?;
    run("COMMIT")
}

/// Messages are the owner's alone.
fn private(path: &std::path::Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // SQLite gives the log and the shared-memory file the same mode.
        let made = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            tracing::debug!(%error, "cannot create the database file");
        }
    }
}
