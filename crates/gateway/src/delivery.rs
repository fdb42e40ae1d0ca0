//! From an outbox row to a receipt: lease, prepare, send, and then acknowledge, try again, hold in doubt or bury.
//!
//! One loop leases; each leased message is a task of its own, at most [`PER_ACCOUNT_MAX`] of one account, so that a
//! slow account delays nobody else. Within a conversation the store hands out one message at a time.

mod backoff;
mod behind;
mod files;
mod fit;
mod prepare;
mod worker;

pub(crate) use prepare::{Media, Payload};
pub(crate) use worker::{SEND_TIMEOUT, run};

/// Messages of one account that may be on their way at a time.
pub(crate) const PER_ACCOUNT_MAX: usize = 8;
