//! Every channel against a server that nobody here wrote, started by the test itself. What is
//! missing on the machine is installed by `cargo xtask setup`.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "an integration test: one crate, and a failed unwrap is a failed test"
)]

mod email;
mod irc;
mod matrix;

mod support;
mod synapse;
mod telegram;
mod webhook;

mod node;
