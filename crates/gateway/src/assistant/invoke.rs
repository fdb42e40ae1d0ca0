//! One tool of an agent that runs here, called without a turn: the method `tools.invoke` and `POST /tools/invoke`.
//!
//! Source: docs/gateway/tools-invoke-http-api.md, src/gateway/tools-invoke-shared.ts and security/dangerous-tools.ts at 2026.9.6.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::error::ErrorShape;

use super::openai;
use super::tools::{Calling, Clock, Desk, Origin, Post, Toolbox};
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::ingress::http::{Body, text};
use crate::memories::tools as memory;
use crate::native::sessions::parse_agent_key;

pub(crate) const PATH: &str = "/tools/invoke";
const BODY_BYTES_MAX: usize = 2 << 20;
/// What can be called so, beside the memory: files and commands are a turn's alone, as in the original.
const OFFERED: [&str; 6] = [
    "automations",
    "message",
    "sessions_history",
    "sessions_list",
    "sessions_send",
    "web_fetch",
];
/// Of them, what is called so only if `gateway.tools.allow` names it.
const DENIED: [&str; 2] = ["sessions_send", "automations"];
/// A list of the file shows it and lends no rights: it takes `operator.admin`.
const OWNERS: &str = "automations";
/// What the original says of a fault of its own.
const FAULT: &str = "tool execution failed";

/// Answers `POST /tools/invoke`.
pub(crate) async fn respond(
    app: &Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allow = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let headers = request.headers();
    let admitted = crate::messages::api::admit(app, headers, peer, "operator.write").await;
    let is_owner = match admitted {
        Ok(caller) => caller.is_admin,
        Err(refusal) => return *refusal,
    };
    let mut params = match openai::read(request, BODY_BYTES_MAX).await {
        Ok((_, params)) => params,
        Err(refusal) => return refusal.response(),
    };
    // Both names are in use; this one is the protocol's.
    if params["name"].as_str().is_none_or(str::is_empty) && params.is_object() {
        params["name"] = params["tool"].clone();
    }
    let (status, body) = match invoke(app, &params, "http", is_owner).await {
        Ok(answer) => over_http(&answer),
        Err(error) => {
            let why = over_http_words(&params, &error.message);
            refused(StatusCode::BAD_REQUEST, "invalid_request", &why)
        }
    };
    openai::answer(status, &body)
}

/// The two doors say some things differently.
fn over_http_words(params: &Value, message: &str) -> String {
    let agent_of_key = params["sessionKey"].as_str().map(str::to_lowercase);
    let agent_of_key = agent_of_key.as_deref().and_then(parse_agent_key);
    match (agent_of_key, params["agentId"].as_str()) {
        _ if message.ends_with("name required") => "tools.invoke requires name".to_owned(),
        (Some((own, _)), Some(asked)) if message.contains("belongs to") => {
            format!("agent \"{asked}\" does not match session key agent \"{own}\"")
        }
        _ => message.to_owned(),
    }
}

fn refused(status: StatusCode, kind: &str, message: &str) -> (StatusCode, Value) {
    let error = json!({ "type": kind, "message": message });
    (status, json!({ "ok": false, "error": error }))
}

/// An answer of the method in the words of the other door.
fn over_http(answer: &Value) -> (StatusCode, Value) {
    if answer["ok"] == true {
        return (
            StatusCode::OK,
            json!({ "ok": true, "result": answer["output"] }),
        );
    }
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    match answer["error"]["code"].as_str() {
        Some("validation_error") => refused(StatusCode::BAD_REQUEST, "invalid_request", message),
        Some("not_found") => refused(StatusCode::NOT_FOUND, "not_found", message),
        _ if message == FAULT => refused(StatusCode::INTERNAL_SERVER_ERROR, "tool_error", message),
        _ => refused(StatusCode::BAD_REQUEST, "tool_error", message),
    }
}

/// `{ok, toolName, output: {content, details}, source}`, or `{ok: false, toolName, error: {code, message}}`. `prefix`: of the call's id; `is_owner`: who calls holds `operator.admin`.
///
/// # Errors
/// What is refused before a tool is looked for.
pub(crate) async fn invoke(
    app: &Arc<App>,
    params: &Value,
    prefix: &str,
    is_owner: bool,
) -> Result<Value, ErrorShape> {
    let name = params["name"].as_str().map_or("", str::trim);
    if name.is_empty() || memory::NAMES.contains(&name) {
        let (app, params) = (Arc::clone(app), params.clone());
        let work = move || {
            let facts = app.facts.load();
            memory::invoke(&app.memories, &facts, &params)
        };
        return tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| {
                tracing::error!(%error, "a tool broke");
                Ok(failed("", "internal_error", FAULT))
            });
    }
    // The tool had another name before.
    let name = if name == "cron" { "automations" } else { name };
    let facts = app.facts.load_full();
    let roster = facts.inputs(0, 0).roster();
    let (agent, session_key) = match memory::target(&roster, params)? {
        Ok(target) => target,
        Err(memory::Refused(code, why)) => return Ok(failed(name, code, &why)),
    };
    let Some(toolbox) = toolbox(app, &facts, (&agent, &session_key), params, prefix).filter(|_| {
        OFFERED.contains(&name) && !is_denied(&facts.config, name) && (is_owner || name != OWNERS)
    }) else {
        return Ok(unavailable(name));
    };
    let tools = toolbox.list();
    let Some(tool) = tools.iter().find(|tool| tool.name == name) else {
        return Ok(unavailable(name));
    };
    let mut args = params["args"].clone();
    if !args.is_object() {
        args = json!({});
    }
    let action = &params["action"];
    if action.is_string()
        && args["action"].is_null()
        && tool.parameters["properties"]["action"].is_object()
    {
        args["action"] = action.clone();
    }
    let id = call_id(params, prefix);
    let cancel = CancellationToken::new();
    // Whoever goes away while a command runs stops it.
    let _stops = cancel.clone().drop_guard();
    let (progress, mut told) = mpsc::channel(16);
    let drained = tokio::spawn(async move { while told.recv().await.is_some() {} });
    let calling = Calling {
        id: &id,
        cancel: &cancel,
        progress: &progress,
    };
    let answer = toolbox.call(name, &args.to_string(), &calling).await;
    drained.abort();
    Ok(match &answer.error {
        None => json!({
            "ok": true, "toolName": name,
            "output": { "content": [{ "type": "text", "text": answer.text }], "details": answer.details },
            "source": "core",
        }),
        Some(_) if answer.is_invalid => {
            let why = answer.text.split("\n\nReceived").next().unwrap_or_default();
            failed(name, "internal_error", why)
        }
        Some(why) => failed(name, "internal_error", why),
    })
}

fn unavailable(name: &str) -> Value {
    failed(name, "not_found", &format!("Tool not available: {name}"))
}

fn failed(name: &str, code: &str, why: &str) -> Value {
    json!({ "ok": false, "toolName": name, "error": { "code": code, "message": why } })
}

/// The same key is the same call: what goes out by it goes out once.
fn call_id(params: &Value, prefix: &str) -> String {
    let key = params["idempotencyKey"].as_str().map(str::trim);
    match key.filter(|key| !key.is_empty()) {
        Some(key) => format!("{prefix}-{key}"),
        None => format!("{prefix}-{}", uuid::Uuid::new_v4()),
    }
}

fn toolbox(
    app: &Arc<App>,
    facts: &crate::native::Facts,
    (agent, session_key): (&str, &str),
    params: &Value,
    prefix: &str,
) -> Option<Toolbox> {
    let assistant = app.assistant()?;
    let (origin, id) = (Origin::Operator, call_id(params, prefix));
    let toolbox = Toolbox::of(
        facts,
        &app.memories,
        agent,
        session_key,
        ("", ""),
        origin,
        None,
    );
    let (agent, session_key) = (agent.to_owned(), session_key.to_owned());
    let agent_of_post = agent.clone();
    Some(
        toolbox
            .with_clock(Clock {
                app: Arc::clone(app),
                agent: agent.clone(),
                session_key: session_key.clone(),
            })
            .with_desk(Desk {
                app: Arc::clone(app),
                assistant: Arc::clone(assistant),
                agent,
                session_key: session_key.clone(),
                run_id: id.clone(),
            })
            .with_post(Post {
                app: Arc::clone(app),
                agent: agent_of_post,
                session_key,
                run_id: id,
                origin,
            }),
    )
}

fn is_denied(config: &Value, name: &str) -> bool {
    let lists = |key: &str| {
        let listed = config.pointer(&format!("/gateway/tools/{key}"));
        let mut names = listed.and_then(Value::as_array).into_iter().flatten();
        names.any(|listed| {
            let listed = listed.as_str().unwrap_or_default().trim().to_lowercase();
            listed == name || (listed == "cron" && name == "automations")
        })
    };
    lists("deny") || (DENIED.contains(&name) && !lists("allow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dangerous_is_called_so_only_if_the_file_says_it() {
        let allowed = json!({ "gateway": { "tools": { "allow": ["Sessions_Send", "cron"] } } });
        let denied =
            json!({ "gateway": { "tools": { "deny": ["message"], "allow": ["message"] } } });
        let check = |config: &Value, name: &str, expected: bool| {
            assert_eq!(is_denied(config, name), expected, "{config} {name}");
        };
        let open = json!({});
        for name in DENIED {
            check(&open, name, true);
        }
        check(&open, "message", false);
        check(&allowed, "sessions_send", false);
        check(&allowed, "automations", false);
        check(&denied, "message", true);
    }

    #[test]
    fn answers_have_the_status_of_the_original() {
        let of = |code: &str, why: &str| {
            let (status, body) = over_http(&failed("t", code, why));
            (
                status.as_u16(),
                body["error"]["type"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        };
        assert_eq!(of("not_found", "x"), (404, "not_found".to_owned()));
        assert_eq!(
            of("validation_error", "x"),
            (400, "invalid_request".to_owned())
        );
        assert_eq!(of("internal_error", "x"), (400, "tool_error".to_owned()));
        assert_eq!(of("internal_error", FAULT), (500, "tool_error".to_owned()));
    }

    #[test]
    fn the_same_key_is_the_same_call() {
        let keyed = json!({ "idempotencyKey": " k " });
        assert_eq!(call_id(&keyed, "http"), "http-k");
        assert_ne!(call_id(&json!({}), "rpc"), call_id(&json!({}), "rpc"));
    }
}
