//! Telegram by the Bot API: long polling or webhook in, `sendMessage` and its kin out.
//!
//! Source of every method and field: <https://core.telegram.org/bots/api>. Settings are the original's
//! (`channels.telegram`).

mod api;
mod inbound;
mod outbound;

use crate::accounts::Account;
use crate::sink::{Batch, Cursor, InboundSink};
use crate::web::{Http, HttpOptions};
use crate::{
    Action, Capabilities, Channel, ChannelError, Identity, Markup, OutboundMessage, Pictures,
    Receipt, SendError, TextUnit,
};
use api::Api;
use async_trait::async_trait;
use bytes::Bytes;
use inbound::Me;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// For the fuzz targets: an update, or a list of them.
pub(crate) fn read(value: &Value) {
    let me = Me {
        id: 7,
        username: "our_bot".into(),
        name: Some("Bot".into()),
    };
    let one = std::slice::from_ref(value);
    inbound::messages(value.as_array().map_or(one, Vec::as_slice), &me);
}

/// Seconds that one `getUpdates` may wait for something to happen.
const POLL_S: u64 = 25;
/// Shortest time between two questions that were answered with nothing.
const IDLE_MIN: Duration = Duration::from_millis(250);
/// Source: getUpdates, "1-100".
const UPDATES_MAX: usize = 100;
/// How long the files of one album are apart at most, and how often more are waited for.
const ALBUM_SETTLES: Duration = Duration::from_millis(500);
const ALBUM_ROUNDS_MAX: usize = 4;
/// Longest wait for the acknowledgement of pressed buttons.
const BUTTONS_MAX: Duration = Duration::from_secs(5);
/// Source: setMyCommands, "At most 100 commands can be specified".
const COMMANDS_MAX: usize = 100;
const ALLOWED_UPDATES: [&str; 6] = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "callback_query",
    "message_reaction",
];
/// Where reading goes on: the `update_id` after the last one that was committed.
const OFFSET: &str = "offset";
/// Longest that a stop waits to tell Telegram what was received.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

static CAPABILITIES: Capabilities = Capabilities {
    channel: "telegram",
    // Source: sendMessage, "1-4096 characters after entities parsing"; counted in UTF-16 as entities are.
    text_max: 4096,
    text_unit: TextUnit::Utf16,
    caption_max: 1024,
    markup: Markup::Html,
    // Source: "Sending files", 50 MB for other files than photos.
    media_bytes_max: 50 * 1024 * 1024,
    // Source: sendMediaGroup, "must include 2-10 items".
    album_max: outbound::ALBUM_MAX,
    // Source: sendPhoto, "width and height must not exceed 10000 in total", "ratio must be at most 20".
    pictures: Some(Pictures {
        bytes_max: outbound::PHOTO_BYTES_MAX,
        sides_max: 10_000,
        ratio_max: 20,
    }),
    replies: true,
    threads: true,
    edits: true,
    deletes: true,
    reactions: true,
    typing: true,
    buttons: true,
    idempotent_send: false,
};

/// One bot.
#[derive(Debug)]
pub struct Telegram {
    api: Api,
    /// Set: Telegram posts to us; unset: we ask.
    webhook: Option<Webhook>,
    me: OnceLock<Me>,
    /// `customCommands`: as setMyCommands takes them.
    commands: Vec<Value>,
}

#[derive(Debug)]
struct Webhook {
    url: String,
    secret: String,
}

impl Telegram {
    /// # Errors
    /// [`ChannelError::Config`] for a missing or blank secret or a URL that is none.
    pub fn new(account: &Account) -> Result<Self, ChannelError> {
        let token = account.secret(
            "botToken",
            Some("tokenFile"),
            Some("TELEGRAM_BOT_TOKEN"),
            "the token that @BotFather gave",
        )?;
        let root = account
            .text("apiRoot")
            .unwrap_or("https://api.telegram.org");
        if !root.starts_with("http://") && !root.starts_with("https://") {
            return Err(account.wrong("apiRoot", "must begin with http:// or https://"));
        }
        let webhook = match account.text("webhookUrl") {
            None => None,
            Some(url) => Some(Webhook {
                url: url.to_owned(),
                secret: account.required(
                    "webhookSecret",
                    "a random text that Telegram sends along with every update",
                )?,
            }),
        };
        if let Some(webhook) = &webhook
            && !webhook
                .secret
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            return Err(account.wrong("webhookSecret", "may hold only A-Z, a-z, 0-9, _ and -"));
        }
        let commands = commands(account)?;
        let http = Http::new(&HttpOptions {
            timeout: Duration::from_secs(POLL_S + 15),
            ..HttpOptions::default()
        })?;
        Ok(Self {
            api: Api::new(http, root, &token),
            webhook,
            me: OnceLock::new(),
            commands,
        })
    }

    async fn me(&self) -> Result<&Me, ChannelError> {
        if let Some(me) = self.me.get() {
            return Ok(me);
        }
        let me = self
            .api
            .call("getMe", &json!({}))
            .await
            .map_err(|error| error.receiving())?;
        let me = Me {
            id: me["id"].as_i64().unwrap_or_default(),
            username: me["username"].as_str().unwrap_or_default().to_owned(),
            name: me["first_name"].as_str().map(str::to_owned),
        };
        Ok(self.me.get_or_init(|| me))
    }

    async fn poll(&self, sink: InboundSink, stop: CancellationToken) -> Result<(), ChannelError> {
        let me = self.me().await?;
        // Updates that wait are kept: nothing is dropped by changing the way they come.
        self.api
            .call("deleteWebhook", &json!({ "drop_pending_updates": false }))
            .await
            .map_err(|error| error.receiving())?;
        let mut offset = match sink.cursor(OFFSET).await? {
            Some(text) => text.parse::<i64>().unwrap_or(0),
            None => 0,
        };
        self.announce_commands().await;
        self.follow(me, &mut offset, &sink, &stop).await?;
        // Whoever asks next, perhaps another program that the account goes to, is not given what is here.
        let confirm = json!({ "offset": offset, "timeout": 0, "limit": 1 });
        let confirmed = self.api.call("getUpdates", &confirm);
        match tokio::time::timeout(CONFIRM_WITHIN, confirmed).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = ?error, "what was received could not be confirmed")
            }
            Err(_elapsed) => tracing::debug!("what was received could not be confirmed in time"),
        }
        Ok(())
    }

    /// Takes updates until told to stop; `offset` is behind the last that is kept.
    async fn follow(
        &self,
        me: &Me,
        offset: &mut i64,
        sink: &InboundSink,
        stop: &CancellationToken,
    ) -> Result<(), ChannelError> {
        // The first asks without waiting: whether it works is known at once.
        let mut wait_s = 0;
        loop {
            let asked = Instant::now();
            let Some(mut updates) = self.updates(*offset, wait_s, stop).await? else {
                return Ok(());
            };
            sink.alive();
            if updates.is_empty() {
                // A server that does not wait is not asked without pause.
                if wait_s > 0 && asked.elapsed() < IDLE_MIN {
                    tokio::select! {
                        () = tokio::time::sleep(IDLE_MIN) => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                wait_s = POLL_S;
                continue;
            }
            wait_s = POLL_S;
            // More files of an album may be on their way. Asked with the same offset, Telegram gives these
            // again and what came since; nothing is confirmed by that.
            for _ in 0..ALBUM_ROUNDS_MAX {
                if updates.len() >= UPDATES_MAX
                    || !updates.iter().any(|u| inbound::album(u).is_some())
                {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(ALBUM_SETTLES) => {}
                    () = stop.cancelled() => return Ok(()),
                }
                let Some(now) = self.updates(*offset, 0, stop).await? else {
                    return Ok(());
                };
                let grew = now.len() > updates.len();
                updates = now;
                if !grew {
                    break;
                }
            }
            let last = updates
                .iter()
                .filter_map(|update| update["update_id"].as_i64())
                .max();
            let next = (*offset).max(last.map_or(0, |id| id.saturating_add(1)));
            let batch = Batch {
                messages: inbound::messages(&updates, me),
                cursor: Some(Cursor {
                    key: OFFSET.to_owned(),
                    value: next.to_string(),
                }),
            };
            // Only the next getUpdates tells Telegram that we have these, and it comes after the commit.
            let pressed = pressed_buttons(&updates);
            sink.commit(batch).await?;
            *offset = next;
            self.answer_buttons(&pressed).await;
        }
    }

    /// `None`: told to stop.
    async fn updates(
        &self,
        offset: i64,
        wait_s: u64,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Value>>, ChannelError> {
        let ask = json!({ "offset": offset, "timeout": wait_s, "limit": UPDATES_MAX, "allowed_updates": ALLOWED_UPDATES });
        tokio::select! {
            updates = self.api.call("getUpdates", &ask) => match updates {
                Ok(Value::Array(updates)) => Ok(Some(updates)),
                Ok(_) => Ok(Some(Vec::new())),
                Err(error) => Err(error.receiving()),
            },
            () = stop.cancelled() => Ok(None),
        }
    }

    /// The menu of commands, when the user has set one. Without it the bot works all the same.
    async fn announce_commands(&self) {
        if self.commands.is_empty() {
            return;
        }
        let call = json!({ "commands": self.commands });
        if let Err(error) = self.api.call("setMyCommands", &call).await {
            tracing::warn!(%error, "channels.telegram.customCommands: the menu could not be set");
        }
    }

    /// Stops the clock on a pressed button. Cosmetic: a failure is of no consequence, and nothing waits long for it.
    async fn answer_buttons(&self, ids: &[String]) {
        let all = async {
            for id in ids {
                let answered = self
                    .api
                    .call("answerCallbackQuery", &json!({ "callback_query_id": id }))
                    .await;
                if let Err(error) = answered {
                    tracing::debug!(%error, "a pressed button could not be acknowledged");
                }
            }
        };
        if tokio::time::timeout(BUTTONS_MAX, all).await.is_err() {
            tracing::debug!("pressed buttons could not be acknowledged in time");
        }
    }
}

/// `customCommands: [{command, description}]`, as the original's.
///
/// # Errors
/// Names the entry that Telegram would not take: it takes all of them or none.
fn commands(account: &Account) -> Result<Vec<Value>, ChannelError> {
    let Some(list) = account
        .settings
        .get("customCommands")
        .and_then(Value::as_array)
    else {
        return Ok(Vec::new());
    };
    if list.len() > COMMANDS_MAX {
        return Err(account.wrong("customCommands", "holds more than 100 commands"));
    }
    let mut commands = Vec::with_capacity(list.len());
    for (n, one) in list.iter().enumerate() {
        let key = format!("customCommands[{n}]");
        let text = |key: &str| one[key].as_str().map(str::trim).unwrap_or_default();
        let command = text("command")
            .trim_start_matches('/')
            .to_lowercase()
            .replace('-', "_");
        let is_one = (1..=32).contains(&command.len())
            && command
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_one {
            return Err(account.wrong(&key, "`command` must be 1 to 32 of a-z, 0-9 and _"));
        }
        let description = text("description");
        if !(1..=256).contains(&description.chars().count()) {
            return Err(account.wrong(&key, "`description` must be 1 to 256 characters"));
        }
        commands.push(json!({ "command": command, "description": description }));
    }
    Ok(commands)
}

fn pressed_buttons(updates: &[Value]) -> Vec<String> {
    updates
        .iter()
        .filter_map(|update| update["callback_query"]["id"].as_str().map(str::to_owned))
        .collect()
}

#[async_trait]
impl Channel for Telegram {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn receive(
        &self,
        sink: InboundSink,
        stop: CancellationToken,
    ) -> Result<(), ChannelError> {
        let Some(webhook) = &self.webhook else {
            return self.poll(sink, stop).await;
        };
        self.me().await?;
        let set = json!({ "url": webhook.url, "secret_token": webhook.secret, "allowed_updates": ALLOWED_UPDATES });
        self.api
            .call("setWebhook", &set)
            .await
            .map_err(|error| error.receiving())?;
        self.announce_commands().await;
        sink.alive();
        // Telegram is silent while nobody writes, so life is proved by asking.
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
            let info = self
                .api
                .call("getWebhookInfo", &json!({}))
                .await
                .map_err(|error| error.receiving())?;
            if info["url"].as_str() != Some(&webhook.url) {
                return Err(ChannelError::Conflict {
                    reason: format!("the bot's webhook was set to {}", info["url"]),
                });
            }
            sink.alive();
        }
    }

    async fn send(&self, message: &OutboundMessage) -> Result<Receipt, SendError> {
        outbound::send(&self.api, message).await
    }

    async fn act(&self, action: &Action) -> Result<(), SendError> {
        outbound::act(&self.api, action).await
    }

    async fn probe(&self) -> Result<Identity, ChannelError> {
        let me = self.me().await?;
        Ok(Identity {
            id: me.id.to_string(),
            name: Some(format!("@{}", me.username)),
        })
    }

    async fn handle_http(
        &self,
        request: http::Request<Bytes>,
        sink: InboundSink,
    ) -> http::Response<Bytes> {
        let answer = |status: http::StatusCode| {
            let mut response = http::Response::new(Bytes::new());
            *response.status_mut() = status;
            response
        };
        let Some(webhook) = &self.webhook else {
            return answer(http::StatusCode::NOT_FOUND);
        };
        if request.method() != http::Method::POST {
            return answer(http::StatusCode::METHOD_NOT_ALLOWED);
        }
        let sent = request
            .headers()
            .get("x-telegram-bot-api-secret-token")
            .map_or(&[][..], http::HeaderValue::as_bytes);
        if !bool::from(sent.ct_eq(webhook.secret.as_bytes())) {
            return answer(http::StatusCode::UNAUTHORIZED);
        }
        let Ok(update) = serde_json::from_slice::<Value>(request.body()) else {
            return answer(http::StatusCode::BAD_REQUEST);
        };
        let Ok(me) = self.me().await else {
            return answer(http::StatusCode::SERVICE_UNAVAILABLE);
        };
        let batch = Batch {
            messages: inbound::message(&update, me).into_iter().collect(),
            cursor: None,
        };
        match sink.commit(batch).await {
            Ok(_) => {
                self.answer_buttons(&pressed_buttons(std::slice::from_ref(&update)))
                    .await;
                answer(http::StatusCode::OK)
            }
            // Telegram tries again what was not answered with 2xx.
            Err(_) => answer(http::StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    async fn fetch(&self, source: &str, bytes_max: u64) -> Result<Bytes, SendError> {
        self.api.download(source, bytes_max).await
    }
}
