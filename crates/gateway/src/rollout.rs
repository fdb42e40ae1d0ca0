//! Which clients are served here and which by the upstream, by percent.
//!
//! A client's place is a hash of its device, so that it stays on one side while the percent stands and only ever
//! joins while it grows. Only stateless native rows move: the configuration, channel accounts and agents have one owner each.
//! The percent is `[rollout] percent` of `openclaw-gateway.toml`; why it is what it is, is kept beside our state.

use std::path::Path;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::guard::Trip;
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::config::{ConfigError, replace_private};
use crate::ingress::http::{Body, full};

pub(crate) mod guard;
pub(crate) mod moves;
pub(crate) mod window;

pub(crate) const PATH: &str = "/api/rollout";
/// The steps of `rollout promote`.
pub(crate) const STEPS: [u8; 5] = [0, 5, 25, 50, 100];
const PLACES: u64 = 10_000;
const NOTE_FILE: &str = "rollout.json";

/// A client's place, 0…9999. Source of the hash does not matter; that it never changes does.
pub(crate) fn place(key: &str) -> u16 {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    let place = (u128::from(u64::from_be_bytes(first)) * u128::from(PLACES)) >> 64;
    u16::try_from(place).unwrap_or(u16::MAX)
}

/// The place of a client that was let in.
pub(crate) fn place_of(principal: &crate::dispatch::Principal) -> u16 {
    place(
        principal
            .device_id
            .as_deref()
            .unwrap_or(&principal.client_id),
    )
}

/// Whether a client of this place is served here.
pub(crate) fn includes(percent: u8, place: u16) -> bool {
    u64::from(place) < u64::from(percent) * (PLACES / 100)
}

/// What is in force while there is an upstream: as configured, unless the guard went back.
pub(crate) fn in_force(app: &App) -> u8 {
    match app.guard.is_back() {
        true => 0,
        false => app.settings.load().rollout_percent,
    }
}

/// What is in force: without an upstream there is nobody else.
pub(crate) fn effective(app: &App) -> u8 {
    match app.upstream.borrow().word() {
        "off" => 100,
        _ => in_force(app),
    }
}

/// Why the percent is what it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Note {
    pub(crate) reason: String,
    pub(crate) at_ms: u64,
    /// What it was set to; another percent in the file was written by hand.
    pub(crate) percent: Option<u8>,
    /// The guard went back, and nobody has promoted since.
    #[serde(skip_serializing_if = "Option::is_none")]
    trip: Option<Trip>,
    /// A person set `percent`, which ends the trip once the settings file says so too: two files can't change at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lifted: bool,
}

impl Note {
    /// The trip that holds everybody back while the file has this percent.
    pub(crate) fn holding(&self, percent: u8) -> Option<&Trip> {
        let is_over = self.lifted && self.percent == Some(percent);
        self.trip.as_ref().filter(|_| !is_over)
    }

    /// The same, with why the guard went back.
    pub(crate) fn tripped(self, trip: Trip) -> Self {
        Self {
            trip: Some(trip),
            lifted: false,
            ..self
        }
    }

    pub(crate) fn read(own_dir: &Path) -> Self {
        std::fs::read_to_string(own_dir.join(NOTE_FILE))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    pub(crate) fn write(&self, own_dir: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string(self).map_err(std::io::Error::other)?;
        replace_private(&own_dir.join(NOTE_FILE), format!("{text}\n").as_bytes())
    }

    /// The reason for this percent in these words, when it is the reason for it.
    pub(crate) fn for_percent(&self, percent: u8) -> &str {
        match self.percent {
            Some(set) if set == percent && !self.reason.is_empty() => &self.reason,
            _ if percent == 100 => "the default: everything that is native is answered here",
            _ => "set in openclaw-gateway.toml",
        }
    }
}

/// `rollout status` and `GET /api/rollout`.
pub(crate) fn status(app: &App, note: &Note) -> Value {
    let settings = app.settings.load();
    let percent = settings.rollout_percent;
    let upstream = app.upstream.borrow().word();
    let guard = guard::told(app);
    let reason = reason(upstream, note, percent, &guard);
    json!({
        "percent": percent,
        "effective": effective(app),
        "reason": reason,
        "paused": settings.rollout_paused,
        "setAtMs": (note.percent == Some(percent)).then_some(note.at_ms),
        "upstream": upstream,
        "steps": STEPS,
        "disabled": settings.native_disable,
        // Channel accounts that this gateway runs.
        "accounts": app.messages().map(|messages| {
            let accounts = messages.accounts.load();
            let names = accounts.all().keys().map(|(channel, account)| format!("{channel}/{account}"));
            names.collect::<Vec<_>>()
        }),
        "guard": guard,
        "running": true,
    })
}

/// Why it is served as it is.
pub(crate) fn reason(upstream: &str, note: &Note, percent: u8, guard: &Value) -> String {
    match guard.pointer("/trip/text").and_then(Value::as_str) {
        _ if upstream == "off" => {
            "no OpenClaw is configured, so everything is answered here".to_owned()
        }
        Some(why) => format!("rolled back by the guard: {why}"),
        None => note.for_percent(percent).to_owned(),
    }
}

/// `GET /api/rollout`. Changes are made in the file, which is watched.
pub(crate) async fn respond(
    app: &App,
    request: &Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    let scope = match *request.method() {
        Method::POST => "operator.admin",
        _ => "operator.read",
    };
    if let Err(refusal) = crate::messages::api::admit(app, request.headers(), peer, scope).await {
        return *refusal;
    }
    let Some(follower) = app.follower() else {
        return answer(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "error": "the gateway is starting" }),
        );
    };
    let (own_file, own_dir) = follower.own_files();
    if *request.method() == Method::POST {
        let query = request.uri().query().unwrap_or_default();
        let settings = app.settings.load_full();
        let now = (settings.rollout_percent, settings.rollout_paused);
        let changed = match query.starts_with("account=") || query.starts_with("to=") {
            true => moves::Move::parse(query).and_then(|to| {
                let config = &app.facts.load().config;
                let config = crate::messages::owned::with_own(config, own_dir)?;
                let moved = to.write(own_file, &config).map(drop);
                moved.map_err(|error| error.to_string())
            }),
            false => Action::parse(query).and_then(|action| {
                let changed = change(own_file, own_dir, now, &action).map(drop);
                changed.map_err(|error| error.to_string())
            }),
        };
        if let Err(why) = changed {
            return answer(StatusCode::BAD_REQUEST, &json!({ "error": why }));
        }
        if !follower.apply_now().await {
            let why =
                "the change is in openclaw-gateway.toml and could not be applied; see the log";
            return answer(StatusCode::CONFLICT, &json!({ "error": why }));
        }
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({ "error": "use GET or POST" }),
        );
        let allow = HeaderValue::from_static("GET, HEAD, POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    answer(StatusCode::OK, &status(app, &Note::read(own_dir)))
}

pub(crate) fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

/// What a person may do with the percent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Set(u8),
    /// To the next step.
    Promote,
    Pause,
    /// To 0.
    Rollback,
}

impl Action {
    /// `set=25`, `promote`, `pause` or `rollback`, as a query.
    fn parse(query: &str) -> Result<Self, String> {
        match query.split_once('=') {
            Some(("set", percent)) => match percent.parse::<u8>() {
                Ok(percent) if percent <= 100 => Ok(Self::Set(percent)),
                _ => Err(format!("set: {percent} is no percent from 0 to 100")),
            },
            None if query == "promote" => Ok(Self::Promote),
            None if query == "pause" => Ok(Self::Pause),
            None if query == "rollback" => Ok(Self::Rollback),
            _ => Err(
                "use ?set=PERCENT, ?promote, ?pause, ?rollback or ?account=ID&to=native|upstream"
                    .to_owned(),
            ),
        }
    }
}

/// Writes what an action means into `openclaw-gateway.toml`, and why beside our state. `now`: percent and paused.
///
/// # Errors
/// When it means nothing now, or a file can't be read or written; then nothing has changed.
pub(crate) fn change(
    own_file: &Path,
    own_dir: &Path,
    now: (u8, bool),
    action: &Action,
) -> Result<u8, ConfigError> {
    let (percent, paused) = now;
    let before = Note::read(own_dir);
    let is_held = before.holding(percent).is_some();
    // A step up from what is in force.
    let from = if is_held { 0 } else { percent };
    let (next, pause, reason) = match action {
        Action::Set(percent) => (*percent, false, format!("set to {percent} % by hand")),
        Action::Rollback => (0, false, "rolled back by hand".to_owned()),
        Action::Pause => (percent, true, format!("paused at {percent} % by hand")),
        Action::Promote if paused => {
            return Err(
                ConfigError::new(format!("the rollout is paused at {percent} %"))
                    .file(own_file)
                    .key("rollout.paused")
                    .fix("go on with `openclaw-gateway rollout set PERCENT`"),
            );
        }
        Action::Promote => match STEPS.into_iter().find(|step| *step > from) {
            Some(step) => (step, false, format!("promoted from {from} % by hand")),
            None => {
                return Err(ConfigError::new("the rollout is at 100 % already").file(own_file));
            }
        },
    };
    let text = match std::fs::read_to_string(own_file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(own_file, "read", &error)),
    };
    let mut document: toml_edit::DocumentMut = text.parse().map_err(|error| {
        ConfigError::new(format!("not TOML: {error}"))
            .file(own_file)
            .fix("correct it first (`openclaw-gateway config check`)")
    })?;
    let table = document.entry("rollout").or_insert_with(toml_edit::table);
    if !table.is_table_like() {
        return Err(ConfigError::new("is a section, not a value")
            .file(own_file)
            .key("rollout")
            .fix("write [rollout] and its keys below it"));
    }
    table["percent"] = toml_edit::value(i64::from(next));
    if pause || table.get("paused").is_some() {
        table["paused"] = toml_edit::value(pause);
    }
    // The whole file must be one that a gateway takes: another wrong key would keep the percent from being in force.
    let text = document.to_string();
    crate::config::OwnSettings::parse(own_file, &text)?;
    crate::config::create_private_dir(own_dir).map_err(|error| failed(own_dir, "made", &error))?;
    let keep = |note: &Note| {
        note.write(own_dir)
            .map_err(|error| failed(own_dir, "written", &error))
    };
    let mut note = Note {
        reason,
        at_ms: crate::clock::now_ms(),
        percent: Some(next),
        trip: before.trip.filter(|_| is_held),
        lifted: is_held && matches!(action, Action::Set(_) | Action::Promote),
    };
    keep(&note)?;
    replace_private(own_file, text.as_bytes())
        .map_err(|error| failed(own_file, "written", &error))?;
    if note.lifted && note.trip.take().is_some() {
        // Both files agree: a percent that somebody writes by hand later brings no old trip back.
        note.lifted = false;
        keep(&note)?;
    }
    Ok(next)
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> ConfigError {
    ConfigError::new(format!("cannot be {what}: {error}"))
        .file(path)
        .fix("make it readable and writable by the gateway's user")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_it_says_and_a_client_only_joins() {
        let places: Vec<u16> = (0..10_000).map(|n| place(&format!("device-{n}"))).collect();
        for percent in [0_u8, 1, 5, 25, 50, 99, 100] {
            let share = places.iter().filter(|at| includes(percent, **at)).count();
            let off = (share as f64 / 100.0 - f64::from(percent)).abs();
            assert!(off <= 1.0, "{share} of 10,000 at {percent} %");
        }
        for at in places {
            let joined: Vec<bool> = (0..=100).map(|percent| includes(percent, at)).collect();
            assert!(joined.is_sorted(), "{at} left while the percent grew");
            assert!(!joined[0] && joined[100]);
        }
    }

    #[test]
    fn a_change_keeps_the_person_s_file_and_says_why() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("openclaw-gateway.toml");
        let mine = "# mine\nnative.disable = [\"health\"] # for now\n\n[admin]\nlisten = \"off\"\n";
        std::fs::write(&file, mine).expect("written");
        let run = |now, action: &Action| change(&file, dir.path(), now, action);
        assert_eq!(run((100, false), &Action::Rollback).ok(), Some(0));
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(text.starts_with(mine), "{text}");
        assert!(text.contains("[rollout]\npercent = 0\n"), "{text}");
        assert_eq!(Note::read(dir.path()).for_percent(0), "rolled back by hand");
        assert_eq!(run((0, false), &Action::Promote).ok(), Some(5));
        assert_eq!(run((5, false), &Action::Promote).ok(), Some(25));
        assert_eq!(run((30, false), &Action::Promote).ok(), Some(50));
        assert_eq!(run((50, false), &Action::Pause).ok(), Some(50));
        let refused = run((50, true), &Action::Promote).expect_err("paused");
        assert!(refused.to_string().contains("paused at 50 %"), "{refused}");
        assert_eq!(run((50, true), &Action::Set(100)).ok(), Some(100));
        assert!(run((100, false), &Action::Promote).is_err());
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(text.contains("paused = false"), "{text}");
        std::fs::write(&file, "= broken").expect("written");
        assert!(run((100, false), &Action::Rollback).is_err());
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "= broken");
    }

    #[test]
    fn what_the_guard_took_back_stays_back_until_a_person_promotes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("openclaw-gateway.toml");
        std::fs::write(&file, "[rollout.guard]\nwindow_s = 9\n").expect("written");
        let run = |now, action: &Action| change(&file, dir.path(), now, action).ok();
        let held = |percent| Note::read(dir.path()).holding(percent).is_some();
        assert_eq!(run((100, false), &Action::Set(50)), Some(50));
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(
            text.contains("[rollout]\npercent = 50\n") && text.contains("window_s = 9"),
            "{text}"
        );
        let trip = Trip {
            signal: window::Signal::Errors,
            native: 1.0,
            upstream: Some(0.0),
            bound: 0.05,
            percent: 50,
            at_ms: 1,
        };
        let trip_again = || {
            Note::read(dir.path())
                .tripped(trip.clone())
                .write(dir.path())
        };
        trip_again().expect("written");
        // The reason of the percent is kept beside; a percent written by hand is no promotion.
        assert_eq!(
            Note::read(dir.path()).for_percent(50),
            "set to 50 % by hand"
        );
        assert!(held(50) && held(25) && held(0));
        assert_eq!(run((50, false), &Action::Pause), Some(50));
        assert_eq!(run((50, true), &Action::Rollback), Some(0));
        assert!(held(0) && held(50));
        assert_eq!(run((0, false), &Action::Set(50)), Some(50));
        assert!(!held(50));
        trip_again().expect("written");
        assert_eq!(
            run((50, false), &Action::Promote),
            Some(5),
            "from what is in force"
        );
        assert!(!held(5) && !held(50));
        // Between the two files: back until both say that it is over.
        let between = Note {
            percent: Some(25),
            lifted: true,
            ..Note::default().tripped(trip)
        };
        assert!(between.holding(5).is_some() && between.holding(25).is_none());
    }

    #[test]
    fn a_file_that_no_gateway_takes_is_named_and_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("openclaw-gateway.toml");
        for (wrong, named) in [
            ("rollout = 5\n", "rollout: is a section, not a value"),
            ("[rollout]\nprecent = 5\n", "rollout.precent: unknown key"),
            ("[log]\nlevel = \"loud\"\n", "log.level: expected"),
            ("[[rollout]]\npercent = 5\n", "rollout: is a section"),
        ] {
            std::fs::write(&file, wrong).expect("written");
            let refused =
                change(&file, dir.path(), (100, false), &Action::Set(25)).expect_err("refused");
            assert!(refused.to_string().contains(named), "{refused}");
            assert_eq!(std::fs::read_to_string(&file).expect("read"), wrong);
            assert_eq!(Note::read(dir.path()).percent, None, "no reason is kept");
        }
    }

    #[test]
    fn actions_are_read_and_others_are_named() {
        assert_eq!(Action::parse("set=25"), Ok(Action::Set(25)));
        assert_eq!(Action::parse("rollback"), Ok(Action::Rollback));
        for wrong in ["set=101", "set=x", "", "nope", "set"] {
            assert!(Action::parse(wrong).is_err(), "{wrong}");
        }
    }
}
