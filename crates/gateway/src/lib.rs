//! The gateway: listens, authenticates, answers what is native and bridges the rest.

pub mod auth;
