//! A job as it is kept and as clients are shown it: made from params, changed by a patch.
//!
//! Source of shapes, defaults and words: answers of the original at 2026.9.6, as tests/assistant compares them.

use serde_json::{Map, Value, json};
use store::CronJob;

use super::when::{self, When};

/// Fields of params that are taken as they are.
const PLAIN: [&str; 12] = [
    "declarationKey",
    "displayName",
    "owner",
    "agentId",
    "sessionKey",
    "name",
    "description",
    "deleteAfterRun",
    "sessionTarget",
    "wakeMode",
    "delivery",
    "failureAlert",
];

/// Of a job without a name, so much of its text is the name.
const NAME_CHARS: usize = 60;

/// Why a job can't be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// `INVALID_REQUEST`, behind `invalid cron.add params: `.
    Params(String),
    /// `INVALID_REQUEST`.
    Request(String),
    /// `UNAVAILABLE`, behind `Error: `: what the original finds out only when it saves.
    Late(String),
}

/// A job with its state apart.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: String,
    /// Without `state`.
    pub(super) fields: Map<String, Value>,
    pub(super) state: Map<String, Value>,
    pub(super) next_ms: Option<i64>,
    pub(super) run_id: Option<String>,
}

impl Job {
    /// A new job of params whose shape has been checked.
    pub(super) fn new(id: String, params: &Value, now_ms: i64) -> Result<Self, Refused> {
        let mut fields = Map::new();
        fields.insert("id".into(), json!(id));
        for name in PLAIN {
            match &params[name] {
                Value::Null => {}
                value => drop(fields.insert(name.into(), value.clone())),
            }
        }
        // A job without a name is called by what it does.
        let said = ["message", "text"].map(|part| params["payload"][part].as_str());
        let said = said.into_iter().flatten().next().unwrap_or_default();
        fields.entry("name").or_insert_with(|| {
            let line = said.trim().lines().next().unwrap_or_default();
            json!(super::clipped(line.trim_end(), NAME_CHARS))
        });
        let enabled = params["enabled"].as_bool().unwrap_or(true);
        fields.insert("enabled".into(), json!(enabled));
        fields.insert("createdAtMs".into(), json!(now_ms));
        fields.insert("updatedAtMs".into(), json!(now_ms));
        fields.insert("schedule".into(), params["schedule"].clone());
        fields.insert("payload".into(), params["payload"].clone());
        for unserved in ["pacing", "trigger"] {
            if !params[unserved].is_null() {
                return Err(Refused::Request(format!(
                    "{unserved} is not served by this gateway; leave it out"
                )));
            }
        }
        let mut job = Self {
            id,
            fields,
            state: Map::new(),
            next_ms: None,
            run_id: None,
        };
        let when = job.complete(now_ms)?;
        job.arm(&when, now_ms)?;
        Ok(job)
    }

    /// The job with a patch in it. Its history stays.
    pub(super) fn patched(&self, patch: &Value, now_ms: i64) -> Result<Self, Refused> {
        let mut job = self.clone();
        let Some(patch) = patch.as_object() else {
            return Ok(job);
        };
        for (name, value) in patch {
            let is_needed = [
                "name",
                "schedule",
                "payload",
                "enabled",
                "sessionTarget",
                "wakeMode",
            ]
            .contains(&name.as_str());
            match name.as_str() {
                "pacing" | "trigger" if !value.is_null() => {
                    return Err(Refused::Request(format!(
                        "{name} is not served by this gateway; leave it out"
                    )));
                }
                _ if value.is_null() && is_needed => {}
                "payload" | "delivery" => {
                    let known = job
                        .fields
                        .get(name)
                        .filter(|old| old["kind"] == value["kind"] || value["kind"].is_null());
                    let merged = merge(known.cloned().unwrap_or_else(|| json!({})), value);
                    job.fields.insert(name.clone(), merged);
                }
                "schedule" => {
                    let schedule = carried(&self.fields["schedule"], value);
                    job.fields.insert(name.clone(), schedule);
                }
                known if is_needed || PLAIN.contains(&known) => match value.is_null() {
                    true => drop(job.fields.remove(name)),
                    false => drop(job.fields.insert(name.clone(), value.clone())),
                },
                // What only the gateway sets.
                _ => {}
            }
        }
        job.fields.insert("updatedAtMs".into(), json!(now_ms));
        let when = job.complete(now_ms)?;
        // A new name does not move a job's time, a retry or a pause.
        let is_moved = self.fields["schedule"] != job.fields["schedule"]
            || self.is_enabled() != job.is_enabled();
        if is_moved {
            job.state
                .insert("scheduleActivatedAtMs".into(), json!(now_ms));
            job.arm(&when, now_ms)?;
        }
        Ok(job)
    }

    /// Fills in what was left out and says when it is due.
    fn complete(&mut self, now_ms: i64) -> Result<When, Refused> {
        let mut schedule = self.fields["schedule"].take();
        let when = When::read(&mut schedule, now_ms);
        let is_once = schedule["kind"] == "at";
        self.fields["schedule"] = schedule;
        let when = when.map_err(|why| match is_once {
            true => Refused::Request(why),
            false => Refused::Params(why),
        })?;
        let target = self.text("sessionTarget").to_owned();
        if target.is_empty() {
            return Err(Refused::Params(
                "must have required property 'sessionTarget'".into(),
            ));
        }
        let payload = &mut self.fields["payload"];
        let kind = payload["kind"].as_str().unwrap_or_default().to_owned();
        match (target.as_str(), kind.as_str()) {
            ("main", "systemEvent") => {}
            ("main", _) => {
                return Err(Refused::Params(
                    "main cron jobs require payload.kind=\"systemEvent\" or \"script\"".into(),
                ));
            }
            (_, "agentTurn") => {
                if payload["toolsAllow"].is_null() {
                    payload["toolsAllow"] = json!(["*"]);
                }
                self.fields.insert(
                    "scheduledToolPolicy".into(),
                    json!({ "version": 1, "mode": "trusted" }),
                );
                self.fields
                    .entry("delivery")
                    .or_insert_with(|| json!({ "mode": "announce" }));
            }
            (_, "systemEvent") => {
                return Err(Refused::Late("isolated cron jobs require payload.kind=\"agentTurn\", \"command\", or \"script\"; script payloads do not support current/session targets".into()));
            }
            (_, other) => {
                return Err(Refused::Request(format!(
                    "payload.kind \"{other}\" is not served by this gateway; use agentTurn or systemEvent"
                )));
            }
        }
        if target == "current" && self.text("sessionKey").is_empty() {
            return Err(Refused::Request(
                "sessionTarget \"current\" needs the sessionKey it means".into(),
            ));
        }
        let delivery = self.fields.get("delivery").cloned().unwrap_or_default();
        if delivery["mode"] == "webhook" || !delivery["completionDestination"].is_null() {
            let to = delivery["to"].as_str().unwrap_or_default();
            if !to.starts_with("http://") && !to.starts_with("https://") {
                return Err(Refused::Params(
                    "cron webhook delivery requires delivery.to to be a valid http(s) URL".into(),
                ));
            }
            return Err(Refused::Request(
                "delivery.mode \"webhook\" is not served by this gateway; use announce or none"
                    .into(),
            ));
        }
        if is_once {
            self.fields.entry("deleteAfterRun").or_insert(json!(true));
        }
        Ok(when)
    }

    /// Works out when it is due next.
    fn arm(&mut self, when: &When, now_ms: i64) -> Result<(), Refused> {
        self.next_ms = match self.is_enabled() {
            true => when.next(now_ms, &self.id),
            false => None,
        };
        if let When::At { ms } = *when
            && self.next_ms.is_none()
            && self.is_enabled()
            && self.state.get("lastRunAtMs").is_none()
        {
            return Err(Refused::Request(format!(
                "schedule.at is in the past: {} ({} minutes ago). Current time: {}",
                when::iso(ms),
                (now_ms - ms) / 60_000,
                when::iso(now_ms)
            )));
        }
        self.note_next();
        Ok(())
    }

    pub(super) fn when(&self) -> Option<When> {
        When::read(&mut self.fields["schedule"].clone(), 0).ok()
    }

    /// Due once, and that is still to come at `now_ms`.
    pub(super) fn is_ahead(&self, now_ms: i64) -> bool {
        matches!(self.when(), Some(When::At { ms }) if ms > now_ms)
    }

    /// `state.nextRunAtMs` says what `next_ms` is.
    pub(super) fn note_next(&mut self) {
        match self.next_ms {
            Some(next) => drop(self.state.insert("nextRunAtMs".into(), json!(next))),
            None => drop(self.state.remove("nextRunAtMs")),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.fields.get("enabled") == Some(&Value::Bool(true))
    }

    pub(super) fn is_once(&self) -> bool {
        self.fields["schedule"]["kind"] == "at"
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// A word of the state, as a time or a count.
    pub(super) fn number(&self, name: &str) -> i64 {
        self.state
            .get(name)
            .and_then(when::whole)
            .unwrap_or_default()
    }

    pub(super) fn of(row: &CronJob) -> Option<Self> {
        let object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
        Some(Self {
            id: row.id.clone(),
            fields: object(&row.job)?,
            state: object(&row.state)?,
            next_ms: row.next_ms,
            run_id: row.run_id.clone(),
        })
    }

    pub(super) fn row(&self) -> CronJob {
        CronJob {
            id: self.id.clone(),
            job: Value::from(self.fields.clone()).to_string(),
            state: Value::from(self.state.clone()).to_string(),
            next_ms: self.next_ms,
            run_id: self.run_id.clone(),
        }
    }

    /// As the `cron` event has it.
    pub(super) fn told(&self) -> Value {
        let mut shown = self.fields.clone();
        shown.insert("state".into(), Value::from(self.state.clone()));
        Value::from(shown)
    }

    /// As answers have it: what matters of the state stands beside it once more.
    pub(super) fn shown(&self) -> Value {
        let mut shown = self.told();
        let config = json!([
            self.fields.get("name"),
            self.fields.get("enabled"),
            self.fields.get("schedule"),
            self.fields.get("payload"),
            self.fields.get("delivery"),
            self.fields.get("sessionTarget"),
            self.fields.get("wakeMode"),
            self.fields.get("agentId"),
            self.fields.get("description"),
            self.fields.get("failureAlert"),
        ]);
        shown["configRevision"] = json!(format!("sha256:{}", super::digest(&config.to_string())));
        for name in [
            "nextRunAtMs",
            "lastRunAtMs",
            "lastRunStatus",
            "lastDelivered",
            "lastDeliveryStatus",
            "lastDeliveryError",
            "lastFailureNotificationDeliveryStatus",
        ] {
            if let Some(value) = self.state.get(name) {
                shown[name] = value.clone();
            }
        }
        if let Some(error) = self.state.get("lastError") {
            shown["lastRunError"] = error.clone();
        }
        shown
    }
}

/// A schedule in place of another; what it leaves out stays while it is the same interval or expression.
fn carried(old: &Value, new: &Value) -> Value {
    let mut new = new.clone();
    let same = |name: &str| old[name] == new[name];
    let kept = match new["kind"].as_str() {
        Some("every") if same("kind") && same("everyMs") => "anchorMs",
        Some("cron") if same("kind") && same("expr") => "staggerMs",
        _ => return new,
    };
    if new[kept].is_null() && !old[kept].is_null() {
        new[kept] = old[kept].clone();
    }
    new
}

/// `patch` over `base`; null takes a field out.
fn merge(mut base: Value, patch: &Value) -> Value {
    let (Some(fields), Some(patch)) = (base.as_object_mut(), patch.as_object()) else {
        return patch.clone();
    };
    for (name, value) in patch {
        match value.is_null() {
            true => drop(fields.remove(name)),
            false => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    base
}
