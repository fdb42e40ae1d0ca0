//! Lists of tools that turns at work hold: those that are offered the same share one, since each takes as much memory as
//! all else of a turn.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use agent::Tool;
use parking_lot::Mutex;

/// Different lists that are known at once; a turn with one more has its own.
const LISTS_MAX: usize = 8;

#[derive(Default)]
pub(in crate::assistant) struct Shared(Mutex<VecDeque<Weak<[Tool]>>>);

impl Shared {
    /// The list that others hold already, if it is the same.
    pub(in crate::assistant) fn of(&self, tools: Vec<Tool>) -> Arc<[Tool]> {
        let mut lists = self.0.lock();
        let mut held = lists.iter().filter_map(Weak::upgrade);
        if let Some(same) = held.find(|list| **list == *tools) {
            return same;
        }
        let tools: Arc<[Tool]> = tools.into();
        lists.retain(|list| list.strong_count() > 0);
        if lists.len() == LISTS_MAX {
            lists.pop_front();
        }
        lists.push_back(Arc::downgrade(&tools));
        tools
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(name: &str) -> Vec<Tool> {
        vec![Tool {
            name: name.to_owned().into(),
            description: String::new(),
            parameters: json!({ "type": "object" }),
        }]
    }

    #[test]
    fn who_is_offered_the_same_holds_the_same() {
        let shared = Shared::default();
        let (one, other) = (shared.of(list("a")), shared.of(list("b")));
        assert!(Arc::ptr_eq(&one, &shared.of(list("a"))));
        assert!(Arc::ptr_eq(&other, &shared.of(list("b"))));
        let many: Vec<_> = (0..LISTS_MAX)
            .map(|n| shared.of(list(&n.to_string())))
            .collect();
        assert!(!Arc::ptr_eq(&one, &shared.of(list("a"))));
        drop((one, other, many));
        assert_eq!(shared.of(list("a"))[0].name, "a");
        assert_eq!(shared.0.lock().len(), 1, "nothing is kept for nobody");
    }
}
