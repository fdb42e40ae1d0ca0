//! Checks against pairs recorded from the original by `record-cases.mjs`.

use serde_json::{Value, json};

use super::*;

#[test]
fn the_verdict_and_text_equal_the_originals() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("cases.json")).expect("recorded cases are JSON");
    assert!(cases.len() >= 320);
    for case in &cases {
        let ours = CONNECT.check(&case["params"]).err();
        assert_eq!(
            ours.as_deref(),
            case["error"].as_str(),
            "params: {}",
            case["params"]
        );
        let parsed = ConnectParams::parse(&case["params"]);
        assert_eq!(
            parsed.is_ok(),
            case["error"].is_null(),
            "params: {}: {parsed:?}",
            case["params"]
        );
    }
}

#[test]
fn an_unknown_client_id_is_named_with_the_prefix() {
    let params = json!({"minProtocol":4,"maxProtocol":4,
        "client":{"id":"nope","version":"1","platform":"linux","mode":"cli"}});
    assert_eq!(
        ConnectParams::parse(&params).expect_err("the id is not in the list"),
        "invalid connect params: at /client/id: must be equal to one of the allowed values"
    );
}

#[test]
fn a_worker_is_recognised_before_its_params_are_checked() {
    for (params, expected) in [
        (json!({"role":"worker"}), true),
        (json!({"client":{"id":"openclaw-worker"}}), true),
        (json!({"client":{"mode":"worker"}}), true),
        (json!({"client":"worker"}), false),
        (json!({"role":"node","client":{"id":"cli"}}), false),
        (json!(null), false),
    ] {
        assert_eq!(claims_worker(&params), expected, "{params}");
    }
}

#[test]
fn debug_output_holds_no_credential() {
    let params = json!({"minProtocol":4,"maxProtocol":4,"auth":{"token":"s3cret","password":"s3cret2"},
        "client":{"id":"cli","version":"1","platform":"linux","mode":"cli"}});
    let shown = format!("{:?}", ConnectParams::parse(&params).expect("valid"));
    assert!(!shown.contains("s3cret"), "{shown}");
}
