//! Why a connection ended, told by whichever part noticed first.

use std::sync::Arc;

use parking_lot::Mutex;

#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<Mutex<Option<String>>>);

impl Fate {
    /// Only the first reason counts.
    pub(crate) fn tell(&self, why: impl Into<String>) {
        self.0.lock().get_or_insert_with(|| why.into());
    }

    pub(crate) fn told(&self) -> Option<String> {
        self.0.lock().clone()
    }
}
