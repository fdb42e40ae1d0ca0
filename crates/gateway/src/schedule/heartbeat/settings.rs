//! Whose hearts beat, how often, when, and to whom what they say goes. Pure.
//!
//! Source: docs/gateway/heartbeat.md of the package at 2026.9.6.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::Value;

use crate::native::agents::{Ownership, Roster};
use crate::routing::is_reference;
use crate::schedule::SILENT;

const EVERY_MS: i64 = 30 * 60 * 1000;
/// Of an answer with the token at its edge: more than this is news.
const ACK_CHARS_MAX: usize = 300;
const TOKEN: &str = "HEARTBEAT_OK";
/// A turn's patience where nothing else says.
const PATIENCE_SECONDS_MAX: f64 = 600.0;

/// The heartbeat of one agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Beat {
    pub(super) agent: String,
    pub(super) every_ms: i64,
    /// Its settings over the defaults'.
    pub(super) settings: Value,
}

/// Where an alert goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Nowhere,
    /// A channel and who is written to there.
    To(String, String),
    /// The last chat that wrote to the agent.
    Last,
    /// There is nobody to tell.
    Unknown,
}

/// The agents whose hearts beat: those that have settings of their own for it, else the one that answers for all. None when
/// there are several, nothing names one of them, and nobody asked for heartbeats.
pub(super) fn beats(config: &Value, roster: &Roster) -> Vec<Beat> {
    let defaults = &config["agents"]["defaults"]["heartbeat"];
    let of = |agent: &str, own: &Value| {
        let mut settings = match defaults {
            Value::Object(defaults) => Value::Object(defaults.clone()),
            _ => serde_json::json!({}),
        };
        for (name, value) in own.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        let every = settings["every"].as_str().map(str::to_owned);
        Beat {
            agent: agent.to_owned(),
            every_ms: every.and_then(|text| interval(&text)).unwrap_or(EVERY_MS),
            settings,
        }
    };
    let agents = &config["agents"];
    let keyed = agents["entries"].as_object().into_iter().flatten();
    let keyed = keyed.map(|(id, entry)| (id.as_str(), entry));
    let listed = agents["list"].as_array().into_iter().flatten();
    let listed = listed.filter_map(|entry| Some((entry["id"].as_str()?, entry)));
    let own: Vec<Beat> = keyed
        .chain(listed)
        .filter(|(_, entry)| entry["heartbeat"].is_object())
        .map(|(id, entry)| of(id, &entry["heartbeat"]))
        .collect();
    if !own.is_empty() {
        return own;
    }
    let named = [
        &defaults["agentId"],
        &agents["defaults"]["systemAgent"]["agentId"],
    ];
    let named = named.into_iter().find_map(Value::as_str);
    let has_owner = roster.ownership == Ownership::Sole || defaults.is_object();
    let owner = named.or_else(|| has_owner.then_some(&*roster.default_id));
    owner
        .map(|agent| of(agent, &Value::Null))
        .into_iter()
        .collect()
}

/// `30m`, `1h30m`, `45` (minutes); 0: never.
fn interval(text: &str) -> Option<i64> {
    let text = text.trim().to_lowercase();
    let mut rest = text.as_str();
    let mut ms = 0.0;
    while !rest.is_empty() {
        let at = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..at].parse().ok()?;
        rest = &rest[at..];
        let at = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match rest[..at].trim() {
            "ms" => 1.0,
            "s" => 1e3,
            "" | "m" => 60e3,
            "h" => 3_600e3,
            "d" => 86_400e3,
            _ => return None,
        };
        rest = &rest[at..];
        ms += number * factor;
    }
    (!text.is_empty() && ms < 1e12).then_some(ms as i64)
}

/// Whether a heart may beat at a time of day. What can't be read restricts nothing.
pub(super) fn is_awake(config: &Value, settings: &Value, at: Timestamp) -> bool {
    let hours = &settings["activeHours"];
    let (Some(start), Some(end)) = (minutes(&hours["start"]), minutes(&hours["end"])) else {
        return true;
    };
    let zone = |name: &Value| {
        let name = name
            .as_str()
            .filter(|name| *name != "user" && *name != "local")?;
        TimeZone::get(name).ok()
    };
    let zone = match hours["timezone"].as_str() {
        Some("local") => TimeZone::system(),
        _ => zone(&hours["timezone"])
            .or_else(|| zone(&config["agents"]["defaults"]["userTimezone"]))
            .unwrap_or_else(TimeZone::system),
    };
    let now = Zoned::new(at, zone);
    let now = i64::from(now.hour()) * 60 + i64::from(now.minute());
    match start.cmp(&end) {
        std::cmp::Ordering::Less => (start..end).contains(&now),
        std::cmp::Ordering::Equal => false,
        std::cmp::Ordering::Greater => now >= start || now < end,
    }
}

/// `HH:MM` in minutes; `24:00` is the day's end.
fn minutes(value: &Value) -> Option<i64> {
    let (hours, minutes) = value.as_str()?.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let is_time = (0..24).contains(&hours) && (0..60).contains(&minutes);
    (is_time || (hours, minutes) == (24, 0)).then_some(hours * 60 + minutes)
}

/// Who is told. The owner is who `commands.ownerAllowFrom` names first, else a channel's first `allowFrom`.
pub(super) fn target(config: &Value, settings: &Value) -> Target {
    match settings["target"].as_str().unwrap_or("owner") {
        "none" => Target::Nowhere,
        "last" => Target::Last,
        "owner" => {
            let channels = config["channels"].as_object();
            let has =
                |channel: &str| channels.is_some_and(|channels| channels.contains_key(channel));
            let named = config["commands"]["ownerAllowFrom"]
                .as_array()
                .into_iter()
                .flatten();
            let named = named.filter_map(|entry| entry.as_str()?.split_once(':'));
            let named = named
                .filter(|(channel, id)| has(channel) && *id != "*")
                .map(|(channel, id)| (channel.to_owned(), id.to_owned()));
            let allowed = channels
                .into_iter()
                .flatten()
                .filter_map(|(channel, settings)| {
                    let ids = settings["allowFrom"].as_array()?;
                    let id = ids.iter().find_map(|id| match id {
                        Value::String(id) if id != "*" && !is_reference(id) => Some(id.clone()),
                        Value::Number(id) => Some(id.to_string()),
                        _ => None,
                    })?;
                    Some((channel.clone(), id))
                });
            let found = named.chain(allowed).next();
            found.map_or(Target::Unknown, |(channel, id)| Target::To(channel, id))
        }
        channel => match &settings["to"] {
            Value::String(to) => Target::To(channel.to_owned(), to.clone()),
            Value::Number(to) => Target::To(channel.to_owned(), to.to_string()),
            _ => Target::Unknown,
        },
    }
}

/// How long a beat may take.
pub(super) fn patience(config: &Value, beat: &Beat) -> Duration {
    let own = beat.settings["timeoutSeconds"].as_f64();
    let shared = config["agents"]["defaults"]["timeoutSeconds"].as_f64();
    let seconds = own.or(shared).filter(|seconds| *seconds > 0.0);
    let usual = (beat.every_ms as f64 / 1e3).clamp(1.0, PATIENCE_SECONDS_MAX);
    Duration::from_secs_f64(seconds.unwrap_or(usual).min(1e7))
}

/// What an answer says to a person. `None`: nothing needs them.
pub(crate) fn news(answer: &str) -> Option<&str> {
    let text = answer.trim();
    if text.is_empty() || text.eq_ignore_ascii_case(SILENT) {
        return None;
    }
    let bare = text.trim_matches(|c: char| "*_`~".contains(c));
    let rest = bare.strip_prefix(TOKEN).or_else(|| {
        let end = bare.trim_end_matches(|c: char| c.is_ascii_punctuation() && c != '_');
        end.strip_suffix(TOKEN)
    });
    match rest {
        Some(rest) if rest.trim().chars().count() <= ACK_CHARS_MAX => None,
        Some(rest) => Some(rest.trim()),
        None => Some(text),
    }
}

/// Whether a list of what to watch has anything on it besides headings and blanks.
pub(super) fn is_empty(list: &str) -> bool {
    list.lines().map(str::trim).all(|line| {
        let item = line.trim_start_matches(['-', '*', '+', ' ']);
        line.is_empty()
            || line.starts_with('#')
            || line.starts_with("```")
            || (line.starts_with("<!--") && line.ends_with("-->"))
            || (item.len() < line.len() && matches!(item, "" | "[ ]" | "[]" | "[x]" | "[X]"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn beats(config: &Value) -> Vec<Beat> {
        super::beats(config, &Roster::read(config))
    }

    #[test]
    fn of_several_agents_none_beats_unless_one_is_named() {
        let mut config = json!({ "agents": { "entries": { "main": {}, "ops": {} } } });
        assert_eq!(beats(&config), []);
        let agents = |config: &Value| -> Vec<String> {
            beats(config).into_iter().map(|beat| beat.agent).collect()
        };
        let mut marked = config.clone();
        marked["agents"]["entries"]["ops"] = json!({ "default": true });
        assert_eq!(agents(&marked), ["ops"]);
        let mut named = config.clone();
        named["agents"]["defaults"] = json!({ "systemAgent": { "agentId": "ops" } });
        assert_eq!(agents(&named), ["ops"]);
        config["agents"]["defaults"] = json!({ "heartbeat": { "every": "1h" } });
        assert_eq!(agents(&config), ["main"]);
    }

    #[test]
    fn agents_with_settings_of_their_own_are_the_only_ones() {
        let config = json!({ "agents": { "defaults": { "heartbeat": { "every": "1h30m", "target": "last" } } } });
        let all = beats(&config);
        assert_eq!(
            (all.len(), all[0].agent.as_str(), all[0].every_ms),
            (1, "main", 5_400_000)
        );
        let mut config = config;
        config["agents"]["entries"] =
            json!({ "main": {}, "ops": { "heartbeat": { "every": "45" } } });
        let all = beats(&config);
        assert_eq!(
            (all.len(), all[0].agent.as_str(), all[0].every_ms),
            (1, "ops", 2_700_000)
        );
        assert_eq!(all[0].settings["target"], "last");
        assert_eq!(beats(&json!({}))[0].every_ms, EVERY_MS);
        assert_eq!(
            (
                interval("0m"),
                interval("3s"),
                interval("soon"),
                interval("")
            ),
            (Some(0), Some(3_000), None, None)
        );
    }

    #[test]
    fn hours_are_those_of_a_zone_and_may_pass_midnight() {
        let at: Timestamp = "2026-01-15T14:30:00Z".parse().expect("a time");
        let awake = |start: &str, end: &str, zone: &str| {
            let settings =
                json!({ "activeHours": { "start": start, "end": end, "timezone": zone } });
            is_awake(&json!({}), &settings, at)
        };
        assert!(awake("09:00", "10:00", "America/New_York"));
        assert!(!awake("09:00", "10:00", "UTC"));
        assert!(awake("22:00", "15:00", "UTC"));
        assert!(!awake("08:00", "08:00", "UTC"));
        assert!(awake("00:00", "24:00", "UTC"));
        assert!(
            awake("nine", "10:00", "UTC"),
            "what can't be read restricts nothing"
        );
        assert!(is_awake(&json!({}), &json!({}), at));
        let user = json!({ "agents": { "defaults": { "userTimezone": "America/New_York" } } });
        let hours = json!({ "activeHours": { "start": "09:00", "end": "10:00" } });
        assert!(is_awake(&user, &hours, at));
    }

    #[test]
    fn the_owner_is_who_the_file_names() {
        let mut config = json!({ "channels": { "telegram": { "allowFrom": ["*", "accessGroup:team", 77] }, "irc": {} } });
        let to = |config: &Value, settings: Value| target(config, &settings);
        assert_eq!(
            to(&config, json!({})),
            Target::To("telegram".to_owned(), "77".to_owned())
        );
        config["commands"] = json!({ "ownerAllowFrom": ["signal:1", "telegram:5"] });
        assert_eq!(
            to(&config, json!({})),
            Target::To("telegram".to_owned(), "5".to_owned())
        );
        assert_eq!(to(&json!({}), json!({})), Target::Unknown);
        assert_eq!(to(&config, json!({ "target": "none" })), Target::Nowhere);
        assert_eq!(to(&config, json!({ "target": "last" })), Target::Last);
        assert_eq!(
            to(&config, json!({ "target": "irc", "to": "#ops" })),
            Target::To("irc".to_owned(), "#ops".to_owned())
        );
        assert_eq!(to(&config, json!({ "target": "irc" })), Target::Unknown);
    }

    #[test]
    fn acknowledgements_are_no_news() {
        for quiet in [
            "",
            " no_reply ",
            "HEARTBEAT_OK",
            "**HEARTBEAT_OK**",
            "All fine. HEARTBEAT_OK.",
            "HEARTBEAT_OK\nnothing to do",
        ] {
            assert_eq!(news(quiet), None, "{quiet}");
        }
        assert_eq!(news("The disk is full."), Some("The disk is full."));
        assert_eq!(
            news("I say HEARTBEAT_OK when it is fine"),
            Some("I say HEARTBEAT_OK when it is fine")
        );
        let long = format!("HEARTBEAT_OK {}", "x".repeat(301));
        assert_eq!(news(&long).map(str::len), Some(301));
    }

    #[test]
    fn a_list_of_headings_is_empty() {
        assert!(is_empty("# Watch\n\n- [ ]\n<!-- nothing -->\n- \n"));
        assert!(!is_empty("# Watch\n- the disk"));
        assert!(!is_empty("**look** at it"));
    }
}
