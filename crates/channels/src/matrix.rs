//! Matrix over the client-server API: `/sync` in, transactions out.
//!
//! The delivery id is the transaction id, so a repeat with it cannot make a second message. Nothing
//! here decrypts: an encrypted room is told so. Settings are the original's (`channels.matrix`).

mod api;
mod config;
mod event;
mod outbound;
mod sync;

use crate::accounts::Account;
use crate::{
    Action, Capabilities, Channel, ChannelError, Identity, InboundSink, Markup, OutboundMessage,
    Receipt, Reconciled, SendError, TextUnit,
};
use api::{Api, quote};
use async_trait::async_trait;
use bytes::Bytes;
use config::{AutoJoin, Config, Threads};
use event::Me;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

const CAPABILITIES: Capabilities = Capabilities {
    channel: "matrix",
    // Source: the original's `textChunkLimit`; an event may have 65,536 bytes, HTML included.
    text_max: 4000,
    text_unit: TextUnit::Chars,
    caption_max: 4000,
    markup: Markup::Html,
    media_bytes_max: 20 << 20,
    album_max: 1,
    pictures: None,
    replies: true,
    threads: true,
    edits: true,
    deletes: true,
    reactions: true,
    typing: true,
    buttons: false,
    idempotent_send: true,
};

/// For the fuzz targets: an event of a room, or a list of them.
pub(crate) fn read(value: &Value) {
    let me = Me {
        user: "@bot:example".into(),
        name: Some("Bot".into()),
    };
    let room = event::Room::default();
    for one in value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice)
    {
        event::message(one, &room, &me, Threads::Inbound);
        if let Some((target, emoji)) = event::annotation(one) {
            event::reaction(one, &room, &me, target, emoji);
        }
    }
    event::since_we_came(value.as_array().map_or(&[], Vec::as_slice), &me.user);
}

/// How long one `/sync` waits for something to happen.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
        }
    }
}

/// One account on one homeserver.
pub struct Matrix {
    api: Api,
    capabilities: Capabilities,
    auto_join: AutoJoin,
    threads: Threads,
    direct_threads: Threads,
    per_user: bool,
    reactions: bool,
    timing: Timing,
    /// Person to rooms (`m.direct`), as last read.
    direct: Mutex<HashMap<String, Vec<String>>>,
    rooms: Mutex<HashMap<String, event::Room>>,
    /// Encrypted rooms that were told.
    told: Mutex<HashSet<String>>,
    /// Makes transaction ids of actions.
    actions: AtomicU64,
}

impl Matrix {
    /// # Errors
    /// [`ChannelError::Config`] names the key that cannot work.
    pub fn new(account: &Account) -> Result<Self, ChannelError> {
        Self::with(account, Timing::default())
    }

    /// With its own patience.
    ///
    /// # Errors
    /// As [`Matrix::new`].
    pub fn with(account: &Account, timing: Timing) -> Result<Self, ChannelError> {
        let config = Config::read(account)?;
        let capabilities = Capabilities {
            text_max: config.text_max,
            caption_max: config.text_max,
            media_bytes_max: config.media_bytes_max,
            ..CAPABILITIES
        };
        Ok(Self {
            capabilities,
            auto_join: config.auto_join.clone(),
            threads: config.threads,
            direct_threads: config.direct_threads,
            per_user: config.per_user,
            reactions: config.reactions,
            timing,
            direct: Mutex::default(),
            rooms: Mutex::default(),
            told: Mutex::default(),
            actions: AtomicU64::new(0),
            api: Api::new(config, timing.poll + Duration::from_secs(30))?,
        })
    }

    /// A transaction id that was never used.
    fn transaction(&self, what: &str) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.unwrap_or_default().as_micros();
        let n = self.actions.fetch_add(1, Ordering::Relaxed);
        format!("oc-{what}-{now}-{n}")
    }

    async fn put_event(
        &self,
        room: &str,
        kind: &str,
        transaction: &str,
        content: &Value,
    ) -> Result<String, SendError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/{kind}/{}",
            quote(room),
            quote(transaction)
        );
        let sent = self.api.put(&path, content).await.map_err(|f| f.error)?;
        api::event_id(&sent)
    }

    async fn redact(&self, room: &str, event: &str) -> Result<(), SendError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/redact/{}/{}",
            quote(room),
            quote(event),
            quote(&self.transaction("redact"))
        );
        let done = self.api.put(&path, &json!({})).await;
        done.map(|_answer| ()).map_err(|f| f.error)
    }

    /// A server takes the edit of what was redacted, and nobody is shown it.
    async fn is_there(&self, room: &str, event: &str) -> Result<(), SendError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/event/{}",
            quote(room),
            quote(event)
        );
        let found = self.api.get(&path).await.map_err(|f| f.error)?;
        match found["unsigned"]["redacted_because"] {
            Value::Null => Ok(()),
            _ => Err(SendError::Rejected {
                reason: format!("{event} was taken away"),
            }),
        }
    }

    /// Our reaction to a message, if we have one.
    async fn own_reactions(&self, room: &str, event: &str) -> Result<Vec<String>, SendError> {
        let path = format!(
            "/_matrix/client/v1/rooms/{}/relations/{}/m.annotation/m.reaction?limit=100",
            quote(room),
            quote(event)
        );
        let found = self.api.get(&path).await.map_err(|f| f.error)?;
        let me = self.api.credentials().await.map_err(|f| f.error)?;
        let events = found["chunk"].as_array().into_iter().flatten();
        Ok(events
            .filter(|e| e["sender"] == me.user.as_str() && event::annotation(e).is_some())
            .filter_map(|e| e["event_id"].as_str().map(str::to_owned))
            .collect())
    }
}

#[async_trait]
impl Channel for Matrix {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn receive(
        &self,
        sink: InboundSink,
        stop: CancellationToken,
    ) -> Result<(), ChannelError> {
        tokio::select! {
            ended = sync::Sync::new(self, &sink).run() => ended,
            () = stop.cancelled() => Ok(()),
        }
    }

    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError> {
        outbound::send(self, message).await
    }

    async fn act(&self, action: &Action) -> Result<(), SendError> {
        match action {
            Action::Typing { target, on, .. } => {
                let room = self.room_of(target).await?;
                let me = self.api.credentials().await.map_err(|f| f.error)?;
                let path = format!(
                    "/_matrix/client/v3/rooms/{}/typing/{}",
                    quote(&room),
                    quote(&me.user)
                );
                let state = match on {
                    true => json!({ "typing": true, "timeout": 30_000 }),
                    false => json!({ "typing": false }),
                };
                let done = self.api.put(&path, &state).await;
                done.map(|_answer| ()).map_err(|f| f.error)
            }
            Action::React {
                target,
                message_id,
                emoji: Some(emoji),
            } => {
                let room = self.room_of(target).await?;
                let content = json!({ "m.relates_to": {
                    "rel_type": "m.annotation", "event_id": message_id, "key": emoji } });
                let transaction = self.transaction("react");
                let sent = self
                    .put_event(&room, "m.reaction", &transaction, &content)
                    .await;
                sent.map(|_id| ())
            }
            Action::React {
                target, message_id, ..
            } => {
                let room = self.room_of(target).await?;
                for own in self.own_reactions(&room, message_id).await? {
                    self.redact(&room, &own).await?;
                }
                Ok(())
            }
            Action::Edit {
                target,
                message_id,
                text,
            } => {
                let room = self.room_of(target).await?;
                self.is_there(&room, message_id).await?;
                let new = outbound::text_content(text, false);
                let mut content = outbound::text_content(&format!("* {text}"), false);
                content["m.mentions"] = json!({});
                content["m.new_content"] = new;
                content["m.relates_to"] =
                    json!({ "rel_type": "m.replace", "event_id": message_id });
                let transaction = self.transaction("edit");
                let sent = self
                    .put_event(&room, "m.room.message", &transaction, &content)
                    .await;
                sent.map(|_id| ())
            }
            Action::Delete { target, message_id } => {
                let room = self.room_of(target).await?;
                self.redact(&room, message_id).await
            }
        }
    }

    async fn reconcile(&self, message: &OutboundMessage) -> Result<Reconciled, SendError> {
        outbound::reconcile(self, message).await
    }

    async fn probe(&self) -> Result<Identity, ChannelError> {
        let path = "/_matrix/client/v3/account/whoami";
        let found = self.api.get(path).await.map_err(api::Failed::receiving)?;
        let id = found["user_id"].as_str().unwrap_or_default().to_owned();
        Ok(Identity {
            name: self.display_name(&id).await,
            id,
        })
    }

    async fn fetch(&self, source: &str, bytes_max: u64) -> Result<Bytes, SendError> {
        self.api
            .download(source, bytes_max)
            .await
            .map_err(|f| f.error)
    }
}

impl Matrix {
    async fn display_name(&self, user: &str) -> Option<String> {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", quote(user));
        // Without a name we are found by our id.
        let found = self.api.get(&path).await.ok()?;
        found["displayname"].as_str().map(str::to_owned)
    }

    async fn me(&self) -> Result<Me, api::Failed> {
        let user = self.api.credentials().await?.user.clone();
        Ok(Me {
            name: self.display_name(&user).await,
            user,
        })
    }

    /// The room that a target names: an id, an alias, or a person.
    async fn room_of(&self, target: &str) -> Result<String, SendError> {
        // Source: target formats of the original's message tool, `room:` and `user:`.
        let target = target.strip_prefix("room:").unwrap_or(target);
        let target = target.strip_prefix("user:").unwrap_or(target);
        match target.chars().next() {
            Some('!') => Ok(target.to_owned()),
            Some('#') => self.resolve(target).await,
            Some('@') => self.direct_room(target).await,
            _ => Err(SendError::Rejected {
                reason: format!(
                    "{target:?} is no target: !room:server, #alias:server or @user:server"
                ),
            }),
        }
    }

    async fn resolve(&self, alias: &str) -> Result<String, SendError> {
        let path = format!("/_matrix/client/v3/directory/room/{}", quote(alias));
        let found = self.api.get(&path).await.map_err(|f| f.error)?;
        match found["room_id"].as_str() {
            Some(room) => Ok(room.to_owned()),
            None => Err(SendError::Rejected {
                reason: format!("{alias} leads to no room"),
            }),
        }
    }

    /// The direct room with a person: the one we have, or a new one.
    async fn direct_room(&self, user: &str) -> Result<String, SendError> {
        let known = || {
            self.direct
                .lock()
                .get(user)
                .and_then(|rooms| rooms.last().cloned())
        };
        if let Some(room) = known() {
            return Ok(room);
        }
        self.read_direct().await.map_err(|f| f.error)?;
        if let Some(room) = known() {
            return Ok(room);
        }
        let ask = json!({ "is_direct": true, "preset": "trusted_private_chat", "invite": [user] });
        let path = "/_matrix/client/v3/createRoom";
        let made = self.api.post(path, &ask).await.map_err(|f| f.error)?;
        let Some(room) = made["room_id"].as_str() else {
            return Err(SendError::Unknown {
                reason: "the server's answer has no room_id".into(),
            });
        };
        self.mark_direct(user, room).await.map_err(|f| f.error)?;
        Ok(room.to_owned())
    }

    fn direct_path(user: &str) -> String {
        format!(
            "/_matrix/client/v3/user/{}/account_data/m.direct",
            quote(user)
        )
    }

    async fn read_direct(&self) -> Result<(), api::Failed> {
        let me = self.api.credentials().await?.user.clone();
        match self.api.get(&Self::direct_path(&me)).await {
            Ok(found) => self.set_direct(&found),
            Err(failed) if failed.code == "M_NOT_FOUND" => {}
            Err(failed) => return Err(failed),
        }
        Ok(())
    }

    fn set_direct(&self, content: &Value) {
        let rooms = |value: &Value| -> Vec<String> {
            let listed = value.as_array().into_iter().flatten();
            listed
                .filter_map(|r| r.as_str().map(str::to_owned))
                .collect()
        };
        let people = content.as_object().into_iter().flatten();
        *self.direct.lock() = people
            .map(|(user, list)| (user.clone(), rooms(list)))
            .collect();
    }

    async fn mark_direct(&self, user: &str, room: &str) -> Result<(), api::Failed> {
        self.read_direct().await?;
        let content = {
            let mut direct = self.direct.lock();
            let rooms = direct.entry(user.to_owned()).or_default();
            // The last one is where answers go.
            rooms.retain(|known| known != room);
            rooms.push(room.to_owned());
            json!(*direct)
        };
        let me = self.api.credentials().await?.user.clone();
        self.api.put(&Self::direct_path(&me), &content).await?;
        Ok(())
    }

    /// Answers go to the direct room where the person wrote last.
    async fn wrote_in(&self, user: &str, room: &str) -> Result<(), api::Failed> {
        let last = {
            let direct = self.direct.lock();
            direct
                .get(user)
                .and_then(|rooms| rooms.last())
                .is_some_and(|last| last == room)
        };
        if last {
            return Ok(());
        }
        self.mark_direct(user, room).await
    }

    fn is_direct(&self, room: &str) -> bool {
        let direct = self.direct.lock();
        direct.values().flatten().any(|known| known == room)
    }
}
