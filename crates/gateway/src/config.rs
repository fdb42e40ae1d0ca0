//! Configuration: the user's `openclaw.json`, kept as theirs, and our own `openclaw-gateway.toml`.
//!
//! Read in this order: [`Paths`] (where), [`ConfigDocument`] (what is written), [`Settings`] (what it
//! means to a gateway), [`OwnSettings`] (what only we know), [`reload`].

mod api;
mod defaults;
mod document;
mod edit;
mod env;
mod env_policy;
mod error;
mod file;
mod json5;
pub(crate) mod origins;
pub mod overlay;
pub mod own;
pub mod paths;
pub mod redact;
pub mod reload;
pub mod schema;
mod secret;
mod secrets;
pub mod settings;

pub use api::{ConfigApi, Written};
pub use document::ConfigDocument;
pub(crate) use document::type_name;
pub use env::Env;
pub use error::{ConfigError, EXIT_CODE_CONFIG, Issue};
pub(crate) use file::{
    create_new as create_private, create_private_dir, random_hex, replace as replace_private,
};
pub use own::{
    AdminListen, GuardSettings, IdentityMode, InDoubt, Limits, LogFormat, MessageSettings,
    OwnSettings, UpstreamMode, UpstreamSettings, example,
};
pub use paths::{Paths, gateway_port, select_profile};
pub use secret::Secret;
pub(crate) use secrets::{Keepers, SecretRef, Secrets};
pub use settings::{AuthMode, AuthSettings, BindMode, Settings, TailscaleMode};

/// For the fuzz targets: reads a text and writes it anew with one more key. The person's own keys stay.
pub(crate) fn read_and_rewrite(text: &str) {
    let Ok((value, _)) = json5::parse(text) else {
        return;
    };
    assert_eq!(
        edit::rewrite(text, &value),
        text,
        "a text without a change is changed"
    );
    let mut new = value;
    if let Some(keys) = new.as_object_mut() {
        keys.insert("fuzz".into(), serde_json::json!({ "a": [1] }));
    }
    let written = edit::rewrite(text, &new);
    let read = json5::parse(&written).map(|(value, _)| value);
    assert_eq!(
        read.ok(),
        Some(new),
        "what is written does not read as it should"
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    /// Any JSON tree of moderate size, for property tests.
    pub(crate) fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::from),
            "[a-z$.\"\\\\é]{0,6}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-d]|[a-z ]{1,4}", inner, 0..5)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }
}
