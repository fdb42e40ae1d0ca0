//! What a message orders: the original's commands by their names, and its words to stop. Pure.
//!
//! Source: src/auto-reply/commands-registry.shared.ts, commands-registry-normalize.ts and reply/abort-trigger-text.ts at 2026.9.6.

use channels::InboundMessage;
use channels::message::{ChatKind, EventKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/stop`: ends what is being worked on.
    Stop,
    /// The same by a plain word, which is a text where it orders nothing.
    StopWord,
    /// `/new` and `/reset`, with what follows them.
    Reset,
    /// Who the sender is here, which nobody else knows.
    WhoAmI,
    /// Reads or sets something, also while a turn is at work; once more does no harm.
    AtOnce,
    /// Sets something: once more does no harm.
    Setting,
    /// Does something that once more is done twice.
    Work,
    /// Changes the gateway, its rights or this chat's bindings: not from a chat that only we know.
    Elsewhere,
    /// Not the original's own: a plugin's, a skill's, or nobody's.
    Unknown,
}

/// A message that is a command, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    /// Its first name, or the one that was said when it is unknown; without the slash.
    pub(crate) name: String,
    /// As the original takes it: without a mention of us.
    pub(crate) line: String,
}

pub(crate) fn is_reset(order: &Order) -> bool {
    order.kind == Kind::Reset
}

/// What follows `/new` or `/reset`.
pub(crate) fn after_reset(order: &Order) -> Option<&str> {
    let (_, rest) = order.line.split_once(char::is_whitespace)?;
    let rest = rest.trim();
    (is_reset(order) && !rest.is_empty()).then_some(rest)
}

/// It is about the files that it stands below: it leads to a turn, or may.
pub(crate) fn takes_files(order: &Order) -> bool {
    order.kind == Kind::Unknown
        || ["btw", "steer", "goal", "skill", "learn"].contains(&order.name.as_str())
}

#[derive(Debug, Clone, Copy)]
enum Rest {
    /// With more it is a text.
    None,
    /// With more words than this it is a text with a hint in it.
    Words(usize),
    Any,
}

/// Names of one command, what may follow, and what it is.
type Known = (&'static [&'static str], Rest, Kind);

const KNOWN: &[Known] = &[
    (&["stop"], Rest::None, Kind::Stop),
    (&["new"], Rest::Any, Kind::Reset),
    (&["reset"], Rest::Any, Kind::Reset),
    (&["whoami", "id"], Rest::None, Kind::WhoAmI),
    (&["help"], Rest::None, Kind::AtOnce),
    (&["commands"], Rest::None, Kind::AtOnce),
    (&["tools"], Rest::Words(1), Kind::AtOnce),
    (&["status"], Rest::Any, Kind::AtOnce),
    (&["tasks"], Rest::None, Kind::AtOnce),
    (&["context"], Rest::Any, Kind::AtOnce),
    (&["subagents"], Rest::Any, Kind::AtOnce),
    (&["agents"], Rest::None, Kind::AtOnce),
    (&["models"], Rest::Any, Kind::AtOnce),
    (&["think", "thinking", "t"], Rest::Words(1), Kind::AtOnce),
    (&["verbose", "v"], Rest::Words(1), Kind::Setting),
    (&["trace"], Rest::Words(1), Kind::Setting),
    (&["fast"], Rest::Words(1), Kind::Setting),
    (&["reasoning", "reason"], Rest::Words(1), Kind::Setting),
    (&["model"], Rest::Words(3), Kind::Setting),
    (&["queue"], Rest::Words(4), Kind::Setting),
    (&["usage"], Rest::Words(1), Kind::Setting),
    (&["name"], Rest::Any, Kind::Setting),
    (&["tts"], Rest::Any, Kind::Setting),
    (&["btw", "side"], Rest::Any, Kind::AtOnce),
    (&["steer", "tell"], Rest::Any, Kind::Work),
    (&["compact"], Rest::Any, Kind::Work),
    (&["goal"], Rest::Any, Kind::Work),
    (&["skill"], Rest::Any, Kind::Work),
    (&["learn"], Rest::Any, Kind::Work),
    (&["dashboard"], Rest::Any, Kind::Work),
    (&["acp"], Rest::Any, Kind::Elsewhere),
    (&["activation"], Rest::Words(1), Kind::Elsewhere),
    (&["allowlist"], Rest::Any, Kind::Elsewhere),
    (&["approve"], Rest::Any, Kind::Elsewhere),
    (&["bash"], Rest::Any, Kind::Elsewhere),
    (&["config"], Rest::Any, Kind::Elsewhere),
    (&["debug"], Rest::Any, Kind::Elsewhere),
    (&["diagnostics"], Rest::Any, Kind::Elsewhere),
    (&["elevated", "elev"], Rest::Words(1), Kind::Elsewhere),
    (&["exec"], Rest::Any, Kind::Elsewhere),
    (&["export-session", "export"], Rest::Any, Kind::Elsewhere),
    (
        &["export-trajectory", "trajectory"],
        Rest::Any,
        Kind::Elsewhere,
    ),
    (&["login"], Rest::Any, Kind::Elsewhere),
    (&["loop"], Rest::Any, Kind::Elsewhere),
    (&["mcp"], Rest::Any, Kind::Elsewhere),
    (&["openclaw"], Rest::Any, Kind::Elsewhere),
    (&["plugins", "plugin"], Rest::Any, Kind::Elsewhere),
    (&["restart"], Rest::None, Kind::Elsewhere),
    (&["send"], Rest::Words(1), Kind::Elsewhere),
    (&["session"], Rest::Any, Kind::Elsewhere),
    (&["update"], Rest::None, Kind::Elsewhere),
];

/// Source: `ABORT_TRIGGERS` in src/auto-reply/reply/abort-trigger-text.ts.
const STOP_WORDS: &[&str] = &[
    "stop",
    "esc",
    "abort",
    "exit",
    "interrupt",
    "detente",
    "deten",
    "detén",
    "arrete",
    "arrête",
    "停止",
    "停下来",
    "暂停",
    "やめて",
    "止めて",
    "रुको",
    "توقف",
    "стоп",
    "остановись",
    "останови",
    "остановить",
    "прекрати",
    "halt",
    "anhalten",
    "aufhören",
    "hoer auf",
    "stopp",
    "pare",
    "stop openclaw",
    "openclaw stop",
    "stop action",
    "stop current action",
    "stop run",
    "stop current run",
    "stop agent",
    "stop the agent",
    "stop don't do anything",
    "stop dont do anything",
    "stop do not do anything",
    "stop doing anything",
    "do not do that",
    "please stop",
    "stop please",
];
/// Longer than any of them with what may stand around it.
const STOP_BYTES_MAX: usize = 160;
/// Longest name that is looked up.
const NAME_BYTES_MAX: usize = 64;

impl Kind {
    /// Not kept waiting by what its conversation works on.
    pub(crate) fn is_urgent(self) -> bool {
        matches!(
            self,
            Self::Stop | Self::StopWord | Self::WhoAmI | Self::AtOnce | Self::Elsewhere
        )
    }

    pub(crate) fn is_stop(self) -> bool {
        matches!(self, Self::Stop | Self::StopWord)
    }

    /// Asked again, it does nothing that it had not done.
    pub(crate) fn is_repeatable(self) -> bool {
        matches!(self, Self::AtOnce | Self::Setting)
    }

    /// What an agent of a group answers without being called by name. Source: `hasControlCommand`.
    pub(crate) fn is_control(self) -> bool {
        !matches!(self, Self::StopWord | Self::Unknown)
    }
}

/// `None`: it is a text. What is written below a file orders as well, as with the original.
pub(crate) fn read(message: &InboundMessage) -> Option<Order> {
    if !matches!(message.kind, EventKind::Message | EventKind::Button) {
        return None;
    }
    let whole = message.text.trim();
    let text = match message.mentions_us && message.chat.kind != ChatKind::Direct {
        true => without_mention(whole),
        false => whole,
    };
    let Some(body) = text.strip_prefix('/') else {
        return is_stop_word(text).then(|| Order {
            kind: Kind::StopWord,
            name: "stop".to_owned(),
            line: "/stop".to_owned(),
        });
    };
    let end = body
        .find(|c: char| c.is_whitespace() || c == ':')
        .unwrap_or(body.len());
    let (said, rest) = body.split_at(end);
    let (name, named) = said
        .split_once('@')
        .map_or((said, None), |(name, of)| (name, Some(of)));
    // Another bot's.
    if named.is_some() && !message.mentions_us {
        return None;
    }
    let name = name.to_lowercase();
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let rest = rest.trim_start_matches([' ', '\t']);
    let rest = rest.strip_prefix(':').unwrap_or(rest).trim();
    // As with the words, what ends a sentence does no harm.
    if rest.is_empty() && name.trim_end_matches(ends_sentence) == "stop" {
        return Some(order(Kind::Stop, "stop", ""));
    }
    if !name.chars().all(is_name) {
        return None;
    }
    let Some((names, may_follow, kind)) = KNOWN
        .iter()
        .find(|(names, ..)| names.contains(&name.as_str()))
    else {
        return Some(order(Kind::Unknown, &name, rest));
    };
    let is_whole = match may_follow {
        Rest::None => rest.is_empty(),
        Rest::Words(most) => !rest.contains('\n') && rest.split_whitespace().count() <= *most,
        Rest::Any => true,
    };
    is_whole.then(|| order(*kind, names[0], rest))
}

fn order(kind: Kind, name: &str, rest: &str) -> Order {
    let line = match rest {
        "" => format!("/{name}"),
        rest => format!("/{name} {rest}"),
    };
    Order {
        kind,
        name: name.to_owned(),
        line,
    }
}

/// A text without the name that it calls us by: `@bot /status`, `bot: stop`, `stop @bot`.
fn without_mention(text: &str) -> &str {
    if let Some((first, rest)) = text.split_once(char::is_whitespace)
        && !first.starts_with('/')
        && (first.starts_with('@') || first.ends_with([':', ',']))
    {
        return rest.trim();
    }
    match text.rsplit_once(char::is_whitespace) {
        Some((rest, last)) if last.starts_with('@') => rest.trim(),
        _ => text,
    }
}

fn ends_sentence(c: char) -> bool {
    ".!?！？…,，。;；:：'\"’”)]}".contains(c)
}

fn is_stop_word(text: &str) -> bool {
    if text.len() > STOP_BYTES_MAX {
        return false;
    }
    let text = text.to_lowercase().replace(['’', '`'], "'");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    STOP_WORDS.contains(&words.trim_end_matches(ends_sentence).trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(kind: &str, text: &str, mentions_us: bool) -> InboundMessage {
        let message = json!({
            "eventId": "1", "messageId": "1", "chat": { "kind": kind, "id": "1" }, "sender": { "id": "1" },
            "text": text, "mentionsUs": mentions_us, "sentAtMs": 1,
        });
        serde_json::from_value(message).expect("a message")
    }

    #[test]
    fn commands_are_read_as_the_original_reads_them() {
        let check = |text: &str, expected: Option<(Kind, &str)>| {
            let order = read(&said("direct", text, false));
            let order = order
                .as_ref()
                .map(|order| (order.kind, order.line.as_str()));
            assert_eq!(order, expected, "{text}");
        };
        check("/status", Some((Kind::AtOnce, "/status")));
        check(" /STATUS ", Some((Kind::AtOnce, "/status")));
        check("/status plugins", Some((Kind::AtOnce, "/status plugins")));
        check("/t: high", Some((Kind::AtOnce, "/think high")));
        check("/think : high", Some((Kind::AtOnce, "/think high")));
        check("/id", Some((Kind::WhoAmI, "/whoami")));
        check(
            "/compact keep the API",
            Some((Kind::Work, "/compact keep the API")),
        );
        check("/new", Some((Kind::Reset, "/new")));
        check(
            "/new and tell me more",
            Some((Kind::Reset, "/new and tell me more")),
        );
        check(
            "/config set a=b",
            Some((Kind::Elsewhere, "/config set a=b")),
        );
        check("/export", Some((Kind::Elsewhere, "/export-session")));
        check("/my_skill do it", Some((Kind::Unknown, "/my_skill do it")));
        // A text that only begins as one.
        check("/help me with this", None);
        check("/think high what is it?", None);
        check("/think\nhigh\nlow", None);
        check("/usr/bin is a path", None);
        check("/", None);
        check("status", None);
        check("say /status", None);
    }

    #[test]
    fn what_may_lead_to_a_turn_is_about_its_files() {
        let takes =
            |text: &str| takes_files(&read(&said("direct", text, false)).expect("an order"));
        for text in [
            "/my_skill do it",
            "/skill x",
            "/side what is this?",
            "/tell look",
        ] {
            assert!(takes(text), "{text}");
        }
        for text in ["/status", "/new", "/compact", "/think high"] {
            assert!(!takes(text), "{text}");
        }
    }

    #[test]
    fn stop_is_stop_however_it_is_said() {
        let kind = |text: &str| read(&said("direct", text, false)).map(|order| order.kind);
        for text in [
            "stop",
            " STOP! ",
            "please  stop",
            "Stop, don’t do anything".replace(',', "").as_str(),
            "остановись",
            "停止。",
        ] {
            assert_eq!(kind(text), Some(Kind::StopWord), "{text}");
        }
        for text in ["/stop", "/STOP.", "/stop:"] {
            assert_eq!(kind(text), Some(Kind::Stop), "{text}");
        }
        for text in ["stop it now", "/stop now", "don't stop", "stopping"] {
            assert_eq!(kind(text), None, "{text}");
        }
        let mut photo = said("direct", "Stop!", false);
        let file = json!({ "source": "f", "mime": "image/png" });
        photo.attachments = vec![serde_json::from_value(file).expect("a file")];
        let kind = read(&photo).map(|order| order.kind);
        assert_eq!(kind, Some(Kind::StopWord), "below a photo");
        let mut edit = said("direct", "stop", false);
        edit.kind = EventKind::Edit;
        assert_eq!(read(&edit), None, "an edit orders nothing");
    }

    #[test]
    fn the_bots_name_is_no_part_of_it_and_another_bots_is_not_ours() {
        let line =
            |text: &str, ours: bool| read(&said("group", text, ours)).map(|order| order.line);
        let is = |text: &str, line: &str| (text.to_owned(), Some(line.to_owned()));
        for (text, expected) in [
            is("/status@our_bot", "/status"),
            is("/think@our_bot high", "/think high"),
            is("@our_bot /status", "/status"),
            is("@our_bot stop", "/stop"),
            is("stop @our_bot", "/stop"),
            is("claw: /new", "/new"),
            is("claw, stop!", "/stop"),
        ] {
            assert_eq!(line(&text, true), expected, "{text}");
        }
        assert_eq!(line("/status@other_bot", false), None);
        assert_eq!(line("/status", false).as_deref(), Some("/status"));
        assert_eq!(line("ann: stop", false), None);
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<_> = KNOWN.iter().flat_map(|(names, ..)| names.iter()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
