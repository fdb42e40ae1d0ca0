//! Changes of the configuration while running: what changed, what it takes, and noticing it.

mod plan;
mod watch;

pub use plan::{Action, Kind, ReloadPlan, changed_paths, plan, refinement_prefixes, rule_kind};
pub use watch::{Change, Loaded, Watcher};
