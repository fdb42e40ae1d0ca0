//! `cron.*` and `wake` while agents run here.

use std::pin::Pin;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use store::{CronRunFilter, StoreError};
use wire::error::{ErrorCode, ErrorShape};

use super::job::{Job, Refused};
use super::{Cause, JOBS_MAX, Schedule, is_on, now, run, tell};
use crate::app::App;
use crate::assistant::{Assistant, Input};
use crate::messages::methods::Task;

/// The methods answered here, sorted.
pub(crate) const NAMES: &[&str] = &[
    "cron.add",
    "cron.get",
    "cron.list",
    "cron.remove",
    "cron.run",
    "cron.runs",
    "cron.status",
    "cron.update",
    "set-heartbeats",
    "wake",
];

const PAGE: usize = 50;
const PAGE_MAX: usize = 200;

struct Call {
    app: Arc<App>,
    assistant: Arc<Assistant>,
    schedule: Arc<Schedule>,
    params: Value,
}

/// The task that answers this call; `None`: not about jobs, or no agent runs here.
pub(crate) fn find(app: &Arc<App>, method: &str, params: Option<&RawValue>) -> Option<Task> {
    let name = *NAMES.iter().find(|name| **name == method)?;
    let schedule = Arc::clone(app.schedule()?);
    let assistant = Arc::clone(app.assistant()?);
    if !super::is_ours(app) {
        return None;
    }
    let app = Arc::clone(app);
    let raw = params.map(ToOwned::to_owned);
    Some(Box::pin(async move {
        wire::schema::check(name, raw.as_deref())?;
        let params = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let call = Call {
            app,
            assistant,
            schedule,
            params: params.unwrap_or_else(|| json!({})),
        };
        call.serve(name).await.map(|answer| answer.to_string())
    }))
}

/// The same for an agent's tool: no wire, no scope. Boxed, because a turn may begin a run, which is a turn.
pub(crate) fn serve(
    app: &Arc<App>,
    method: &'static str,
    params: Value,
) -> Pin<Box<dyn Future<Output = Result<Value, ErrorShape>> + Send>> {
    let (Some(schedule), Some(assistant)) = (app.schedule().cloned(), app.assistant().cloned())
    else {
        let none = ErrorShape::new(ErrorCode::Unavailable, "no agent runs here");
        return Box::pin(std::future::ready(Err(none)));
    };
    let call = Call {
        app: Arc::clone(app),
        assistant,
        schedule,
        params,
    };
    Box::pin(async move {
        let raw = serde_json::value::to_raw_value(&call.params).ok();
        wire::schema::check(method, raw.as_deref())?;
        call.serve(method).await
    })
}

/// `last-heartbeat` where nobody is behind: answered in place, so that calls one after the other are answered so.
pub(crate) fn last_heartbeat(app: &App) -> String {
    match app.schedule() {
        Some(schedule) if super::is_ours(app) => schedule.heartbeats.last().to_string(),
        _ => "null".to_owned(),
    }
}

/// Whether a job is this agent's.
pub(crate) async fn belongs(app: &Arc<App>, id: &str, agent: &str) -> bool {
    let Some(schedule) = app.schedule() else {
        return false;
    };
    let id = id.to_owned();
    let row = schedule
        .store
        .read(move |reader| reader.schedules().job(&id))
        .await;
    let job = row.ok().flatten().as_ref().and_then(Job::of);
    job.is_some_and(|job| run::whose(app, &job).0 == agent)
}

impl Call {
    async fn serve(&self, method: &str) -> Result<Value, ErrorShape> {
        match method {
            "cron.add" => self.add().await,
            "cron.get" => {
                let id = self.id();
                let job = self.job(&id).await?;
                job.map(|job| job.shown())
                    .ok_or_else(|| unknown("cron job", &id))
            }
            "cron.list" => self.list().await,
            "cron.remove" => self.remove().await,
            "cron.run" => self.run().await,
            "cron.runs" => self.runs().await,
            "cron.status" => self.status().await,
            "cron.update" => self.update().await,
            "set-heartbeats" => self.set_heartbeats(),
            _ => self.wake().await,
        }
    }

    fn set_heartbeats(&self) -> Result<Value, ErrorShape> {
        let Some(enabled) = self.params["enabled"].as_bool() else {
            return Err(ErrorShape::invalid_request(
                "invalid set-heartbeats params: enabled (boolean) required",
            ));
        };
        self.schedule.heartbeats.set(enabled);
        Ok(json!({ "ok": true, "enabled": enabled }))
    }

    fn id(&self) -> String {
        let id = self.params["id"]
            .as_str()
            .or_else(|| self.params["jobId"].as_str());
        id.unwrap_or_default().trim().to_owned()
    }

    async fn jobs(&self) -> Result<Vec<Job>, ErrorShape> {
        let rows = self
            .schedule
            .store
            .read(|reader| reader.schedules().jobs())
            .await;
        let rows = rows.map_err(|error| unavailable(&error))?;
        Ok(rows.iter().filter_map(Job::of).collect())
    }

    async fn job(&self, id: &str) -> Result<Option<Job>, ErrorShape> {
        let id = id.to_owned();
        let row = self
            .schedule
            .store
            .read(move |reader| reader.schedules().job(&id))
            .await;
        Ok(row
            .map_err(|error| unavailable(&error))?
            .as_ref()
            .and_then(Job::of))
    }

    async fn add(&self) -> Result<Value, ErrorShape> {
        let jobs = self.jobs().await?;
        let declared = self.params["declarationKey"].as_str();
        if let Some(declared) = declared
            && let Some(known) = jobs
                .iter()
                .find(|job| job.text("declarationKey") == declared)
        {
            // Declared once more: what is kept is brought up to it.
            let job = self
                .patch("cron.add", &known.id, self.params.clone())
                .await?;
            return Ok(self.saved(&job, "updated").await);
        }
        if jobs.len() >= JOBS_MAX {
            return Err(ErrorShape::invalid_request(format!(
                "there are {JOBS_MAX} jobs already; remove some"
            )));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let job = Job::new(id, &self.params, now()).map_err(|why| refusal("cron.add", why))?;
        known_agent(&self.app, &job)?;
        let row = job.row();
        let written = self
            .schedule
            .store
            .write(move |tx| tx.schedules().put(&row));
        written.await.map_err(|error| unavailable(&error))?;
        Ok(self.saved(&job, "added").await)
    }

    async fn update(&self) -> Result<Value, ErrorShape> {
        let patch = self.params["patch"].clone();
        let job = self.patch("cron.update", &self.id(), patch).await?;
        let mut shown = self.saved(&job, "updated").await;
        if let Some(shown) = shown.as_object_mut() {
            shown.remove("deliveryPreview");
        }
        Ok(shown)
    }

    /// Changes a job as it is at this moment: a run that ends beside it loses nothing.
    async fn patch(&self, method: &str, id: &str, patch: Value) -> Result<Job, ErrorShape> {
        let (app, wanted) = (Arc::clone(&self.app), id.to_owned());
        let changed = self.schedule.store.write(move |tx| {
            let schedules = tx.schedules();
            let Some(known) = schedules.job(&wanted)?.as_ref().and_then(Job::of) else {
                return Ok(None);
            };
            let job = match known.patched(&patch, now()) {
                Ok(job) => job,
                Err(why) => return Ok(Some(Err(Ok(why)))),
            };
            if let Err(error) = known_agent(&app, &job) {
                return Ok(Some(Err(Err(error))));
            }
            schedules.put(&job.row())?;
            Ok(Some(Ok(job)))
        });
        match changed.await.map_err(|error| unavailable(&error))? {
            Some(Ok(job)) => Ok(job),
            Some(Err(Ok(why))) => Err(refusal(method, why)),
            Some(Err(Err(error))) => Err(error),
            None => Err(unknown("Automation", id)),
        }
    }

    /// Tells of what was written and looks at the clock anew.
    async fn saved(&self, job: &Job, action: &str) -> Value {
        tell(&self.app, action, job, json!({}));
        self.schedule.changed.notify_one();
        let mut shown = job.shown();
        shown["deliveryPreview"] = self.preview(job).await;
        shown
    }

    async fn remove(&self) -> Result<Value, ErrorShape> {
        let id = self.id();
        let Some(mut job) = self.job(&id).await? else {
            return Err(unknown("Automation", &id));
        };
        let gone = self
            .schedule
            .store
            .write(move |tx| tx.schedules().remove(&id));
        gone.await.map_err(|error| unavailable(&error))?;
        job.next_ms = None;
        tell(&self.app, "removed", &job, json!({}));
        Ok(json!({ "ok": true, "removed": true }))
    }

    async fn run(&self) -> Result<Value, ErrorShape> {
        let id = self.id();
        let process = &self.schedule.process;
        if let Some(expected) = self.params["expectedProcessInstanceId"].as_str()
            && expected != process
        {
            return Ok(
                json!({ "ok": true, "ran": false, "reason": "process-changed", "processInstanceId": process }),
            );
        }
        let Some(job) = self.job(&id).await? else {
            return Err(unknown("Automation", &id));
        };
        let reason = match self.params["mode"].as_str().unwrap_or("force") {
            _ if job.run_id.is_some() => Some("already-running"),
            "due" if job.next_ms.is_none_or(|next| next > now()) => Some("not-due"),
            "if-enabled" if !job.is_enabled() => Some("disabled"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Ok(
                json!({ "ok": true, "ran": false, "reason": reason, "processInstanceId": process }),
            );
        }
        let cause = Cause::Asked(self.schedule.manual_id(&id));
        let Ok(slot) = Arc::clone(&self.schedule.slots).try_acquire_owned() else {
            return Err(ErrorShape::retryable(
                "as many jobs as may work at once are at work",
                Some(5000),
            ));
        };
        let begun = self.schedule.begin(&id, &cause).await;
        match begun.map_err(|error| unavailable(&error))? {
            Some(job) => {
                let run_id = job.run_id.clone();
                self.schedule
                    .work(&self.app, &self.assistant, job, &cause, slot);
                Ok(
                    json!({ "ok": true, "enqueued": true, "runId": run_id, "processInstanceId": process }),
                )
            }
            None => Ok(
                json!({ "ok": true, "ran": false, "reason": "already-running", "processInstanceId": process }),
            ),
        }
    }

    async fn status(&self) -> Result<Value, ErrorShape> {
        let jobs = self.jobs().await?;
        let next = jobs.iter().filter_map(|job| job.next_ms).min();
        let file = self.schedule.store.path();
        Ok(json!({
            "enabled": is_on(&self.app), "triggersEnabled": false, "storePath": file, "storage": "sqlite",
            "sqlitePath": file, "jobs": jobs.len(), "nextWakeAtMs": next.filter(|_| is_on(&self.app)),
        }))
    }

    async fn list(&self) -> Result<Value, ErrorShape> {
        let mut jobs = self.jobs().await?;
        let word = |name: &str| self.params[name].as_str().unwrap_or("all");
        let wanted_state = match self.params["includeDisabled"] {
            Value::Bool(true) if self.params["enabled"].is_null() => "all",
            _ if self.params["enabled"].is_null() => "enabled",
            _ => word("enabled"),
        };
        let (kind, last) = (word("scheduleKind"), word("lastRunStatus"));
        let query = self.params["query"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .to_lowercase();
        let agent = self.params["agentId"].as_str();
        jobs.retain(|job| {
            let status = job
                .state
                .get("lastRunStatus")
                .and_then(Value::as_str)
                .unwrap_or("unknown");
            let said = || {
                format!(
                    "{} {} {}",
                    job.text("name"),
                    job.text("description"),
                    job.id
                )
                .to_lowercase()
            };
            (wanted_state == "all" || job.is_enabled() == (wanted_state == "enabled"))
                && (kind == "all" || job.fields["schedule"]["kind"] == kind)
                && (last == "all" || status == last)
                && word("trigger") != "conditional"
                && agent.is_none_or(|agent| run::whose(&self.app, job).0 == agent)
                && (query.is_empty() || said().contains(&query))
        });
        match word("sortBy") {
            "name" => jobs.sort_by_key(|job| job.text("name").to_lowercase()),
            "updatedAtMs" => {
                jobs.sort_by_key(|job| job.fields.get("updatedAtMs").and_then(super::when::whole))
            }
            _ => jobs.sort_by_key(|job| (job.next_ms.is_none(), job.next_ms)),
        }
        if word("sortDir") == "desc" {
            jobs.reverse();
        }
        let total = jobs.len();
        let offset = self.number("offset").unwrap_or(0).min(total);
        let limit = self
            .number("limit")
            .unwrap_or(match total {
                0 => PAGE,
                total => total,
            })
            .clamp(1, PAGE_MAX);
        let compact = self.params["compact"] == true;
        let (mut shown, mut previews) = (Vec::new(), serde_json::Map::new());
        let previewed = !compact && self.params["includeDeliveryPreviews"] != false;
        for job in jobs.iter().skip(offset).take(limit) {
            let agent = run::whose(&self.app, job).0;
            shown.push(match compact {
                false => {
                    let mut row = job.shown();
                    row["effectiveAgentId"] = json!(agent);
                    row
                }
                true => json!({
                    "id": job.id, "name": job.text("name"), "enabled": job.is_enabled(), "effectiveAgentId": agent,
                    "nextRunAtMs": job.next_ms, "scheduleKind": job.fields["schedule"]["kind"],
                    "lastRunStatus": job.state.get("lastRunStatus"),
                }),
            });
            if previewed {
                previews.insert(job.id.clone(), self.preview(job).await);
            }
        }
        let end = offset + shown.len();
        let more = end < total;
        let revision = super::digest(&json!(shown).to_string());
        let mut answer = json!({
            "jobs": shown, "snapshotRevision": format!("sha256:{revision}"), "total": total, "offset": offset,
            "limit": limit, "hasMore": more, "nextOffset": more.then_some(end),
        });
        if previewed {
            answer["deliveryPreviews"] = Value::from(previews);
        }
        Ok(answer)
    }

    async fn runs(&self) -> Result<Value, ErrorShape> {
        let id = self.id();
        let one = !id.is_empty() && self.params["scope"] != "all";
        let filter = CronRunFilter {
            job_id: one.then(|| id.clone()),
            run_id: self.params["runId"].as_str().map(str::to_owned),
        };
        let found = self
            .schedule
            .store
            .read(move |reader| reader.schedules().runs(&filter))
            .await;
        let found = found.map_err(|error| unavailable(&error))?;
        if one && found.is_empty() && self.job(&id).await?.is_none() {
            return Err(unknown("Automation", &id));
        }
        let words = |list: &str, single: &str| -> Vec<String> {
            let listed = self.params[list].as_array().into_iter().flatten();
            let mut words: Vec<String> = listed
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            words.extend(
                self.params[single]
                    .as_str()
                    .filter(|word| *word != "all")
                    .map(str::to_owned),
            );
            words
        };
        let statuses = words("statuses", "status");
        let deliveries = words("deliveryStatuses", "deliveryStatus");
        let query = self.params["query"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .to_lowercase();
        let named = |words: &[String], value: &Value| {
            words.is_empty() || words.iter().any(|word| value == word.as_str())
        };
        let mut entries: Vec<Value> = found
            .iter()
            .filter_map(|run| serde_json::from_str(run.entry.as_deref()?).ok())
            .filter(|entry: &Value| {
                named(&statuses, &entry["status"])
                    && named(&deliveries, &entry["deliveryStatus"])
                    && (query.is_empty()
                        || ["summary", "error", "jobName"].iter().any(|name| {
                            entry[name]
                                .as_str()
                                .is_some_and(|text| text.to_lowercase().contains(&query))
                        }))
            })
            .collect();
        if self.params["sortDir"] == "asc" {
            entries.reverse();
        }
        let total = entries.len();
        let offset = self.number("offset").unwrap_or(0).min(total);
        let limit = self.number("limit").unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let page: Vec<Value> = entries.into_iter().skip(offset).take(limit).collect();
        let end = offset + page.len();
        let more = end < total;
        Ok(json!({
            "entries": page, "total": total, "offset": offset, "limit": limit,
            "hasMore": more, "nextOffset": more.then_some(end),
        }))
    }

    /// Something an agent is to know now: a turn in its main conversation.
    async fn wake(&self) -> Result<Value, ErrorShape> {
        let facts = self.app.facts.load_full();
        let roster = facts.inputs(0, 0).roster();
        let key = match self.params["sessionKey"]
            .as_str()
            .map(str::trim)
            .filter(|key| !key.is_empty())
        {
            Some(key) => crate::native::sessions::canonical_key(
                &roster,
                key,
                self.params["agentId"].as_str(),
            ),
            None => roster.default_session_key(),
        };
        let input = Input {
            run_id: uuid::Uuid::new_v4().to_string(),
            agent: crate::native::agents::normalize_id(&crate::native::sessions::agent_of(
                &roster, &key,
            )),
            session_key: key,
            message: format!(
                "System: {}",
                self.params["text"].as_str().unwrap_or_default()
            ),
            images: Vec::new(),
            extra_system: None,
            is_chat: false,
            queue: false,
            client: Some(("wake".to_owned(), "backend".to_owned())),
            model: None,
            sampling: agent::Sampling::default(),
            caller_tools: Vec::new(),
        };
        self.assistant.accept(&self.app, input).await?;
        Ok(json!({ "ok": true }))
    }

    /// Where a job's answer would go now.
    async fn preview(&self, job: &Job) -> Value {
        let delivery = job.fields.get("delivery").cloned().unwrap_or_default();
        if delivery["mode"] != "announce" {
            return json!({ "label": "not requested", "detail": "not requested" });
        }
        let channel = delivery["channel"].as_str().unwrap_or("last");
        let label = match delivery["to"].as_str() {
            Some(to) => format!("announce -> {channel}:{to}"),
            None => format!("announce -> {channel}"),
        };
        let (agent, _) = run::whose(&self.app, job);
        let detail = match run::route(&self.app, job, &agent, &delivery).await {
            Ok(_) if delivery["to"].is_string() && channel != "last" => "explicit".to_owned(),
            Ok(route) => format!("{channel} -> {}:{}", route.channel, route.target),
            Err(why) => format!("{channel} -> no route, will fail-closed: {why}"),
        };
        json!({ "label": label, "detail": detail })
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.params[name]
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
    }
}

fn known_agent(app: &App, job: &Job) -> Result<(), ErrorShape> {
    let (agent, _) = run::whose(app, job);
    let facts = app.facts.load();
    match facts.inputs(0, 0).roster().get(&agent) {
        Some(_) => Ok(()),
        None => Err(ErrorShape::new(
            ErrorCode::Unavailable,
            format!("Error: cron job agent is unavailable: {agent}"),
        )),
    }
}

fn unavailable(error: &StoreError) -> ErrorShape {
    tracing::error!(%error, "the store of jobs failed");
    ErrorShape::retryable(format!("jobs cannot be read or kept: {error}"), None)
}

fn refusal(method: &str, why: Refused) -> ErrorShape {
    match why {
        Refused::Params(why) => {
            ErrorShape::invalid_request(format!("invalid {method} params: {why}"))
        }
        Refused::Request(why) => ErrorShape::invalid_request(why),
        Refused::Late(why) => ErrorShape::new(ErrorCode::Unavailable, format!("Error: {why}")),
    }
}

fn unknown(what: &str, id: &str) -> ErrorShape {
    let not = if what == "Automation" {
        "Automation not found"
    } else {
        "cron job not found"
    };
    ErrorShape::invalid_request(format!(
        "{not}: {id}. List automations and retry with a current job id. For cross-session management, use a fresh authenticated configured channel owner or Control UI administrator turn or the Automations page."
    ))
    .with_details(json!({ "code": "CRON_JOB_NOT_FOUND", "jobId": id }))
}
