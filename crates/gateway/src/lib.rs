//! The gateway, in the order in which a request flows through it.

pub mod app;
pub mod bridge;
mod clock;
mod dispatch;
mod events;
mod ingress;
pub mod native;
