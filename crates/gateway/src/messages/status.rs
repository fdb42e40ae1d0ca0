//! What goes on with a person's message, as a reaction to it that changes: taken up, thinking, at a tool, done or failed, and in the
//! end the acknowledging one again. Lost without harm, as the other signs.
//!
//! Source: docs/gateway/config-agents/messages-and-talk.md, src/channels/status-reactions.ts and Telegram's variants of its emojis in
//! extensions/telegram/src/status-reaction-variants.ts at 2026.9.6. Of the services here the original has it on Telegram alone.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use channels::message::Action;
use channels::{Channel, SendError};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(10);
const MS_MAX: u64 = 10 * 60 * 1000;

/// Kinds of tools by what is part of their names; the first that fits.
const TOOLS: [(&str, &[&str]); 5] = [
    (
        "deploy",
        &[
            "fastlane",
            "deploy",
            "upload",
            "testflight",
            "ship",
            "release",
            "publish",
            "distribute",
        ],
    ),
    (
        "build",
        &[
            "build", "compile", "xcode", "swift", "gradle", "cargo", "make", "cmake", "webpack",
            "vite", "tsc", "lint",
        ],
    ),
    (
        "concierge",
        &[
            "navigate",
            "click",
            "fill",
            "screenshot",
            "scroll",
            "page",
            "form",
            "puppeteer",
            "playwright",
            "selenium",
            "chromedp",
        ],
    ),
    (
        "web",
        &[
            "web_search",
            "web-search",
            "web_fetch",
            "web-fetch",
            "browser",
        ],
    ),
    (
        "coding",
        &[
            "exec",
            "process",
            "read",
            "write",
            "edit",
            "session_status",
            "bash",
        ],
    ),
];

/// As Telegram has them.
fn usual(key: &str) -> &'static str {
    match key {
        "thinking" => "🤔",
        "coding" => "👨‍💻",
        "web" => "⚡",
        "concierge" => "👀",
        "done" => "👍",
        "error" => "😱",
        "stallSoft" => "🥱",
        "stallHard" => "😨",
        _ => "🔥",
    }
}

/// `messages.statusReactions` of one configuration, where it is switched on.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    own: HashMap<String, String>,
    debounce: Duration,
    stall_soft: Duration,
    stall_hard: Duration,
    done_hold: Duration,
    error_hold: Duration,
}

impl Looks {
    pub(super) fn read(config: &Value) -> Option<Self> {
        let settings = &config["messages"]["statusReactions"];
        if settings["enabled"] != true {
            return None;
        }
        let ms = |key: &str, default: u64| {
            let ms = settings["timing"][key].as_u64().unwrap_or(default);
            Duration::from_millis(ms.min(MS_MAX))
        };
        let own = settings["emojis"].as_object().into_iter().flatten();
        Some(Self {
            own: own
                .filter_map(|(key, emoji)| Some((key.clone(), emoji.as_str()?.trim().to_owned())))
                .filter(|(_, emoji)| !emoji.is_empty())
                .collect(),
            debounce: ms("debounceMs", 700),
            stall_soft: ms("stallSoftMs", 10_000),
            stall_hard: ms("stallHardMs", 30_000),
            done_hold: ms("doneHoldMs", 1500),
            error_hold: ms("errorHoldMs", 2500),
        })
    }

    /// What is shown, the wished one first.
    fn of(&self, key: &str) -> Vec<String> {
        let own = self.own.get(key).cloned();
        own.into_iter().chain([usual(key).to_owned()]).collect()
    }

    /// As [`of`](Self::of) for what was taken up, which is acknowledged with `first` where nothing else is wished.
    fn taken(&self, first: &str) -> Vec<String> {
        let own = self.own.get(Doing::Taken.key()).cloned();
        own.into_iter().chain([first.to_owned()]).collect()
    }

    /// What is shown after how long a silence.
    fn stalls(&self) -> [(&'static str, Duration); 2] {
        [
            ("stallSoft", self.stall_soft),
            ("stallHard", self.stall_hard),
        ]
    }
}

/// What a turn is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    Taken,
    Thinking,
    Tool(String),
    Done,
    Failed,
}

impl Doing {
    fn key(&self) -> &'static str {
        match self {
            Self::Taken => "queued",
            Self::Thinking => "thinking",
            Self::Tool(name) => tool(name),
            Self::Done => "done",
            Self::Failed => "error",
        }
    }
}

fn tool(name: &str) -> &'static str {
    let name = name.to_lowercase();
    let found = TOOLS
        .iter()
        .find(|(_, parts)| parts.iter().any(|part| name.contains(part)));
    found.map_or("tool", |(key, _)| key)
}

/// Turns whose messages show what they are at, by run.
#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<HashMap<String, watch::Sender<Doing>>>);

impl Watched {
    /// Takes an `agent` event of the upstream.
    pub(super) fn take(&self, payload: &RawValue) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event<'a> {
            #[serde(borrow)]
            run_id: Cow<'a, str>,
            #[serde(borrow)]
            stream: Cow<'a, str>,
            data: Item,
        }
        #[derive(Deserialize)]
        struct Item {
            kind: Option<String>,
            phase: Option<String>,
            name: Option<String>,
        }
        if self.0.lock().is_empty() {
            return;
        }
        if let Ok(event) = serde_json::from_str::<Event<'_>>(payload.get())
            && event.stream == "item"
            && event.data.kind.as_deref() == Some("tool")
            && event.data.phase.as_deref() == Some("start")
            && let Some(name) = event.data.name
        {
            self.tool(&event.run_id, &name);
        }
    }

    /// A turn begins with a tool.
    pub(super) fn tool(&self, run_id: &str, name: &str) {
        if let Some(doing) = self.0.lock().get(run_id) {
            doing.send_replace(Doing::Tool(name.to_owned()));
        }
    }
}

/// One message whose reaction changes, until this goes; then it is the acknowledging one again.
pub(super) struct Status<'a> {
    watched: &'a Watched,
    run: &'a str,
}

impl<'a> Status<'a> {
    /// Shows `first`, then what the turn of `run` is at.
    pub(super) fn begin(
        watched: &'a Watched,
        run: &'a str,
        channel: Arc<dyn Channel>,
        (target, message_id): (String, String),
        first: String,
        looks: Looks,
    ) -> Self {
        let (doing, news) = watch::channel(Doing::Taken);
        watched.0.lock().insert(run.to_owned(), doing);
        let place = Place {
            channel,
            target,
            message_id,
            first,
            looks,
            shown: String::new(),
        };
        tokio::spawn(place.follow(news));
        Self { watched, run }
    }

    pub(super) fn is(&self, doing: Doing) {
        if let Some(sender) = self.watched.0.lock().get(self.run) {
            sender.send_replace(doing);
        }
    }
}

impl Drop for Status<'_> {
    fn drop(&mut self) {
        self.watched.0.lock().remove(self.run);
    }
}

/// `None`: never.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Place {
    channel: Arc<dyn Channel>,
    target: String,
    message_id: String,
    first: String,
    looks: Looks,
    shown: String,
}

impl Place {
    async fn follow(mut self, mut news: watch::Receiver<Doing>) {
        self.show(&Doing::Taken).await;
        loop {
            let since = Instant::now();
            let mut stalls = self.looks.stalls().into_iter();
            let changed = loop {
                let stall = stalls.next();
                tokio::select! {
                    changed = news.changed() => break changed.is_ok(),
                    () = reached(stall.map(|(_, after)| since + after)) => {}
                }
                // Nothing is heard. What is on its way to the service is never broken off: it may arrive all the same, and later.
                if let Some((key, _)) = stall {
                    self.react(self.looks.of(key)).await;
                }
            };
            let doing = news.borrow_and_update().clone();
            match doing {
                Doing::Done | Doing::Failed => {
                    self.show(&doing).await;
                    tokio::time::sleep(match doing {
                        Doing::Done => self.looks.done_hold,
                        _ => self.looks.error_hold,
                    })
                    .await;
                    return self.leave().await;
                }
                // It was stopped, or put off.
                _ if !changed => return self.leave().await,
                _ => {}
            }
            // What lasts no longer than that is not shown.
            tokio::select! {
                () = tokio::time::sleep(self.looks.debounce) => self.show(&doing).await,
                changed = news.changed() => match changed {
                    // Looked at by the next round.
                    Ok(()) => news.mark_changed(),
                    Err(_gone) => return self.leave().await,
                },
            }
        }
    }

    /// The acknowledging one, for good.
    async fn leave(&mut self) {
        self.react(vec![self.first.clone()]).await;
    }

    async fn show(&mut self, doing: &Doing) {
        let emojis = match doing {
            Doing::Taken => self.looks.taken(&self.first),
            other => self.looks.of(other.key()),
        };
        self.react(emojis).await;
    }

    /// The first of these that the service takes.
    async fn react(&mut self, emojis: Vec<String>) {
        // Until the service has answered, nobody knows.
        let before = std::mem::take(&mut self.shown);
        for emoji in emojis {
            if before == emoji {
                self.shown = before;
                return;
            }
            let action = Action::React {
                target: self.target.clone(),
                message_id: self.message_id.clone(),
                emoji: Some(emoji.clone()),
            };
            match tokio::time::timeout(TIMEOUT, self.channel.act(&action)).await {
                Ok(Ok(())) => {
                    self.shown = emoji;
                    return;
                }
                Ok(Err(SendError::Rejected { reason })) => {
                    tracing::debug!(reason, emoji, "a status reaction was refused");
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a status reaction could not be shown");
                    return;
                }
                Err(_elapsed) => return,
            }
        }
        self.shown = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tool_is_of_its_kind() {
        for (name, key) in [
            ("read", "coding"),
            ("exec", "coding"),
            ("web_search", "web"),
            ("browser", "web"),
            ("Deploy_site", "deploy"),
            ("cargo_test", "build"),
            ("page_click", "concierge"),
            ("message", "tool"),
        ] {
            assert_eq!(tool(name), key, "{name}");
        }
    }

    #[test]
    fn it_is_there_where_it_is_switched_on() {
        let read =
            |settings: Value| Looks::read(&json!({ "messages": { "statusReactions": settings } }));
        assert!(read(json!({})).is_none());
        assert!(read(json!({ "enabled": false })).is_none());
        let looks = read(
            json!({ "enabled": true, "emojis": { "done": " 🎉 ", "web": "" }, "timing": { "debounceMs": 5 } }),
        );
        let looks = looks.expect("it is on");
        assert_eq!(looks.of("done"), ["🎉", "👍"]);
        assert_eq!(looks.of("web"), ["⚡"]);
        assert_eq!(looks.taken("👀"), ["👀"]);
        let waits = read(json!({ "enabled": true, "emojis": { "queued": "⏳" } }));
        assert_eq!(waits.expect("it is on").taken("👀"), ["⏳", "👀"]);
        assert_eq!(looks.debounce, Duration::from_millis(5));
        assert_eq!(looks.stall_hard, Duration::from_secs(30));
    }

    #[test]
    fn of_the_upstreams_events_the_beginnings_of_tools_count() {
        let watched = Watched::default();
        let (sender, news) = watch::channel(Doing::Thinking);
        watched.0.lock().insert("r1".to_owned(), sender);
        let take = |run: &str, stream: &str, phase: &str| {
            let event = json!({ "runId": run, "stream": stream, "seq": 1,
                "data": { "kind": "tool", "phase": phase, "name": "read", "title": "Read" } });
            watched.take(&serde_json::value::to_raw_value(&event).expect("JSON"));
            news.borrow().clone()
        };
        assert_eq!(take("r2", "item", "start"), Doing::Thinking);
        assert_eq!(take("r1", "assistant", "start"), Doing::Thinking);
        assert_eq!(take("r1", "item", "end"), Doing::Thinking);
        assert_eq!(take("r1", "item", "start"), Doing::Tool("read".to_owned()));
    }
}
