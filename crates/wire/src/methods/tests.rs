use serde::Deserialize;
use serde_json::Value;

use super::*;

/// Decisions of the original's own functions, recorded by `tests/tables/authz.mjs`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded<'a> {
    scope_sets: Vec<Vec<String>>,
    node_methods: Vec<String>,
    #[serde(borrow)]
    rows: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    required: Vec<String>,
    answers: Vec<Value>,
}

const RECORDED: &str = include_str!("../../tests/captures/authz.json");

fn recorded() -> Recorded<'static> {
    serde_json::from_str(RECORDED).expect("recorded decisions")
}

#[test]
fn every_decision_is_the_originals() {
    let recorded = recorded();
    let mut checked = 0;
    for row in &recorded.rows {
        let shown = row.params.map_or("", RawValue::get);
        let required = required_scopes(&row.method, row.params);
        let required: Vec<_> = required.iter().map(|scope| scope.as_str()).collect();
        assert_eq!(required, row.required, "required of {} {shown}", row.method);
        if row.method.starts_with("device.scopes.") {
            continue;
        }
        for (scopes, expected) in recorded.scope_sets.iter().zip(&row.answers) {
            let ours = match authorize(&row.method, "operator", ScopeSet::parse(scopes), row.params)
            {
                Ok(Grant {
                    session_scope: None,
                }) => Value::Bool(true),
                Ok(Grant {
                    session_scope: Some(scope),
                }) => json!({"sessionScope": scope.as_str()}),
                Err(AuthzError::Scope { missing, .. }) => Value::from(missing.as_str()),
                Err(AuthzError::Role(role)) => panic!("{} refused role {role}", row.method),
            };
            assert_eq!(&ours, expected, "{} {shown} with {scopes:?}", row.method);
            checked += 1;
        }
    }
    assert!(checked > 5_000, "only {checked} decisions were compared");
}

#[test]
fn node_methods_are_for_nodes_only() {
    for name in recorded().node_methods {
        assert!(
            authorize(&name, "node", ScopeSet::EMPTY, None).is_ok(),
            "{name}"
        );
        let error = authorize(&name, "operator", ScopeSet::parse(["operator.admin"]), None)
            .expect_err("an operator is refused");
        assert_eq!(error.to_error().message, "unauthorized role: operator");
    }
    for name in ["chat.send", "nope", "device.scopes.requestUpgrade"] {
        let error = authorize(name, "node", ScopeSet::EMPTY, None).expect_err("a node is refused");
        let shape = error.to_error();
        assert_eq!(
            (&*shape.code, &*shape.message),
            ("INVALID_REQUEST", "unauthorized role: node")
        );
        assert_eq!(shape.details, None);
    }
}

#[test]
fn some_methods_need_no_scope_at_all() {
    for role in ["operator", "node", "worker"] {
        assert!(authorize("health", role, ScopeSet::EMPTY, None).is_ok());
    }
    for name in ["device.scopes.requestUpgrade", "device.scopes.waitUpgrade"] {
        assert!(authorize(name, "operator", ScopeSet::EMPTY, None).is_ok());
    }
}

#[test]
fn a_refusal_reads_as_the_originals() {
    let check = |name, scopes: &[&str], params: &str, expected: Value| {
        let params: Option<&RawValue> = Some(serde_json::from_str(params).expect("JSON"));
        let error = authorize(name, "operator", ScopeSet::parse(scopes), params)
            .expect_err("refused")
            .to_error();
        assert_eq!(
            serde_json::to_value(error).expect("an error object"),
            expected
        );
    };
    check(
        "chat.send",
        &["operator.read"],
        "{}",
        json!({"code":"FORBIDDEN","message":"missing scope: operator.write",
               "details":{"code":"MISSING_SCOPE","missingScope":"operator.write","requiredScopes":["operator.write"]}}),
    );
    check(
        "talk.config",
        &["operator.read"],
        r#"{"includeSecrets":true}"#,
        json!({"code":"FORBIDDEN","message":"missing scope: operator.talk.secrets",
               "details":{"code":"MISSING_SCOPE","missingScope":"operator.talk.secrets","requiredScopes":["operator.read","operator.talk.secrets"]}}),
    );
    check(
        "nope.method",
        &["operator.write"],
        "null",
        json!({"code":"FORBIDDEN","message":"missing scope: operator.admin",
               "details":{"code":"MISSING_SCOPE","missingScope":"operator.admin","requiredScopes":["operator.admin"]}}),
    );
}

#[test]
fn the_table_is_whole_and_found_by_name() {
    assert_eq!(CORE_METHODS, 482);
    let core = &METHODS[..CORE_METHODS];
    assert_eq!(core.iter().filter(|method| method.advertised).count(), 460);
    for (index, method) in all().enumerate() {
        assert_eq!(lookup(method.name), Some(method));
        assert_eq!(index_of(method.name), Some(index));
    }
    assert_eq!(all().count(), count());
    assert_eq!(at(count()), None);
    for name in ["", "Health", "health ", "zzz", "agen", "agent.waits"] {
        assert_eq!(lookup(name), None, "{name:?}");
    }
}
