//! The runs that one client was told of and whose end it was not told of.
//!
//! When the upstream dies nobody else will tell it: its process knew of them, and a run that it takes up again after a
//! restart has another id. So the client is told here that they ended, as the original tells of a run that failed.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use wire::frame::EventText;

use crate::clock;

/// Runs that are remembered for one client. Beyond them the oldest is forgotten: its end is then only seen in the history.
const OPEN_MAX: usize = 128;
/// Ends that are remembered, for answers that come after their run has ended.
const ENDED_MAX: usize = 16;
const WHY: &str = "the OpenClaw gateway behind this one stopped while it worked on this; what it can take up again it takes up when it is back";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Runs {
    open: VecDeque<Run>,
    ended: VecDeque<String>,
}

#[derive(Debug)]
struct Run {
    id: String,
    session_key: String,
    agent: Option<String>,
    /// Of its last event.
    seq: u64,
    /// A chat's: its end is told by `chat`, and a failure of its model may be followed by another try.
    is_chat: bool,
    /// Nothing was heard of it on the socket in use.
    is_old: bool,
}

/// What `chat` and `agent` events have in common. Source: the events in docs/protocol.md.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(borrow)]
    run_id: Cow<'a, str>,
    #[serde(borrow)]
    session_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    agent_id: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: u64,
    /// Of `chat`.
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
    /// Of `agent`.
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    data: Option<Phase<'a>>,
}

#[derive(Deserialize)]
struct Phase<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
}

/// `{runId, status}`, the answer to a call that starts a run.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started<'a> {
    #[serde(borrow)]
    run_id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
}

/// The session that a call starts a run in, if its answer comes before the run's end. `agent` is not among them: its
/// second answer is the end.
pub(super) fn session_of_call(method: &str, frame: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params {
        #[serde(alias = "key")]
        session_key: String,
    }
    if !matches!(method, "chat.send" | "sessions.send" | "sessions.steer") {
        return None;
    }
    let request = wire::frame::RequestFrame::parse(frame).ok()?;
    let params: Params = serde_json::from_str(request.params?.get()).ok()?;
    Some(params.session_key)
}

impl Runs {
    /// A call that may start a run in `session_key` was answered.
    pub(super) fn answered(&mut self, session_key: &str, payload: &RawValue) {
        let Ok(started) = serde_json::from_str::<Started<'_>>(payload.get()) else {
            return;
        };
        let is_new = matches!(&*started.status, "started" | "in_flight")
            && !self.ended.iter().any(|id| *id == started.run_id)
            && !self.open.iter().any(|run| run.id == started.run_id);
        if is_new {
            self.push(Run {
                id: started.run_id.into_owned(),
                session_key: session_key.to_owned(),
                agent: None,
                seq: 0,
                is_chat: true,
                is_old: false,
            });
        }
    }

    /// An event passed by on its way to the client.
    pub(super) fn told(&mut self, event: &str, payload: Option<&RawValue>) {
        let Some(payload) = payload.map(RawValue::get) else {
            return;
        };
        // Every other stream of `agent` says nothing about beginning and end, and comes with each word.
        let concerns = match event {
            "chat" => true,
            "agent" => payload.contains("\"lifecycle\""),
            _ => false,
        };
        let Some(told) = concerns
            .then(|| serde_json::from_str::<Told<'_>>(payload).ok())
            .flatten()
        else {
            return;
        };
        let phase = told.data.as_ref().and_then(|data| data.phase.as_deref());
        match (event, told.state.as_deref(), told.stream.as_deref(), phase) {
            ("chat", Some("final" | "aborted" | "error"), ..)
            | ("agent", _, Some("lifecycle"), Some("end")) => self.end(&told.run_id),
            ("agent", _, Some("lifecycle"), Some("error")) => {
                let is_chat = |run: &Run| run.id == told.run_id && run.is_chat;
                if !self.open.iter().any(is_chat) {
                    self.end(&told.run_id);
                }
            }
            ("chat", Some(_), ..) => self.goes_on(&told, true),
            ("agent", _, Some("lifecycle"), Some("start")) => self.goes_on(&told, false),
            _ => {}
        }
    }

    fn goes_on(&mut self, told: &Told<'_>, is_chat: bool) {
        let Some(session_key) = told.session_key.as_deref() else {
            return;
        };
        let agent = told.agent_id.as_deref();
        if let Some(run) = self.open.iter_mut().find(|run| run.id == told.run_id) {
            run.seq = run.seq.max(told.seq);
            run.is_chat |= is_chat;
            run.is_old = false;
            // The answer to the call knew the session by the client's own name for it.
            if run.session_key != session_key {
                session_key.clone_into(&mut run.session_key);
            }
            if run.agent.is_none() {
                run.agent = agent.map(str::to_owned);
            }
            return;
        }
        self.push(Run {
            id: told.run_id.clone().into_owned(),
            session_key: session_key.to_owned(),
            agent: agent.map(str::to_owned),
            seq: told.seq,
            is_chat,
            is_old: false,
        });
    }

    fn push(&mut self, run: Run) {
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back(run);
    }

    fn end(&mut self, id: &str) {
        self.open.retain(|run| run.id != id);
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(id.to_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Another socket takes the place of the one on which these were heard of.
    pub(super) fn carry_over(&mut self) {
        self.open.iter_mut().for_each(|run| run.is_old = true);
    }

    /// As [`lost`](Self::lost), of those of which nothing was heard since [`carry_over`](Self::carry_over).
    pub(super) fn lost_before_this_socket(&mut self) -> Vec<(&'static str, EventText)> {
        let (old, new) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|run| run.is_old);
        self.open = new;
        let old: VecDeque<Run> = old;
        old.into_iter().flat_map(Run::ended).collect()
    }

    /// The upstream that worked on them is gone: the events that tell of it, with their names.
    pub(super) fn lost(&mut self) -> Vec<(&'static str, EventText)> {
        let open = std::mem::take(&mut self.open);
        open.into_iter().flat_map(Run::ended).collect()
    }
}

impl Run {
    fn ended(self) -> [(&'static str, EventText); 2] {
        let now = clock::now_ms();
        let mut agent = json!({
            "runId": self.id, "sessionKey": self.session_key, "stream": "lifecycle",
            "data": {
                "phase": "error", "error": WHY, "aborted": false, "livenessState": "blocked",
                "executionSettled": true, "endedAt": now,
            },
            "seq": self.seq + 1, "ts": now,
        });
        let mut chat = json!({
            "runId": self.id, "sessionKey": self.session_key, "seq": self.seq + 2,
            "state": "error", "errorMessage": WHY,
        });
        if let Some(id) = self.agent {
            agent["agentId"] = json!(id);
            chat["agentId"] = json!(id);
        }
        [("agent", agent), ("chat", chat)].map(|(event, payload)| {
            (
                event,
                EventText::new(event, Some(&payload.to_string()), None),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(value: &serde_json::Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    fn chat(run: &str, state: &str, seq: u64) -> Box<RawValue> {
        raw(&json!({
            "runId": run, "sessionKey": "agent:main:main", "agentId": "main", "seq": seq, "state": state,
            "message": { "role": "assistant", "content": [{ "type": "text", "text": "\"lifecycle\"" }] },
        }))
    }

    fn lifecycle(run: &str, phase: &str) -> Box<RawValue> {
        raw(&json!({
            "runId": run, "sessionKey": "agent:main:main", "stream": "lifecycle", "data": { "phase": phase }, "seq": 1,
        }))
    }

    /// `(event, runId, sessionKey, seq)` of what is told of the loss.
    fn lost(runs: &mut Runs) -> Vec<(String, String, String, u64)> {
        let told = runs.lost();
        told.iter()
            .map(|(_, text)| {
                let frame: serde_json::Value = serde_json::from_str(&text.render(None)).unwrap();
                let of = |at: &str| frame.pointer(at).unwrap().as_str().unwrap().to_owned();
                let seq = frame.pointer("/payload/seq").unwrap().as_u64().unwrap();
                (
                    of("/event"),
                    of("/payload/runId"),
                    of("/payload/sessionKey"),
                    seq,
                )
            })
            .collect()
    }

    #[test]
    fn a_run_is_open_from_its_answer_or_first_event_to_its_last() {
        let mut runs = Runs::default();
        let started = |run: &str| raw(&json!({ "runId": run, "status": "started" }));
        runs.answered("main", &started("a"));
        runs.answered("main", &started("b"));
        runs.told("chat", Some(&chat("b", "delta", 7)));
        runs.told("agent", Some(&lifecycle("c", "start")));
        for (run, end) in [("d", "final"), ("e", "aborted"), ("f", "error")] {
            runs.told("chat", Some(&chat(run, "delta", 1)));
            runs.told("chat", Some(&chat(run, end, 2)));
            // The call of a command may be answered after all was said.
            runs.answered("main", &started(run));
        }
        runs.told("agent", Some(&lifecycle("g", "start")));
        runs.told("agent", Some(&lifecycle("g", "end")));
        runs.answered("main", &raw(&json!({ "runId": "h", "status": "ok" })));
        let of = |event: &str, run: &str, key: &str, seq| {
            (event.to_owned(), run.to_owned(), key.to_owned(), seq)
        };
        let key = "agent:main:main";
        assert_eq!(
            lost(&mut runs),
            [
                of("agent", "a", "main", 1),
                of("chat", "a", "main", 2),
                of("agent", "b", key, 8),
                of("chat", "b", key, 9),
                of("agent", "c", key, 2),
                of("chat", "c", key, 3),
            ]
        );
        assert!(runs.is_empty() && runs.lost().is_empty());
    }

    #[test]
    fn a_chat_whose_model_failed_may_be_tried_again_and_ends_by_its_chat() {
        let mut runs = Runs::default();
        runs.told("chat", Some(&chat("a", "delta", 3)));
        runs.told("agent", Some(&lifecycle("a", "error")));
        runs.told("agent", Some(&lifecycle("b", "start")));
        runs.told("agent", Some(&lifecycle("b", "error")));
        let told = lost(&mut runs);
        assert_eq!(told.len(), 2);
        assert_eq!(told[1].1, "a");
    }

    #[test]
    fn of_those_carried_over_only_the_silent_are_lost() {
        let mut runs = Runs::default();
        runs.told("chat", Some(&chat("silent", "delta", 1)));
        runs.told("chat", Some(&chat("alive", "delta", 1)));
        runs.carry_over();
        runs.told("chat", Some(&chat("alive", "delta", 2)));
        runs.told("chat", Some(&chat("new", "delta", 1)));
        let told = runs.lost_before_this_socket();
        assert_eq!(told.len(), 2);
        assert!(told[1].1.render(None).contains("silent"));
        assert_eq!(lost(&mut runs).len(), 4);
    }

    #[test]
    fn more_runs_than_are_remembered_forget_the_oldest() {
        let mut runs = Runs::default();
        for number in 0..=OPEN_MAX {
            runs.told("chat", Some(&chat(&number.to_string(), "delta", 1)));
        }
        let told = lost(&mut runs);
        assert_eq!(told.len(), 2 * OPEN_MAX);
        assert_eq!(told[0].1, "1");
    }

    #[test]
    fn the_session_of_a_call_is_read_by_either_name() {
        let frame = |params: &str| {
            format!(r#"{{"type":"req","id":"1","method":"chat.send","params":{params}}}"#)
        };
        let of = |method, params| session_of_call(method, &frame(params));
        assert_eq!(
            of("chat.send", r#"{"sessionKey":"main"}"#).as_deref(),
            Some("main")
        );
        assert_eq!(of("sessions.send", r#"{"key":"k"}"#).as_deref(), Some("k"));
        assert_eq!(of("chat.send", "{}"), None);
        assert_eq!(of("chat.history", r#"{"sessionKey":"main"}"#), None);
    }
}
