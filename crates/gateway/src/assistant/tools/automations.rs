//! `automations`: an agent sees to its own jobs by the clock, by what `cron.*` does.

use std::sync::Arc;

use agent::Tool;
use serde_json::{Value, json};

use super::{Done, Why, text, tool};
use crate::app::App;
use crate::schedule::methods;

/// Whose jobs, and the conversation that asks.
pub(in crate::assistant) struct Clock {
    pub(in crate::assistant) app: Arc<App>,
    pub(in crate::assistant) agent: String,
    pub(in crate::assistant) session_key: String,
}

pub(super) fn offered() -> Tool {
    tool(
        "automations",
        "Jobs by the clock: reminders and recurring work. schedule: {kind:\"at\",at:ISO time} | {kind:\"every\",everyMs} | {kind:\"cron\",expr,tz?}. With text: a reminder in the main conversation. With message: a turn of its own; its answer goes to this chat, or where delivery says ({mode:\"none\"} or {mode:\"announce\",channel,to}).",
        r#"{"type":"object","required":["action"],"properties":{"action":{"type":"string","enum":["status","list","get","add","update","remove","run","runs"]},"id":{"type":"string","description":"Job id: get, update, remove, run, runs."},"name":{"type":"string"},"schedule":{"type":"object","properties":{"kind":{"type":"string","enum":["at","every","cron"]},"at":{"type":"string"},"everyMs":{"type":"integer","minimum":1},"expr":{"type":"string"},"tz":{"type":"string"}},"required":["kind"]},"text":{"type":"string","description":"Reminder text."},"message":{"type":"string","description":"What the agent is to do."},"delivery":{"type":"object"},"enabled":{"type":"boolean"}}}"#,
    )
}

/// Whether an action changes something.
pub(super) fn has_effects(arguments: &str) -> bool {
    let args: Value = serde_json::from_str(arguments).unwrap_or_default();
    !matches!(
        args["action"].as_str(),
        Some("status" | "list" | "get" | "runs")
    )
}

pub(super) async fn call(clock: &Clock, args: &Value) -> Result<Done, Why> {
    let action = text(args, "action")?;
    let (method, params) = match action {
        "status" => ("cron.status", json!({})),
        "list" => (
            "cron.list",
            json!({ "includeDisabled": true, "agentId": clock.agent, "limit": 100 }),
        ),
        "add" => ("cron.add", job(clock, args)?),
        "get" | "remove" | "run" | "runs" => {
            let id = text(args, "id")?;
            let method = match action {
                "get" => "cron.get",
                "remove" => "cron.remove",
                "run" => "cron.run",
                _ => "cron.runs",
            };
            (method, json!({ "id": id }))
        }
        "update" => {
            let mut patch = json!({});
            for name in ["name", "schedule", "delivery", "enabled"] {
                if !args[name].is_null() {
                    patch[name] = args[name].clone();
                }
            }
            if let Some(payload) = payload(args) {
                patch["payload"] = payload;
            }
            (
                "cron.update",
                json!({ "id": text(args, "id")?, "patch": patch }),
            )
        }
        other => {
            return Err(Why::Arguments(format!(
                "action: {other} is none of status, list, get, add, update, remove, run, runs"
            )));
        }
    };
    // Another agent's jobs are not this one's to see or change.
    if let Some(id) = params["id"].as_str()
        && !methods::belongs(&clock.app, id, &clock.agent).await
    {
        return Err(Why::Error(format!(
            "no job {id} of this agent; list shows them"
        )));
    }
    methods::serve(&clock.app, method, params)
        .await
        .map(Done::json)
        .map_err(|error| Why::Error(error.message))
}

fn payload(args: &Value) -> Option<Value> {
    match (args["text"].as_str(), args["message"].as_str()) {
        (_, Some(message)) => Some(json!({ "kind": "agentTurn", "message": message })),
        (Some(text), None) => Some(json!({ "kind": "systemEvent", "text": text })),
        (None, None) => None,
    }
}

/// The params of `cron.add`: for the agent that asks, from the conversation it is in.
fn job(clock: &Clock, args: &Value) -> Result<Value, Why> {
    let payload = payload(args).ok_or_else(|| {
        Why::Arguments(
            "one of text (a reminder) and message (work of its own) is needed".to_owned(),
        )
    })?;
    if !args["schedule"].is_object() {
        return Err(Why::Arguments(
            "schedule: must have required properties schedule".to_owned(),
        ));
    }
    let target = match payload["kind"] == "systemEvent" {
        true => "main",
        false => "isolated",
    };
    let mut job = json!({
        "agentId": clock.agent, "schedule": args["schedule"], "sessionTarget": target, "wakeMode": "now", "payload": payload,
    });
    if target == "isolated" {
        job["sessionKey"] = json!(clock.session_key);
    }
    for name in ["name", "delivery", "enabled"] {
        if !args[name].is_null() {
            job[name] = args[name].clone();
        }
    }
    Ok(job)
}
