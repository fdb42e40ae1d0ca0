//! How hard turns think, and what of it is shown: what sessions choose, `/think`, `/reasoning`.
//!
//! Source: docs/tools/thinking.md of the package at 2026.9.6; the answers are the original's.

use agent::Model;
use agent::thinking::{Level, Profile};
use serde_json::{Map, Value, json};

/// Words that take a session's own choice back.
const INHERIT: [&str; 6] = ["default", "inherit", "inherited", "clear", "reset", "unpin"];
const REASONING_WORDS: &str = "on, off, stream";

/// The level that a session has chosen, whether its model can or not.
pub(super) fn chosen(settings: &Value) -> Option<Level> {
    settings["thinkingLevel"].as_str().and_then(Level::parse)
}

/// What rows say of a model's thinking.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    profile: Profile,
    default: Level,
}

impl Shown {
    pub(super) fn of(config: &Value, agent: &str, model: &Model) -> Self {
        Self {
            profile: Profile::of(model),
            default: model.thinking_default(config, agent),
        }
    }

    /// The levels as clients list them.
    pub(super) fn levels(&self) -> Value {
        let levels = self.profile.levels().iter();
        levels
            .map(|(level, label)| json!({ "id": level.name(), "label": label }))
            .collect()
    }

    pub(super) const fn default(&self) -> Level {
        self.default
    }

    pub(super) fn nearest(&self, level: Level) -> Level {
        self.profile.nearest(level)
    }

    /// Puts the levels into a row or into defaults.
    pub(super) fn put(&self, row: &mut Map<String, Value>) {
        let labels = self.profile.levels().iter();
        let labels: Vec<&str> = labels.map(|(_, label)| *label).collect();
        row.insert("thinkingLevels".to_owned(), self.levels());
        row.insert("thinkingOptions".to_owned(), json!(labels));
        row.insert("thinkingDefault".to_owned(), json!(self.default.name()));
    }

    fn listed(&self, between: &str) -> String {
        let labels = self.profile.levels().iter();
        let labels: Vec<&str> = labels.map(|(_, label)| *label).collect();
        labels.join(between)
    }
}

/// Why a turn can't think so hard with a model.
pub(super) fn refused(model: &Model, level: Level) -> Option<String> {
    let profile = Profile::of(model);
    if profile.has(level) {
        return None;
    }
    let labels: Vec<&str> = profile.levels().iter().map(|(_, label)| *label).collect();
    Some(format!(
        "Thinking level \"{}\" is not supported for {}/{}. Use one of: {}.",
        level.name(),
        model.provider,
        model.id,
        labels.join(", ")
    ))
}

/// What `sessions.patch` keeps of `thinkingLevel`; the error names what there is.
pub(super) fn patched(value: &Value, model: &Model) -> Result<Value, String> {
    let Some(words) = value.as_str() else {
        return Ok(Value::Null);
    };
    let profile = Profile::of(model);
    let labels: Vec<&str> = profile.levels().iter().map(|(_, label)| *label).collect();
    let labels = labels.join("|");
    let Some(level) = Level::parse(words) else {
        return Err(format!("invalid thinkingLevel (use {labels})"));
    };
    match profile.has(level) {
        true => Ok(json!(level.name())),
        false => Err(format!(
            "thinkingLevel \"{}\" is not supported for {}/{} (use {labels})",
            level.name(),
            model.provider,
            model.id
        )),
    }
}

/// As [`patched`] where no model says what it can: any level there is.
pub(super) fn parsed(value: &Value) -> Result<Value, String> {
    let Some(words) = value.as_str() else {
        return Ok(Value::Null);
    };
    let level = Level::parse(words).ok_or("invalid thinkingLevel")?;
    Ok(json!(level.name()))
}

/// `/think`: what is answered, and what the session keeps (`null` takes it back).
pub(super) fn command(
    words: &str,
    settings: &Value,
    shown: &Shown,
    model: &Model,
) -> (String, Option<Value>) {
    if words.is_empty() {
        let level = chosen(settings).map_or(shown.default, |level| shown.nearest(level));
        let answer = format!(
            "Current thinking level: {}.\nOptions: default, {}.",
            level.name(),
            shown.listed(", ")
        );
        return (answer, None);
    }
    if INHERIT.contains(&&*words.to_lowercase()) {
        let answer = "Thinking level reset to default.".to_owned();
        return (answer, Some(Value::Null));
    }
    let Some(level) = Level::parse(words) else {
        let answer = format!(
            "Unrecognized thinking level \"{words}\". Valid levels: default, {}.",
            shown.listed(", ")
        );
        return (answer, None);
    };
    if let Some(why) = refused(model, level) {
        return (why, None);
    }
    let answer = match level {
        Level::Off => "Thinking disabled.".to_owned(),
        level => format!("Thinking level set to {}.", level.name()),
    };
    (answer, Some(json!(level.name())))
}

/// Whether thoughts are shown: `on`, `off` or `stream`.
pub(super) fn reasoning(words: &str) -> Option<&'static str> {
    Some(match words.trim().to_lowercase().as_str() {
        "off" | "false" | "no" | "0" | "hide" | "hidden" | "disable" | "disabled" => "off",
        "on" | "true" | "yes" | "1" | "show" | "visible" | "enable" | "enabled" => "on",
        "stream" | "streaming" | "draft" | "live" => "stream",
        _ => return None,
    })
}

/// Whether a session's thoughts are shown: its own choice, else its agent's, else the default.
pub(super) fn reasoning_of(
    settings: &Value,
    agent: Option<&Map<String, Value>>,
    config: &Value,
) -> &'static str {
    let level = |said: Option<&Value>| reasoning(said?.as_str()?);
    level(settings.get("reasoningLevel"))
        .or_else(|| level(agent.and_then(|agent| agent.get("reasoningDefault"))))
        .or_else(|| level(config.pointer("/agents/defaults/reasoningDefault")))
        .unwrap_or("off")
}

/// `/reasoning`: what is answered, and what the session keeps.
pub(super) fn reasoning_command(words: &str, now: &str) -> (String, Option<Value>) {
    if words.is_empty() {
        let answer = format!("Current reasoning level: {now}.\nOptions: {REASONING_WORDS}.");
        return (answer, None);
    }
    let Some(level) = reasoning(words) else {
        let answer =
            format!("Unrecognized reasoning level \"{words}\". Valid levels: {REASONING_WORDS}.");
        return (answer, None);
    };
    let answer = match level {
        "on" => "⚙️ Reasoning visibility enabled.",
        "stream" => "⚙️ Reasoning stream enabled.",
        _ => "⚙️ Reasoning visibility disabled.",
    };
    (answer.to_owned(), Some(json!(level)))
}

/// A level for one message, among its other words: `/think high what is it?`. The level, and the words without it.
pub(super) fn inline(message: &str) -> Option<(Level, String)> {
    let mut from = 0;
    while let Some(at) = message[from..].find('/').map(|at| from + at) {
        from = at + 1;
        let stands_apart = message[..at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace);
        let after = &message[from..];
        let end = after
            .find(|char: char| !char.is_ascii_alphanumeric())
            .unwrap_or(after.len());
        let is_name = matches!(
            after[..end].to_lowercase().as_str(),
            "think" | "thinking" | "t"
        );
        let rest = &after[end..];
        let value = rest.trim_start();
        let value = value.strip_prefix(':').unwrap_or(value).trim_start();
        let length = value
            .find(|char: char| !char.is_ascii_alphabetic() && char != '-')
            .unwrap_or(value.len());
        let begins = rest.starts_with(|char: char| char.is_whitespace() || char == ':');
        if !stands_apart || !is_name || !begins {
            continue;
        }
        if let Some(level) = Level::parse(&value[..length]) {
            let before = message[..at].trim_end();
            let after = value[length..].trim_start();
            let between = if before.is_empty() || after.is_empty() {
                ""
            } else {
                " "
            };
            return Some((level, format!("{before}{between}{after}")));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_for_one_message_is_no_part_of_it() {
        let check = |message: &str, level: Level, rest: &str| {
            assert_eq!(inline(message), Some((level, rest.to_owned())), "{message}");
        };
        check("/think high what is it?", Level::High, "what is it?");
        check("what is it? /t:low", Level::Low, "what is it?");
        check("one /thinking x-high two", Level::Xhigh, "one two");
        for plain in [
            "/think about it",
            "see /usr/t/high",
            "a/think high b",
            "/thinker high",
            "/",
            "think high",
        ] {
            assert_eq!(inline(plain), None, "{plain}");
        }
    }

    #[test]
    fn whether_thoughts_are_shown_follows_session_agent_default() {
        let config = json!({ "agents": { "defaults": { "reasoningDefault": "on" } } });
        let agent = json!({ "reasoningDefault": "stream" });
        assert_eq!(reasoning_of(&json!({}), None, &json!({})), "off");
        assert_eq!(reasoning_of(&json!({}), None, &config), "on");
        assert_eq!(
            reasoning_of(&json!({}), agent.as_object(), &config),
            "stream"
        );
        let own = json!({ "reasoningLevel": "hide" });
        assert_eq!(reasoning_of(&own, agent.as_object(), &config), "off");
    }
}
