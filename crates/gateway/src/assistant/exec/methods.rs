//! `exec.approval.*` and `exec.approvals.*` of agents that run here.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wire::error::{ErrorCode, ErrorShape};
use wire::frame::response_ok;
use wire::scope::Scope;

use super::Execs;
use super::approvals::{Approval, Decision, PATIENCE, Viewer};
use super::document::{Document, checked, normalized};
use super::gate::visible;
use super::policy::{Ask, Security};
use crate::app::App;
use crate::clock;
use crate::dispatch::Session;

/// The methods answered here, sorted.
pub(crate) const NAMES: [&str; 8] = [
    "exec.approval.get",
    "exec.approval.grants.list",
    "exec.approval.list",
    "exec.approval.request",
    "exec.approval.resolve",
    "exec.approval.waitDecision",
    "exec.approvals.get",
    "exec.approvals.set",
];

/// One call.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) execs: &'a Arc<Execs>,
    pub(crate) session: &'a Session,
    pub(crate) id: &'a str,
    pub(crate) params: &'a Value,
}

pub(super) fn broadcast_requested(app: &App, approval: &Approval) -> usize {
    tell(app, "exec.approval.requested", approval, &approval.event())
}

pub(super) fn broadcast_resolved(
    app: &App,
    approval: &Approval,
    decision: Decision,
    by: Option<&str>,
) -> usize {
    let event = json!({
        "id": approval.id, "decision": decision.as_str(), "resolvedBy": by, "ts": clock::now_ms(),
        "request": approval.request,
    });
    tell(app, "exec.approval.resolved", approval, &event)
}

/// To those who show approvals to a person and may see this one.
fn tell(app: &App, event: &str, approval: &Approval, payload: &Value) -> usize {
    app.hub
        .broadcast_if(event, &payload.to_string(), None, |subscriber| {
            let viewer = Viewer {
                conn_id: subscriber.conn_id.to_string(),
                device_id: subscriber.device_id.clone(),
                is_admin: subscriber.scopes.contains(Scope::Admin),
            };
            subscriber.shows_approvals && approval.is_visible_to(&viewer)
        })
}

impl Call<'_> {
    pub(crate) async fn serve(&self, method: &str) -> Result<Value, ErrorShape> {
        match method {
            "exec.approval.get" => self.get(),
            "exec.approval.grants.list" => Ok(json!({ "grants": [] })),
            "exec.approval.list" => Ok(self.list()),
            "exec.approval.request" => self.request().await,
            "exec.approval.resolve" => self.resolve(),
            "exec.approval.waitDecision" => self.wait().await,
            "exec.approvals.get" => self.document(|document| Ok(document.answer())).await,
            _ => self.set().await,
        }
    }

    fn viewer(&self) -> Viewer {
        let principal = &self.session.principal;
        Viewer {
            conn_id: self.session.conn_id.to_string(),
            device_id: principal.device_id.clone(),
            is_admin: principal.scope_set.contains(Scope::Admin),
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        let text = self.params[key].as_str().map(str::trim);
        text.filter(|text| !text.is_empty())
    }

    fn get(&self) -> Result<Value, ErrorShape> {
        let asked = self.params["id"].as_str().unwrap_or_default();
        let approval = self.execs.approvals.get(asked, &self.viewer())?;
        let request = &approval.request;
        Ok(json!({
            "id": approval.id, "commandText": request["command"], "commandPreview": request.get("commandPreview"),
            "allowedDecisions": request["allowedDecisions"], "host": request["host"], "nodeId": request["nodeId"],
            "agentId": request["agentId"], "expiresAtMs": approval.expires_ms,
        }))
    }

    fn list(&self) -> Value {
        let waiting = self.execs.approvals.waiting(&self.viewer());
        waiting
            .iter()
            .map(|approval| {
                json!({
                    "id": approval.id, "request": approval.request, "createdAtMs": approval.created_ms,
                    "expiresAtMs": approval.expires_ms, "approvalKind": "exec",
                })
            })
            .collect()
    }

    fn resolve(&self) -> Result<Value, ErrorShape> {
        let decision = self.params["decision"].as_str().and_then(Decision::of);
        let Some(decision) = decision else {
            return Err(ErrorShape::invalid_request("invalid decision"));
        };
        // On behalf of a chat's member: no chat of ours hands approvals on.
        if !self.params["reviewer"].is_null() {
            return Err(ErrorShape::invalid_request(
                "unknown or expired approval id",
            ));
        }
        let asked = self.params["id"].as_str().unwrap_or_default();
        let by = Some(self.session.principal.client_id.as_str());
        self.execs
            .approvals
            .resolve(asked, decision, &self.viewer(), |approval| {
                broadcast_resolved(self.app, approval, decision, by);
            })?;
        Ok(json!({ "ok": true }))
    }

    async fn wait(&self) -> Result<Value, ErrorShape> {
        let asked = self.params["id"].as_str().unwrap_or_default();
        let approval = self.execs.approvals.await_of(asked, &self.viewer())?;
        let end = approval.ended().await;
        Ok(approval.waited(end))
    }

    /// A client's own command, shown to whoever decides; nothing runs here for it.
    async fn request(&self) -> Result<Value, ErrorShape> {
        let invalid = |why: &str| Err(ErrorShape::invalid_request(why));
        let host = self.text("host").unwrap_or_default();
        if host == "node" {
            return invalid(
                match (
                    self.text("nodeId"),
                    self.params["systemRunPlan"].is_object(),
                ) {
                    (None, _) => "nodeId is required for host=node",
                    (_, false) => "systemRunPlan is required for host=node",
                    _ => "this gateway runs nothing on nodes",
                },
            );
        }
        let argv: Vec<&str> = self.params["commandArgv"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let command = match self.text("command") {
            Some(_) => self.params["command"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            None => argv
                .iter()
                .map(|word| super::shell::quoted(word))
                .collect::<Vec<_>>()
                .join(" "),
        };
        if command.trim().is_empty() {
            return invalid("command is required");
        }
        let id = self.params["id"].as_str();
        if id.is_some_and(|id| id.starts_with("plugin:")) {
            return invalid("approval ids starting with plugin: are reserved");
        }
        let shown = visible(&command);
        if shown.chars().count() > 16_384 {
            return Err(
                ErrorShape::invalid_request("command exceeds exec approval display limit")
                    .with_details(json!({ "reason": "EXEC_APPROVAL_COMMAND_DISPLAY_LIMIT" })),
            );
        }
        let patience = self.params["timeoutMs"].as_f64().map_or(PATIENCE, |ms| {
            Duration::from_millis((ms.max(1.0) as u64).min(24 * 60 * 60 * 1000))
        });
        let approval = self.execs.approvals.register(
            self.asked(shown, host, &argv),
            id,
            patience,
            Some(self.viewer()),
        )?;
        let others = self.app.hub.approvers(Some(&self.session.conn_id));
        let payload = approval.event().to_string();
        let viewer_of = |subscriber: &crate::events::Subscriber| Viewer {
            conn_id: subscriber.conn_id.to_string(),
            device_id: subscriber.device_id.clone(),
            is_admin: subscriber.scopes.contains(Scope::Admin),
        };
        let told =
            self.app
                .hub
                .broadcast_if("exec.approval.requested", &payload, None, |subscriber| {
                    subscriber.shows_approvals
                        && subscriber.conn_id != self.session.conn_id
                        && approval.is_visible_to(&viewer_of(subscriber))
                });
        let is_reached = told > 0 && others > 0;
        if !is_reached && self.params["requireDeliveryRoute"] != false {
            self.execs.approvals.close(&approval, "no-route");
        } else if self.params["twoPhase"] == true {
            let accepted = json!({
                "status": "accepted", "id": approval.id,
                "deliveryRoute": if is_reached { "approval-client" } else { "none" },
                "createdAtMs": approval.created_ms, "expiresAtMs": approval.expires_ms,
            });
            self.session
                .outbound
                .send(response_ok(self.id, &accepted.to_string()));
        }
        let end = approval.ended().await;
        Ok(json!({
            "id": approval.id, "decision": end.decision.map(Decision::as_str),
            "createdAtMs": approval.created_ms, "expiresAtMs": approval.expires_ms,
        }))
    }

    /// What a client asked to be shown.
    fn asked(&self, command: String, host: &str, argv: &[&str]) -> Value {
        let text = |key: &str| {
            self.text(key)
                .map_or(Value::Null, |text| json!(visible(text)))
        };
        let is_always_refused = self.params["unavailableDecisions"]
            .as_array()
            .is_some_and(|refused| refused.iter().any(|refused| refused == "allow-always"));
        let ask = self.text("ask").and_then(Ask::of);
        let mut request = json!({ "command": command });
        if !argv.is_empty() {
            request["commandArgv"] = json!(argv);
        }
        if let Some(env) = self.params["env"].as_object().filter(|env| !env.is_empty()) {
            let mut keys: Vec<&str> = env.keys().map(String::as_str).collect();
            keys.sort_unstable();
            request["envKeys"] = json!(keys);
        }
        for (key, value) in [
            ("systemRunBinding", Value::Null),
            ("systemRunPlan", Value::Null),
            ("cwd", text("cwd")),
            ("nodeId", Value::Null),
            (
                "host",
                if host.is_empty() {
                    Value::Null
                } else {
                    json!(visible(host))
                },
            ),
            (
                "security",
                json!(
                    self.text("security")
                        .and_then(Security::of)
                        .map(Security::as_str)
                ),
            ),
            ("ask", json!(ask.map(Ask::as_str))),
            (
                "warningText",
                self.text("warningText")
                    .map_or(Value::Null, |text| json!(text)),
            ),
            ("scope", Value::Null),
            (
                "commandAnalysis",
                super::gate::analysis(
                    super::shell::Plan::read(&command_text(self.params)).as_ref(),
                ),
            ),
        ] {
            request[key] = value;
        }
        if is_always_refused {
            request["unavailableDecisions"] = json!(["allow-always"]);
        }
        request["allowedDecisions"] = match is_always_refused || ask == Some(Ask::Always) {
            true => json!(["allow-once", "deny"]),
            false => json!(["allow-once", "allow-always", "deny"]),
        };
        for key in [
            "agentId",
            "resolvedPath",
            "sessionKey",
            "sessionId",
            "runId",
            "toolCallId",
            "turnSourceChannel",
            "turnSourceTo",
            "turnSourceAccountId",
            "turnSourceThreadId",
        ] {
            request[key] = text(key);
        }
        request["cronExecutionSource"] = Value::Null;
        request["cronOperationBinding"] = Value::Null;
        request
    }

    async fn set(&self) -> Result<Value, ErrorShape> {
        let base = self.text("baseHash").map(str::to_owned);
        let incoming = self.params["file"].clone();
        self.document(move |document| {
            let changed =
                "exec approvals changed since last load; re-run exec.approvals.get and retry";
            let hash = Some(document.hash.as_str());
            let why = match (document.exists, base.as_deref()) {
                (false, None) => None,
                (true, None) => {
                    Some("exec approvals base hash required; re-run exec.approvals.get and retry")
                }
                (_, base) if base != hash => Some(changed),
                _ => None,
            };
            if let Some(why) = why {
                return Err(ErrorShape::invalid_request(why));
            }
            if !incoming.is_object() {
                return Err(ErrorShape::invalid_request(
                    "exec approvals file is required",
                ));
            }
            checked(&incoming).map_err(|why| {
                ErrorShape::invalid_request(format!("exec approvals file: {why}"))
            })?;
            let mut file = normalized(&incoming);
            // Who does not send the socket does not mean to take it away.
            if let (None, Some(socket)) = (file.get("socket"), document.file.get("socket")) {
                file["socket"] = socket.clone();
            }
            // A file that says nothing of OpenClaw's database is the answer to it.
            let writable = Document {
                fault: document.fault.clone().filter(|_| document.exists),
                ..document.clone()
            };
            writable
                .write(&file)
                .map_err(|why| ErrorShape::new(ErrorCode::Unavailable, why))?;
            Ok(Value::Null)
        })
        .await?;
        self.document(|document| Ok(document.answer())).await
    }

    /// Looks at the document, one at a time.
    async fn document(
        &self,
        look: impl FnOnce(&Document) -> Result<Value, ErrorShape> + Send + 'static,
    ) -> Result<Value, ErrorShape> {
        let execs = Arc::clone(self.execs);
        let state_dir = self.app.facts.load().state_dir.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let _one = execs.document.lock();
            look(&Document::read(&state_dir))
        });
        looked.await.unwrap_or_else(|_panic| {
            Err(ErrorShape::new(
                ErrorCode::Unavailable,
                "the approvals can't be read; the gateway's log says why",
            ))
        })
    }
}

fn command_text(params: &Value) -> String {
    params["command"].as_str().unwrap_or_default().to_owned()
}
