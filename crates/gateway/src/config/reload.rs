//! Changes of the configuration while running: noticing them, and what they take.

mod plan;
mod watch;

pub use plan::{Action, Kind, ReloadPlan, changed_paths, plan, refinement_prefixes, rule_kind};
pub use watch::Watcher;
