//! Commands in a chat: who may give them, who carries them out, what is said of it.
//!
//! Those of an OpenClaw behind us are its own to carry out, over a connection without an administrator's rights
//! ([`crate::bridge::errand`]); those that take more, or that change the gateway, are not taken from a chat that only we know.
//! Source: docs/tools/slash-commands.md at 2026.9.6.

use std::sync::Arc;

use serde_json::{Value, json};
use store::{InboxRow, StoreError};
use tokio_util::sync::CancellationToken;

use super::intake::{self, Back};
use super::upstream::{Reply, Turn};
use super::{Messages, agents, crash_point, halt, now_ms, params, signs};
use crate::app::App;
use crate::bridge::control::CallError;
use crate::bridge::errand::{Ended, Errand};
use crate::delivery::Payload;
use crate::routing::Route;
use crate::routing::commands::{self, Kind, Order};

/// Source: extensions/telegram/src/bot-native-command-dispatch.ts.
const NOT_AUTHORIZED: &str = "You are not authorized to use this command.";

pub(super) enum Judged {
    /// Something for the agent.
    Text,
    Order(Order),
    /// It was carried out, or answered otherwise.
    Done,
}

/// What a message that may be answered orders, and whether its sender may. Here is done what waits for nobody.
pub(super) async fn judge(
    messages: &Arc<Messages>,
    row: &InboxRow,
    message: &channels::InboundMessage,
    route: &Route,
    back: &Back,
) -> Result<Judged, StoreError> {
    let Some(order) = commands::read(message) else {
        return Ok(Judged::Text);
    };
    let may = match order.kind {
        Kind::Reset => route.standing.reset,
        _ => route.standing.commands,
    };
    let name = &order.name;
    match order.kind {
        Kind::StopWord | Kind::Unknown if !may => return Ok(Judged::Text),
        _ if !may => {
            let why = format!(
                "not answered: {} may not give commands here",
                halt::by(message)
            );
            // Its commands are the service's own there, and it says so; elsewhere nobody is told that there are any.
            match back.channel == "telegram" {
                true => say(messages, row, back, NOT_AUTHORIZED.to_owned(), &why).await?,
                false => intake::done(messages, row, &why).await?,
            }
        }
        Kind::Stop | Kind::StopWord => {
            halt::stop(messages, row, route, back, &halt::by(message)).await?;
        }
        Kind::WhoAmI => {
            say(
                messages,
                row,
                back,
                identity(message, back),
                "told who they are",
            )
            .await?;
        }
        Kind::Elsewhere => {
            let words = match messages.upstream.is_off() {
                true => {
                    format!("⚠️ /{name} is no command of this gateway; /help lists those that are.")
                }
                false => format!(
                    "⚠️ /{name} is not taken from this chat. It is there in the Control UI and at the openclaw command line."
                ),
            };
            say(messages, row, back, words, "not taken from a chat").await?;
        }
        _ => return Ok(Judged::Order(order)),
    }
    Ok(Judged::Done)
}

/// Source: src/auto-reply/reply/commands-whoami.ts.
fn identity(message: &channels::InboundMessage, back: &Back) -> String {
    let sender = &message.sender;
    let mut lines = vec![
        "🧭 Identity".to_owned(),
        format!("Channel: {}", back.channel),
        format!("User id: {}", sender.id),
    ];
    if let Some(name) = &sender.username {
        lines.push(format!("Username: @{}", name.trim_start_matches('@')));
    }
    if message.chat.kind != channels::message::ChatKind::Direct {
        lines.push(format!("Chat: {}:group:{}", back.channel, message.chat.id));
    }
    if let Some(thread) = &message.chat.thread {
        lines.push(format!("Thread: {thread}"));
    }
    lines.push(format!("AllowFrom: {}", sender.id));
    lines.join("\n")
}

async fn say(
    messages: &Messages,
    row: &InboxRow,
    back: &Back,
    words: String,
    why: &str,
) -> Result<(), StoreError> {
    let payload = Payload {
        content: words,
        thread: back.thread.clone(),
        reply_to: back.reply_to.clone(),
        ..Payload::default()
    };
    let age = messages.settings.load().reply_age_max;
    intake::finish(messages, row, vec![payload], back, why, age).await
}

/// Carries an order out. `false`: nobody knows it, so it is a text, or it is one that goes the agent's way.
pub(super) async fn run(
    messages: &Arc<Messages>,
    row: &InboxRow,
    (message, route, back): (&channels::InboundMessage, &Route, &Back),
    order: &Order,
    own: Option<&Arc<App>>,
    halted: &CancellationToken,
) -> Result<bool, StoreError> {
    if row.run_id.is_none() && order.kind != Kind::Reset {
        note_said(messages, row, 0).await?;
    }
    let is_known = match own {
        Some(_) => agents::is_command(&order.line),
        None => match order.kind {
            // The agent's method knows these, and what follows them is for the agent.
            Kind::Reset => false,
            Kind::Unknown => is_listed(messages, &order.name, &route.agent).await,
            _ => true,
        },
    };
    if !is_known {
        return Ok(false);
    }
    intake::begin(messages, row, route, back).await?;
    crash_point!("intake.turn_begun");
    let work = async {
        match own {
            Some(app) => {
                let params = json!({
                    "message": order.line, "sessionKey": route.session_key, "idempotencyKey": row.id,
                });
                agents::command(app, &route.agent, &params).await
            }
            None => upstreams(messages, row, (message, route), order).await,
        }
    };
    let outcome = tokio::select! {
        biased;
        () = halted.cancelled() => return Ok(true),
        outcome = work => outcome,
        never = signs::typing(messages, back, &route.agent) => match never {},
        // As a turn, it is asked for again at the next start.
        () = messages.stop.cancelled() => return Ok(true),
    };
    signs::show_typing(messages, back, false).await;
    crash_point!("intake.turn_done");
    intake::settle(messages, row, outcome, back, None).await?;
    Ok(true)
}

/// By the upstream itself.
async fn upstreams(
    messages: &Messages,
    row: &InboxRow,
    (message, route): (&channels::InboundMessage, &Route),
    order: &Order,
) -> Result<Turn, CallError> {
    let Some(ready) = messages.upstream.at() else {
        return Err(CallError::NotSent(format!(
            "the OpenClaw gateway is {}",
            messages.upstream.word()
        )));
    };
    let files = match commands::takes_files(order) {
        true => message.attachments.as_slice(),
        false => [].as_slice(),
    };
    let asked = params::with_files(messages, row, route, order.line.clone(), files).await;
    let unread = |error: StoreError| CallError::NotSent(error.to_string());
    let errand = Errand {
        session_key: &route.session_key,
        text: asked["message"].as_str().unwrap_or(&order.line),
        files: asked["attachments"]
            .as_array()
            .map_or(&[][..], Vec::as_slice),
        id: &row.id,
        said_ms: said_ms(messages, row).await.map_err(unread)?,
        is_repeatable: order.kind.is_repeatable(),
    };
    let mark = async {
        note_said(messages, row, now_ms()).await.map_err(unread)?;
        crash_point!("orders.marked");
        Ok(())
    };
    let patience = messages.settings.load().turn_timeout;
    let name = &order.name;
    let said = |text: String| Turn {
        replies: vec![Reply {
            text,
            media: Vec::new(),
        }],
        failed: None,
    };
    Ok(match errand.run(&ready, patience, mark).await? {
        Ended::Said(text) => said(text),
        Ended::Failed(why) => Turn {
            replies: Vec::new(),
            failed: Some(channels::web::head(&why)),
        },
        Ended::Silent => {
            tracing::warn!(
                id = row.id,
                command = name,
                "OpenClaw did not answer a command: where commands.allowFrom has a list for \"*\", it must name gateway-client too"
            );
            said(format!(
                "⚠️ OpenClaw did not answer /{name}. It may not take it from this gateway: the log says what to set."
            ))
        }
        Ended::InDoubt => {
            let why = format!("whether /{name} was carried out is not known");
            if let Err(error) = intake::note(messages, &row.id, "in doubt", &why).await {
                tracing::warn!(%error, "what is in doubt could not be noted");
            }
            said(format!(
                "⚠️ I was interrupted at /{name} and can't find out whether it was carried out. Send it again if it is still wanted."
            ))
        }
    })
}

/// Where it is kept when a command may have been given to the upstream, `0` while it certainly was not; forgotten with the end of its
/// row.
pub(super) fn said_key(id: &str) -> String {
    format!("said/{id}")
}

/// When the command of a row was given to the upstream, ms since the epoch. `None`: certainly not yet.
async fn said_ms(messages: &Messages, row: &InboxRow) -> Result<Option<u64>, StoreError> {
    let (channel, account, key) = (row.channel.clone(), row.account.clone(), said_key(&row.id));
    let said = messages
        .store
        .read(move |reader| reader.cursor(&channel, &account, &key))
        .await?;
    Ok(match said {
        Some(said) => said.parse().ok().filter(|ms| *ms > 0),
        // Begun by a gateway that did not keep it.
        None if row.run_id.is_some() => u64::try_from(row.updated_ms).ok(),
        None => None,
    })
}

async fn note_said(messages: &Messages, row: &InboxRow, said_ms: i64) -> Result<(), StoreError> {
    let (channel, account, key) = (row.channel.clone(), row.account.clone(), said_key(&row.id));
    messages
        .store
        .write(move |tx| tx.set_cursor(&channel, &account, &key, &said_ms.to_string(), now_ms()))
        .await
}

/// Whether the upstream has a command of a plugin or a skill by this name.
async fn is_listed(messages: &Messages, name: &str, agent: &str) -> bool {
    let params = json!({ "agentId": agent, "scope": "text", "includeArgs": false });
    let listed = match messages.upstream.call("commands.list", params).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(%error, "the commands of the OpenClaw gateway can't be listed");
            return false;
        }
    };
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let alias = format!("/{name}");
    let mut commands = listed["commands"].as_array().into_iter().flatten();
    commands.any(|command| {
        let mut aliases = command["textAliases"].as_array().into_iter().flatten();
        command["source"] != "native"
            && aliases.any(|one| {
                one.as_str()
                    .is_some_and(|one| one.eq_ignore_ascii_case(&alias))
            })
    })
}
