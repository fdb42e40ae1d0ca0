//! The store from outside: what it promises over crashes, power cuts and bad disks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod agents;
mod backup;
mod crash;
mod faults;
mod power;
mod schedules;
mod tables;
mod vfs;

use store::{NewInbound, NewOutbound, Options, Store};

fn open(path: &std::path::Path) -> Store {
    Store::open(path, Options::default()).unwrap()
}

fn outbound(lane: &str, text: &str) -> NewOutbound {
    NewOutbound {
        id: None,
        channel: "test".into(),
        account: "one".into(),
        target: lane.into(),
        lane: format!("test/one/{lane}"),
        payload: text.into(),
        source: "api".into(),
        cause: None,
        expires_ms: None,
    }
}

fn inbound(event: &str, lane: &str) -> NewInbound {
    NewInbound {
        channel: "test".into(),
        account: "one".into(),
        event_id: event.into(),
        message_id: event.into(),
        lane: lane.into(),
        payload: format!("{{\"event\":\"{event}\"}}"),
    }
}
