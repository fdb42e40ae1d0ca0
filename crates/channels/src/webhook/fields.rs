//! Names of the fields in bodies that another system has designed.

use crate::ChannelError;
use crate::accounts::Account;
use serde_json::{Map, Value};

const INBOUND: [&str; 9] = [
    "text",
    "from",
    "chat",
    "group",
    "thread",
    "replyTo",
    "messageId",
    "mention",
    "media",
];
const OUTBOUND: [&str; 7] = [
    "type", "id", "target", "text", "thread", "replyTo", "subject",
];

/// Where a field is found (`inboundFields`, JSON pointers) and what it is called (`outboundFields`, names).
#[derive(Debug, Default, Clone)]
pub(super) struct Fields {
    inbound: Vec<(String, String)>,
    outbound: Vec<(String, String)>,
}

impl Fields {
    /// # Errors
    /// Names the entry that says nothing.
    pub(super) fn new(account: &Account) -> Result<Self, ChannelError> {
        let fields = Self {
            inbound: pairs(account, "inboundFields", &INBOUND)?,
            outbound: pairs(account, "outboundFields", &OUTBOUND)?,
        };
        for (field, pointer) in &fields.inbound {
            if !pointer.starts_with('/') {
                let key = format!("inboundFields.{field}");
                return Err(account.wrong(&key, "must be a JSON pointer such as /event/text"));
            }
        }
        Ok(fields)
    }

    /// A body of theirs with our names on top. Numbers, which many systems use as ids, become text.
    pub(super) fn inward(&self, body: Value) -> Value {
        if self.inbound.is_empty() {
            return body;
        }
        let mut ours = body.as_object().cloned().unwrap_or_default();
        for (field, pointer) in &self.inbound {
            match body.pointer(pointer) {
                Some(value) => ours.insert(field.clone(), as_text(value)),
                None => ours.shift_remove(field),
            };
        }
        ours.into()
    }

    /// A body of ours with their names.
    pub(super) fn outward(&self, body: Map<String, Value>) -> Map<String, Value> {
        let name = |key: String| {
            let named = self.outbound.iter().find(|(ours, _)| *ours == key);
            named.map_or(key, |(_, theirs)| theirs.clone())
        };
        body.into_iter()
            .map(|(key, value)| (name(key), value))
            .collect()
    }
}

fn as_text(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::Object(map) => match map.get("id") {
            Some(Value::Number(id)) => {
                let mut map = map.clone();
                map.insert("id".to_owned(), id.to_string().into());
                map.into()
            }
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

fn pairs(
    account: &Account,
    key: &str,
    known: &[&str],
) -> Result<Vec<(String, String)>, ChannelError> {
    let map = match account.settings.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => {
            return Err(account.wrong(key, "must be an object: our name of a field, and theirs"));
        }
    };
    map.iter()
        .map(|(field, theirs)| {
            let here = format!("{key}.{field}");
            if !known.contains(&field.as_str()) {
                return Err(account.wrong(
                    &here,
                    &format!("is no field; there are {}", known.join(", ")),
                ));
            }
            match theirs.as_str().filter(|name| !name.is_empty()) {
                Some(name) => Ok((field.clone(), name.to_owned())),
                None => Err(account.wrong(&here, "must be a text")),
            }
        })
        .collect()
}
