//! What must survive a crash: route sessions, the inbound spool, the outbox, idempotency keys, and what happened.
//!
//! SQLite in WAL mode with `synchronous=FULL`. One thread writes; callers hand it closures, many of which share one
//! transaction and one fsync, and [`Store::write`] answers after the commit. Work can only be enqueued inside such a
//! closure, so there is no acknowledgement before the commit. The store reads no clock: times are the caller's,
//! milliseconds since the epoch.
//!
//! Start with [`Store`]; the tables are [`Sessions`], [`Inbox`], [`Outbox`], [`Keys`], [`History`], [`Agents`].

mod agents;
pub mod backup;
mod branches;
mod db;
mod error;
mod history;
mod inbox;
mod keys;
mod lock;
mod migrate;
mod outbox;
mod pairings;
mod retention;
mod schedules;
mod sessions;
mod transcripts;
mod writer;

pub use agents::{AgentSession, Agents, Begun, Entry, Run, RunState};
pub use branches::Branch;
pub use db::{Health, Options, Reader, Store, Tx, look};
pub use error::{StoreError, TxError};
pub use history::{Count, History, Step, Timeline};
pub use inbox::{Inbox, InboxRow, InboxState, NewInbound, Spooled};
pub use keys::{Claim, Keys};
pub use migrate::SCHEMA;
pub use outbox::{
    Lease, NewOutbound, Outbox, OutboxFilter, OutboxRow, OutboxState, Recovered, Waiting,
};
pub use pairings::{Pairing, Pairings};
pub use retention::{Maintained, Retention};
pub use schedules::{CronJob, CronRun, CronRunFilter, Schedules};
pub use sessions::{NewSession, SessionFilter, SessionRow, Sessions};
pub use transcripts::{Said, Transcripts};

/// A new id: sortable by time, unique without asking anybody.
pub fn new_id(now_ms: i64) -> String {
    let ms = u64::try_from(now_ms).unwrap_or(0);
    let nanos = u32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    let timestamp = uuid::Timestamp::from_unix(uuid::NoContext, ms / 1000, nanos);
    uuid::Uuid::new_v7(timestamp).simple().to_string()
}
