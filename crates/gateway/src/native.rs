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

use std::path::{Path, PathBuf};

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

/// The owned side of [`Inputs`]; swapped whole when the configuration is read again.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// `ConfigDocument::resolved`.
    pub config: Value,
    pub state_dir: PathBuf,
    pub home: PathBuf,
    pub config_path: PathBuf,
    /// `OPENCLAW_WORKSPACE_DIR`.
    pub workspace_variable: Option<String>,
    /// `OPENCLAW_STATE_DIR` is set.
    pub state_dir_is_set: bool,
    /// The port we listen on.
    pub port: u16,
}

impl Default for Facts {
    /// An empty configuration in the current directory.
    fn default() -> Self {
        Self {
            config: Value::Object(serde_json::Map::new()),
            state_dir: PathBuf::from("."),
            home: PathBuf::from("."),
            config_path: PathBuf::from("openclaw.json"),
            workspace_variable: None,
            state_dir_is_set: false,
            port: 0,
        }
    }
}

impl Facts {
    pub fn inputs(&self, now_ms: u64, uptime_ms: u64) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            places: Places {
                state_dir: &self.state_dir,
                home: &self.home,
                workspace_variable: self.workspace_variable.as_deref(),
                state_dir_is_set: self.state_dir_is_set,
            },
            config_path: &self.config_path,
            now_ms,
            uptime_ms,
            port: self.port,
        }
    }
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
    /// The upstream's latest word, kept by us ([`health::Cache`], its events), as long as it is fresh; bridged
    /// when it is not; our own words without an upstream.
    Merge,
    /// The upstream whenever there is one; we only without.
    Alone,
}

/// `None` for methods that only an upstream can answer.
pub fn owner(method: &str) -> Option<Owner> {
    match method {
        "health" | "last-heartbeat" | "system-presence" => Some(Owner::Merge),
        "system.info" => Some(Owner::Alone),
        "logs.tail" => Some(Owner::Merge),
        _ => alone::find(method).map(|_| Owner::Alone),
    }
}
