//! Merge patches, and what they may not take away unasked.
//!
//! Source: src/config/merge-patch.ts, patch-replace-paths.ts, source-value-projection.ts and
//! src/gateway/server-methods/config.ts at 2026.9.6.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Lists that a patch may replace as a whole: the paths a caller names.
pub(super) fn replace_paths(params: &Value) -> HashSet<String> {
    let listed = params.get("replacePaths").and_then(Value::as_array);
    listed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(normalize)
        .filter(|path| !path.is_empty())
        .collect()
}

/// `a[3].b` names every item: `a[].b`.
fn normalize(path: &str) -> String {
    let path = path.trim();
    let path = path.strip_suffix("[]").unwrap_or(path);
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(open) = rest.find('[') {
        let (head, tail) = rest.split_at(open);
        out.push_str(head);
        let close = tail.find(']').filter(|close| {
            *close > 1
                && tail[1..*close].bytes().all(|b| b.is_ascii_digit())
                && tail[close + 1..].starts_with('.')
        });
        match close {
            Some(close) => {
                out.push_str("[]");
                rest = &tail[close + 1..];
            }
            None => {
                out.push('[');
                rest = &tail[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Keys that mean something else to JavaScript are dropped, as the original drops them.
fn is_allowed(key: &str, parent: &str) -> bool {
    !matches!(key, "__proto__" | "constructor" | "prototype")
        || (parent == "browser.profiles" && key != "__proto__")
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

fn id_of(value: &Value) -> Option<&str> {
    value
        .get("id")
        .and_then(Value::as_str)
        .filter(|id| !id.is_empty())
}

fn is_keyed(items: &[Value]) -> bool {
    items.iter().all(|item| id_of(item).is_some())
}

/// `base` with `patch` applied: `null` removes, lists of things with ids merge by id unless named in `replace`.
pub(super) fn apply(base: &Value, patch: &Value, replace: &HashSet<String>) -> Value {
    apply_at(base, patch, replace, "")
}

fn apply_at(base: &Value, patch: &Value, replace: &HashSet<String>, at: &str) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut out = base.as_object().cloned().unwrap_or_default();
    for (key, value) in changes {
        if !is_allowed(key, at) {
            continue;
        }
        let path = join(at, key);
        if value.is_null() {
            out.shift_remove(key);
            continue;
        }
        let merged = match (out.get(key), value) {
            (Some(Value::Array(items)), Value::Array(changes))
                if !replace.contains(&path) && is_keyed(items) =>
            {
                merge_by_id(items, changes, replace, &path)
            }
            (known, Value::Object(_)) => {
                let base = known.filter(|known| known.is_object());
                apply_at(base.unwrap_or(&Value::Null), value, replace, &path)
            }
            _ => value.clone(),
        };
        out.insert(key.clone(), merged);
    }
    Value::Object(out)
}

fn merge_by_id(items: &[Value], changes: &[Value], replace: &HashSet<String>, at: &str) -> Value {
    let mut merged = items.to_vec();
    for change in changes {
        let known =
            id_of(change).and_then(|id| merged.iter().position(|item| id_of(item) == Some(id)));
        match known {
            Some(index) => {
                merged[index] = apply_at(&merged[index], change, replace, &format!("{at}[]"));
            }
            None => merged.push(change.clone()),
        }
    }
    Value::Array(merged)
}

/// The same id twice in a patch, or in the list it goes into: which one is meant can't be known.
pub(super) fn duplicate_id(
    patch: &Value,
    current: Option<&Value>,
    replace: &HashSet<String>,
    at: &str,
) -> Option<String> {
    let place = || if at.is_empty() { "<root>" } else { at };
    match (patch, current) {
        (Value::Array(changes), Some(Value::Array(items))) => {
            if replace.contains(at) || !is_keyed(items) {
                return None;
            }
            let mut known = HashSet::new();
            for id in items.iter().filter_map(id_of) {
                if !known.insert(id) {
                    return Some(format!(
                        "Cannot ID-merge array at {}: current config contains duplicate ID {id}; use replacePaths for an explicit replacement.",
                        place()
                    ));
                }
            }
            let mut seen = HashSet::new();
            for id in changes.iter().filter_map(id_of) {
                if !seen.insert(id) {
                    return Some(format!(
                        "Ambiguous duplicate ID {id} in array at {}.",
                        place()
                    ));
                }
            }
            changes.iter().find_map(|change| {
                let id = id_of(change)?;
                let item = items.iter().find(|item| id_of(item) == Some(id))?;
                duplicate_id(change, Some(item), replace, &format!("{at}[]"))
            })
        }
        (Value::Object(changes), Some(Value::Object(members))) => {
            changes.iter().find_map(|(key, change)| {
                duplicate_id(change, members.get(key), replace, &join(at, key))
            })
        }
        _ => None,
    }
}

/// The lists from which a patch would take entries.
pub(super) fn destroyed(base: &Value, patch: &Value, merged: &Value, at: &str) -> Vec<String> {
    let (Value::Object(changes), Value::Object(base)) = (patch, base) else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for (key, change) in changes.iter().filter(|(key, _)| is_allowed(key, at)) {
        let path = join(at, key);
        let after = merged.get(key).unwrap_or(&Value::Null);
        match (base.get(key), change) {
            (Some(Value::Array(items)), Value::Array(changes)) => {
                let Value::Array(left) = after else { continue };
                if is_keyed(items) {
                    let kept = |item: &Value| left.iter().any(|other| id_of(other) == id_of(item));
                    if !items.iter().all(kept) {
                        paths.push(path);
                    } else if is_keyed(items) {
                        for change in changes {
                            let same = |item: &&Value| {
                                id_of(item).is_some() && id_of(item) == id_of(change)
                            };
                            if let (Some(item), Some(left)) =
                                (items.iter().find(same), left.iter().find(same))
                            {
                                paths.extend(destroyed(item, change, left, &format!("{path}[]")));
                            }
                        }
                    }
                } else if !holds_all(left, items) {
                    paths.push(path);
                }
            }
            (Some(Value::Array(_)), _) => paths.push(path),
            (Some(known @ Value::Object(_)), Value::Object(_)) => {
                paths.extend(destroyed(known, change, after, &path));
            }
            (Some(known @ Value::Object(_)), _) => lists_in(known, &path, &mut paths),
            _ => {}
        }
    }
    paths
}

fn holds_all(left: &[Value], items: &[Value]) -> bool {
    let mut left: Vec<&Value> = left.iter().collect();
    items.iter().all(|item| {
        let at = left.iter().position(|other| *other == item);
        at.map(|at| left.swap_remove(at)).is_some()
    })
}

fn lists_in(value: &Value, at: &str, paths: &mut Vec<String>) {
    match value {
        Value::Array(_) => paths.push(at.to_owned()),
        Value::Object(members) => {
            for (key, value) in members.iter().filter(|(key, _)| is_allowed(key, at)) {
                lists_in(value, &join(at, key), paths);
            }
        }
        _ => {}
    }
}

/// Every leaf that differs.
pub(super) fn changed_leaves(old: &Value, new: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    leaves(Some(old), Some(new), "", &mut paths);
    paths
}

fn leaves(old: Option<&Value>, new: Option<&Value>, at: &str, paths: &mut Vec<String>) {
    let empty = Map::new();
    let members = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    match (members(old), members(new)) {
        (None, None) => {
            if old != new {
                paths.push(at.to_owned());
            }
        }
        (before, after) => {
            let (before, after) = (
                before.unwrap_or_else(|| empty.clone()),
                after.unwrap_or_else(|| empty.clone()),
            );
            if before.is_empty() && after.is_empty() {
                if old != new {
                    paths.push(at.to_owned());
                }
                return;
            }
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                leaves(before.get(key), after.get(key), &join(at, key), paths);
            }
        }
    }
}

/// What a client changed in a configuration with defaults, carried to the one without: `source` with the
/// differences between `runtime` and `candidate`.
pub(super) fn project(source: &Value, runtime: &Value, candidate: &Value) -> Value {
    project_at(Some(source), Some(runtime), candidate).unwrap_or_else(|| source.clone())
}

/// `None`: unchanged.
fn project_at(source: Option<&Value>, runtime: Option<&Value>, candidate: &Value) -> Option<Value> {
    if runtime == Some(candidate) {
        return None;
    }
    let Value::Object(wanted) = candidate else {
        return Some(candidate.clone());
    };
    let empty = Map::new();
    let source = source.and_then(Value::as_object).unwrap_or(&empty);
    let is_new = !runtime.is_some_and(Value::is_object);
    let runtime = runtime.and_then(Value::as_object).unwrap_or(&empty);
    let mut out = source.clone();
    let mut changed = is_new;
    for key in runtime.keys().filter(|key| !wanted.contains_key(*key)) {
        // A default that the client left out was never in the source.
        if out.shift_remove(key).is_some() {
            changed = true;
        }
    }
    for (key, value) in wanted {
        if let Some(value) = project_at(source.get(key), runtime.get(key), value) {
            changed = true;
            out.insert(key.clone(), value);
        }
    }
    changed.then_some(Value::Object(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_paths_stand_for_every_item() {
        assert_eq!(normalize(" a.b[2].c "), "a.b[].c");
        assert_eq!(normalize("a[]"), "a");
        assert_eq!(normalize("a[1]"), "a[1]");
        assert_eq!(normalize("a[x].b"), "a[x].b");
    }

    #[test]
    fn defaults_are_not_written_and_changes_are() {
        let source = json!({"a": 1, "list": [1]});
        let runtime = json!({"a": 1, "list": [1], "d": {"x": 8}});
        assert_eq!(project(&source, &runtime, &runtime), source);
        let edited = json!({"a": 2, "list": [1], "d": {"x": 9}});
        assert_eq!(
            project(&source, &runtime, &edited),
            json!({"a": 2, "list": [1], "d": {"x": 9}})
        );
        let without = json!({"a": 1});
        assert_eq!(project(&source, &runtime, &without), json!({"a": 1}));
    }

    #[test]
    fn keys_of_the_prototype_are_dropped() {
        let out = apply(
            &json!({}),
            &json!({"__proto__": {"x": 1}, "a": 1}),
            &HashSet::new(),
        );
        assert_eq!(out, json!({"a": 1}));
    }
}
