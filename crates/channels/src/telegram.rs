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
    Action, Capabilities, Channel, ChannelError, Identity, Markup, OutboundMessage, Receipt,
    SendError, TextUnit,
};
use api::Api;
use async_trait::async_trait;
use bytes::Bytes;
use inbound::Me;
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tokio_util::sync::CancellationToken;

/// Seconds that one `getUpdates` may wait for something to happen.
const POLL_S: u64 = 25;
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

static CAPABILITIES: Capabilities = Capabilities {
    channel: "telegram",
    // Source: sendMessage, "1-4096 characters after entities parsing"; counted in UTF-16 as entities are.
    text_max: 4096,
    text_unit: TextUnit::Utf16,
    caption_max: 1024,
    markup: Markup::Html,
    // Source: "Sending files", 50 MB for other files than photos.
    media_bytes_max: 50 * 1024 * 1024,
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
        let http = Http::new(&HttpOptions {
            timeout: Duration::from_secs(POLL_S + 15),
            ..HttpOptions::default()
        })?;
        Ok(Self {
            api: Api::new(http, root, &token),
            webhook,
            me: OnceLock::new(),
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
        loop {
            let ask = json!({ "offset": offset, "timeout": POLL_S, "limit": 100, "allowed_updates": ALLOWED_UPDATES });
            let updates = tokio::select! {
                updates = self.api.call("getUpdates", &ask) => updates.map_err(|error| error.receiving())?,
                () = stop.cancelled() => return Ok(()),
            };
            sink.alive();
            let Some(updates) = updates.as_array().filter(|updates| !updates.is_empty()) else {
                continue;
            };
            let mut batch = Batch::default();
            for update in updates {
                if let Some(id) = update["update_id"].as_i64() {
                    offset = offset.max(id + 1);
                }
                batch.messages.extend(inbound::message(update, me));
            }
            batch.cursor = Some(Cursor {
                key: OFFSET.to_owned(),
                value: offset.to_string(),
            });
            // Only the next getUpdates tells Telegram that we have these, and it comes after the commit.
            let pressed = pressed_buttons(updates);
            sink.commit(batch).await?;
            self.answer_buttons(&pressed).await;
        }
    }

    /// Stops the clock on a pressed button. Cosmetic: a failure is of no consequence.
    async fn answer_buttons(&self, ids: &[String]) {
        for id in ids {
            let answered = self
                .api
                .call("answerCallbackQuery", &json!({ "callback_query_id": id }))
                .await;
            if let Err(error) = answered {
                tracing::debug!(%error, "a pressed button could not be acknowledged");
            }
        }
    }
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
