//! The long poll: what is new since the last commit, gaps filled, in order.

use super::Matrix;
use super::api::{Failed, quote};
use super::config::AutoJoin;
use super::event::{self, Me, Room};
use crate::{Batch, ChannelError, Cursor, InboundMessage, InboundSink};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Name of the cursor: the `next_batch` up to which all is committed.
const SINCE: &str = "since";
/// Pages of one room's gap. Beyond them the oldest are left out, and the log says so.
const GAP_PAGES_MAX: usize = 20;
const PAGE_EVENTS: usize = 100;
/// Reactions that are remembered, so that their redaction can be told from others.
const REACTIONS_MAX: usize = 2000;

pub(super) struct Sync<'a> {
    matrix: &'a Matrix,
    sink: &'a InboundSink,
    me: Me,
    /// Reaction event to the message it was on.
    reactions: HashMap<String, String>,
    /// Room to its last message, of the batch that is being read.
    seen: HashMap<String, String>,
}

impl<'a> Sync<'a> {
    pub(super) fn new(matrix: &'a Matrix, sink: &'a InboundSink) -> Self {
        Self {
            matrix,
            sink,
            me: Me::default(),
            reactions: HashMap::new(),
            seen: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), ChannelError> {
        self.me = self.matrix.me().await.map_err(Failed::receiving)?;
        self.matrix.read_direct().await.map_err(Failed::receiving)?;
        let mut since = self.sink.cursor(SINCE).await?;
        loop {
            let answer = self
                .poll(since.as_deref())
                .await
                .map_err(Failed::receiving)?;
            self.sink.alive();
            let Some(next) = answer["next_batch"].as_str().map(str::to_owned) else {
                return Err(ChannelError::Disconnected {
                    reason: "the server's answer to /sync has no next_batch".into(),
                    after: None,
                });
            };
            self.account_data(&answer);
            // Before the commit: the server shows an invitation once.
            self.invitations(&answer).await?;
            let batch = Batch {
                messages: match &since {
                    Some(from) => self
                        .messages(&answer, from)
                        .await
                        .map_err(Failed::receiving)?,
                    // The first time: what lies there was not written to us.
                    None => Vec::new(),
                },
                cursor: Some(Cursor {
                    key: SINCE.into(),
                    value: next.clone(),
                }),
            };
            let seen = std::mem::take(&mut self.seen);
            if since.as_ref() != Some(&next) || !batch.messages.is_empty() {
                self.sink.commit(batch).await?;
            }
            for (room, event) in seen {
                self.mark_read(&room, &event).await;
            }
            since = Some(next);
        }
    }

    async fn poll(&self, since: Option<&str>) -> Result<Value, Failed> {
        let first = since.is_none();
        let filter = json!({
            "presence": { "types": [] },
            "account_data": { "types": ["m.direct"] },
            "room": {
                "ephemeral": { "types": [] },
                "account_data": { "types": [] },
                "state": { "types": if first { json!([]) } else { json!(["m.room.member", "m.room.name", "m.room.encryption"]) }, "lazy_load_members": true },
                "timeline": { "limit": if first { 1 } else { 50 } },
            },
        });
        let poll_ms = if first {
            0
        } else {
            self.matrix.timing.poll.as_millis()
        };
        let since = since.map_or_else(String::new, |s| format!("&since={}", quote(s)));
        let path = format!(
            "/_matrix/client/v3/sync?timeout={poll_ms}&filter={}{since}",
            quote(&filter.to_string())
        );
        self.matrix.api.get(&path).await
    }

    fn account_data(&self, answer: &Value) {
        let mut events = answer["account_data"]["events"]
            .as_array()
            .into_iter()
            .flatten();
        if let Some(direct) = events.rfind(|e| e["type"] == "m.direct") {
            self.matrix.set_direct(&direct["content"]);
            self.matrix.rooms.lock().clear();
        }
    }

    async fn invitations(&self, answer: &Value) -> Result<(), ChannelError> {
        for (room, invite) in answer["rooms"]["invite"].as_object().into_iter().flatten() {
            let events = invite["invite_state"]["events"].as_array();
            let own = events
                .into_iter()
                .flatten()
                .find(|e| e["type"] == "m.room.member" && e["state_key"] == self.me.user.as_str());
            let by = own.and_then(|e| e["sender"].as_str()).unwrap_or_default();
            let wanted = match &self.matrix.auto_join {
                AutoJoin::Off => false,
                AutoJoin::Always => true,
                AutoJoin::Only(rooms) => self.is_listed(rooms, room).await,
            };
            if !wanted {
                tracing::info!(
                    room,
                    by,
                    "matrix: invitation left open: autoJoin does not allow it"
                );
                continue;
            }
            let path = format!("/_matrix/client/v3/join/{}", quote(room));
            match self.matrix.api.post(&path, &json!({})).await {
                Ok(_) => tracing::info!(room, by, "matrix: joined"),
                Err(failed) => {
                    let error = failed.error;
                    if let crate::SendError::Retry { after, reason } = error {
                        // Nothing is committed yet: the next poll shows the invitation again.
                        return Err(ChannelError::Disconnected { reason, after });
                    }
                    tracing::warn!(room, by, %error, "matrix: cannot join");
                    continue;
                }
            }
            let direct = own.is_some_and(|e| e["content"]["is_direct"] == true);
            if direct && let Err(failed) = self.matrix.mark_direct(by, room).await {
                tracing::warn!(room, by, error = %failed.error, "matrix: cannot mark as direct");
            }
        }
        Ok(())
    }

    /// An alias counts for what the homeserver says it leads to, not for what the room claims.
    async fn is_listed(&self, listed: &[String], room: &str) -> bool {
        for entry in listed {
            let same = match entry.strip_prefix('#') {
                None => entry == room,
                Some(_) => match self.matrix.resolve(entry).await {
                    Ok(found) => found == room,
                    Err(error) => {
                        tracing::warn!(alias = entry, %error, "matrix: alias cannot be resolved");
                        false
                    }
                },
            };
            if same {
                return true;
            }
        }
        false
    }

    async fn messages(
        &mut self,
        answer: &Value,
        since: &str,
    ) -> Result<Vec<InboundMessage>, Failed> {
        let mut all = Vec::new();
        for (id, joined) in answer["rooms"]["join"].as_object().into_iter().flatten() {
            let timeline = &joined["timeline"];
            let mut events = timeline["events"].as_array().cloned().unwrap_or_default();
            if events.is_empty() {
                continue;
            }
            if timeline["limited"] == true
                && let Some(before) = timeline["prev_batch"].as_str()
            {
                let mut gap = self.gap(id, before, since).await?;
                gap.append(&mut events);
                events = gap;
            }
            let ours = event::since_we_came(&events, &self.me.user);
            self.noticed(id, &events);
            for event in &events[ours..] {
                if let Some(message) = self.event(id, event).await? {
                    self.seen.insert(id.clone(), message.event_id.clone());
                    all.push(message);
                }
            }
        }
        all.sort_by_key(|message| message.sent_at_ms);
        Ok(all)
    }

    /// What a limited timeline left out, oldest first.
    async fn gap(&self, room: &str, before: &str, since: &str) -> Result<Vec<Value>, Failed> {
        let mut newest_first: Vec<Value> = Vec::new();
        let mut from = before.to_owned();
        for page in 0.. {
            if page == GAP_PAGES_MAX {
                tracing::warn!(
                    room,
                    events = newest_first.len(),
                    "matrix: the gap is longer than what is filled: older messages are left out"
                );
                break;
            }
            let path = format!(
                "/_matrix/client/v3/rooms/{}/messages?dir=b&limit={PAGE_EVENTS}&from={}&to={}",
                quote(room),
                quote(&from),
                quote(since)
            );
            let found = self.matrix.api.get(&path).await?;
            let chunk = found["chunk"].as_array().cloned().unwrap_or_default();
            let done = chunk.is_empty();
            newest_first.extend(chunk);
            // Before we were asked in nothing is for us.
            let invited = newest_first.iter().any(|e| {
                e["type"] == "m.room.member"
                    && e["state_key"] == self.me.user.as_str()
                    && e["content"]["membership"] == "invite"
            });
            match found["end"].as_str() {
                Some(end) if !done && !invited && end != from => end.clone_into(&mut from),
                _ => break,
            }
        }
        newest_first.reverse();
        Ok(newest_first)
    }

    /// State that changes what we know of a room.
    fn noticed(&self, room: &str, events: &[Value]) {
        let changes = ["m.room.name", "m.room.encryption", "m.room.member"];
        let changed = events.iter().any(|e| {
            e.get("state_key").is_some() && e["type"].as_str().is_some_and(|t| changes.contains(&t))
        });
        if changed {
            self.matrix.rooms.lock().remove(room);
        }
    }

    async fn event(
        &mut self,
        room_id: &str,
        event: &Value,
    ) -> Result<Option<InboundMessage>, Failed> {
        match event["type"].as_str() {
            Some("m.room.message" | "m.sticker") => {
                let room = self.room(room_id).await?;
                let threads = match room.direct {
                    true => self.matrix.direct_threads,
                    false => self.matrix.threads,
                };
                let Some(mut message) = event::message(event, &room, &self.me, threads) else {
                    return Ok(None);
                };
                if room.direct && room.per_user {
                    self.matrix.wrote_in(&message.sender.id, room_id).await?;
                }
                if let Some(original) = message.reply_to.clone() {
                    self.quote(room_id, &original, &mut message).await;
                }
                Ok(Some(message))
            }
            Some("m.reaction") => self.reaction(room_id, event).await,
            Some("m.room.redaction") => {
                let redacted = event["redacts"]
                    .as_str()
                    .or(event["content"]["redacts"].as_str());
                let Some(target) = redacted.and_then(|id| self.reactions.remove(id)) else {
                    return Ok(None);
                };
                let room = self.room(room_id).await?;
                Ok(event::reaction(event, &room, &self.me, &target, ""))
            }
            Some("m.room.encrypted") if event["sender"] != self.me.user.as_str() => {
                self.cannot_read(room_id).await;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn reaction(
        &mut self,
        room_id: &str,
        event: &Value,
    ) -> Result<Option<InboundMessage>, Failed> {
        let Some((target, emoji)) = event::annotation(event).filter(|_| self.matrix.reactions)
        else {
            return Ok(None);
        };
        // Source: `reactionNotifications: "own"`, the original's default.
        let original = self.original(room_id, target).await;
        if original.is_none_or(|o| o["sender"] != self.me.user.as_str()) {
            return Ok(None);
        }
        if let Some(id) = event["event_id"].as_str() {
            if self.reactions.len() >= REACTIONS_MAX {
                self.reactions.clear();
            }
            self.reactions.insert(id.to_owned(), target.to_owned());
        }
        let room = self.room(room_id).await?;
        Ok(event::reaction(event, &room, &self.me, target, emoji))
    }

    /// The event that another one points to. Missing ones are no reason to stop.
    async fn original(&self, room: &str, id: &str) -> Option<Value> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/event/{}",
            quote(room),
            quote(id)
        );
        match self.matrix.api.get(&path).await {
            Ok(found) => Some(found),
            Err(failed) => {
                tracing::debug!(room, id, error = %failed.error, "matrix: no such event");
                None
            }
        }
    }

    async fn quote(&self, room: &str, original: &str, message: &mut InboundMessage) {
        let Some(found) = self.original(room, original).await else {
            return;
        };
        // A reply to us is addressed to us.
        message.mentions_us |= found["sender"] == self.me.user.as_str();
        if let Some(body) = found["content"]["body"].as_str() {
            message.quoted = Some(body.to_owned());
        }
    }

    /// What is known of a room, asked for once.
    async fn room(&self, id: &str) -> Result<Room, Failed> {
        if let Some(room) = self.matrix.rooms.lock().get(id) {
            return Ok(room.clone());
        }
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.name/", quote(id));
        let name = match self.matrix.api.get(&path).await {
            Ok(found) => found["name"].as_str().map(str::to_owned),
            Err(failed) if matches!(failed.error, crate::SendError::Rejected { .. }) => None,
            Err(failed) => return Err(failed),
        };
        let room = Room {
            id: id.to_owned(),
            name: name.filter(|n| !n.is_empty()),
            direct: self.matrix.is_direct(id),
            per_user: self.matrix.per_user,
        };
        self.matrix.rooms.lock().insert(id.to_owned(), room.clone());
        Ok(room)
    }

    /// Says once in an encrypted room that we cannot read there.
    async fn cannot_read(&self, room: &str) {
        if !self.matrix.told.lock().insert(room.to_owned()) {
            return;
        }
        tracing::warn!(room, "matrix: a message is encrypted and cannot be read");
        let text = "I cannot read messages here: this room is end-to-end encrypted, and this \
                    gateway's Matrix channel does not decrypt. Please write to me in a room \
                    without encryption.";
        let content = json!({ "msgtype": "m.notice", "body": text, "m.mentions": {} });
        let transaction = format!("oc-encrypted-{room}");
        let sent = self
            .matrix
            .put_event(room, "m.room.message", &transaction, &content)
            .await;
        if let Err(error) = sent {
            tracing::warn!(room, %error, "matrix: nor can the room be told");
        }
    }

    /// Cosmetic: a failure is of no consequence.
    async fn mark_read(&self, room: &str, event: &str) {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/receipt/m.read/{}",
            quote(room),
            quote(event)
        );
        if let Err(failed) = self.matrix.api.post(&path, &json!({})).await {
            tracing::debug!(room, error = %failed.error, "matrix: no read receipt");
        }
    }
}
