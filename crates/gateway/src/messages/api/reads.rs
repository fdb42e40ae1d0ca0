//! What the API shows: messages, sessions, routes, what happened and what was given up.

use http::StatusCode;
use serde_json::{Value, json};
use store::{OutboxFilter, OutboxRow, OutboxState, SessionFilter};

use super::{Answer, Messages, Refusal, clip, decoded};
use crate::messages::WEBCHAT;

const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 500;

/// A row as the API shows it.
fn shown(row: &OutboxRow) -> Value {
    let receipts: Value = serde_json::from_str(&row.receipts).unwrap_or_else(|_none| json!([]));
    json!({
        "id": row.id, "channel": row.channel, "account": row.account, "target": row.target,
        "state": row.state.as_str(), "source": row.source, "cause": row.cause, "attempts": row.attempts,
        "error": row.error, "receipts": receipts, "createdAt": row.created_ms, "updatedAt": row.updated_ms,
        "expiresAt": row.expires_ms,
        "nextAttemptAt": (row.state == OutboxState::Pending).then_some(row.not_before_ms),
    })
}

pub(super) async fn message(messages: &Messages, id: &str) -> Answer {
    let wanted = id.to_owned();
    let (row, inbound, timeline) = messages
        .store
        .read(move |reader| {
            Ok((
                reader.outbox().get(&wanted)?,
                reader.inbox().get(&wanted)?,
                reader.history().why(&wanted)?,
            ))
        })
        .await?;
    let shown = match (row, inbound) {
        (Some(row), _) => shown(&row),
        (None, Some(row)) => json!({
            "id": row.id, "channel": row.channel, "account": row.account, "state": row.state, "source": "inbound",
            "error": row.note, "attempts": row.attempts, "sessionKey": row.session_key,
            "createdAt": row.received_ms, "updatedAt": row.updated_ms,
        }),
        (None, None) => return Err(Refusal::not_found(format!("no message {:?}", clip(id)))),
    };
    Ok((
        StatusCode::OK,
        json!({ "message": shown, "history": timeline.steps }),
    ))
}

pub(super) async fn list(messages: &Messages, query: &str) -> Answer {
    let query = Query::parse(query, &["channel", "target", "state", "before", "limit"])?;
    let state = match query.get("state") {
        None => None,
        Some(word) => Some(OutboxState::parse(word).ok_or_else(|| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "INVALID_REQUEST",
                "must be pending, leased, delivered, in_doubt or dead",
            )
            .field("state")
        })?),
    };
    let filter = OutboxFilter {
        channel: query.get("channel").map(str::to_owned),
        target: query.get("target").map(str::to_owned),
        state,
        before: query.get("before").map(str::to_owned),
        limit: query.limit()?,
    };
    let limit = filter.limit;
    let rows = messages
        .store
        .read(move |reader| reader.outbox().list(&filter))
        .await?;
    let next = rows
        .last()
        .filter(|_| rows.len() == limit)
        .map(|row| row.id.clone());
    let rows: Vec<Value> = rows.iter().map(shown).collect();
    Ok((StatusCode::OK, json!({ "messages": rows, "next": next })))
}

pub(super) async fn sessions(messages: &Messages, query: &str) -> Answer {
    let query = Query::parse(query, &["agent", "channel", "before", "limit"])?;
    let before = match query.get("before") {
        None => None,
        Some(text) => {
            let parsed = text
                .split_once('~')
                .filter(|(ms, _)| ms.len() <= 15 && ms.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|(ms, key)| Some((ms.parse::<i64>().ok()?, key.to_owned())));
            Some(parsed.ok_or_else(|| {
                Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "INVALID_REQUEST",
                    "is not what a page gave as `next`",
                )
                .field("before")
            })?)
        }
    };
    let filter = SessionFilter {
        agent: query.get("agent").map(str::to_owned),
        channel: query.get("channel").map(str::to_owned),
        before,
        limit: query.limit()?,
    };
    let limit = filter.limit;
    let rows = messages
        .store
        .read(move |reader| reader.sessions().list(&filter))
        .await?;
    let next = rows
        .last()
        .filter(|_| rows.len() == limit)
        .map(|row| format!("{}~{}", row.active_ms, row.key));
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "key": row.key, "agent": row.agent, "channel": row.channel, "account": row.account, "target": row.target,
                "thread": row.thread, "createdAt": row.created_ms, "activeAt": row.active_ms,
            })
        })
        .collect();
    Ok((StatusCode::OK, json!({ "sessions": rows, "next": next })))
}

pub(super) fn routes(messages: &Messages) -> Value {
    let accounts = messages.accounts.load();
    let mut routes: Vec<Value> = accounts
        .all()
        .keys()
        .map(|(channel, account)| json!({ "channel": channel, "account": account, "owner": "native" }))
        .collect();
    routes.push(json!({ "channel": WEBCHAT, "account": "default", "owner": "webchat" }));
    let rest = match (
        messages.settings.load().legacy_url.is_some(),
        messages.upstream.is_off(),
    ) {
        (true, _) => "legacy",
        (false, false) => "upstream",
        (false, true) => "none",
    };
    json!({ "routes": routes, "everythingElse": rest, "upstream": messages.upstream.word() })
}

pub(super) async fn why(messages: &Messages, id: &str) -> Answer {
    let wanted = id.to_owned();
    let timeline = messages
        .store
        .read(move |reader| reader.history().why(&wanted))
        .await?;
    if timeline.subjects.is_empty() {
        return Err(Refusal::not_found(format!(
            "nothing is known of {:?}",
            clip(id)
        )));
    }
    Ok((
        StatusCode::OK,
        serde_json::to_value(timeline).unwrap_or(Value::Null),
    ))
}

pub(super) async fn dead_letters(messages: &Messages, query: &str) -> Answer {
    let query = Query::parse(query, &["limit"])?;
    let limit = match query.get("limit") {
        None => PAGE_MAX,
        Some(_) => query.limit()?,
    };
    let (dead, doubt, failed) = messages
        .store
        .read(move |reader| {
            let of = |state| OutboxFilter {
                state: Some(state),
                limit,
                ..OutboxFilter::default()
            };
            Ok((
                reader.outbox().list(&of(OutboxState::Dead))?,
                reader.outbox().list(&of(OutboxState::InDoubt))?,
                reader.inbox().failed(limit)?,
            ))
        })
        .await?;
    let rows: Vec<Value> = dead.iter().chain(&doubt).map(shown).collect();
    let failed = serde_json::to_value(failed).unwrap_or(Value::Null);
    Ok((
        StatusCode::OK,
        json!({ "outbound": rows, "inbound": failed }),
    ))
}

pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (
                decoded(&name.replace('+', " ")),
                decoded(&value.replace('+', " ")),
            );
            if !known.contains(&name.as_str()) {
                let message = match known {
                    [] => "unknown parameter; this takes none".to_owned(),
                    known => format!("unknown parameter; known are {}", known.join(", ")),
                };
                return Err(
                    Refusal::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
                        .field(clip(&name)),
                );
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    fn limit(&self) -> Result<usize, Refusal> {
        match self.get("limit") {
            None => Ok(PAGE_DEFAULT),
            Some(text) => text
                .parse::<usize>()
                .ok()
                .filter(|limit| (1..=PAGE_MAX).contains(limit))
                .ok_or_else(|| {
                    Refusal::new(
                        StatusCode::BAD_REQUEST,
                        "INVALID_REQUEST",
                        format!("must be a number from 1 to {PAGE_MAX}"),
                    )
                    .field("limit")
                }),
        }
    }
}
