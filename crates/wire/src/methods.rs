//! The one table of all methods: who may call them. Owners (native, bridge) are the gateway's business.

use crate::error::{ErrorCode, ErrorShape};

mod table;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Operators with this scope.
    Scope(&'static str),
    /// Only `role: "node"`.
    Node,
    /// Operators; the scope depends on the params, and the gateway that serves the method decides.
    Dynamic,
}

#[derive(Debug)]
pub struct Method {
    pub name: &'static str,
    pub rule: Rule,
    /// Listed in `hello-ok.features.methods`.
    pub advertised: bool,
    /// Answers `UNAVAILABLE` until the sidecars run.
    pub startup: bool,
    /// Counts against the budget of 30 control-plane writes a minute.
    pub control_plane_write: bool,
}

/// All core methods, sorted by name.
pub fn all() -> &'static [Method] {
    table::METHODS
}

pub fn lookup(name: &str) -> Option<&'static Method> {
    table::METHODS
        .binary_search_by(|method| method.name.cmp(name))
        .ok()
        .map(|index| &table::METHODS[index])
}

/// Whether `granted` covers `requested`, with the implications: admin covers all, write covers read, talk and
/// the session scopes, read covers `operator.sessions.read`.
/// Source: src/shared/operator-scope-compat.ts at 2026.9.6.
pub fn scope_satisfied(requested: &str, granted: &[String]) -> bool {
    let has = |scope: &str| granted.iter().any(|granted| granted == scope);
    if !requested.starts_with("operator.") {
        return false;
    }
    if has(requested) || has("operator.admin") {
        return true;
    }
    match requested {
        "operator.read" | "operator.talk" | "operator.sessions.write" => has("operator.write"),
        "operator.sessions.read" => {
            has("operator.read") || has("operator.write") || has("operator.sessions.write")
        }
        _ => false,
    }
}

/// Checks role and scope, with the original's errors.
///
/// `plugin`: the name is a plugin's, learned from an upstream, which alone knows its scope.
///
/// # Errors
/// The error to answer with.
pub fn authorize(
    role: &str,
    scopes: &[String],
    method: &str,
    plugin: bool,
) -> Result<(), ErrorShape> {
    if method == "health" {
        return Ok(());
    }
    let rule = lookup(method).map(|method| method.rule);
    if (role == "node") != (rule == Some(Rule::Node)) {
        return Err(ErrorShape::invalid_request(format!(
            "unauthorized role: {role}"
        )));
    }
    if role == "node" || method.starts_with("device.scopes.") && rule.is_some() {
        return Ok(());
    }
    let required = match rule {
        Some(Rule::Scope(scope)) => scope,
        Some(Rule::Dynamic) if !scopes.is_empty() => return Ok(()),
        Some(Rule::Dynamic) => dynamic_floor(method),
        None if plugin => return Ok(()),
        Some(Rule::Node) | None => "operator.admin",
    };
    if scope_satisfied(required, scopes) {
        return Ok(());
    }
    Err(ErrorShape::new(ErrorCode::Forbidden, format!("missing scope: {required}")).with_details(
        serde_json::json!({ "code": "MISSING_SCOPE", "missingScope": required, "requiredScopes": [required] }),
    ))
}

/// The least scope a dynamic method asks for with harmless params.
/// Source: live answers of 2026.9.6 to a client without scopes.
fn dynamic_floor(method: &str) -> &'static str {
    match method {
        "talk.config" | "fs.listDir" | "environments.list" => "operator.read",
        "channels.pairing.approve" => "operator.pairing",
        _ => "operator.write",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Vec<String> {
        names
            .iter()
            .map(|name| format!("operator.{name}"))
            .collect()
    }

    #[test]
    fn the_table_is_sorted_and_found_by_name() {
        assert!(all().is_sorted_by(|a, b| a.name < b.name));
        assert!(
            all()
                .iter()
                .all(|method| lookup(method.name).is_some_and(|found| found.name == method.name))
        );
        assert!(lookup("nope").is_none());
    }

    #[test]
    fn scopes_imply_one_another_as_in_the_original() {
        assert!(scope_satisfied("operator.read", &scopes(&["write"])));
        assert!(!scope_satisfied("operator.write", &scopes(&["read"])));
        assert!(scope_satisfied("operator.pairing", &scopes(&["admin"])));
        assert!(!scope_satisfied("node", &scopes(&["admin"])));
    }

    #[test]
    fn unknown_names_need_admin_and_roles_do_not_mix() {
        let error =
            authorize("operator", &scopes(&["read"]), "nope", false).expect_err("needs admin");
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("FORBIDDEN", "missing scope: operator.admin")
        );
        let error = authorize("node", &[], "sessions.list", false).expect_err("wrong role");
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("INVALID_REQUEST", "unauthorized role: node")
        );
        assert!(authorize("node", &[], "health", false).is_ok());
        assert!(authorize("operator", &[], "node.event", false).is_err());
    }
}
