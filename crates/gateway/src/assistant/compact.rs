//! Compaction: a conversation that nears the end of its model's window goes on from a summary of its older part.
//!
//! Nothing is taken away: an entry is added that stands for what is older, and models are shown the conversation from there
//! on (`plan`). `summary` says what a model is asked and what is made of its answer.

pub(super) mod plan;
mod summary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::{CallError, Message, Model, ModelError, Part, Prompt, Sampling};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{AgentSession, Entry};

use self::plan::{Cut, Fill, Visible};
use self::summary::Files;
use super::{Assistant, clock_ms, events, prompt, rows};
use crate::app::App;

/// The whole of a compaction, unless `timeoutSeconds` says otherwise; the original's.
const TIME_MAX: Duration = Duration::from_secs(180);
const TIME_SECONDS_MAX: u64 = 3_600;
/// Tokens of the newest messages that stay as they are.
const KEEP: u64 = 20_000;
/// Of an answer that is a summary, tokens.
const SUMMARY_TOKENS_MAX: u64 = 16_000;
/// What a request has besides the conversation, and what a rough count may miss of it.
const OVERHEAD_TOKENS: u64 = 2_000;
const TURNS: u64 = 3;
const TURNS_MAX: u64 = 12;
const RETRIES: u64 = 1;
const RETRIES_MAX: u64 = 3;
/// Tries of one request that a provider refuses for now.
const TRIES: u32 = 3;
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// For so long a compaction that failed is not tried again unasked.
const FAILURE_HOLDS: Duration = Duration::from_secs(300);
const FAILURES_MAX: usize = 1_000;

/// Reasons for not compacting; the original's words.
pub(super) const ALREADY: &str = "Already compacted";
pub(super) const NOTHING: &str = "Nothing to compact (session too small)";

/// `agents.defaults.compaction`.
#[derive(Debug, PartialEq)]
struct Settings {
    keep: u64,
    turns: usize,
    /// Summaries are looked at before they are kept, and asked for again so often.
    retries: Option<u64>,
    strict_identifiers: bool,
    model: Option<String>,
    time: Duration,
}

impl Settings {
    fn of(config: &Value) -> Self {
        let own = &config["agents"]["defaults"]["compaction"];
        let number = |pointer: &str| own.pointer(pointer).and_then(Value::as_u64);
        let is_safeguard = own["mode"] != "default" || own["provider"].is_string();
        let is_guarded = is_safeguard && own["qualityGuard"]["enabled"] != false;
        let turns = number("/recentTurnsPreserve")
            .unwrap_or(TURNS)
            .min(TURNS_MAX);
        let seconds = number("/timeoutSeconds").filter(|seconds| *seconds > 0);
        Self {
            keep: number("/keepRecentTokens")
                .filter(|tokens| *tokens > 0)
                .unwrap_or(KEEP),
            turns: match is_safeguard {
                true => usize::try_from(turns).unwrap_or(0),
                false => 0,
            },
            retries: is_guarded.then(|| {
                number("/qualityGuard/maxRetries")
                    .unwrap_or(RETRIES)
                    .min(RETRIES_MAX)
            }),
            strict_identifiers: own["identifierPolicy"] != "off",
            model: own["model"]
                .as_str()
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty()),
            time: seconds.map_or(TIME_MAX, |seconds| {
                Duration::from_secs(seconds.min(TIME_SECONDS_MAX))
            }),
        }
    }
}

/// Keys under `agents.defaults.compaction` that mean something to OpenClaw and nothing here.
pub(crate) fn unhonoured(config: &Value) -> Vec<String> {
    const KEYS: [(&str, &str); 8] = [
        (
            "provider",
            "there are no plugins that summarise: a model does",
        ),
        (
            "memoryFlush",
            "agents are not asked to note things down before a compaction",
        ),
        (
            "midTurnPrecheck",
            "a turn is measured when it begins, and by what the model refuses",
        ),
        ("maxActiveTranscriptBytes", "tokens are counted, not bytes"),
        ("postCompactionSections", "every prompt has AGENTS.md whole"),
        (
            "notifyUser",
            "the conversation shows a compaction, no notice is sent",
        ),
        ("thinkingLevel", "summaries are made without thinking"),
        (
            "customInstructions",
            "/compact takes what a summary should be about",
        ),
    ];
    let own = &config["agents"]["defaults"]["compaction"];
    KEYS.iter()
        .filter(|(key, _)| !own[*key].is_null() && own[*key]["enabled"] != false)
        .map(|(key, instead)| format!("agents.defaults.compaction.{key} has no effect: {instead}"))
        .collect()
}

/// Why a conversation was compacted, and how much of it may stay.
pub(super) enum Cause<'a> {
    /// A person wants it, about `focus`, and is told by `begins` that there is something to do.
    Asked {
        focus: Option<&'a str>,
        begins: &'a (dyn Fn() + Sync),
    },
    /// The window is nearly full, or was found to be: the entry `pending` waits for its answer, and instructions and tools
    /// take `fixed` tokens.
    Full { pending: &'a str, fixed: u64 },
}

/// What a conversation was compacted to.
#[derive(Debug)]
pub(super) struct Compacted {
    pub(super) entry: Entry,
    pub(super) summary: String,
    pub(super) first_kept: String,
    pub(super) tokens_before: u64,
    /// A rough count.
    pub(super) tokens_after: u64,
    pub(super) details: Value,
}

impl Compacted {
    /// `result` of `sessions.compact`.
    pub(super) fn answer(&self) -> Value {
        json!({
            "summary": self.summary, "firstKeptEntryId": self.first_kept, "tokensBefore": self.tokens_before,
            "tokensAfter": self.tokens_after, "details": self.details,
        })
    }
}

/// Why a conversation was not compacted. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotCompacted {
    /// [`ALREADY`] or [`NOTHING`].
    #[error("{0}")]
    Needless(&'static str),
    #[error("{0}")]
    Failed(String),
}

/// Conversations whose compaction failed lately: trying it again before every turn would let each wait for nothing.
#[derive(Default)]
pub(super) struct Failures(Mutex<HashMap<String, Instant>>);

impl Failures {
    /// Whether that of a conversation failed within [`FAILURE_HOLDS`].
    pub(super) fn is_recent(&self, session_id: &str, now: Instant) -> bool {
        let failed = self.0.lock();
        let at = failed.get(session_id);
        at.is_some_and(|at| now.duration_since(*at) < FAILURE_HOLDS)
    }

    pub(super) fn note(&self, session_id: &str, now: Instant) {
        let mut failed = self.0.lock();
        failed.retain(|_, at| now.duration_since(*at) < FAILURE_HOLDS);
        // One more than that is tried again sooner.
        if failed.len() < FAILURES_MAX {
            failed.insert(session_id.to_owned(), now);
        }
    }
}

/// Whether a conversation is to be compacted before its model is asked. `fixed`: tokens of instructions and tools.
pub(super) fn is_due(
    session: &AgentSession,
    entries: &[Entry],
    model: &Model,
    fixed: u64,
    config: &Value,
) -> bool {
    if config.pointer("/agents/defaults/compaction/enabled") == Some(&Value::Bool(false)) {
        return false;
    }
    let window = model.context_window;
    let limit = window.saturating_sub(plan::reserve(window));
    // Two bytes are less than a token in any script: most conversations need no closer look.
    let bytes: usize = entries.iter().map(|entry| entry.message.len()).sum();
    let at_most = u64::try_from(bytes / 2).unwrap_or(u64::MAX);
    let counted = u64::try_from(session.context_tokens).unwrap_or(0);
    if at_most.saturating_add(counted).saturating_add(fixed) < limit {
        return false;
    }
    plan::fill(&plan::visible(entries), fixed).tokens >= limit
}

/// Tokens of what is asked besides the conversation.
pub(super) fn fixed(instructions: &Prompt) -> u64 {
    let parts = instructions
        .messages
        .iter()
        .flat_map(|message| &message.parts);
    let words = parts.map(|part| match part {
        Part::Text(text) => plan::tokens_in(text),
        _ => 0,
    });
    let tools = instructions.tools.iter().map(|tool| {
        plan::tokens_in(&tool.description) + plan::tokens_in(&tool.parameters.to_string())
    });
    words.chain(tools).sum()
}

/// Compacts a conversation: its entries as [`Assistant::context`] gives them, `models` those of the session, the one it uses
/// first. The entry that stands for what is older is on disk when this answers.
///
/// # Errors
/// See [`NotCompacted`].
pub(super) async fn compact(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    session: &AgentSession,
    models: &[Model],
    entries: &[Entry],
    cause: Cause<'_>,
) -> Result<Compacted, NotCompacted> {
    let settings = Settings::of(&app.facts.load().config);
    let visible = plan::visible(entries);
    let Some(model) = models.first() else {
        return Err(NotCompacted::Failed("there is no model".to_owned()));
    };
    let (cut, fill, focus) = cut(entries, &visible, &cause, &settings, model)?;
    let began = Instant::now();
    tracing::info!(session = %session.key, tokens = fill.tokens, entries = cut.older.len(), "a conversation is compacted");
    let writer = Writer {
        app,
        assistant,
        agent: &session.agent,
        session: &session.key,
        models,
        settings: &settings,
    };
    let work = writer.write(&visible, &cut.older, focus);
    let (body, left_out) = match tokio::time::timeout(settings.time, work).await {
        Ok(written) => written.map_err(NotCompacted::Failed)?,
        Err(_elapsed) => {
            return Err(NotCompacted::Failed(format!(
                "the summary was not finished within {} s (agents.defaults.compaction.timeoutSeconds)",
                settings.time.as_secs()
            )));
        }
    };
    let earlier = visible.boundary.map(plan::message_of).unwrap_or_default();
    let files = Files::of(&cut.older, &earlier["details"]);
    let (turns, strict) = (settings.turns, settings.strict_identifiers);
    let summary = summary::finished(&body, &cut.older, &files, turns, strict, left_out);
    let kept: u64 = cut.kept.iter().map(|entry| plan::tokens(entry)).sum();
    let mut compacted = Compacted {
        first_kept: cut
            .kept
            .first()
            .map(|entry| entry.id.clone())
            .unwrap_or_default(),
        tokens_before: fill.tokens,
        tokens_after: plan::tokens_in(&summary) + kept,
        details: files.details(),
        entry: rows::compaction(&Value::Null, 0),
        summary,
    };
    compacted.entry = rows::compaction(&compacted.answer(), clock_ms());
    let session = keep(assistant, session, &mut compacted).await?;
    tracing::info!(
        session = %session.key, before = compacted.tokens_before, after = compacted.tokens_after,
        ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "a conversation was compacted"
    );
    events::session_compacted(app, assistant, &session);
    Ok(compacted)
}

/// What became of a person's wish to compact, and how full the window is.
pub(super) struct Asked {
    pub(super) outcome: Result<Compacted, NotCompacted>,
    /// Before it, when that is known.
    pub(super) tokens: Option<u64>,
    pub(super) window: Option<u64>,
}

/// Compacts the conversation of a session because a person wants it. The caller holds the session's lane.
pub(super) async fn asked(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    key: &str,
    focus: Option<&str>,
    begins: &(dyn Fn() + Sync),
) -> Asked {
    let failed = |why: String, window| Asked {
        outcome: Err(NotCompacted::Failed(why)),
        tokens: None,
        window,
    };
    let session = match assistant.session(key).await {
        Ok(Some(session)) => session,
        Ok(None) => {
            let agent = super::agent_for(app, key);
            let model = assistant.model(app, &agent, None).ok();
            return Asked {
                outcome: Err(NotCompacted::Needless(NOTHING)),
                tokens: None,
                window: model.map(|model| model.context_window),
            };
        }
        Err(error) => return failed(error.message, None),
    };
    let models = match assistant.models(app, &session, None) {
        Ok(models) => models,
        Err(error) => return failed(error.to_string(), None),
    };
    let window = models.first().map(|model| model.context_window);
    let entries = match assistant.context(&session.session_id).await {
        Ok(entries) => entries,
        Err(error) => return failed(error.message, window),
    };
    let cause = Cause::Asked { focus, begins };
    let tokens = u64::try_from(session.context_tokens).ok();
    Asked {
        outcome: compact(app, assistant, &session, &models, &entries, cause).await,
        tokens: tokens.filter(|tokens| *tokens > 0),
        window,
    }
}

/// What is summarised and what stays.
fn cut<'a, 'b>(
    entries: &[Entry],
    visible: &Visible<'a>,
    cause: &Cause<'b>,
    settings: &Settings,
    model: &Model,
) -> Result<(Cut<'a>, Fill, Option<&'b str>), NotCompacted> {
    match cause {
        Cause::Asked { focus, begins } => {
            let fill = plan::fill(visible, 0);
            if entries.last().is_some_and(|entry| entry.role == plan::ROLE) {
                return Err(NotCompacted::Needless(ALREADY));
            }
            // Small as it is: a person wants it smaller.
            let cut = plan::cut(visible, plan::scaled(settings.keep, &fill), None)
                .or_else(|| plan::cut(visible, 0, None))
                .ok_or(NotCompacted::Needless(NOTHING))?;
            begins();
            Ok((cut, fill, *focus))
        }
        Cause::Full { pending, fixed } => {
            let fill = plan::fill(visible, *fixed);
            let window = model.context_window;
            let summary = SUMMARY_TOKENS_MAX.min(window / 8);
            let room = window.saturating_sub(plan::reserve(window) + fixed + summary);
            let keep = settings.keep.min(room / 2);
            let cut = plan::cut(visible, plan::scaled(keep, &fill), Some(pending))
                .or_else(|| plan::cut(visible, 0, Some(pending)))
                .ok_or(NotCompacted::Needless(NOTHING))?;
            Ok((cut, fill, None))
        }
    }
}

/// Writes the entry, as long as the conversation is still the session's.
async fn keep(
    assistant: &Assistant,
    session: &AgentSession,
    compacted: &mut Compacted,
) -> Result<AgentSession, NotCompacted> {
    let (key, id) = (session.key.clone(), session.session_id.clone());
    let (entry, tokens) = (compacted.entry.clone(), compacted.tokens_after);
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            let current = agents.session(&key)?.filter(|now| now.session_id == id);
            if current.is_none() {
                return Ok(None);
            }
            agents.append(&id, &entry)?;
            agents.set_context(&key, i64::try_from(tokens).unwrap_or(i64::MAX))?;
            let entries = agents.entries(&id, None, 1)?;
            Ok(agents.session(&key)?.zip(entries.into_iter().next()))
        })
        .await;
    match written {
        Ok(Some((session, entry))) => {
            compacted.entry = entry;
            Ok(session)
        }
        Ok(None) => Err(NotCompacted::Failed(format!(
            "Session {} changed before compaction completed. Retry.",
            session.key
        ))),
        Err(error) => {
            tracing::error!(session = %session.key, %error, "a compaction could not be written");
            Err(NotCompacted::Failed(format!(
                "the conversation cannot be kept: {error}"
            )))
        }
    }
}

/// Who writes a summary.
struct Writer<'a> {
    app: &'a Arc<App>,
    assistant: &'a Assistant,
    agent: &'a str,
    session: &'a str,
    models: &'a [Model],
    settings: &'a Settings,
}

impl Writer<'_> {
    /// What a model makes of the older part, and how many entries it was not shown.
    ///
    /// # Errors
    /// Why there is no summary.
    async fn write(
        &self,
        visible: &Visible<'_>,
        older: &[&Entry],
        focus: Option<&str>,
    ) -> Result<(String, usize), String> {
        let chosen = match &self.settings.model {
            Some(name) => vec![
                self.named(name)
                    .map_err(|error| format!("agents.defaults.compaction.model: {error}"))?,
            ],
            None => Vec::new(),
        };
        let models = if chosen.is_empty() {
            self.models
        } else {
            &chosen
        };
        let mut why = "there is no model".to_owned();
        for model in models {
            match self.with(model, visible, older, focus).await {
                Ok(written) => return Ok(written),
                Err((error, is_another_s_chance)) => {
                    tracing::warn!(session = self.session, model = %model.id, %error, "a summary could not be made");
                    why = error;
                    if !is_another_s_chance {
                        break;
                    }
                }
            }
        }
        Err(why)
    }

    /// A bare name is a model of the session's provider.
    fn named(&self, name: &str) -> Result<Model, ModelError> {
        let provider = self
            .models
            .first()
            .map_or("", |model| model.provider.as_str());
        let full = match name.contains('/') {
            true => name.to_owned(),
            false => format!("{provider}/{name}"),
        };
        self.assistant.model(self.app, self.agent, Some(&full))
    }

    async fn with(
        &self,
        model: &Model,
        visible: &Visible<'_>,
        older: &[&Entry],
        focus: Option<&str>,
    ) -> Result<(String, usize), (String, bool)> {
        let most = model.max_tokens.clamp(1, SUMMARY_TOKENS_MAX);
        let answer = (plan::reserve(model.context_window) * 4 / 5).clamp(1, most);
        let earlier = visible.summary.as_deref().map_or(0, plan::tokens_in);
        // A sixth is for what a rough count misses. A small window is given what it can take at all.
        let room = model
            .context_window
            .saturating_sub(answer + earlier.max(answer) + OVERHEAD_TOKENS);
        let room = (room - room / 6).max(model.context_window / 8).max(256);
        let (pieces, left_out) = summary::pieces(older, room);
        let mut written = visible.summary.clone();
        for piece in &pieces {
            written = Some(
                self.summarised(model, piece, written.as_deref(), focus, answer)
                    .await?,
            );
        }
        let none = || {
            summary::HEADINGS
                .map(|heading| format!("{heading}\nNone."))
                .join("\n\n")
        };
        Ok((written.unwrap_or_else(none), left_out))
    }

    /// A summary that has what it must have.
    async fn summarised(
        &self,
        model: &Model,
        conversation: &str,
        previous: Option<&str>,
        focus: Option<&str>,
        tokens_max: u64,
    ) -> Result<String, (String, bool)> {
        let mut again = 0;
        loop {
            let strict = self.settings.strict_identifiers;
            let how = summary::instructions(previous, focus, strict, again > 0);
            let prompt = Prompt {
                messages: vec![
                    Message::text("system", summary::SYSTEM),
                    Message::text("user", summary::request(conversation, previous, &how)),
                ],
                tools: Arc::default(),
                sampling: Sampling {
                    max_tokens: Some(tokens_max),
                    ..Sampling::default()
                },
            };
            let text = self.ask(model, &prompt).await?;
            let wrong = match self.settings.retries {
                _ if text.trim().is_empty() => "the model wrote an empty summary",
                Some(_) if !summary::is_complete(&text) => {
                    "the model's summary lacks headings (agents.defaults.compaction.qualityGuard)"
                }
                _ => return Ok(text),
            };
            if again >= self.settings.retries.unwrap_or(RETRIES) {
                return Err((wrong.to_owned(), false));
            }
            again += 1;
        }
    }

    async fn ask(&self, model: &Model, prompt: &Prompt) -> Result<String, (String, bool)> {
        let client = self.assistant.client().map_err(|why| (why, false))?;
        let mut tries = 1;
        loop {
            let asked = agent::complete(client, model, prompt, &self.assistant.limits, |_| {});
            let error: CallError = match asked.await {
                Ok(completion) => return Ok(completion.text),
                Err(error) => error,
            };
            let pause = error
                .retry_after()
                .unwrap_or(Duration::from_millis(500) * tries);
            if !error.is_retryable() || tries >= TRIES || pause > PAUSE_MAX {
                return Err((error.to_string(), error.is_another_s_chance()));
            }
            tries += 1;
            tokio::time::sleep(pause).await;
        }
    }
}

impl Assistant {
    /// The newest entries of a conversation, with the compaction they go on from when that is older than they are.
    pub(super) async fn context(
        &self,
        session_id: &str,
    ) -> Result<Vec<Entry>, wire::error::ErrorShape> {
        let mut entries = self.entries(session_id, prompt::ENTRIES_MAX).await?;
        let is_there = entries.iter().any(|entry| entry.role == plan::ROLE);
        if entries.len() == prompt::ENTRIES_MAX && !is_there {
            let id = session_id.to_owned();
            let boundary = self
                .store
                .read(move |reader| reader.agents().last_of_role(&id, plan::ROLE))
                .await
                .map_err(|error| super::unavailable(&error))?;
            entries.splice(0..0, boundary);
        }
        Ok(entries)
    }

    /// How often a conversation was compacted.
    pub(super) async fn compactions(
        &self,
        session_id: &str,
    ) -> Result<i64, wire::error::ErrorShape> {
        let id = session_id.to_owned();
        self.store
            .read(move |reader| reader.agents().count_of_role(&id, plan::ROLE))
            .await
            .map_err(|error| super::unavailable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_original_s_within_bounds() {
        let of =
            |own: Value| Settings::of(&json!({ "agents": { "defaults": { "compaction": own } } }));
        let usual = of(json!({ "mode": "safeguard" }));
        assert_eq!(
            (usual.keep, usual.turns, usual.retries),
            (20_000, 3, Some(1))
        );
        assert_eq!((usual.strict_identifiers, usual.time), (true, TIME_MAX));
        let own = of(json!({
            "mode": "safeguard", "keepRecentTokens": 5, "recentTurnsPreserve": 90, "identifierPolicy": "off",
            "qualityGuard": { "maxRetries": 9 }, "model": " p/m ", "timeoutSeconds": 99_999,
        }));
        assert_eq!((own.keep, own.turns, own.retries), (5, 12, Some(3)));
        assert_eq!(
            (own.strict_identifiers, own.model.as_deref()),
            (false, Some("p/m"))
        );
        assert_eq!(own.time, Duration::from_secs(3_600));
        assert_eq!(of(json!({ "mode": "default" })).retries, None);
        assert_eq!(
            of(json!({ "qualityGuard": { "enabled": false } })).retries,
            None
        );
    }

    #[test]
    fn a_failure_holds_for_some_minutes_and_for_its_conversation_alone() {
        let (failures, now) = (Failures::default(), Instant::now());
        failures.note("a", now);
        assert!(failures.is_recent("a", now));
        assert!(!failures.is_recent("b", now));
        let later = now + FAILURE_HOLDS;
        assert!(!failures.is_recent("a", later));
        failures.note("b", later);
        assert_eq!(failures.0.lock().len(), 1, "what holds no more is not kept");
    }

    #[test]
    fn keys_without_effect_are_named() {
        let config = json!({ "agents": { "defaults": { "compaction": {
            "notifyUser": true, "memoryFlush": { "enabled": false }, "provider": "x", "keepRecentTokens": 1,
        } } } });
        let named = unhonoured(&config).join("\n");
        assert_eq!(named.lines().count(), 2, "{named}");
        assert!(named.contains("agents.defaults.compaction.provider has no effect"));
        assert!(unhonoured(&json!({})).is_empty());
    }
}
