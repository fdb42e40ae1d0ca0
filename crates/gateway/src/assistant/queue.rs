//! Messages that come while their session is at work: given to the turn that works, or to wait in line for turns of their own.
//!
//! What waits is on disk, as a note on its run; it becomes a line of the conversation when a turn takes it up. A line is in
//! memory: after a crash its messages are told as not worked on.

pub(super) mod settings;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{AgentSession, Entry, Run, RunState};
use tokio::time::Instant;

use self::settings::{Drop, Mode, Settings};
use super::events::{self, Teller};
use super::{Assistant, Input, Live, Outcome, clock_ms, rows, run, unavailable};
use crate::app::App;

/// Of a message that gave way, as the model is told of it.
const LINE_CHARS_MAX: usize = 160;

/// A message that no turn has taken up.
pub(super) struct Waiting {
    pub(super) input: Input,
    pub(super) live: Arc<Live>,
    /// Its line of the conversation, once it is one.
    pub(super) entry: Entry,
    pub(super) settings: Settings,
}

/// What waits in a session.
struct Line {
    items: VecDeque<Waiting>,
    /// Of people in chats, and of operators: what a message says is done with the rights of who wrote it.
    dropped: [Dropped; 2],
    last: Instant,
}

/// Messages that gave way to newer ones. They stay open until a turn of the last of them tells of all.
#[derive(Default)]
struct Dropped {
    /// Oldest first.
    items: VecDeque<Waiting>,
    /// More than these: counted alone.
    untold: usize,
}

/// What becomes of a message that no turn takes up.
enum Gone {
    Failed(String),
    /// It is in the conversation, and another one's turn counts it.
    Counted,
}

/// The lines of all sessions; one that is there has a task that works on it.
#[derive(Default)]
pub(super) struct Lines(Mutex<HashMap<String, Line>>);

/// What one turn takes up.
struct Batch {
    /// Whose turn it is.
    owner: Waiting,
    /// Those whose messages it has too.
    others: Vec<Waiting>,
}

/// The note on a run whose message waits.
pub(super) fn note(entry: &Entry) -> String {
    json!({ "pendingInput": {
        "id": entry.id, "role": entry.role, "runId": entry.run_id, "message": entry.message, "atMs": entry.at_ms,
    } })
    .to_string()
}

/// The line of a conversation that [`note`] kept.
pub(super) fn noted(run: &Run) -> Option<Entry> {
    let note: Value = serde_json::from_str(run.outcome.as_deref()?).ok()?;
    let kept = note.get("pendingInput")?;
    let text = |key: &str| kept[key].as_str().map(str::to_owned);
    Some(Entry {
        seq: 0,
        id: text("id")?,
        role: text("role")?,
        run_id: text("runId"),
        message: text("message")?,
        at_ms: kept["atMs"].as_i64()?,
    })
}

/// Gives a message to the turn that works on its session, or lets it wait.
pub(super) fn wait(app: &Arc<App>, assistant: &Arc<Assistant>, waiting: Waiting) {
    let live = Arc::clone(&waiting.live);
    place(app, assistant, waiting);
    // It has its place by now: one that is called off already is found there.
    watch(app, assistant, &live);
}

fn place(app: &Arc<App>, assistant: &Arc<Assistant>, waiting: Waiting) {
    let key = waiting.input.session_key.clone();
    let others = assistant.live_of(&key);
    let others: Vec<_> = others
        .into_iter()
        .filter(|live| !Arc::ptr_eq(live, &waiting.live))
        .collect();
    if waiting.settings.mode == Mode::Interrupt {
        for live in &others {
            live.interrupt();
        }
    }
    let mut lines = assistant.lines.0.lock();
    let mut waiting = waiting;
    // Who waits already comes first.
    if waiting.settings.mode == Mode::Steer && !lines.contains_key(&key) {
        for live in &others {
            match live.steer(waiting) {
                Ok(()) => return,
                Err(back) => waiting = *back,
            }
        }
    }
    let is_new = !lines.contains_key(&key);
    let line = lines.entry(key.clone()).or_insert_with(Line::new);
    let gone = line.push(waiting);
    drop(lines);
    for (waiting, how) in gone {
        let (app, assistant) = (Arc::clone(app), Arc::clone(assistant));
        tokio::spawn(async move { give_up(&app, &assistant, waiting, how).await });
    }
    if is_new {
        tokio::spawn(work(Arc::clone(app), Arc::clone(assistant), key));
    }
}

/// Puts back what a turn was given and did not take up, before what waits.
pub(super) fn put_back(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    key: &str,
    left: VecDeque<Waiting>,
) {
    if left.is_empty() {
        return;
    }
    let mut lines = assistant.lines.0.lock();
    let is_new = !lines.contains_key(key);
    let line = lines.entry(key.to_owned()).or_insert_with(Line::new);
    for waiting in left.into_iter().rev() {
        line.items.push_front(waiting);
    }
    drop(lines);
    if is_new {
        tokio::spawn(work(Arc::clone(app), Arc::clone(assistant), key.to_owned()));
    }
}

/// What waits in a session, as `chat.history` tells it.
pub(super) fn pending(assistant: &Assistant, key: &str) -> Vec<Value> {
    let row = |waiting: &Waiting| {
        let mut message: Value = serde_json::from_str(&waiting.entry.message).unwrap_or_default();
        let id = format!("pending:{}", waiting.entry.id);
        if let Some(message) = message.as_object_mut() {
            message.remove("idempotencyKey");
        }
        if let Some(own) = message["__openclaw"].as_object_mut() {
            own.remove("idempotencyKey");
            own.insert("id".to_owned(), json!(id));
        }
        json!({
            "id": waiting.entry.id, "acceptedAt": waiting.entry.at_ms, "state": "queued", "message": message,
            "runId": waiting.live.run_id,
        })
    };
    let mut rows = Vec::new();
    for live in assistant.live_of(key) {
        live.with_steered(|steered| rows.extend(steered.iter().map(row)));
    }
    let lines = assistant.lines.0.lock();
    let line = lines.get(key);
    rows.extend(line.into_iter().flat_map(|line| &line.items).map(row));
    rows
}

impl Line {
    fn new() -> Self {
        Self {
            items: VecDeque::new(),
            dropped: Default::default(),
            last: Instant::now(),
        }
    }

    /// Adds a message: those that give way for it, and how.
    fn push(&mut self, waiting: Waiting) -> Vec<(Waiting, Gone)> {
        let Settings { cap, drop, .. } = waiting.settings;
        let is_operator = waiting.live.is_operator;
        let mut gone = Vec::new();
        let full = || Gone::Failed(format!("{cap} messages wait already (messages.queue.cap)"));
        // What is no person's message at a client is never left out, and nobody's gives way to a stranger's.
        let counts =
            |one: &Waiting| !one.settings.is_serial() && one.live.is_operator == is_operator;
        self.last = Instant::now();
        while !waiting.settings.is_serial()
            && self.items.iter().filter(|one| counts(one)).count() >= cap
        {
            if drop == Drop::New {
                gone.push((waiting, full()));
                return gone;
            }
            let oldest = self.items.iter().position(counts);
            let Some(oldest) = oldest.and_then(|at| self.items.remove(at)) else {
                break;
            };
            if drop == Drop::Old {
                gone.push((oldest, full()));
                continue;
            }
            let dropped = &mut self.dropped[usize::from(is_operator)];
            dropped.items.push_back(oldest);
            if dropped.items.len() > cap {
                dropped.untold += 1;
                gone.extend(dropped.items.pop_front().map(|one| (one, Gone::Counted)));
            }
        }
        self.items.push_back(waiting);
        gone
    }

    /// What the next turn takes up.
    fn next(&mut self) -> Option<Batch> {
        if let Some(batch) = self.dropped.iter_mut().rev().find_map(Dropped::next) {
            return Some(batch);
        }
        let first = self.items.pop_front()?;
        let mut all = vec![first];
        while all[0].settings.mode == Mode::Collect
            && let Some(next) = self.items.front()
            && next.settings.mode == Mode::Collect
            && next.input.client.is_some() == all[0].input.client.is_some()
        {
            all.extend(self.items.pop_front());
        }
        let is_collected = all[0].settings.mode == Mode::Collect;
        let mut owner = all.pop()?;
        if is_collected {
            let said = all.iter().chain([&owner]).enumerate().map(|(at, one)| {
                let from = one
                    .input
                    .client
                    .as_ref()
                    .map(|(id, _)| format!(" (from {id})"));
                format!(
                    "---\nQueued #{}{}\n{}",
                    at + 1,
                    from.unwrap_or_default(),
                    one.input.message.trim()
                )
            });
            let said = said.collect::<Vec<_>>().join("\n\n");
            let images = all
                .iter_mut()
                .flat_map(|one| std::mem::take(&mut one.input.images));
            let images: Vec<_> = images
                .chain(std::mem::take(&mut owner.input.images))
                .collect();
            owner.input.images = images;
            owner.say(format!("[Queued messages while agent was busy]\n\n{said}"));
        }
        Some(Batch { owner, others: all })
    }
}

impl Dropped {
    /// A turn that tells of all.
    fn next(&mut self) -> Option<Batch> {
        let lines: Vec<String> = self
            .items
            .iter()
            .map(|one| format!("- {}", short(&one.input.message)))
            .collect();
        let mut owner = self.items.pop_back()?;
        let count = lines.len() + std::mem::take(&mut self.untold);
        owner.say(format!(
            "[Queue overflow] Dropped {count} message{} due to cap.\nSummary:\n{}",
            if count == 1 { "" } else { "s" },
            lines.join("\n")
        ));
        let others = std::mem::take(&mut self.items).into();
        Some(Batch { owner, others })
    }
}

impl Waiting {
    /// Something else than what was written.
    fn say(&mut self, message: String) {
        self.input.message = message;
        self.entry = rows::user(&self.input, self.entry.at_ms);
    }
}

fn short(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= LINE_CHARS_MAX {
        return words;
    }
    let head: String = words.chars().take(LINE_CHARS_MAX - 1).collect();
    format!("{}…", head.trim_end())
}

/// Works on a line until nobody waits in it.
async fn work(app: Arc<App>, assistant: Arc<Assistant>, key: String) {
    loop {
        // After a stop nothing of it begins, whoever ends just then.
        let lane = tokio::select! {
            biased;
            () = app.stops() => return close(&assistant, &key),
            lane = assistant.lane(&key).lock_owned() => lane,
        };
        loop {
            let quiet = {
                let lines = assistant.lines.0.lock();
                let line = lines.get(&key);
                line.and_then(|line| Some(line.last + line.items.front()?.settings.debounce))
            };
            match quiet.filter(|quiet| *quiet > Instant::now()) {
                None => break,
                Some(quiet) => tokio::select! {
                    () = tokio::time::sleep_until(quiet) => {}
                    () = app.stops() => return close(&assistant, &key),
                },
            }
        }
        let batch = {
            let mut lines = assistant.lines.0.lock();
            let batch = lines.get_mut(&key).and_then(Line::next);
            if batch.is_none() {
                lines.remove(&key);
            }
            batch
        };
        let Some(batch) = batch else { return };
        let Batch { owner, others } = batch;
        if let Err(why) = take_up(&app, &assistant, &owner, &others).await {
            for waiting in others.into_iter().chain([owner]) {
                give_up(&app, &assistant, waiting, Gone::Failed(why.clone())).await;
            }
            continue;
        }
        for waiting in others {
            taken(&app, &assistant, &waiting, "");
        }
        owner.live.taken_up();
        run::worked(&app, &assistant, &owner.live, owner.input, true).await;
        drop(lane);
    }
}

/// The gateway stops: what waits is told so, and by the next start as not worked on.
fn close(assistant: &Assistant, key: &str) {
    let line = assistant.lines.0.lock().remove(key);
    let line = line.into_iter().flat_map(|line| {
        let dropped = line.dropped.into_iter().flat_map(|dropped| dropped.items);
        dropped.chain(line.items)
    });
    for waiting in line {
        let outcome = Outcome::failed("the gateway is stopping", waiting.live.started_ms);
        assistant.finish(&waiting.live, outcome);
    }
}

/// Makes a line of the conversation of what waited, and ends the runs of those that are part of it.
async fn take_up(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    owner: &Waiting,
    others: &[Waiting],
) -> Result<(), String> {
    let session = assistant.session(&owner.input.session_key).await;
    let Ok(Some(session)) = session else {
        return Err("the session is gone".to_owned());
    };
    let (id, entry, run_id) = (
        session.session_id.clone(),
        owner.entry.clone(),
        owner.live.run_id.clone(),
    );
    let others: Vec<String> = others.iter().map(|one| one.live.run_id.clone()).collect();
    let (part_of, now) = (part_of(&run_id).to_string(), clock_ms());
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            agents.append(&id, &entry)?;
            agents.note(&run_id, None)?;
            for other in &others {
                agents.end(other, RunState::Ok, &part_of, now)?;
            }
            Ok(())
        })
        .await;
    written.map_err(|error| unavailable(&error).message)?;
    events::session_changed(app, assistant, &session, "send");
    Ok(())
}

/// The outcome of a run whose message another one answers.
fn part_of(run_id: &str) -> Value {
    json!({ "text": "", "chat": true, "stopReason": "stop", "partOf": run_id })
}

/// Ends, for clients, a run whose message another one answers.
fn taken(app: &Arc<App>, assistant: &Assistant, waiting: &Waiting, session_id: &str) {
    waiting.live.taken_up();
    Teller::new(app, &waiting.input, session_id).answered_elsewhere();
    let outcome = Outcome::said(String::new(), waiting.live.started_ms);
    assistant.finish(&waiting.live, outcome);
}

/// Makes a line of the conversation of a message that was given to the turn that is at work. `None`: it could not be kept.
pub(super) async fn steered(
    app: &Arc<App>,
    assistant: &Arc<Assistant>,
    session: &AgentSession,
    into: &str,
    waiting: Waiting,
) -> Option<Entry> {
    let (id, entry, run_id, part_of) = (
        session.session_id.clone(),
        waiting.entry.clone(),
        waiting.live.run_id.clone(),
        part_of(into).to_string(),
    );
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            agents.append(&id, &entry)?;
            agents.end(&run_id, RunState::Ok, &part_of, clock_ms())?;
            agents.entry_count(&id)
        })
        .await;
    let count = match written {
        Ok(count) => count,
        Err(error) => {
            let gone = Gone::Failed(unavailable(&error).message);
            give_up(app, assistant, waiting, gone).await;
            return None;
        }
    };
    let position = usize::try_from(count).unwrap_or(usize::MAX);
    events::session_message(app, assistant, session, &waiting.entry, position);
    taken(app, assistant, &waiting, &session.session_id);
    Some(waiting.entry)
}

/// Ends a message's run without a turn. It is in the conversation from here on.
async fn give_up(app: &Arc<App>, assistant: &Arc<Assistant>, waiting: Waiting, gone: Gone) {
    let live = &waiting.live;
    match gone {
        Gone::Counted => {
            end(assistant, &waiting, RunState::Ok, part_of("queue"), true).await;
            taken(app, assistant, &waiting, "");
        }
        Gone::Failed(why) => {
            let outcome = unworked(&waiting, &why);
            end(assistant, &waiting, RunState::Error, outcome, true).await;
            Teller::new(app, &waiting.input, "").failed(&why, "", "");
            assistant.finish(live, Outcome::failed(&why, live.started_ms));
        }
    }
}

/// The outcome of a run whose message no turn took up.
fn unworked(waiting: &Waiting, why: &str) -> Value {
    json!({ "error": why, "chat": true, "pendingInput": waiting.entry.message })
}

/// Writes the end of a message that no turn took up; `is_kept`: it becomes a line of the conversation.
async fn end(
    assistant: &Assistant,
    waiting: &Waiting,
    state: RunState,
    outcome: Value,
    is_kept: bool,
) {
    let (key, run_id, entry, now) = (
        waiting.input.session_key.clone(),
        waiting.live.run_id.clone(),
        waiting.entry.clone(),
        clock_ms(),
    );
    let written = assistant
        .store
        .write(move |tx| {
            let agents = tx.agents();
            if is_kept && let Some(session) = agents.session(&key)? {
                agents.append(&session.session_id, &entry)?;
                if state == RunState::Error
                    && let Some(why) = outcome["error"].as_str()
                {
                    let failure = rows::failure(&run_id, why, now);
                    agents.append(&session.session_id, &failure)?;
                }
            }
            agents.end(&run_id, state, &outcome.to_string(), now)
        })
        .await;
    if let Err(error) = written {
        tracing::error!(run = %waiting.live.run_id, %error, "the end of a message in line could not be written");
    }
}

/// Ends a message that is called off before a turn has taken it up.
fn watch(app: &Arc<App>, assistant: &Arc<Assistant>, live: &Arc<Live>) {
    let (app, assistant, live) = (Arc::clone(app), Arc::clone(assistant), Arc::clone(live));
    tokio::spawn(async move {
        tokio::select! {
            () = live.cancelled() => {}
            () = live.no_longer_waits() => return,
        }
        let Some(waiting) = find(&assistant, &live) else {
            return;
        };
        // What another message took the place of was said all the same; what was withdrawn was not.
        let is_kept = live.is_interrupted();
        let outcome = unworked(&waiting, "aborted");
        end(&assistant, &waiting, RunState::Aborted, outcome, is_kept).await;
        Teller::new(&app, &waiting.input, "").aborted("", live.started_ms);
        let outcome = Outcome {
            state: RunState::Aborted,
            ..Outcome::failed("aborted", live.started_ms)
        };
        assistant.finish(&live, outcome);
    });
}

/// Takes a message out of where it waits.
fn find(assistant: &Assistant, live: &Arc<Live>) -> Option<Waiting> {
    let take = |items: &mut VecDeque<Waiting>| {
        let at = items.iter().position(|one| Arc::ptr_eq(&one.live, live))?;
        items.remove(at)
    };
    let mut found = None;
    for other in assistant.live_of(&live.session_key) {
        other.with_steered(|steered| found = found.take().or_else(|| take(steered)));
    }
    let mut lines = assistant.lines.0.lock();
    found.or_else(|| {
        let line = lines.get_mut(&live.session_key)?;
        let dropped = line.dropped.iter_mut().map(|dropped| &mut dropped.items);
        [&mut line.items].into_iter().chain(dropped).find_map(take)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{KEY, World, in_time, input};
    use super::*;

    fn waiting(id: &str, message: &str, mode: Mode, drop: Drop) -> Waiting {
        let input = input(id, message);
        Waiting {
            live: Arc::new(Live::new(id, KEY, true)),
            entry: rows::user(&input, 1),
            input,
            settings: Settings {
                mode,
                debounce: Duration::ZERO,
                cap: 2,
                drop,
            },
        }
    }

    /// Ids, and whether they are told of as failed.
    fn ids(gone: &[(Waiting, Gone)]) -> Vec<(&str, bool)> {
        gone.iter()
            .map(|(one, how)| (&*one.live.run_id, matches!(how, Gone::Failed(_))))
            .collect()
    }

    #[tokio::test]
    async fn what_was_collected_is_one_message() {
        let mut line = Line::new();
        for (id, text) in [("a", "one"), ("b", " two ")] {
            assert!(
                line.push(waiting(id, text, Mode::Collect, Drop::Old))
                    .is_empty()
            );
        }
        let batch = line.next().expect("a turn");
        assert_eq!(batch.owner.live.run_id, "b");
        assert_eq!(batch.others.len(), 1);
        assert_eq!(
            batch.owner.input.message,
            "[Queued messages while agent was busy]\n\n---\nQueued #1 (from cli)\none\n\n---\nQueued #2 (from cli)\ntwo"
        );
        assert!(batch.owner.entry.message.contains("Queued #2"));
        assert!(line.next().is_none());
    }

    #[tokio::test]
    async fn a_line_is_as_long_as_its_cap() {
        let fill = |drop| {
            let mut line = Line::new();
            let mut gone = Vec::new();
            for id in ["a", "b", "c", "d"] {
                gone.extend(line.push(waiting(id, id, Mode::Followup, drop)));
            }
            (line, gone)
        };
        let (mut line, gone) = fill(Drop::New);
        assert_eq!(ids(&gone), [("c", true), ("d", true)]);
        assert_eq!(line.next().expect("a turn").owner.live.run_id, "a");
        let (mut line, gone) = fill(Drop::Old);
        assert_eq!(ids(&gone), [("a", true), ("b", true)]);
        assert_eq!(line.next().expect("a turn").owner.live.run_id, "c");
        let (mut line, gone) = fill(Drop::Summarize);
        assert_eq!(ids(&gone), [], "they wait for a turn that tells of all");
        let first = line.next().expect("a turn");
        assert_eq!(first.owner.live.run_id, "b");
        assert_eq!(first.others[0].live.run_id, "a");
        assert_eq!(
            first.owner.input.message,
            "[Queue overflow] Dropped 2 messages due to cap.\nSummary:\n- a\n- b"
        );
        assert_eq!(line.next().expect("a turn").owner.live.run_id, "c");
    }

    #[tokio::test]
    async fn of_many_that_give_way_the_oldest_are_counted_alone() {
        let mut line = Line::new();
        let mut gone = Vec::new();
        for id in ["a", "b", "c", "d", "e"] {
            gone.extend(line.push(waiting(id, id, Mode::Followup, Drop::Summarize)));
        }
        assert_eq!(ids(&gone), [("a", false)]);
        assert_eq!(
            line.next().expect("a turn").owner.input.message,
            "[Queue overflow] Dropped 3 messages due to cap.\nSummary:\n- b\n- c"
        );
    }

    #[tokio::test]
    async fn nobody_gives_way_to_a_message_of_other_rights() {
        let of = |id: &str, is_operator: bool, settings: Option<Settings>| {
            let mut one = waiting(id, id, Mode::Followup, Drop::Summarize);
            one.live = Arc::new(Live::new(id, KEY, is_operator));
            one.settings = settings.unwrap_or(one.settings);
            one
        };
        let mut line = Line::new();
        let mut gone = Vec::new();
        for (id, is_operator, settings) in [
            ("job", true, Some(Settings::SERIAL)),
            ("chat", false, Some(Settings::SERIAL)),
            ("a", true, None),
            ("x", false, None),
            ("b", true, None),
            ("y", false, None),
            ("c", true, None),
            ("z", false, None),
        ] {
            gone.extend(line.push(of(id, is_operator, settings)));
        }
        assert_eq!(ids(&gone), []);
        let mut next = || {
            let batch = line.next()?;
            Some((batch.owner.live.is_operator, batch.owner.input.message))
        };
        let overflow =
            |id: &str| format!("[Queue overflow] Dropped 1 message due to cap.\nSummary:\n- {id}");
        assert_eq!(next(), Some((true, overflow("a"))));
        assert_eq!(next(), Some((false, overflow("x"))));
        for (is_operator, id) in [
            (true, "job"),
            (false, "chat"),
            (true, "b"),
            (false, "y"),
            (true, "c"),
            (false, "z"),
        ] {
            assert_eq!(next(), Some((is_operator, id.to_owned())));
        }
    }

    #[tokio::test]
    async fn what_gave_way_is_open_on_disk_until_it_is_told_of() {
        let world = World::start();
        let cap =
            json!({ "queueMode": "followup", "queueCap": 2, "queueDebounceMs": 0 }).to_string();
        let busy = world.busy("busy").await;
        let set = move |tx: &store::Tx<'_>| tx.agents().set_settings(KEY, &cap, false);
        world.assistant.store.write(set).await.expect("set");
        for id in ["a", "b", "c", "d"] {
            world.begun(input(id, id)).await;
        }
        for id in ["a", "b", "c", "d"] {
            assert_eq!(world.state(id).await, RunState::Accepted, "{id}");
        }
        let [first, second] = ["a", "b"].map(|id| world.assistant.live(id).expect("it waits"));
        busy.abort();
        in_time(first.ended()).await;
        assert_eq!(world.state("a").await, RunState::Ok);
        second.abort();
        assert_eq!(in_time(second.ended()).await.state, RunState::Aborted);
    }

    #[test]
    fn what_waits_is_read_as_it_was_written() {
        let entry = waiting("a", "one", Mode::Steer, Drop::Old);
        let run = Run {
            run_id: "a".to_owned(),
            session_key: String::new(),
            session_id: String::new(),
            fingerprint: String::new(),
            state: RunState::Accepted,
            started_ms: 0,
            ended_ms: None,
            outcome: Some(note(&entry.entry)),
        };
        assert_eq!(noted(&run).as_ref(), Some(&entry.entry));
        assert_eq!(
            noted(&Run {
                outcome: None,
                ..run
            }),
            None
        );
        assert_eq!(short(&"x ".repeat(200)).chars().count(), 160);
    }
}
