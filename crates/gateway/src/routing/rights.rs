//! Who may give commands, as the original judges it. Pure.
//!
//! Source: docs/tools/slash-commands.md, src/auto-reply/command-auth.ts and src/channels/command-gating.ts at 2026.9.6.

use channels::InboundMessage;
use channels::message::{ChatKind, Sender};
use serde_json::{Map, Value};

use super::gate::{self, is_sender};
use super::groups::Groups;

/// What a sender may order where they wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    pub commands: bool,
    /// `/new` and `/reset`, which are also those's who may write here and own nothing.
    pub reset: bool,
    /// Listed in `commands.ownerAllowFrom`: the agent has an owner's tools for them.
    pub owner: bool,
}

/// `commands` of one configuration.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// `commands.allowFrom`: alone in force where it says something.
    listed: Map<String, Value>,
    /// `commands.ownerAllowFrom`.
    owners: Vec<String>,
    /// Those that are configured: what begins with another one is an owner there.
    channels: Vec<String>,
}

impl Rights {
    pub(super) fn read(config: &Value) -> Self {
        let commands = &config["commands"];
        Self {
            listed: commands["allowFrom"]
                .as_object()
                .cloned()
                .unwrap_or_default(),
            owners: gate::entries(&commands["ownerAllowFrom"]),
            channels: config["channels"]
                .as_object()
                .map(|channels| channels.keys().cloned().collect())
                .unwrap_or_default(),
        }
    }

    /// Of the sender of a message that may be answered. `settings`: of its account; `own`: the `allowFrom` of its group.
    pub(super) fn of(
        &self,
        channel: &str,
        settings: &Map<String, Value>,
        own: Option<Vec<String>>,
        message: &InboundMessage,
        groups: &Groups,
    ) -> Standing {
        let sender = &message.sender;
        let is_in = |list: &[String]| list.iter().any(|entry| is_sender(channel, entry, sender));
        let named = |key: &str| self.listed.get(key).filter(|list| list.is_array());
        let owners = self.owners_on(channel);
        let is_owner = is_in(&owners);
        if let Some(list) = named(channel).or_else(|| named("*")) {
            let is_listed = is_in(&gate::entries(list));
            return Standing {
                commands: is_listed,
                reset: is_listed,
                owner: is_owner,
            };
        }
        // Whoever is answered directly was listed or paired; a webhook signs what it says.
        let is_admitted = message.chat.kind == ChatKind::Direct || channel == "webhook";
        let is_known = is_admitted || is_owner || {
            let listed = |key: &str| settings.get(key).map(gate::entries);
            let personal = listed("allowFrom")
                .or_else(|| Some(gate::entries(settings.get("dm")?.get("allowFrom")?)))
                .unwrap_or_default();
            let shared = own.or_else(|| listed("groupAllowFrom"));
            let has = |list: &[String]| groups.has(channel, list, sender);
            has(&personal) || shared.is_some_and(|shared| has(&shared))
        };
        Standing {
            commands: is_known && (owners.is_empty() || is_owner),
            reset: is_known,
            owner: is_owner,
        }
    }

    /// The owners that an entry names on this channel, without its prefix. A wildcard makes nobody an owner.
    fn owners_on(&self, channel: &str) -> Vec<String> {
        let here = |entry: &String| {
            let entry = entry.trim();
            match entry.split_once(':') {
                Some((of, rest)) if of.eq_ignore_ascii_case(channel) => {
                    Some(rest.trim().to_owned())
                }
                Some((of, _)) if self.channels.iter().any(|id| id.eq_ignore_ascii_case(of)) => None,
                // Of a channel that nobody has it means nobody, and yet there are owners.
                _ => Some(entry.to_owned()),
            }
        };
        let all = self.owners.iter().filter_map(here);
        all.filter(|entry| !entry.is_empty() && entry != "*")
            .collect()
    }
}

/// For the log and `why`: who it is that may not.
pub(crate) fn name(sender: &Sender) -> &str {
    sender.username.as_deref().unwrap_or(&sender.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn standing(config: Value, kind: &str, sender: &str) -> (bool, bool) {
        let message = json!({
            "eventId": "1", "messageId": "1", "chat": { "kind": kind, "id": "-1" }, "sender": { "id": sender },
            "text": "/status", "sentAtMs": 1,
        });
        let message = serde_json::from_value(message).expect("a message");
        let settings = config["channels"]["telegram"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let own = settings
            .get("groups")
            .and_then(|groups| groups["-1"].get("allowFrom"))
            .map(gate::entries);
        let standing =
            Rights::read(&config).of("telegram", &settings, own, &message, &Groups::read(&config));
        (standing.commands, standing.reset)
    }

    #[test]
    fn the_list_for_commands_is_the_only_one_where_it_is() {
        let check = |allow: Value, sender: &str, expected: bool| {
            let config = json!({
                "commands": { "allowFrom": allow, "ownerAllowFrom": ["telegram:9"] }, "channels": { "telegram": { "allowFrom": ["*"] } },
            });
            assert_eq!(
                standing(config, "direct", sender),
                (expected, expected),
                "{allow} {sender}"
            );
        };
        check(json!({ "telegram": ["1"] }), "1", true);
        check(json!({ "telegram": ["telegram:1"] }), "1", true);
        check(json!({ "telegram": [1] }), "1", true);
        check(json!({ "telegram": ["1"] }), "2", false);
        check(json!({ "telegram": ["1"], "*": ["2"] }), "2", false);
        check(json!({ "*": ["2"] }), "2", true);
        check(json!({ "*": ["*"] }), "7", true);
        check(json!({ "telegram": [] }), "9", false);
    }

    #[test]
    fn else_who_is_answered_may_and_where_there_are_owners_they_alone() {
        let direct = |commands: Value, sender: &str| {
            let config = json!({
                "commands": commands, "channels": { "telegram": { "allowFrom": ["1", "2"] }, "discord": {} },
            });
            standing(config, "direct", sender)
        };
        assert_eq!(direct(json!({}), "1"), (true, true));
        assert_eq!(
            direct(json!({ "allowFrom": { "discord": ["5"] } }), "1"),
            (true, true)
        );
        let owned = json!({ "ownerAllowFrom": ["telegram:1"] });
        assert_eq!(direct(owned.clone(), "1"), (true, true));
        assert_eq!(direct(owned, "2"), (false, true), "may begin anew");
        // An owner elsewhere changes nothing here, a wildcard neither.
        assert_eq!(
            direct(json!({ "ownerAllowFrom": ["discord:1", "*"] }), "2"),
            (true, true)
        );
        for owner in ["1", "slack:1"] {
            let owned = json!({ "ownerAllowFrom": [owner] });
            assert_eq!(direct(owned, "2"), (false, true), "{owner}");
        }
    }

    #[test]
    fn in_a_group_who_is_listed_may() {
        let check = |settings: Value, sender: &str, expected: bool| {
            let config = json!({ "channels": { "telegram": settings } });
            assert_eq!(
                standing(config, "group", sender),
                (expected, expected),
                "{settings} {sender}"
            );
        };
        check(json!({ "groupPolicy": "open" }), "1", false);
        check(
            json!({ "groupPolicy": "open", "allowFrom": ["*"] }),
            "1",
            true,
        );
        check(
            json!({ "allowFrom": ["1"], "groupAllowFrom": ["2"] }),
            "1",
            true,
        );
        check(
            json!({ "allowFrom": ["1"], "groupAllowFrom": ["2"] }),
            "2",
            true,
        );
        check(
            json!({ "allowFrom": ["1"], "groupAllowFrom": ["2"] }),
            "3",
            false,
        );
        check(
            json!({ "groupAllowFrom": ["2"], "groups": { "-1": { "allowFrom": ["3"] } } }),
            "3",
            true,
        );
        check(
            json!({ "groupAllowFrom": ["2"], "groups": { "-1": { "allowFrom": ["3"] } } }),
            "2",
            false,
        );
    }
}
