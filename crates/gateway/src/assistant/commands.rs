//! Commands in a chat: `/new`, `/stop`, `/status`, `/compact`, `/queue`, `/model`, `/think`, `/reasoning`, `/help`. Anything else with a slash goes to the model.

use std::sync::Arc;

use agent::Completion;
use serde_json::{Value, json};
use store::{Begun, RunState};
use wire::error::ErrorShape;

use super::compact::{self, NotCompacted};
use super::events::{self, Teller};
use super::queue::settings::{self, Settings};
use super::{
    Assistant, Entered, Input, Live, Outcome, clock_ms, conflict, ended, fingerprint, rows,
    thinking, unavailable,
};
use crate::app::App;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    New,
    Stop,
    Status,
    Help,
    /// What the summary should be about.
    Compact(Option<String>),
    /// How messages that come meanwhile are to be taken; nothing to be told.
    Queue(String),
    /// A name, or none to be told which it is.
    Model(Option<String>),
    /// How hard to think; nothing to be told.
    Think(String),
    /// Whether thoughts are shown; nothing to be told.
    Reasoning(String),
}

const ALL: [(&str, &str); 9] = [
    ("new", "Begin a new conversation."),
    ("stop", "Stop what is being worked on."),
    ("status", "Show the model, the tokens and the session."),
    (
        "compact",
        "Sum up the older part of the conversation: /compact [what matters].",
    ),
    (
        "queue",
        "Show or choose what becomes of messages that come while one is worked on.",
    ),
    ("model", "Show or choose the model: /model provider/name."),
    (
        "think",
        "Show or choose how hard the model thinks: /think high.",
    ),
    (
        "reasoning",
        "Show or choose whether thoughts are shown: /reasoning on, off or stream.",
    ),
    ("help", "List the commands."),
];

/// Other names of a command.
fn aliases(name: &str) -> &'static [&'static str] {
    match name {
        "think" => &["/thinking", "/t"],
        "reasoning" => &["/reason"],
        _ => &[],
    }
}

/// `commands.list` and `chat.metadata`.
pub(super) fn list() -> Vec<Value> {
    ALL.iter()
        .map(|(name, description)| {
            let mut names = vec![format!("/{name}")];
            names.extend(aliases(name).iter().map(|alias| (*alias).to_owned()));
            let category = match *name {
                "think" | "reasoning" => "options",
                _ => "session",
            };
            json!({
                "name": name, "nativeName": name, "textAliases": names, "description": description,
                "category": category, "source": "native", "scope": "both",
                "acceptsArgs": matches!(*name, "model" | "compact" | "queue" | "think" | "reasoning"),
            })
        })
        .collect()
}

pub(super) fn parse(message: &str) -> Option<Command> {
    let text = message.trim().strip_prefix('/')?;
    let end = text
        .find(|char: char| char.is_whitespace() || char == ':')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.strip_prefix(':').unwrap_or(rest).trim();
    match (name.to_lowercase().as_str(), rest) {
        ("new" | "reset", "") => Some(Command::New),
        ("stop" | "abort", "") => Some(Command::Stop),
        ("status", "") => Some(Command::Status),
        ("help" | "commands", "") => Some(Command::Help),
        ("compact", focus) => {
            let focus = focus.strip_prefix(':').unwrap_or(focus).trim();
            let focus = (!focus.is_empty()).then(|| focus.to_owned());
            Some(Command::Compact(focus))
        }
        ("queue", words) => Some(Command::Queue(words.to_owned())),
        // More words are a message, for which alone the level is meant.
        ("think" | "thinking" | "t", words) => {
            let words = words.strip_prefix(':').unwrap_or(words).trim();
            let is_one = !words.contains(char::is_whitespace)
                || agent::thinking::Level::parse(words).is_some();
            is_one.then(|| Command::Think(words.to_owned()))
        }
        ("reasoning" | "reason", words) if !words.contains(char::is_whitespace) => {
            Some(Command::Reasoning(words.to_owned()))
        }
        ("model", "") => Some(Command::Model(None)),
        ("model", name) => Some(Command::Model(Some(name.to_owned()))),
        _ => None,
    }
}

/// Whether a text is one.
pub(crate) fn is_command(message: &str) -> bool {
    parse(message).is_some()
}

impl Assistant {
    /// Does what the command that `input` is says. Asking again with the same id answers the same.
    ///
    /// # Errors
    /// What the sender is told.
    pub(crate) async fn command(
        self: &Arc<Self>,
        app: &Arc<App>,
        input: Input,
    ) -> Result<Outcome, ErrorShape> {
        let Some(command) = parse(&input.message) else {
            return Err(ErrorShape::invalid_request(format!(
                "{} is no command here",
                input.message
            )));
        };
        run(app, self, &input, command).await?;
        if let Some(live) = self.live(&input.run_id) {
            return Ok(live.ended().await);
        }
        let run_id = input.run_id.clone();
        let run = self
            .store
            .read(move |reader| reader.agents().run(&run_id))
            .await
            .map_err(|error| unavailable(&error))?;
        run.as_ref()
            .map(ended)
            .ok_or_else(|| ErrorShape::invalid_request(format!("{} left no answer", input.message)))
    }
}

/// Does what a command says and answers in the chat. `false`: the run is known already.
pub(super) async fn run(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    command: Command,
) -> Result<bool, ErrorShape> {
    let known = {
        let run_id = input.run_id.clone();
        assistant
            .store
            .read(move |reader| reader.agents().run(&run_id))
            .await
            .map_err(|error| unavailable(&error))?
    };
    if let Some(known) = known {
        return match known.fingerprint == fingerprint(input) {
            true => Ok(false),
            false => Err(conflict()),
        };
    }
    if assistant.live(&input.run_id).is_some() {
        return Ok(false);
    }
    let words = match &command {
        Command::Compact(focus) => return compact(app, assistant, input, focus.clone()).await,
        Command::New => {
            assistant.begin_anew(app, &input.session_key).await?;
            "✅ New session started.".to_owned()
        }
        Command::Stop => {
            let live = assistant.live_of(&input.session_key);
            live.iter().for_each(|live| live.abort());
            match live.len() {
                0 => "Nothing is being worked on.".to_owned(),
                _ => "⏹️ Stopped.".to_owned(),
            }
        }
        Command::Queue(words) => queue(app, assistant, input, words).await?,
        Command::Status => status(app, assistant, input).await?,
        Command::Help => ALL
            .iter()
            .map(|(name, description)| format!("/{name} — {description}"))
            .collect::<Vec<_>>()
            .join("\n"),
        Command::Model(name) => model(app, assistant, input, name.as_deref()).await?,
        Command::Think(words) => think(app, assistant, input, words).await?,
        Command::Reasoning(words) => reasoning(app, assistant, input, words).await?,
    };
    answer(app, assistant, input, words).await?;
    Ok(true)
}

/// Compacts in the background: the answer is told in the chat. As a run it can be stopped, and keeps others waiting.
async fn compact(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    focus: Option<String>,
) -> Result<bool, ErrorShape> {
    assistant.call_off(&input.session_key).await;
    let live = Arc::new(Live::new(&input.run_id, &input.session_key, true));
    if let Entered::Known(_) = assistant.enter(&live)? {
        return Ok(false);
    }
    let (app, assistant) = (Arc::clone(app), Arc::clone(assistant));
    let input = input.clone();
    tokio::spawn(async move {
        let lane = assistant.lane(&input.session_key).lock_owned().await;
        let words = tokio::select! {
            biased;
            () = app.stops() => "⚙️ Compaction failed: the gateway is stopping".to_owned(),
            words = compacted(&app, &assistant, &input, focus.as_deref()) => words,
            () = live.cancelled() => "⚙️ Compaction failed: it was stopped".to_owned(),
        };
        if let Err(error) = answer(&app, &assistant, &input, words.clone()).await {
            tracing::error!(run = %input.run_id, error = %error.message, "the answer to /compact could not be kept");
        }
        assistant.finish(&live, Outcome::said(words, live.started_ms));
        drop(lane);
    });
    Ok(true)
}

async fn compacted(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    focus: Option<&str>,
) -> String {
    let asked = compact::asked(app, assistant, &input.session_key, focus, &|| ()).await;
    let window = asked.window.map_or_else(|| "?".to_owned(), short);
    let context = |tokens: Option<u64>| match (tokens, asked.window) {
        (Some(tokens), Some(all)) => {
            let percent = (tokens * 100 + all / 2) / all.max(1);
            format!("Context {}/{window} ({}%)", short(tokens), percent.min(999))
        }
        _ => format!("Context ?/{window}"),
    };
    match asked.outcome {
        Ok(done) => format!(
            "⚙️ Compacted ({} → {}) • {}",
            short(done.tokens_before),
            short(done.tokens_after),
            context(Some(done.tokens_after))
        ),
        Err(NotCompacted::Needless(why)) => {
            let why = match why {
                compact::ALREADY => "session is already compacted",
                _ => "nothing compactable in this session yet",
            };
            format!("⚙️ Compaction skipped: {why} • {}", context(asked.tokens))
        }
        Err(NotCompacted::Failed(why)) => {
            format!("⚙️ Compaction failed: {why} • {}", context(asked.tokens))
        }
    }
}

/// Tokens as people read them: 950, 1.2k, 128k.
fn short(tokens: u64) -> String {
    match tokens {
        0..1_000 => tokens.to_string(),
        1_000..10_000 => format!("{:.1}k", tokens as f64 / 1e3),
        10_000..999_500 => format!("{:.0}k", tokens as f64 / 1e3),
        _ => format!("{:.1}m", tokens as f64 / 1e6),
    }
}

async fn status(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
) -> Result<String, ErrorShape> {
    let session = assistant.session(&input.session_key).await?;
    let chosen = session
        .as_ref()
        .and_then(|session| rows::settings(session)["model"].as_str().map(str::to_owned));
    let model = match assistant.model(app, &input.agent, chosen.as_deref()) {
        Ok(model) => format!("{}/{}", model.provider, model.id),
        Err(error) => error.to_string(),
    };
    let (tokens, count) = session.as_ref().map_or((0, (0, 0)), |session| {
        (
            session.context_tokens,
            (session.input_tokens, session.output_tokens),
        )
    });
    let compactions = match &session {
        Some(session) => assistant.compactions(&session.session_id).await?,
        None => 0,
    };
    Ok(format!(
        "🦞 openclaw-gateway {}\n🧠 Model: {model}\n🧮 Tokens: {} in / {} out, {tokens} in the last turn\n🧹 Compactions: {compactions}\n🧵 Session: {}\n⏱️ Working: {}",
        env!("CARGO_PKG_VERSION"),
        count.0,
        count.1,
        input.session_key,
        assistant.live_of(&input.session_key).len(),
    ))
}

/// Shows or changes what becomes of messages that come while one is worked on.
async fn queue(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    words: &str,
) -> Result<String, ErrorShape> {
    let session = assistant.session(&input.session_key).await?;
    let mut own = session.as_ref().map_or_else(|| json!({}), rows::settings);
    let said = match settings::set(&mut own, words) {
        Ok(Some(said)) => said,
        Ok(None) => {
            let facts = app.facts.load();
            return Ok(Settings::of(&facts.config, &own, "webchat").words());
        }
        Err(why) => return Ok(why),
    };
    let (key, agent, now) = (input.session_key.clone(), input.agent.clone(), clock_ms());
    assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            let fresh = uuid::Uuid::new_v4().to_string();
            let session = agents.open(&key, &agent, &fresh, now)?;
            agents.set_settings(&key, &own.to_string(), session.archived)
        })
        .await
        .map_err(|error| unavailable(&error))?;
    Ok(said)
}

async fn model(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    name: Option<&str>,
) -> Result<String, ErrorShape> {
    let Some(name) = name else {
        let facts = app.facts.load();
        let all: Vec<String> = agent::Model::all(&assistant.known(&facts.config))
            .into_iter()
            .filter_map(|(provider, model)| Some(format!("{provider}/{}", model["id"].as_str()?)))
            .collect();
        let now = assistant.model(app, &input.agent, None).map_or_else(
            |error| error.to_string(),
            |model| format!("{}/{}", model.provider, model.id),
        );
        return Ok(format!("🧠 {now}\nThere are: {}", all.join(", ")));
    };
    if let Err(error) = assistant.model(app, &input.agent, Some(name)) {
        return Ok(format!("⚠️ {error}"));
    }
    keep(assistant, input, "model", json!(name)).await?;
    Ok(format!("🧠 This session now uses {name}."))
}

/// Keeps a setting of the session; `null` takes it back.
async fn keep(
    assistant: &Arc<Assistant>,
    input: &Input,
    name: &'static str,
    value: Value,
) -> Result<(), ErrorShape> {
    let (key, agent, now) = (input.session_key.clone(), input.agent.clone(), clock_ms());
    assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            let fresh = uuid::Uuid::new_v4().to_string();
            let session = agents.open(&key, &agent, &fresh, now)?;
            let mut settings = rows::settings(&session);
            settings[name] = value;
            agents.set_settings(&key, &settings.to_string(), session.archived)
        })
        .await
        .map_err(|error| unavailable(&error))
}

async fn think(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    words: &str,
) -> Result<String, ErrorShape> {
    let session = assistant.session(&input.session_key).await?;
    let own = session.as_ref().map_or_else(|| json!({}), rows::settings);
    let model = match assistant.model(app, &input.agent, own["model"].as_str()) {
        Ok(model) => model,
        Err(error) => return Ok(format!("⚠️ {error}")),
    };
    let facts = app.facts.load_full();
    let shown = thinking::Shown::of(&facts.config, &input.agent, &model);
    let (answer, kept) = thinking::command(words, &own, &shown, &model);
    if let Some(kept) = kept {
        keep(assistant, input, "thinkingLevel", kept).await?;
    }
    Ok(answer)
}

async fn reasoning(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    words: &str,
) -> Result<String, ErrorShape> {
    let session = assistant.session(&input.session_key).await?;
    let own = session.as_ref().map_or_else(|| json!({}), rows::settings);
    let facts = app.facts.load_full();
    let roster = facts.inputs(0, 0).roster();
    let agent = roster.get(&input.agent).map(|agent| &agent.entry);
    let now = thinking::reasoning_of(&own, agent, &facts.config);
    let (answer, kept) = thinking::reasoning_command(words, now);
    if let Some(kept) = kept {
        keep(assistant, input, "reasoningLevel", kept).await?;
    }
    Ok(answer)
}

/// Both lines in one write, then what clients see.
async fn answer(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    input: &Input,
    words: String,
) -> Result<(), ErrorShape> {
    let now = clock_ms();
    let completion = Completion {
        text: words.clone(),
        stop_reason: "stop".to_owned(),
        ..Completion::default()
    };
    let asked = rows::user(input, now);
    let said = rows::answer(&input.run_id, &completion, None, now);
    let (run_id, key, agent, print) = (
        input.run_id.clone(),
        input.session_key.clone(),
        input.agent.clone(),
        fingerprint(input),
    );
    let outcome = json!({ "text": words, "stopReason": "stop" }).to_string();
    let session = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            let fresh = uuid::Uuid::new_v4().to_string();
            let session = agents.open(&key, &agent, &fresh, now)?;
            if agents.begin(&run_id, &session, &print, now)? == Begun::New {
                agents.append(&session.session_id, &asked)?;
                agents.append(&session.session_id, &said)?;
                agents.end(&run_id, RunState::Ok, &outcome, now)?;
            }
            Ok(session)
        })
        .await
        .map_err(|error| unavailable(&error))?;
    let mut teller = Teller::new(app, input, &session.session_id);
    teller.assistant(&words, &words, &words);
    teller.last("final", "stop", &words);
    events::session_changed(app, assistant, &session, "command");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_commands_are_commands() {
        assert_eq!(parse(" /NEW "), Some(Command::New));
        assert_eq!(
            parse("/model a/b"),
            Some(Command::Model(Some("a/b".to_owned())))
        );
        assert_eq!(parse("/model"), Some(Command::Model(None)));
        assert_eq!(
            parse("/compact: the API"),
            Some(Command::Compact(Some("the API".to_owned())))
        );
        assert_eq!(parse("/compact"), Some(Command::Compact(None)));
        assert_eq!(parse("/think:low"), Some(Command::Think("low".to_owned())));
        assert_eq!(parse("/t"), Some(Command::Think(String::new())));
        assert_eq!(
            parse("/think extra high"),
            Some(Command::Think("extra high".to_owned()))
        );
        assert_eq!(parse("/think high what is it?"), None);
        assert_eq!(
            parse("/reason on"),
            Some(Command::Reasoning("on".to_owned()))
        );
        assert_eq!(parse("/new and more"), None);
        assert_eq!(parse("/usr/bin is a path"), None);
        assert_eq!(parse("new"), None);
    }
}
