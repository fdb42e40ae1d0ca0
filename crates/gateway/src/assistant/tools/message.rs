//! `message`: an agent says something in a chat, by the outbox that carries everything else.

use std::sync::Arc;

use agent::Tool;
use serde_json::{Value, json};

use super::{Done, Origin, Why, text, tool};
use crate::app::App;
use crate::messages::{Said, SendRequest};

/// Who speaks, and from which conversation.
pub(in crate::assistant) struct Post {
    pub(in crate::assistant) app: Arc<App>,
    pub(in crate::assistant) agent: String,
    pub(in crate::assistant) session_key: String,
    pub(in crate::assistant) run_id: String,
    pub(in crate::assistant) origin: Origin,
}

impl Post {
    /// Whether there is a chat to speak in.
    pub(super) fn is_of_use(&self) -> bool {
        self.app
            .messages()
            .is_some_and(|messages| messages.has_accounts())
    }

    /// The chat that this conversation is held in: `{channel, account, target, thread}`; `null` where there is none.
    ///
    /// # Errors
    /// It can't be told from which chat the message came.
    async fn here(&self) -> Result<Value, Why> {
        let Some(messages) = self.app.messages() else {
            return Ok(Value::Null);
        };
        match self.origin {
            // The very chat that the message came from: its session may be shared with others.
            Origin::Channel => {
                let chat = messages.chat_of_run(&self.run_id).await;
                chat.map_err(|error| Why::Error(error.to_string()))
            }
            Origin::Operator => Ok(messages.last_route(&self.session_key).await),
        }
    }

    /// Whether the user's file denies speaking elsewhere: the agent's own entry before what holds for all.
    fn denies(&self, key: &str) -> bool {
        let facts = self.app.facts.load();
        let roster = facts.inputs(0, 0).roster();
        let own = roster
            .get(&self.agent)
            .and_then(|agent| agent.entry.get("tools"));
        let of = |tools: Option<&Value>| {
            tools?
                .pointer(&format!("/message/crossContext/{key}"))?
                .as_bool()
        };
        of(own).or_else(|| of(facts.config.get("tools"))) == Some(false)
    }
}

pub(super) fn offered() -> Tool {
    tool(
        "message",
        "Send a message to a chat: channel (telegram, matrix, …) and target (chat, person or room). Without both: the chat of this conversation; if your whole answer was sent there so, end with NO_REPLY alone. media: http(s) URLs.",
        r#"{"type":"object","required":["action"],"properties":{"action":{"type":"string","enum":["send"]},"channel":{"type":"string"},"accountId":{"type":"string"},"target":{"type":"string"},"message":{"type":"string"},"media":{"type":"string"},"mediaUrls":{"type":"array","items":{"type":"string"}},"replyTo":{"type":"string"},"threadId":{"type":"string"},"silent":{"type":"boolean"}}}"#,
    )
}

pub(super) async fn call(post: &Post, id: &str, args: &Value) -> Result<Done, Why> {
    let action = text(args, "action")?;
    if action != "send" {
        return Err(Why::Arguments(format!("action: {action} is not send")));
    }
    let Some(messages) = post.app.messages() else {
        return Err(Why::Error("this gateway has no message store".to_owned()));
    };
    let here = post.here().await?;
    let body = body(args, &here)?;
    may_send(post.origin, |key| post.denies(key), &body, &here).map_err(Why::Refused)?;
    // By what is said too: there are models' servers that number the calls of each answer anew.
    let call = json!([post.run_id, id, body]).to_string();
    let key = format!("message-tool:{}", crate::auth::sha256_hex(call.as_bytes()));
    let mut request = SendRequest::parse(&body, Some(&key)).map_err(|invalid| {
        Why::Arguments(format!("{}: {}", named(invalid.field), invalid.message))
    })?;
    request.wait = true;
    let (channel, target) = (request.channel.clone(), request.target.clone());
    let Said { id, state, error } = messages.post(request, "agent").await.map_err(Why::Error)?;
    match state {
        "delivered" => Ok(Done::json(
            json!({ "ok": true, "messageId": id, "chatId": target, "channel": channel }),
        )),
        "dead" => {
            Err(Why::Error(error.unwrap_or_else(|| {
                "the message could not be sent".to_owned()
            })))
        }
        // On disk, and the outbox goes on with it.
        state => Ok(Done::json(
            json!({ "ok": true, "messageId": id, "chatId": target, "channel": channel, "status": state, "error": error }),
        )),
    }
}

/// What it is about, as clients show it: `to telegram 42`.
pub(super) fn about(args: &Value) -> Option<String> {
    let target = args["target"].as_str().or_else(|| args["to"].as_str());
    match (args["channel"].as_str(), target) {
        (None, None) => None,
        (channel, target) => {
            let words = [channel, target].into_iter().flatten();
            let words: Vec<&str> = words.collect();
            Some(format!(
                "to {}",
                words.join(" ").chars().take(200).collect::<String>()
            ))
        }
    }
}

/// The request of the message API that a call stands for.
fn body(args: &Value, here: &Value) -> Result<Value, Why> {
    let given = |key: &str| {
        let text = args[key].as_str().map(str::trim);
        text.filter(|text| !text.is_empty())
    };
    let target = given("target").or_else(|| given("to"));
    let home = |key: &str| here[key].as_str();
    let channel = given("channel").or_else(|| home("channel"));
    let is_home = channel.is_some_and(|channel| home("channel") == Some(&*channel.to_lowercase()));
    let target = target.or_else(|| home("target").filter(|_| is_home));
    let (Some(channel), Some(target)) = (channel, target) else {
        return Err(Why::Arguments(
            "target: this conversation is held in no chat, so channel and target must both be named".to_owned(),
        ));
    };
    // Both ways of writing it are in use: `telegram:42` and `42`.
    let target = target
        .strip_prefix(channel)
        .and_then(|rest| rest.strip_prefix(':'))
        .unwrap_or(target);
    let is_here = is_home && home("target") == Some(target);
    let mut media: Vec<&str> = given("media").into_iter().collect();
    let more = args["mediaUrls"].as_array().into_iter().flatten();
    media.extend(more.filter_map(Value::as_str));
    let mut body = json!({ "channel": channel, "target": target, "media": media });
    for (key, value) in [
        ("content", args["message"].as_str()),
        (
            "account",
            given("accountId").or_else(|| home("account").filter(|_| is_home)),
        ),
        (
            "thread",
            given("threadId").or_else(|| home("thread").filter(|_| is_here)),
        ),
        ("replyTo", given("replyTo")),
    ] {
        body[key] = json!(value);
    }
    body["silent"] = json!(args["silent"] == true);
    Ok(body)
}

/// Who writes in a chat need not be the owner: from there an agent speaks in that chat alone. For everyone else it is as the
/// user's file says. Source: `tools.message.crossContext` in docs/gateway/security/tool-permissions.md at 2026.9.6.
fn may_send(
    origin: Origin,
    denies: impl Fn(&str) -> bool,
    body: &Value,
    here: &Value,
) -> Result<(), String> {
    let is_same = |key: &str| body[key] == here[key];
    let is_same_channel = body["channel"]
        .as_str()
        .is_some_and(|channel| here["channel"] == channel.to_lowercase());
    let is_here = is_same_channel && is_same("target") && is_same("account");
    if is_here {
        return Ok(());
    }
    if origin == Origin::Channel {
        return Err("from here messages are sent to the chat that this came from alone; tell the user that the owner can send it from the Control UI or a job".to_owned());
    }
    if here.is_null() {
        return Ok(());
    }
    let key = match is_same_channel {
        true => "allowWithinProvider",
        false => "allowAcrossProviders",
    };
    match denies(key) {
        true => Err(format!(
            "Cross-context messaging denied: tools.message.crossContext.{key} is false"
        )),
        false => Ok(()),
    }
}

/// A field of the message API as the tool calls it.
fn named(field: &str) -> &str {
    match field {
        "content" => "message",
        "account" => "accountId",
        "thread" => "threadId",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Value {
        json!({ "channel": "telegram", "account": "default", "target": "42", "thread": "7" })
    }

    #[test]
    fn what_is_not_said_is_this_chat() {
        let of = |args: Value| body(&args, &here()).expect("a body");
        let own = of(json!({ "message": "hi" }));
        assert_eq!(
            (
                &own["channel"],
                &own["target"],
                &own["account"],
                &own["thread"]
            ),
            (
                &json!("telegram"),
                &json!("42"),
                &json!("default"),
                &json!("7")
            )
        );
        let other = of(json!({ "target": "telegram:43", "channel": "telegram", "message": "hi" }));
        assert_eq!(
            (&other["target"], &other["thread"]),
            (&json!("43"), &Value::Null)
        );
        let elsewhere =
            of(json!({ "channel": "matrix", "target": "!r:h", "mediaUrls": ["https://h/x"] }));
        assert_eq!(elsewhere["account"], Value::Null);
        assert_eq!(elsewhere["media"], json!(["https://h/x"]));
        assert!(body(&json!({ "channel": "matrix" }), &here()).is_err());
        assert!(body(&json!({ "target": "42" }), &Value::Null).is_err());
    }

    #[test]
    fn a_chat_speaks_in_itself_and_an_operator_where_the_file_lets_it() {
        let of = |args: Value| body(&args, &here()).expect("a body");
        let own = of(json!({ "message": "hi" }));
        let within = of(json!({ "target": "43", "message": "hi" }));
        let across = of(json!({ "channel": "irc", "target": "#a", "message": "hi" }));
        let open = |_: &str| false;
        for (body, from_chat) in [(&own, true), (&within, false), (&across, false)] {
            assert_eq!(
                may_send(Origin::Channel, open, body, &here()).is_ok(),
                from_chat,
                "{body}"
            );
            assert!(may_send(Origin::Operator, open, body, &here()).is_ok());
            assert!(may_send(Origin::Operator, open, body, &Value::Null).is_ok());
            // From where it came is not known.
            assert!(may_send(Origin::Channel, open, body, &Value::Null).is_err());
        }
        let shut = |key: &str| key == "allowAcrossProviders";
        assert!(may_send(Origin::Operator, shut, &within, &here()).is_ok());
        let why = may_send(Origin::Operator, shut, &across, &here()).expect_err("denied");
        assert!(why.contains("allowAcrossProviders"), "{why}");
    }

    #[test]
    fn clients_are_told_where_to() {
        assert_eq!(
            about(&json!({ "channel": "irc", "target": "#a" })).as_deref(),
            Some("to irc #a")
        );
        assert_eq!(about(&json!({ "to": "42" })).as_deref(), Some("to 42"));
        assert_eq!(about(&json!({ "message": "hi" })), None);
    }
}
