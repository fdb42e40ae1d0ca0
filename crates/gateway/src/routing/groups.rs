//! Named lists of senders, `accessGroups`, which allow lists refer to as `accessGroup:<name>`. Pure.
//!
//! Source: docs/channels/access-groups.md at 2026.9.6. Lists for commands and owners do not follow them, as with the original.

use std::collections::HashMap;

use channels::message::Sender;
use serde_json::Value;

use super::gate;

const PREFIX: &str = "accessGroup:";
const SENDERS: &str = "message.senders";

/// Those of one configuration.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Members by channel, or `*`, by name.
    all: HashMap<String, HashMap<String, Vec<String>>>,
}

impl Groups {
    pub(super) fn read(config: &Value) -> Self {
        let mut groups = Self::default();
        for (name, group) in config["accessGroups"].as_object().into_iter().flatten() {
            if group["type"] != SENDERS {
                tracing::warn!(
                    name,
                    kind = %group["type"],
                    "accessGroups: only groups of the type message.senders let anybody in here"
                );
                continue;
            }
            let members = group["members"].as_object().into_iter().flatten();
            let members = members.map(|(channel, list)| (channel.clone(), gate::entries(list)));
            groups.all.insert(name.clone(), members.collect());
        }
        groups
    }

    /// Whether a list, or a group that it refers to, means this sender. A group that is not there means nobody.
    pub(super) fn has(&self, channel: &str, list: &[String], sender: &Sender) -> bool {
        list.iter()
            .any(|entry| match entry.trim().strip_prefix(PREFIX) {
                Some(name) => self.is_member(channel, name.trim(), sender),
                None => gate::is_sender(channel, entry, sender),
            })
    }

    fn is_member(&self, channel: &str, name: &str, sender: &Sender) -> bool {
        let Some(members) = self.all.get(name) else {
            return false;
        };
        let lists = [members.get(channel), members.get("*")];
        let mut entries = lists.into_iter().flatten().flatten();
        entries.any(|entry| gate::is_sender(channel, entry, sender))
    }
}

/// Whether an entry is such a reference.
pub(crate) fn is_reference(entry: &str) -> bool {
    entry.trim().starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_group_is_its_members_on_the_channel_and_everywhere() {
        let groups = Groups::read(&json!({ "accessGroups": {
            "team": { "type": "message.senders", "members": { "telegram": ["1", "tg:2"], "*": ["3"], "irc": ["ann"] } },
            "open": { "type": "message.senders", "members": { "telegram": ["*"] } },
            "room": { "type": "discord.channelAudience", "guildId": "1", "channelId": "2" },
        } }));
        let check = |channel: &str, list: &[&str], id: &str, expected: bool| {
            let list: Vec<String> = list.iter().map(|entry| (*entry).to_owned()).collect();
            let sender = serde_json::from_value(json!({ "id": id })).expect("a sender");
            assert_eq!(
                groups.has(channel, &list, &sender),
                expected,
                "{channel} {list:?} {id}"
            );
        };
        check("telegram", &["accessGroup:team"], "1", true);
        check("telegram", &["accessGroup:team"], "2", true);
        check("telegram", &[" accessGroup:team"], "3", true);
        check("telegram", &["accessGroup:team"], "4", false);
        check("telegram", &["4", "accessGroup:team"], "4", true);
        check("irc", &["accessGroup:team"], "ann", true);
        check("irc", &["accessGroup:team"], "1", false);
        check("telegram", &["accessGroup:open"], "7", true);
        check("irc", &["accessGroup:open"], "7", false);
        for nobody in ["accessGroup:room", "accessGroup:gone", "accessGroup:"] {
            check("telegram", &[nobody], "1", false);
        }
    }
}
