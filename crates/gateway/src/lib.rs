//! The gateway, in the order in which a request flows through it.

pub mod app;
mod assistant;
pub mod auth;
pub mod bridge;
pub mod cli;
mod clock;
pub mod config;
mod console;
mod control_ui;
mod delivery;
mod discovery;
mod dispatch;
mod events;
#[doc(hidden)]
pub mod fuzzing;
mod ingress;
mod leader;
mod log_stream;
mod lower;
mod media_facts;
mod memories;
mod messages;
mod metrics;
pub mod native;
mod packed;
mod pinned;
mod procfs;
mod recent_log;
mod reload;
mod rollout;
pub mod routing;
mod schedule;
mod shadow;
mod systemd;
mod tailscale;
mod upstream;
