//! The draft of an answer: a message that grows in place while the agent writes, and becomes the answer.
//!
//! Its id is kept with the turn, so that after a crash the same message is written on. The last edit is the outbox row's, which may
//! repeat it. Source: extensions/telegram/src/draft-stream.ts at 2026.9.6, `streaming.mode: "partial"`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use channels::message::{Action, OutboundMessage};
use channels::{Channel, SendError, chunk};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use store::{InboxRow, StoreError};
use tokio_util::sync::CancellationToken;

use super::intake::{Back, Inbound};
use super::{Messages, crash_point, now_ms};
use crate::delivery::SEND_TIMEOUT;

/// Less is not worth a notification that ends in the middle of a word.
const FIRST_CHARS_MIN: usize = 30;
const EVERY: Duration = Duration::from_secs(1);
/// Telegram takes twenty messages a minute in a group, from everything that the bot does there.
const EVERY_IN_GROUP: Duration = Duration::from_secs(3);
/// What becomes of a draft that can't be deleted, as on Telegram after two days.
const BROKEN_OFF: &str = "⚠️ This answer was broken off.";
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the upstream's runs have said so far, of those that somebody watches.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<String, String>>);

impl Heard {
    /// Takes an `agent` event of the upstream.
    pub(super) fn take(&self, payload: &RawValue) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Event<'a> {
            #[serde(borrow)]
            run_id: Cow<'a, str>,
            #[serde(borrow)]
            stream: Cow<'a, str>,
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            text: Option<String>,
        }
        let mut runs = self.0.lock();
        if runs.is_empty() {
            return;
        }
        if let Ok(event) = serde_json::from_str::<Event<'_>>(payload.get())
            && event.stream == "assistant"
            && let (Some(said), Some(text)) = (runs.get_mut(&*event.run_id), event.data.text)
        {
            *said = text;
        }
    }
}

/// A run that is listened to, until this goes.
struct Ear<'a>(&'a Heard, &'a str);

impl<'a> Ear<'a> {
    fn open(heard: &'a Heard, run: &'a str) -> Self {
        heard.0.lock().insert(run.to_owned(), String::new());
        Self(heard, run)
    }
}

impl Drop for Ear<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(self.1);
    }
}

pub(super) fn key(id: &str) -> String {
    format!("draft/{id}")
}

/// Shows what the turn of `row` says until `ended`; answers the draft's id on the service, if there is one.
pub(super) async fn show(
    messages: &Messages,
    row: &InboxRow,
    back: &Back,
    ended: &CancellationToken,
) -> Option<String> {
    let channel = wanted(messages, back)?;
    let ear = Ear::open(&messages.heard, &row.id);
    let (of, account, id) = (back.channel.clone(), back.account.clone(), key(&row.id));
    let stored = messages
        .store
        .read(move |reader| reader.cursor(&of, &account, &id));
    let mut draft = stored.await.ok().flatten();
    let mut shown = String::new();
    // In groups alone it is answered below a message.
    let every = match back.reply_to {
        Some(_) => EVERY_IN_GROUP,
        None => EVERY,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = ended.cancelled() => return draft,
        }
        let text = said(messages, &ear, &*channel);
        let is_little = draft.is_none() && text.chars().count() < FIRST_CHARS_MIN;
        if text.is_empty() || text == shown || is_little {
            continue;
        }
        let step = write(&*channel, row, back, draft.as_deref(), &text);
        // Who stops waiting for a first one leaves it behind.
        let patience = match draft {
            Some(_) => STEP_TIMEOUT,
            None => SEND_TIMEOUT,
        };
        match tokio::time::timeout(patience, step).await {
            Ok(Ok(None)) => shown = text,
            Ok(Ok(Some(id))) => {
                shown = text;
                keep(messages, row, back, &id).await;
                draft = Some(id);
                crash_point!("intake.draft_shown");
            }
            Ok(Err(SendError::Retry { after: None, .. })) => {}
            // It can't be written on, nobody knows whether it is there, or what else is said there needs the room: the
            // answer comes as any other.
            Ok(Err(error)) => {
                tracing::debug!(id = row.id, %error, "the draft of an answer is given up");
                ended.cancelled().await;
                return draft;
            }
            Err(_elapsed) => {
                ended.cancelled().await;
                return draft;
            }
        }
    }
}

/// The channel, if the account asks for drafts and the service can change a message.
fn wanted(messages: &Messages, back: &Back) -> Option<Arc<dyn Channel>> {
    let accounts = messages.accounts.load();
    let account = accounts.get(&back.channel, &back.account)?;
    let mode = account.settings.get("streaming")?.get("mode")?;
    let channel = messages.supervisor.get(&back.channel, &back.account)?;
    (mode == "partial" && channel.capabilities().edits).then_some(channel)
}

/// What was said so far, as much as one message takes.
fn said(messages: &Messages, ear: &Ear<'_>, channel: &dyn Channel) -> String {
    let own = messages.agents.get().and_then(std::sync::Weak::upgrade);
    let own = own.and_then(|app| Some(app.assistant()?.live(ear.1)?.text()));
    let text = own.or_else(|| ear.0.0.lock().get(ear.1).cloned());
    let text = text.unwrap_or_default();
    let limits = channel.capabilities();
    let parts = chunk::split(text.trim(), limits.text_max, limits.text_unit);
    parts.into_iter().next().unwrap_or_default()
}

/// `Some`: it was begun, under this id.
async fn write(
    channel: &dyn Channel,
    row: &InboxRow,
    back: &Back,
    draft: Option<&str>,
    text: &str,
) -> Result<Option<String>, SendError> {
    if let Some(draft) = draft {
        let edit = Action::Edit {
            target: back.target.clone(),
            message_id: draft.to_owned(),
            text: text.to_owned(),
        };
        return channel.act(&edit).await.map(|()| None);
    }
    let begun = OutboundMessage {
        delivery_id: format!("{}-draft", row.id),
        target: back.target.clone(),
        thread: back.thread.clone(),
        reply_to: back.reply_to.clone(),
        text: text.to_owned(),
        attachments: Vec::new(),
        buttons: Vec::new(),
        silent: false,
        subject: None,
    };
    channel
        .send(&begun)
        .await
        .map(|receipt| Some(receipt.message_id))
}

async fn keep(messages: &Messages, row: &InboxRow, back: &Back, id: &str) {
    let (of, account) = (back.channel.clone(), back.account.clone());
    let (row_id, id) = (row.id.clone(), id.to_owned());
    let kept = messages
        .store
        .write(move |tx| {
            let now = now_ms();
            tx.history().note(&row_id, now, "draft", &id)?;
            tx.set_cursor(&of, &account, &key(&row_id), &id, now)
        })
        .await;
    if let Err(error) = kept {
        tracing::warn!(id = row.id, %error, "a draft is known until the next crash alone");
    }
}

/// Ends the draft of a turn that has no answer, if it has one.
pub(super) async fn end(messages: &Messages, row: &InboxRow) -> Result<(), StoreError> {
    let (of, account, id) = (row.channel.clone(), row.account.clone(), key(&row.id));
    let stored = messages
        .store
        .read(move |reader| reader.cursor(&of, &account, &id));
    let Some(draft) = stored.await? else {
        return Ok(());
    };
    let target = match serde_json::from_str(&row.payload) {
        Ok(Inbound::Channel(message)) => message.chat.id,
        Ok(Inbound::Api(request)) => request.target,
        // Nobody can tell any more where it is.
        Err(_) => String::new(),
    };
    discard(messages, &row.channel, &row.account, target, draft).await;
    let (of, account, id) = (row.channel.clone(), row.account.clone(), key(&row.id));
    messages
        .store
        .write(move |tx| tx.forget_cursor(&of, &account, &id))
        .await
}

/// Takes a draft away that became no answer; one that has to stay says so.
pub(crate) async fn discard(
    messages: &Messages,
    channel: &str,
    account: &str,
    target: String,
    message_id: String,
) {
    let Some(channel) = messages.hand(channel, account) else {
        return;
    };
    let delete = Action::Delete {
        target: target.clone(),
        message_id: message_id.clone(),
    };
    let edit = Action::Edit {
        target,
        message_id,
        text: BROKEN_OFF.to_owned(),
    };
    for action in [delete, edit] {
        match tokio::time::timeout(STEP_TIMEOUT, channel.act(&action)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "a draft could not be taken away"),
            Err(_elapsed) => tracing::debug!("a draft could not be taken away in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_the_upstreams_events_those_of_a_watched_run_count() {
        let heard = Heard::default();
        let take = |run: &str, stream: &str, text: &str| {
            let event = json!({ "runId": run, "stream": stream, "data": { "text": text, "delta": "x" }, "seq": 1 });
            let raw = serde_json::value::to_raw_value(&event).expect("JSON");
            heard.take(&raw);
        };
        take("r1", "assistant", "nobody listens");
        let ear = Ear::open(&heard, "r1");
        take("r2", "assistant", "another");
        take("r1", "thinking", "hm");
        assert_eq!(heard.0.lock().get("r1").map(String::as_str), Some(""));
        take("r1", "assistant", "so far");
        assert_eq!(heard.0.lock().get("r1").map(String::as_str), Some("so far"));
        drop(ear);
        assert!(heard.0.lock().is_empty());
    }
}
