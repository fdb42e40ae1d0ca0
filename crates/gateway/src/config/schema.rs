//! Checks a configuration against the original's JSON schema, in the original's words.
//!
//! The bundled schema (`schema/core.json`, recorded by tests/config/record-original.mjs) covers all
//! but `channels` and `plugins`, whose shape is the installed plugins' affair. Patterns, formats and
//! rules across fields are not in it: those only the original can check.
//!
//! Source of the wording: zod 4's English messages and src/config/validation-issues.ts at 2026.9.6.

use serde_json::{Map, Value};

use super::Issue;
use super::document::type_name;
use crate::packed::packed;

const ALLOWED_SHOWN_MAX: usize = 12;
const SAFE_INTEGER_MAX: f64 = 9_007_199_254_740_991.0;

/// A schema to check configurations against.
#[derive(Debug, Clone)]
pub struct Schema(Value);

impl Schema {
    pub fn bundled() -> Self {
        Self(packed!("config/schema/core.json").json())
    }

    /// The `schema` of a `config.schema` answer, what this check does not read left out.
    pub fn of(schema: &Value) -> Self {
        Self(structure(schema))
    }

    /// All findings, in the order the original lists them; empty when `config` is valid.
    pub fn check(&self, config: &Value) -> Vec<Issue> {
        let mut path = Vec::new();
        let findings = check(&self.0, config, &mut path);
        findings.into_iter().map(Finding::into_issue).collect()
    }
}

/// A schema without titles, texts, patterns and formats: as in `schema/core.json`.
fn structure(node: &Value) -> Value {
    const KEPT: [&str; 13] = [
        "type",
        "const",
        "enum",
        "required",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "default",
    ];
    let Value::Object(members) = node else {
        return node.clone();
    };
    let mut out = Map::new();
    for (key, value) in members {
        let kept = match (key.as_str(), value) {
            (key, value) if KEPT.contains(&key) => value.clone(),
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, child)| (name.clone(), structure(child)))
                .collect(),
            ("propertyNames", _) => Value::Object(Map::new()),
            ("items" | "additionalProperties", value) => structure(value),
            ("anyOf" | "oneOf" | "allOf", Value::Array(branches)) => {
                branches.iter().map(structure).collect()
            }
            _ => continue,
        };
        out.insert(key.clone(), kept);
    }
    Value::Object(out)
}

/// What is wrong at one place.
#[derive(Debug, Clone)]
struct Finding {
    path: Vec<String>,
    message: String,
    /// The values that would do; `None` when they cannot be listed.
    allowed: Option<Vec<Value>>,
    /// Whether the type is right and only a bound is broken: such a branch of a union is reported
    /// instead of the union.
    soft: bool,
}

impl Finding {
    fn new(path: &[String], message: String) -> Self {
        Self {
            path: path.to_vec(),
            message,
            allowed: None,
            soft: false,
        }
    }

    fn into_issue(self) -> Issue {
        let mut issue = Issue::new(self.path.join("."), self.message);
        let Some(mut allowed) = self.allowed else {
            return issue;
        };
        let mut seen: Vec<Value> = Vec::new();
        allowed.retain(|value| {
            let new = !seen.contains(value);
            seen.push(value.clone());
            new
        });
        let hidden = allowed.len().saturating_sub(ALLOWED_SHOWN_MAX);
        allowed.truncate(ALLOWED_SHOWN_MAX);
        if !issue.message.to_lowercase().contains("expected one of") {
            let shown: Vec<String> = allowed.iter().map(Value::to_string).collect();
            let more = if hidden > 0 {
                format!(", ... (+{hidden} more)")
            } else {
                String::new()
            };
            issue
                .message
                .push_str(&format!(" (allowed: {}{more})", shown.join(", ")));
        }
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        issue.allowed_values = Some(allowed.into_iter().map(text).collect());
        issue.allowed_values_hidden_count = Some(hidden);
        issue
    }
}

fn check(schema: &Value, value: &Value, path: &mut Vec<String>) -> Vec<Finding> {
    if let Some(branches) = schema.get("anyOf").and_then(Value::as_array) {
        return check_union(branches, value, path);
    }
    if let Some(branches) = schema.get("oneOf").and_then(Value::as_array) {
        return check_discriminated(branches, value, path);
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        return parts
            .iter()
            .flat_map(|part| check(part, value, path))
            .collect();
    }
    if let Some(expected) = schema.get("const") {
        return check_values(std::slice::from_ref(expected), value, path);
    }
    if let Some(expected) = schema.get("enum").and_then(Value::as_array) {
        return check_values(expected, value, path);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => check_object(schema, value, path),
        Some("array") => check_array(schema, value, path),
        Some("string") => match value.as_str() {
            Some(text) => check_length(schema, text.encode_utf16().count(), "string", path),
            None => wrong_type("string", value, path),
        },
        Some("number" | "integer") => check_number(schema, value, path),
        Some("boolean") if !value.is_boolean() => {
            let mut findings = wrong_type("boolean", value, path);
            findings[0].allowed = Some(vec![Value::Bool(true), Value::Bool(false)]);
            findings
        }
        Some("null") if !value.is_null() => wrong_type("null", value, path),
        _ => Vec::new(),
    }
}

fn wrong_type(expected: &str, value: &Value, path: &[String]) -> Vec<Finding> {
    let received = type_name(value);
    let message = format!("Invalid input: expected {expected}, received {received}");
    vec![Finding::new(path, message)]
}

fn check_values(expected: &[Value], value: &Value, path: &[String]) -> Vec<Finding> {
    if expected.iter().any(|expected| same(expected, value)) {
        return Vec::new();
    }
    let message = match expected {
        [only] => format!("Invalid input: expected {only}"),
        many => {
            let many: Vec<String> = many.iter().map(Value::to_string).collect();
            format!("Invalid option: expected one of {}", many.join("|"))
        }
    };
    let mut finding = Finding::new(path, message);
    finding.allowed = Some(expected.to_vec());
    vec![finding]
}

/// Equal as JSON: 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn check_union(branches: &[Value], value: &Value, path: &mut Vec<String>) -> Vec<Finding> {
    let mut failures = Vec::new();
    for branch in branches {
        let findings = check(branch, value, path);
        if findings.is_empty() {
            return findings;
        }
        failures.push(findings);
    }
    let mut soft = failures
        .iter()
        .filter(|branch| branch.iter().all(|finding| finding.soft));
    if let (Some(only), None) = (soft.next(), soft.next()) {
        return only.clone();
    }
    let allowed = failures.iter().map(|branch| {
        branch
            .iter()
            .map(|finding| finding.allowed.clone())
            .collect::<Option<Vec<_>>>()
    });
    let mut finding = Finding::new(path, "Invalid input".to_owned());
    finding.allowed = allowed
        .collect::<Option<Vec<_>>>()
        .map(|branches| branches.into_iter().flatten().flatten().collect());
    vec![finding]
}

/// A union told apart by a key that has one fixed value in each branch.
fn check_discriminated(branches: &[Value], value: &Value, path: &mut Vec<String>) -> Vec<Finding> {
    let constant =
        |branch: &Value, key: &str| branch.get("properties")?.get(key)?.get("const").cloned();
    let first = branches
        .first()
        .and_then(|branch| branch.get("properties"))
        .and_then(Value::as_object);
    let key = first.into_iter().flat_map(Map::keys).find(|key| {
        branches
            .iter()
            .all(|branch| constant(branch, key).is_some())
    });
    let Some(key) = key else {
        return check_union(branches, value, path);
    };
    let Some(members) = value.as_object() else {
        return wrong_type("object", value, path);
    };
    let chosen = members.get(key);
    match branches
        .iter()
        .find(|branch| constant(branch, key).as_ref() == chosen)
    {
        Some(branch) => check(branch, value, path),
        None => {
            path.push(key.clone());
            let finding = Finding::new(path, "Invalid input".to_owned());
            path.pop();
            vec![finding]
        }
    }
}

fn check_object(schema: &Value, value: &Value, path: &mut Vec<String>) -> Vec<Finding> {
    let is_record = schema.get("propertyNames").is_some();
    let Some(members) = value.as_object() else {
        return wrong_type(if is_record { "record" } else { "object" }, value, path);
    };
    let no_properties = Map::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&no_properties);
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |key: &str| {
        required.is_some_and(|keys| keys.iter().any(|known| known.as_str() == Some(key)))
    };
    let mut findings = Vec::new();
    for (key, schema) in properties {
        path.push(key.clone());
        match members.get(key) {
            Some(value) => findings.extend(check(schema, value, path)),
            // What has a default may be absent although the schema of the result requires it.
            None if is_required(key) && schema.get("default").is_none() => {
                findings.push(missing(schema, path));
            }
            None => {}
        }
        path.pop();
    }
    let mut unknown = Vec::new();
    for (key, value) in members
        .iter()
        .filter(|(key, _)| !properties.contains_key(*key))
    {
        match schema.get("additionalProperties") {
            Some(Value::Bool(false)) => unknown.push(Value::String(key.clone()).to_string()),
            Some(rest @ Value::Object(_)) => {
                path.push(key.clone());
                findings.extend(check(rest, value, path));
                path.pop();
            }
            _ => {}
        }
    }
    if !unknown.is_empty() {
        let word = if unknown.len() == 1 { "key" } else { "keys" };
        let message = format!("Unrecognized {word}: {}", unknown.join(", "));
        findings.push(Finding::new(path, message));
    }
    findings
}

fn missing(schema: &Value, path: &[String]) -> Finding {
    let values = match (
        schema.get("const"),
        schema.get("enum").and_then(Value::as_array),
    ) {
        (Some(only), _) => Some(vec![only.clone()]),
        (_, Some(many)) => Some(many.clone()),
        _ => None,
    };
    if let Some(values) = values {
        // No value equals the absent one.
        let absent = Value::Object(Map::new());
        return check_values(&values, &absent, path).remove(0);
    }
    if schema.get("anyOf").is_some() {
        return Finding::new(path, "Invalid input".to_owned());
    }
    let expected = match schema.get("type").and_then(Value::as_str) {
        Some("object") if schema.get("propertyNames").is_some() => "record",
        Some("integer") => "number",
        Some(name) => name,
        None => "nonoptional",
    };
    Finding::new(
        path,
        format!("Invalid input: expected {expected}, received undefined"),
    )
}

fn check_array(schema: &Value, value: &Value, path: &mut Vec<String>) -> Vec<Finding> {
    let Some(items) = value.as_array() else {
        return wrong_type("array", value, path);
    };
    let mut findings = Vec::new();
    if let Some(schema) = schema.get("items").filter(|schema| schema.is_object()) {
        for (index, item) in items.iter().enumerate() {
            path.push(index.to_string());
            findings.extend(check(schema, item, path));
            path.pop();
        }
    }
    findings.extend(check_length(schema, items.len(), "array", path));
    findings
}

fn check_length(schema: &Value, length: usize, kind: &str, path: &[String]) -> Vec<Finding> {
    let (least, most, unit) = match kind {
        "array" => ("minItems", "maxItems", "items"),
        _ => ("minLength", "maxLength", "characters"),
    };
    let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let mut findings = Vec::new();
    if let Some(least) = bound(least).filter(|least| length < *least) {
        let message = format!("Too small: expected {kind} to have >={least} {unit}");
        findings.push(soft(path, message));
    }
    if let Some(most) = bound(most).filter(|most| length > *most) {
        let message = format!("Too big: expected {kind} to have <={most} {unit}");
        findings.push(soft(path, message));
    }
    findings
}

fn check_number(schema: &Value, value: &Value, path: &[String]) -> Vec<Finding> {
    let Some(number) = value.as_f64() else {
        return wrong_type("number", value, path);
    };
    let integer = schema.get("type").and_then(Value::as_str) == Some("integer");
    if integer && number.fract() != 0.0 {
        return vec![Finding::new(
            path,
            "Invalid input: expected int, received number".to_owned(),
        )];
    }
    // Every integer schema carries the bounds of exact integers; they are not the author's.
    let bound = |key: &str| {
        let bound = schema.get(key)?;
        let exact = bound.as_f64()?.abs() < SAFE_INTEGER_MAX;
        exact.then(|| (bound.as_f64().unwrap_or_default(), bound.to_string()))
    };
    let mut findings = Vec::new();
    let mut note = |message: String| findings.push(soft(path, message));
    if let Some((_, least)) = bound("minimum").filter(|(least, _)| number < *least) {
        note(format!(
            "Too small: expected number to be >={least} (minimum: {least})"
        ));
    }
    if let Some((_, least)) = bound("exclusiveMinimum").filter(|(least, _)| number <= *least) {
        note(format!(
            "Too small: expected number to be >{least} (must be greater than {least})"
        ));
    }
    if let Some((_, most)) = bound("maximum").filter(|(most, _)| number > *most) {
        note(format!(
            "Too big: expected number to be <={most} (maximum: {most})"
        ));
    }
    if let Some((_, most)) = bound("exclusiveMaximum").filter(|(most, _)| number >= *most) {
        note(format!(
            "Too big: expected number to be <{most} (must be less than {most})"
        ));
    }
    findings
}

fn soft(path: &[String], message: String) -> Finding {
    Finding {
        soft: true,
        ..Finding::new(path, message)
    }
}

/// The line the original makes of findings, for an error message.
///
/// Source: `summarizeConfigValidationIssues`, src/gateway/server-methods/config.ts at 2026.9.6.
pub fn summarize(issues: &[Issue]) -> String {
    const SHOWN_MAX: usize = 3;
    let lines: Vec<String> = issues
        .iter()
        .take(SHOWN_MAX)
        .map(|issue| {
            let path = if issue.path.is_empty() {
                "<root>"
            } else {
                &issue.path
            };
            format!("{path}: {}", issue.message)
        })
        .collect();
    if lines.is_empty() {
        return "invalid config".to_owned();
    }
    let more = match issues.len() - lines.len() {
        0 => String::new(),
        1 => " (+1 more issue)".to_owned(),
        hidden => format!(" (+{hidden} more issues)"),
    };
    format!("invalid config: {}{more}", lines.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(config: Value) -> Vec<String> {
        let issues = Schema::bundled().check(&config);
        issues
            .into_iter()
            .map(|issue| format!("{}: {}", issue.path, issue.message))
            .collect()
    }

    #[test]
    fn findings_read_as_the_original_s() {
        assert_eq!(
            lines(json!({"gateway": {"port": 18789, "bind": "lan"}, "channels": {"any": 1}})),
            [""; 0]
        );
        assert_eq!(
            lines(json!({"gateway": {"port": 1.5}})),
            ["gateway.port: Invalid input: expected int, received number"]
        );
        assert_eq!(
            lines(json!({"gateway": {"port": 70000}})),
            ["gateway.port: Too big: expected number to be <=65535 (maximum: 65535)"]
        );
        assert_eq!(
            lines(json!({"a": 1, "b": 2})),
            [": Unrecognized keys: \"a\", \"b\""]
        );
        assert_eq!(
            lines(json!([])),
            [": Invalid input: expected object, received array"]
        );
        assert_eq!(
            lines(json!({"gateway": {"auth": {"trustedProxy": {}}}})),
            [
                "gateway.auth.trustedProxy.userHeader: Invalid input: expected string, received undefined"
            ]
        );
    }

    #[test]
    fn many_findings_are_counted() {
        let issues: Vec<Issue> = (0..5).map(|n| Issue::new(format!("k{n}"), "bad")).collect();
        assert_eq!(
            summarize(&issues),
            "invalid config: k0: bad; k1: bad; k2: bad (+2 more issues)"
        );
        assert_eq!(
            summarize(&[Issue::new("", "bad")]),
            "invalid config: <root>: bad"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_tree_is_checked(tree in crate::config::tests::tree()) {
            let _findings = Schema::bundled().check(&json!({"gateway": tree.clone(), "agents": tree}));
        }
    }
}
