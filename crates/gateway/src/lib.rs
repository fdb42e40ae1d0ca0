//! The gateway, in the order in which a request flows through it.

pub mod app;
mod assistant;
pub mod auth;
pub mod bridge;
pub mod cli;
mod clock;
pub mod config;
mod control_ui;
mod delivery;
mod dispatch;
mod events;
mod ingress;
mod lower;
mod memories;
mod messages;
mod metrics;
pub mod native;
mod procfs;
mod recent_log;
mod reload;
mod rollout;
pub mod routing;
mod shadow;
mod systemd;
mod upstream;
