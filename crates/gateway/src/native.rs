//! What natively answered methods say: pure functions from state to JSON, no sockets, no locks.
//!
//! [`owner`] says of every such method who answers it when an upstream exists. Rows that describe the agent
//! runtime (`status`, `sessions.*`, `chat.*`, …) belong to the upstream whenever there is one; without one
//! the answers are empty and true: nothing here pretends to run an agent.

#![allow(
    clippy::result_large_err,
    reason = "errors are answers to one caller and are built once, not passed through hot code"
)]

pub mod agents;
pub mod alone;
pub mod health;
pub mod log_tail;
pub mod presence;
pub mod sessions;
pub mod system;

use std::path::Path;

use serde_json::Value;
use wire::error::ErrorShape;

use agents::{Places, Roster};

/// What an answer is made from. One is built per call; everything in it is borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The effective configuration: includes and variables resolved, defaults not filled in.
    pub config: &'a Value,
    pub places: Places<'a>,
    pub config_path: &'a Path,
    pub now_ms: u64,
    pub uptime_ms: u64,
    pub port: u16,
}

impl Inputs<'_> {
    pub fn roster(&self) -> Roster {
        Roster::read(self.config)
    }
}

/// A payload, or the error the client gets.
pub type Answer = Result<Value, ErrorShape>;

/// Who answers a method that this gateway can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// We do, upstream or not: the state is ours.
    Native,
    /// The upstream's latest word, kept by us ([`health::Cache`], its events), as long as it is fresh; bridged
    /// when it is not; our own words without an upstream.
    Merge,
    /// The upstream whenever there is one; we only without.
    Alone,
}

/// `None` for methods that only an upstream can answer.
pub fn owner(method: &str) -> Option<Owner> {
    match method {
        "system-presence" => Some(Owner::Native),
        "health" | "last-heartbeat" | "gateway.identity.get" => Some(Owner::Merge),
        _ => alone::find(method).map(|_| Owner::Alone),
    }
}
