//! The OpenClaw gateway protocol as data.

pub mod connect;
