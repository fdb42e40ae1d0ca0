//! WebSocket methods about messages and channels, where the account is ours; everything else goes on to the upstream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::StoreError;
use wire::error::{ErrorCode, ErrorShape};

use super::request::SendRequest;
use super::{Messages, Owner, accept};
use crate::delivery::{Media, Payload};
use crate::dispatch::NativeReply;

/// A native answer that waits for something.
pub(crate) type Task = Pin<Box<dyn Future<Output = NativeReply> + Send>>;

/// The task that answers this call, when it concerns an account of ours. `None`: the upstream's.
pub(crate) fn find(
    messages: &Arc<Messages>,
    method: &str,
    params: Option<&RawValue>,
) -> Option<Task> {
    let parsed = || -> Option<Value> { serde_json::from_str(params?.get()).ok() };
    match method {
        "send" => {
            let params = parsed()?;
            let channel = params["channel"].as_str()?.trim().to_lowercase();
            let account = account_of(messages, &params, &channel);
            let ours = messages.owner(&channel, &account) == Owner::Native
                || (channel == super::WEBCHAT && messages.upstream.is_off());
            ours.then(|| boxed(send(Arc::clone(messages), params, channel, account)))
        }
        // What `openclaw message send` calls.
        "message.action" => {
            let params = parsed()?;
            if params["action"] != "send" {
                return None;
            }
            let channel = params["channel"].as_str()?.trim().to_lowercase();
            let account = account_of(messages, &params, &channel);
            let ours = messages.owner(&channel, &account) == Owner::Native
                || (channel == super::WEBCHAT && messages.upstream.is_off());
            ours.then(|| boxed(action_send(Arc::clone(messages), params, channel, account)))
        }
        "channels.status" if !messages.accounts.load().all().is_empty() => {
            let params = parsed().unwrap_or_else(|| json!({}));
            Some(boxed(status(Arc::clone(messages), params)))
        }
        "channels.start" | "channels.stop" | "channels.logout" => {
            let params = parsed()?;
            let channel = params["channel"].as_str()?.trim().to_lowercase();
            let account = account_of(messages, &params, &channel);
            let start = method == "channels.start";
            (messages.owner(&channel, &account) == Owner::Native)
                .then(|| boxed(switch(Arc::clone(messages), channel, account, start)))
        }
        _ => None,
    }
}

fn boxed(task: impl Future<Output = NativeReply> + Send + 'static) -> Task {
    Box::pin(task)
}

fn account_of(messages: &Messages, params: &Value, channel: &str) -> String {
    params["accountId"]
        .as_str()
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map_or_else(|| messages.default_account(channel), str::to_owned)
}

/// `send`: on disk, then carried, then answered as the original answers: with the receipt.
async fn send(
    messages: Arc<Messages>,
    params: Value,
    channel: String,
    account: String,
) -> NativeReply {
    wire::schema::check("send", Some(&raw(&params)))?;
    let text = |key: &str| {
        params[key]
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let mut media: Vec<Media> = Vec::new();
    let urls = params["mediaUrls"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    for url in params["mediaUrl"].as_str().into_iter().chain(urls) {
        if !media.iter().any(|one| one.source == url) {
            media.push(Media {
                source: url.to_owned(),
                voice: params["asVoice"] == true,
            });
        }
    }
    let content = params["message"].as_str().unwrap_or_default().to_owned();
    if content.trim().is_empty() && media.is_empty() {
        return Err(ErrorShape::invalid_request("send requires text or media"));
    }
    let request = SendRequest {
        channel: channel.clone(),
        account: Some(account),
        target: text("to").unwrap_or_default(),
        payload: Payload {
            content,
            media,
            reply_to: text("replyToId"),
            thread: text("threadId"),
            silent: params["silent"] == true,
            session_key: text("sessionKey"),
            ..Payload::default()
        },
        idempotency_key: text("idempotencyKey"),
        wait: true,
        turn: false,
        is_owner: false,
    };
    let row = request.outbound(&messages, "rpc").map_err(|invalid| {
        ErrorShape::invalid_request(format!(
            "invalid send params: {} {}",
            invalid.field, invalid.message
        ))
    })?;
    let mut finished = messages.finished.subscribe();
    let (id, _) = accept::accept(&messages, &request, row)
        .await
        .map_err(|error| of_store(&error))?;
    let (state, error) = accept::outcome(&messages, &id, false, &mut finished)
        .await
        .map_err(|error| of_store(&error))?;
    let run_id = request.idempotency_key.unwrap_or_else(|| id.clone());
    match state {
        "delivered" => {
            let wanted = id.clone();
            let row = messages.store.read(move |reader| reader.outbox().get(&wanted)).await.map_err(|error| of_store(&error))?;
            let receipts: Value = row.and_then(|row| serde_json::from_str(&row.receipts).ok()).unwrap_or_else(|| json!([]));
            let message_id = receipts[0]["messageId"].as_str().unwrap_or(&id).to_owned();
            Ok(json!({ "runId": run_id, "messageId": message_id, "channel": channel, "chatId": request.target }).to_string())
        }
        "dead" => Err(ErrorShape::new(
            ErrorCode::Unavailable,
            error.unwrap_or_else(|| "the message could not be sent".to_owned()),
        )
        .with_details(json!({ "code": "OUTBOUND_DELIVERY_FAILED", "messageId": id }))),
        // Ours to deliver from here on, whatever happens to this connection.
        _ => Ok(json!({ "runId": run_id, "messageId": id, "channel": channel, "chatId": request.target, "queued": true }).to_string()),
    }
}

/// `message.action` with `send`: the same message in other words.
async fn action_send(
    messages: Arc<Messages>,
    params: Value,
    channel: String,
    account: String,
) -> NativeReply {
    wire::schema::check("message.action", Some(&raw(&params)))?;
    let inner = &params["params"];
    let to = inner["to"]
        .as_str()
        .or_else(|| inner["target"].as_str())
        .unwrap_or_default();
    // The CLI writes `telegram:42`; the service knows `42`.
    let to = to.strip_prefix(&format!("{channel}:")).unwrap_or(to);
    if to.trim().is_empty() {
        return Err(ErrorShape::invalid_request(
            "message.action send requires a target",
        ));
    }
    let mut send_params = json!({ "to": to, "channel": channel, "accountId": account, "idempotencyKey": params["idempotencyKey"] });
    for (key, from) in [
        ("message", &inner["message"]),
        ("mediaUrl", &inner["media"]),
        ("replyToId", &inner["replyTo"]),
        ("threadId", &inner["threadId"]),
        ("silent", &inner["silent"]),
    ] {
        if !from.is_null() {
            send_params[key] = from.clone();
        }
    }
    let sent = send(messages, send_params, channel, account).await?;
    let sent: Value = serde_json::from_str(&sent).unwrap_or(Value::Null);
    Ok(json!({ "ok": true, "messageId": sent["messageId"], "chatId": sent["chatId"], "channel": sent["channel"] }).to_string())
}

/// Our accounts in the upstream's picture, or alone.
async fn status(messages: Arc<Messages>, params: Value) -> NativeReply {
    wire::schema::check("channels.status", Some(&raw(&params)))?;
    let mut whole = if messages.upstream.is_off() {
        json!({ "ts": super::now_ms(), "channelOrder": [], "channelLabels": {}, "channels": {}, "channelAccounts": {}, "channelDefaultAccountId": {} })
    } else {
        let answer = messages
            .upstream
            .call("channels.status", params.clone())
            .await
            .map_err(|error| match error {
                crate::bridge::control::CallError::Refused(text) => {
                    serde_json::from_str::<Value>(&text)
                        .ok()
                        .and_then(|error| {
                            Some(ErrorShape::new(
                                ErrorCode::Unavailable,
                                error["message"].as_str()?.to_owned(),
                            ))
                        })
                        .unwrap_or_else(|| crate::bridge::unavailable("channels.status"))
                }
                _ => crate::bridge::unavailable("channels.status"),
            })?;
        serde_json::from_str(&answer).unwrap_or_else(|_error| json!({}))
    };
    let wanted = params["channel"].as_str();
    for (channel, accounts) in messages.supervisor.status() {
        if wanted.is_some_and(|wanted| wanted != channel) {
            continue;
        }
        let rows: Vec<Value> = accounts
            .iter()
            .filter_map(|account| serde_json::to_value(account).ok())
            .collect();
        merge(
            &mut whole,
            &channel,
            &rows,
            messages.accounts.load().default_of(&channel),
        );
    }
    Ok(whole.to_string())
}

fn merge(whole: &mut Value, channel: &str, rows: &[Value], default: Option<String>) {
    let listed = whole["channelOrder"]
        .as_array()
        .is_some_and(|order| order.iter().any(|id| id == channel));
    if !listed && let Some(order) = whole["channelOrder"].as_array_mut() {
        order.push(channel.into());
    }
    if whole["channelLabels"][channel].is_null() {
        let mut label = channel.to_owned();
        if let Some(first) = label.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        whole["channelLabels"][channel] = label.into();
    }
    let theirs = whole["channelAccounts"][channel]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_ours = |row: &Value| rows.iter().any(|own| own["accountId"] == row["accountId"]);
    let mut merged: Vec<Value> = theirs.into_iter().filter(|row| !is_ours(row)).collect();
    merged.extend(rows.iter().cloned());
    let any = |key: &str| merged.iter().any(|row| row[key] == true);
    whole["channels"][channel] = json!({ "configured": any("configured"), "running": any("running"), "connected": any("connected") });
    whole["channelAccounts"][channel] = merged.into();
    if let Some(default) = default {
        whole["channelDefaultAccountId"][channel] = default.into();
    }
}

async fn switch(
    messages: Arc<Messages>,
    channel: String,
    account: String,
    start: bool,
) -> NativeReply {
    if start {
        let accounts = messages.accounts.load_full();
        if let Some(account) = accounts.get(&channel, &account) {
            messages.start_account(account).await;
        }
        return Ok(json!({ "channel": channel, "accountId": account, "started": messages.supervisor.get(&channel, &account).is_some() }).to_string());
    }
    let stopped = messages.supervisor.stop(&channel, &account).await;
    Ok(json!({ "channel": channel, "accountId": account, "stopped": stopped }).to_string())
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_impossible| RawValue::NULL.to_owned())
}

fn of_store(error: &StoreError) -> ErrorShape {
    match error {
        StoreError::Conflict => ErrorShape::invalid_request(error.to_string()),
        _ => ErrorShape::retryable(error.to_string(), Some(1000)),
    }
}
