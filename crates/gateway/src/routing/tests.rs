//! Which session, which agent, who is answered.

use super::*;
use channels::message::{Chat, EventKind, Sender};
use proptest::prelude::*;
use serde_json::json;

fn message(kind: ChatKind, chat: &str, sender: &str) -> InboundMessage {
    InboundMessage {
        event_id: "1".into(),
        message_id: "1".into(),
        kind: EventKind::Message,
        chat: Chat {
            kind,
            id: chat.into(),
            thread: None,
            parent: None,
            title: None,
        },
        sender: Sender {
            id: sender.into(),
            username: Some("Ann".into()),
            name: None,
            is_bot: false,
            roles: Vec::new(),
        },
        text: "hi".into(),
        reply_to: None,
        edit_of: None,
        quoted: None,
        mentions_us: false,
        attachments: Vec::new(),
        sent_at_ms: 0,
    }
}

fn decide(config: &Value, channel: &str, account: &str, message: &InboundMessage) -> Decision {
    let settings = config["channels"][channel]
        .as_object()
        .cloned()
        .unwrap_or_default();
    Routing::from_config(config).decide(channel, account, &settings, message, Known::default())
}

fn route(config: &Value, channel: &str, account: &str, message: &InboundMessage) -> Route {
    match decide(config, channel, account, message) {
        Decision::Route(route) => route,
        other => panic!("{other:?}"),
    }
}

#[test]
fn direct_messages_share_what_the_scope_says() {
    let dm = message(ChatKind::Direct, "42", "42");
    let check = |session: Value, expected: &str| {
        let config = json!({ "session": session, "channels": { "telegram": { "dmPolicy": "open", "allowFrom": ["*"], "accounts": { "work": {} } } } });
        assert_eq!(
            route(&config, "telegram", "work", &dm).session_key,
            expected
        );
    };
    check(json!({}), "agent:main:main");
    check(json!({ "dmScope": "per-peer" }), "agent:main:direct:42");
    check(
        json!({ "dmScope": "per-channel-peer" }),
        "agent:main:telegram:direct:42",
    );
    check(
        json!({ "dmScope": "per-account-channel-peer" }),
        "agent:main:telegram:work:direct:42",
    );
    check(
        json!({ "dmScope": "per-peer", "identityLinks": { "ann": ["telegram:42"] } }),
        "agent:main:direct:ann",
    );
    check(
        json!({ "dmScope": "main", "identityLinks": { "ann": ["telegram:42"] } }),
        "agent:main:main",
    );
}

#[test]
fn groups_and_topics_have_sessions_of_their_own() {
    let config = json!({ "channels": { "telegram": { "groupPolicy": "open", "groups": { "*": { "requireMention": false } } } } });
    let mut group = message(ChatKind::Group, "-100", "42");
    assert_eq!(
        route(&config, "telegram", "default", &group).session_key,
        "agent:main:telegram:group:-100"
    );
    group.chat.thread = Some("7".into());
    assert_eq!(
        route(&config, "telegram", "default", &group).session_key,
        "agent:main:telegram:group:-100:topic:7"
    );
    let room = message(ChatKind::Channel, "!Room:x", "@a:x");
    let config = json!({ "channels": { "matrix": { "groupPolicy": "open", "groups": { "*": { "requireMention": false } } } } });
    assert_eq!(
        route(&config, "matrix", "default", &room).session_key,
        "agent:main:matrix:channel:!Room:x"
    );
}

#[test]
fn bindings_are_tried_in_the_originals_order() {
    let bindings = json!([
        { "agentId": "channel", "match": { "channel": "telegram", "accountId": "*" } },
        { "agentId": "account", "match": { "channel": "telegram" } },
        { "agentId": "any-group", "match": { "channel": "telegram", "peer": { "kind": "group", "id": "*" } } },
        { "agentId": "group", "match": { "channel": "telegram", "peer": { "kind": "channel", "id": "-100" } } },
        { "agentId": "topic", "match": { "channel": "telegram", "peer": { "kind": "group", "id": "-100:topic:7" } } },
        { "agentId": "ann", "match": { "channel": "telegram", "peer": { "kind": "direct", "id": "42" } }, "session": { "dmScope": "per-peer" } },
    ]);
    let config = json!({ "bindings": bindings, "channels": { "telegram": { "dmPolicy": "open", "allowFrom": ["*"], "groupPolicy": "open", "groups": { "*": { "requireMention": false } } } } });
    let check = |account: &str, message: &InboundMessage, agent: &str, tier: &str| {
        let route = route(&config, "telegram", account, message);
        assert_eq!((route.agent.as_str(), route.matched_by), (agent, tier));
        route
    };
    let group = message(ChatKind::Group, "-100", "9");
    check("default", &group, "group", "binding.peer");
    let mut topic = group.clone();
    topic.chat.thread = Some("7".into());
    check("default", &topic, "topic", "binding.peer");
    topic.chat.thread = Some("8".into());
    check("default", &topic, "group", "binding.peer.parent");
    check(
        "default",
        &message(ChatKind::Group, "-200", "9"),
        "any-group",
        "binding.peer.wildcard",
    );
    check(
        "default",
        &message(ChatKind::Direct, "9", "9"),
        "account",
        "binding.account",
    );
    check(
        "work",
        &message(ChatKind::Direct, "9", "9"),
        "channel",
        "binding.channel",
    );
    let ann = check(
        "default",
        &message(ChatKind::Direct, "42", "42"),
        "ann",
        "binding.peer",
    );
    assert_eq!(ann.session_key, "agent:ann:direct:42");
}

#[test]
fn guilds_come_with_roles_first() {
    let config = json!({
        "bindings": [
            { "agentId": "guild", "match": { "channel": "discord", "guildId": "g" } },
            { "agentId": "staff", "match": { "channel": "discord", "guildId": "g", "roles": ["mod"] } },
        ],
        "channels": { "discord": { "groupPolicy": "open", "groups": { "*": { "requireMention": false } } } },
    });
    let mut said = message(ChatKind::Channel, "c", "1");
    said.chat.parent = Some("g".into());
    assert_eq!(route(&config, "discord", "default", &said).agent, "guild");
    said.sender.roles = vec!["mod".into()];
    let found = route(&config, "discord", "default", &said);
    assert_eq!(
        (found.agent.as_str(), found.matched_by),
        ("staff", "binding.guild+roles")
    );
}

#[test]
fn strangers_are_paired_listed_or_turned_away() {
    let dm = message(ChatKind::Direct, "42", "42");
    let check = |settings: Value, passes: &str| {
        let config = json!({ "channels": { "telegram": settings } });
        let got = match decide(&config, "telegram", "default", &dm) {
            Decision::Drop { rule } => rule,
            Decision::Pair => "pair".to_owned(),
            Decision::Route(_) => "route".to_owned(),
        };
        assert!(got.starts_with(passes), "{settings}: {got}");
    };
    check(json!({}), "pair");
    check(json!({ "allowFrom": ["tg:42"] }), "route");
    check(json!({ "allowFrom": ["@ann"] }), "pair");
    check(json!({ "allowFrom": [42] }), "route");
    check(
        json!({ "dmPolicy": "allowlist", "allowFrom": ["41"] }),
        "sender 42 is not in allowFrom",
    );
    check(json!({ "dmPolicy": "open", "allowFrom": ["*"] }), "route");
    check(
        json!({ "dmPolicy": "open" }),
        "dmPolicy is open and allowFrom lacks",
    );
    check(json!({ "dmPolicy": "disabled" }), "dmPolicy is disabled");
    // As Matrix has it.
    check(
        json!({ "dm": { "policy": "open", "allowFrom": ["*"] } }),
        "route",
    );
    check(json!({ "dm": { "enabled": false } }), "dm.enabled");
    check(
        json!({ "dm": { "policy": "disabled" } }),
        "dmPolicy is disabled",
    );
    check(
        json!({ "dm": { "policy": "allowlist", "allowFrom": ["42"] } }),
        "route",
    );
}

#[test]
fn groups_ask_for_a_mention() {
    let check = |settings: Value, said: &dyn Fn(&mut InboundMessage), expected: &str| {
        let config = json!({
            "channels": { "telegram": settings },
            "messages": { "groupChat": { "mentionPatterns": ["\\bhey claw\\b", "("] } },
        });
        let mut group = message(ChatKind::Group, "-100", "42");
        said(&mut group);
        let got = match decide(&config, "telegram", "default", &group) {
            Decision::Drop { rule } => rule,
            Decision::Pair => "pair".to_owned(),
            Decision::Route(_) => "route".to_owned(),
        };
        assert!(got.starts_with(expected), "{settings}: {got}");
    };
    let quiet = |_: &mut InboundMessage| {};
    check(json!({}), &quiet, "groupPolicy is allowlist");
    check(json!({ "groupPolicy": "open" }), &quiet, "not mentioned");
    check(
        json!({ "groupPolicy": "open" }),
        &|m| m.mentions_us = true,
        "route",
    );
    check(
        json!({ "groupPolicy": "open" }),
        &|m| m.text = "Hey Claw, hi".into(),
        "route",
    );
    check(
        json!({ "groups": { "-100": { "requireMention": false } } }),
        &quiet,
        "route",
    );
    check(
        json!({ "groups": { "-200": {} } }),
        &quiet,
        "group -100 is not in groups",
    );
    check(
        json!({ "groups": { "*": { "requireMention": false } }, "groupAllowFrom": ["7"] }),
        &quiet,
        "sender 42 is not",
    );
    check(
        json!({ "groupPolicy": "open" }),
        &|m| m.kind = EventKind::Reaction,
        "a reaction",
    );
    check(
        json!({ "groupPolicy": "open" }),
        &|m| m.sender.is_bot = true,
        "the sender is a bot",
    );
}

#[test]
fn half_a_peer_binds_nobody() {
    let config = json!({
        "bindings": [
            { "agentId": "a", "match": { "channel": "telegram", "accountId": "*", "peer": { "kind": "direct" } } },
            { "agentId": "b", "match": { "channel": "telegram", "accountId": "*", "peer": { "kind": "person", "id": "42" } } },
        ],
        "channels": { "telegram": { "dmPolicy": "open", "allowFrom": ["*"] } },
    });
    let dm = message(ChatKind::Direct, "42", "42");
    assert_eq!(
        route(&config, "telegram", "default", &dm).matched_by,
        "default"
    );
}

#[test]
fn a_binding_to_an_agent_that_is_not_there_is_not_guessed() {
    let config = json!({
        "agents": { "list": [{ "id": "ops" }] },
        "bindings": [{ "agentId": "ghost", "match": { "channel": "telegram", "accountId": "*" } }],
        "channels": { "telegram": { "dmPolicy": "open", "allowFrom": ["*"] } },
    });
    let dm = message(ChatKind::Direct, "42", "42");
    let decision = decide(&config, "telegram", "default", &dm);
    assert!(
        matches!(&decision, Decision::Drop { rule } if rule.contains("ghost")),
        "{decision:?}"
    );
}

#[test]
fn only_the_owner_moves_the_route_of_a_shared_session() {
    let config =
        json!({ "channels": { "telegram": { "dmPolicy": "pairing", "allowFrom": ["1"] } } });
    let settings = config["channels"]["telegram"].as_object().unwrap();
    let routing = Routing::from_config(&config);
    let pins = |sender: &str| {
        let dm = message(ChatKind::Direct, sender, sender);
        match routing.decide("telegram", "default", settings, &dm, Known { paired: true }) {
            Decision::Route(route) => route.pins_route,
            other => panic!("{other:?}"),
        }
    };
    assert!(pins("1"));
    assert!(!pins("2"));
}

proptest! {
    #[test]
    fn a_key_is_read_as_it_was_written(agent in "[a-z0-9][a-z0-9_-]{0,20}", rest in "[a-zA-Z0-9!@:._-]{1,40}") {
        prop_assume!(!rest.starts_with(':'));
        let key = SessionKey { agent, rest };
        prop_assert_eq!(SessionKey::parse(&key.to_string()), Some(key));
    }

    #[test]
    fn any_text_is_a_key_or_none(text in ".{0,60}") {
        if let Some(key) = SessionKey::parse(&text) {
            prop_assert_eq!(key.to_string(), text);
        }
    }
}
