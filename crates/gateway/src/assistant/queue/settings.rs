//! `messages.queue` and `/queue`: what becomes of a message that comes while its session is at work.
//!
//! Source: docs/concepts/queue.md of the package at 2026.9.6; the answers of `/queue` are the original's.

use std::time::Duration;

use serde_json::{Value, json};

const DEBOUNCE: Duration = Duration::from_millis(500);
/// A longer pause is no pause between two messages.
const DEBOUNCE_MAX: Duration = Duration::from_secs(600);
const CAP: usize = 20;
/// More are not kept, whatever is asked for.
const CAP_MAX: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::assistant) enum Mode {
    /// Into the turn that is at work, when its model is asked next.
    Steer,
    /// Turns of their own, in order.
    Followup,
    /// One turn for all that have come.
    Collect,
    /// The turn that is at work is ended.
    Interrupt,
}

impl Mode {
    fn of(word: &str) -> Option<Self> {
        Some(match word.trim().to_lowercase().as_str() {
            "steer" | "steering" => Self::Steer,
            "followup" | "follow-ups" | "followups" => Self::Followup,
            "collect" | "coalesce" => Self::Collect,
            "interrupt" | "interrupts" | "abort" => Self::Interrupt,
            _ => return None,
        })
    }

    pub(in crate::assistant) const fn word(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Followup => "followup",
            Self::Collect => "collect",
            Self::Interrupt => "interrupt",
        }
    }
}

/// What happens to a message more than [`Settings::cap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::assistant) enum Drop {
    /// The oldest gives way, and a line of it is told to the model.
    Summarize,
    /// The oldest gives way.
    Old,
    /// The newest is refused.
    New,
}

impl Drop {
    fn of(word: &str) -> Option<Self> {
        Some(match word.trim().to_lowercase().as_str() {
            "summarize" | "summary" => Self::Summarize,
            "old" | "oldest" => Self::Old,
            "new" | "newest" => Self::New,
            _ => return None,
        })
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Summarize => "summarize",
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::assistant) struct Settings {
    pub(in crate::assistant) mode: Mode,
    /// Nothing comes for so long before what waits is worked on.
    pub(in crate::assistant) debounce: Duration,
    pub(in crate::assistant) cap: usize,
    pub(in crate::assistant) drop: Drop,
}

impl Settings {
    /// For what is no person's message: in order, none left out.
    pub(in crate::assistant) const SERIAL: Self = Self {
        mode: Mode::Followup,
        debounce: Duration::ZERO,
        cap: usize::MAX,
        drop: Drop::New,
    };

    pub(in crate::assistant) fn is_serial(&self) -> bool {
        self.cap == Self::SERIAL.cap
    }

    /// `own`: the session's settings, which hold before the file's.
    pub(in crate::assistant) fn of(config: &Value, own: &Value, channel: &str) -> Self {
        let file = &config["messages"]["queue"];
        let mode = |value: &Value| value.as_str().and_then(Mode::of);
        let number = |value: &Value| value.as_f64().filter(|n| *n >= 0.0);
        let debounce = number(&own["queueDebounceMs"])
            .or_else(|| number(&file["debounceMsByChannel"][channel]));
        let cap = number(&own["queueCap"]).or_else(|| number(&file["cap"]).filter(|n| *n > 0.0));
        let drop = |value: &Value| value.as_str().and_then(Drop::of);
        Self {
            mode: mode(&own["queueMode"])
                .or_else(|| mode(&file["byChannel"][channel]))
                .or_else(|| mode(&file["mode"]))
                .unwrap_or(Mode::Steer),
            debounce: debounce.map_or(DEBOUNCE, |ms| {
                Duration::from_millis(ms as u64).min(DEBOUNCE_MAX)
            }),
            cap: cap.map_or(CAP, |cap| (cap as usize).clamp(1, CAP_MAX)),
            drop: drop(&own["queueDrop"])
                .or_else(|| drop(&file["drop"]))
                .unwrap_or(Drop::Summarize),
        }
    }

    /// What `/queue` alone answers.
    pub(in crate::assistant) fn words(&self) -> String {
        format!(
            "Current queue settings: mode={}, debounce={}ms, cap={}, drop={}.\nOptions: modes steer, followup, collect, interrupt; debounce:<ms|s|m>, cap:<n>, drop:old|new|summarize.",
            self.mode.word(),
            self.debounce.as_millis(),
            self.cap,
            self.drop.word()
        )
    }
}

/// Does what stands behind `/queue` to a session's settings. `None`: nothing stands there.
///
/// # Errors
/// What is wrong with it, for a person.
pub(in crate::assistant) fn set(own: &mut Value, words: &str) -> Result<Option<String>, String> {
    let mut said = Vec::new();
    let mut changed = own.clone();
    for word in words.split_whitespace() {
        let option = word.split_once([':', '=']);
        let (name, value) = option.unwrap_or((word, ""));
        match (name.to_lowercase().as_str(), option.is_some()) {
            ("default" | "reset" | "clear", false) => {
                for key in ["queueMode", "queueDebounceMs", "queueCap", "queueDrop"] {
                    if let Some(changed) = changed.as_object_mut() {
                        changed.remove(key);
                    }
                }
                said.push("⚙️ Queue mode reset to default.".to_owned());
            }
            ("debounce", true) => {
                let ms = milliseconds(value).ok_or_else(|| {
                    format!("Invalid debounce \"{value}\". Use ms/s/m (e.g. debounce:1500ms, debounce:2s).")
                })?;
                changed["queueDebounceMs"] = json!(ms);
                said.push(format!("⚙️ Queue debounce set to {ms}ms."));
            }
            ("cap", true) => {
                let cap = value
                    .parse::<u32>()
                    .ok()
                    .filter(|cap| *cap > 0)
                    .ok_or_else(|| {
                        format!("Invalid cap \"{value}\". Use a positive integer (e.g. cap:10).")
                    })?;
                changed["queueCap"] = json!(cap);
                said.push(format!("⚙️ Queue cap set to {cap}."));
            }
            ("drop", true) => {
                let drop = Drop::of(value).ok_or_else(|| {
                    format!("Invalid drop policy \"{value}\". Use drop:old, drop:new, or drop:summarize.")
                })?;
                changed["queueDrop"] = json!(drop.word());
                said.push(format!("⚙️ Queue drop set to {}.", drop.word()));
            }
            _ => {
                let mode = Mode::of(word).ok_or_else(|| {
                    format!("Unrecognized queue mode \"{word}\". Valid modes: steer, followup, collect, interrupt.")
                })?;
                changed["queueMode"] = json!(mode.word());
                said.push(format!("⚙️ Queue mode set to {}.", mode.word()));
            }
        }
    }
    *own = changed;
    Ok((!said.is_empty()).then(|| said.join(" ")))
}

/// `1500`, `1500ms`, `2s`, `1m`, `1h`, `1d`.
fn milliseconds(text: &str) -> Option<u64> {
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number
        .parse()
        .ok()
        .filter(|n: &f64| *n >= 0.0 && n.is_finite())?;
    let factor = match unit.to_lowercase().as_str() {
        "" | "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        _ => return None,
    };
    Some((number * factor).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_s_settings_hold_before_a_channel_s_and_the_file_s() {
        let config = json!({ "messages": { "queue": {
            "mode": "followup", "cap": 3, "drop": "old", "byChannel": { "webchat": "collect" }, "debounceMsByChannel": { "webchat": 50 },
        } } });
        let of = |own: Value, channel: &str| Settings::of(&config, &own, channel);
        let there = of(json!({}), "webchat");
        assert_eq!(
            (
                there.mode,
                there.debounce.as_millis(),
                there.cap,
                there.drop
            ),
            (Mode::Collect, 50, 3, Drop::Old)
        );
        assert_eq!(of(json!({}), "telegram").mode, Mode::Followup);
        let own = json!({ "queueMode": "interrupt", "queueCap": 9_999, "queueDrop": "new", "queueDebounceMs": 1 });
        let own = of(own, "webchat");
        assert_eq!(
            (own.mode, own.cap, own.drop),
            (Mode::Interrupt, CAP_MAX, Drop::New)
        );
        let usual = Settings::of(&json!({}), &json!({}), "webchat");
        assert_eq!(
            usual.words().lines().next(),
            Some("Current queue settings: mode=steer, debounce=500ms, cap=20, drop=summarize.")
        );
    }

    #[test]
    fn a_command_changes_all_that_it_names_or_nothing() {
        let mut own = json!({ "label": "x" });
        let said = set(&mut own, "collect debounce:0.5s cap:25 drop:old").expect("fine");
        assert_eq!(
            said.as_deref(),
            Some(
                "⚙️ Queue mode set to collect. ⚙️ Queue debounce set to 500ms. ⚙️ Queue cap set to 25. ⚙️ Queue drop set to old."
            )
        );
        assert_eq!(
            own,
            json!({ "label": "x", "queueMode": "collect", "queueDebounceMs": 500, "queueCap": 25, "queueDrop": "old" })
        );
        for (words, why) in [
            ("steer cap:0", "Invalid cap \"0\"."),
            ("nonsense", "Unrecognized queue mode \"nonsense\"."),
            ("debounce:soon", "Invalid debounce \"soon\"."),
            ("drop:all", "Invalid drop policy \"all\"."),
        ] {
            let mut same = own.clone();
            assert!(set(&mut same, words).expect_err(words).starts_with(why));
            assert_eq!(same, own, "{words}");
        }
        assert_eq!(
            set(&mut own, "reset").expect("fine").as_deref(),
            Some("⚙️ Queue mode reset to default.")
        );
        assert_eq!(own, json!({ "label": "x" }));
        assert_eq!(set(&mut own, " "), Ok(None));
    }
}
