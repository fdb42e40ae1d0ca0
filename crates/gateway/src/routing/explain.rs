//! One envelope, decided and explained: for people (`route explain`) and for the differential test.

use anyhow::Context as _;
use channels::InboundMessage;
use channels::accounts;
use serde_json::{Map, Value, json};

use super::{Decision, Known, Routing, normalize_account};

/// Decides the envelope `{channel, account?, message, paired?}` under `config`, its includes resolved. What `message`
/// leaves out of an [`InboundMessage`] and the decision does not look at may be missing.
///
/// # Errors
/// When the envelope is none: which field, and what is expected there.
pub(crate) fn explain(
    config: &Value,
    routing: &Routing,
    envelope: &Value,
) -> anyhow::Result<Value> {
    let channel = envelope["channel"]
        .as_str()
        .context("`channel` is missing: the id of a channel, such as \"telegram\"")?;
    let account = envelope["account"]
        .as_str()
        .unwrap_or(accounts::DEFAULT_ACCOUNT);
    let mut filled =
        json!({ "eventId": "explain", "messageId": "explain", "text": "", "sentAtMs": 0 });
    if let (Some(filled), Some(given)) = (filled.as_object_mut(), envelope["message"].as_object()) {
        filled.extend(given.clone());
    }
    let message: InboundMessage = serde_json::from_value(filled).context(
        "`message` needs chat {kind: direct|group|channel, id, thread?, parent?} and sender {id}",
    )?;
    let known = Known {
        paired: envelope["paired"] == true,
    };
    let settings = settings(channel, account, config);
    let decision = routing.decide(channel, account, &settings, &message, known);
    // Where it would go if it were answered, so that the two questions can be told apart.
    let (agent, key) = routing.session_for_target(channel, account, &message);
    Ok(match decision {
        Decision::Drop { rule } => json!({ "decision": "drop", "rule": rule }),
        Decision::Pair => {
            json!({ "decision": "pair", "rule": "dmPolicy is pairing", "agent": agent, "sessionKey": key })
        }
        Decision::Route(route) => json!({
            "decision": "route",
            "rule": route.matched_by,
            "agent": route.agent,
            "sessionKey": route.session_key,
            "pinsRoute": route.pins_route,
            "commands": route.standing.commands,
            "reset": route.standing.reset,
            "owner": route.standing.owner,
        }),
    })
}

/// What holds for the account; of one that the file does not name, what holds for all.
fn settings(channel: &str, account: &str, config: &Value) -> Map<String, Value> {
    let section = &config["channels"][channel];
    let wanted = normalize_account(account);
    let mut all = accounts::of(channel, section).into_iter();
    let own = all.find(|one| normalize_account(&one.id) == wanted);
    own.map(|one| one.settings)
        .or_else(|| section.as_object().cloned())
        .unwrap_or_default()
}
