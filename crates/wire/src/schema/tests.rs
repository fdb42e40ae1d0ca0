use serde::Deserialize;

use super::*;

/// Answers of the original's own validators, recorded by `tests/tables/params.mjs`.
#[derive(Deserialize)]
struct Recorded<'a> {
    method: String,
    #[serde(borrow)]
    params: &'a RawValue,
    errors: Option<String>,
}

#[test]
fn every_message_is_the_originals() {
    let mut checked = 0;
    let mut wrong = Vec::new();
    for line in include_str!("../../tests/captures/params.jsonl").lines() {
        let row: Recorded<'_> = serde_json::from_str(line).expect("a recorded answer");
        let schema = params_schema(&row.method).expect("a schema");
        let ours = schema.errors(Some(row.params));
        if ours != row.errors {
            wrong.push(format!(
                "{} {}\n  original: {:?}\n  ours:     {ours:?}",
                row.method,
                row.params.get(),
                row.errors
            ));
        }
        checked += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(checked > 2_000, "only {checked} answers were compared");
}

#[test]
fn every_embedded_schema_compiles_and_the_table_is_sorted() {
    let methods: Vec<_> = include_str!("params.txt")
        .lines()
        .map(|line| line.split_once(' ').expect("a method and its schema").0)
        .collect();
    assert!(methods.is_sorted());
    let own = crate::methods::OWN.iter().map(|method| method.name);
    for method in methods.into_iter().chain(own) {
        assert!(params_schema(method).is_some(), "{method}");
        assert!(crate::methods::lookup(method).is_some(), "{method}");
    }
}

#[test]
fn absent_params_are_an_empty_object() {
    let null: &RawValue = serde_json::from_str("null").expect("JSON");
    for params in [None, Some(null)] {
        assert_eq!(check("system.info", params), Ok(()));
        assert_eq!(
            check("chat.history", params)
                .expect_err("a missing key")
                .message,
            "invalid chat.history params: must have required property 'sessionKey'"
        );
    }
    assert_eq!(check("last-heartbeat", Some(null)), Ok(()));
}

#[test]
fn hostile_values_cost_little() {
    let deep = format!(
        "{{\"sessionKey\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let deep: &RawValue = serde_json::from_str(&deep).expect("JSON");
    assert!(check("chat.history", Some(deep)).is_err());
    let wide = format!("{{\"keys\":[{}1]}}", "1,".repeat(500_000));
    let wide: &RawValue = serde_json::from_str(&wide).expect("JSON");
    let message = check("users.prefs.get", Some(wide))
        .expect_err("no strings")
        .message;
    assert!(message.len() < 1000, "{message}");
}
