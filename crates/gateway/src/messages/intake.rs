//! Spool → gate → route → agent → outbox. One message of a conversation at a time, conversations side by side.
//!
//! The run's id is the spool row's: after a crash, ours or the upstream's, asking again resumes the run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use channels::message::{ChatKind, InboundMessage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{InboxRow, InboxState, NewOutbound, NewSession, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::orders::{self, Judged};
use super::status::Doing;
use super::upstream::Turn;
use super::{Messages, crash_point, now_ms};
use super::{agents, burst, draft, halt, loops, pairing, params, signs};
use crate::bridge::control::CallError;
use crate::delivery::{Media, Payload};
use crate::routing::{Decision, Known, Route, Standing, commands, lane};

/// Conversations that are worked on at a time; the upstream has its own limit behind it.
const TURNS_MAX: usize = 64;
/// Orders that are carried out beside them, so that one to stop is not kept waiting by what it should stop.
const URGENT_MAX: usize = 32;
/// How often a turn is begun before it is given up.
const ATTEMPTS_MAX: i64 = 5;
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What is waited for where nothing is configured.
const NO_MODEL: &str = "no model is set: start Ollama on this machine, or add one under models.providers in openclaw.json";

/// What a spool row holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Inbound {
    Channel(Box<InboundMessage>),
    /// `turn: true` of the API.
    Api(Box<TurnRequest>),
}

/// Content for the agent, and where its answer goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TurnRequest {
    pub(crate) content: String,
    pub(crate) target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) thread: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<String>,
    /// Who asked may do what the gateway's owner may.
    #[serde(default)]
    pub(crate) is_owner: bool,
}

/// Works until the gateway stops.
pub(super) async fn run(messages: Arc<Messages>) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    // By task, so that one that panics frees its lane too.
    let mut lanes: HashMap<tokio::task::Id, String> = HashMap::new();
    // Of these, what passes its lane and takes nobody's place.
    let mut aheads: HashSet<tokio::task::Id> = HashSet::new();
    if messages.store.opened().await.is_ok() {
        match messages
            .store
            .read(|reader| reader.inbox().interrupted())
            .await
        {
            Ok(rows) => {
                for row in rows {
                    let lane = row.lane.clone();
                    lanes.insert(tasks.spawn(resume(Arc::clone(&messages), row)).id(), lane);
                }
            }
            Err(error) => tracing::warn!(%error, "interrupted turns can't be read"),
        }
        if let Err(error) = halt::look(&messages).await {
            tracing::warn!(%error, "orders to stop that wait can't be read");
        }
    }
    while !messages.stop.is_cancelled() {
        for id in messages.urgent.take() {
            let wanted = id.clone();
            match messages
                .store
                .read(move |reader| reader.inbox().get(&wanted))
                .await
            {
                Ok(Some(row)) if row.state == InboxState::Waiting => {
                    // A stop finds a place in any case; of the others each conversation has one at a time, and what finds none
                    // waits its turn.
                    let is_stop = halt::order(&row).is_some_and(|order| order.kind.is_stop());
                    let most = if is_stop { 2 * URGENT_MAX } else { URGENT_MAX };
                    let mut passing = aheads.iter().filter_map(|task| lanes.get(task));
                    let has_one = passing.any(|lane| *lane == row.lane);
                    if aheads.len() >= most && is_stop {
                        messages.urgent.push(&id);
                    } else if aheads.len() < most && (is_stop || !has_one) {
                        let lane = row.lane.clone();
                        let task = tasks.spawn(ahead(Arc::clone(&messages), row)).id();
                        aheads.insert(task);
                        lanes.insert(task, lane);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "an urgent message can't be read now");
                    messages.urgent.push(&id);
                }
            }
        }
        if tasks.len() - aheads.len() < TURNS_MAX {
            match messages
                .store
                .read(|reader| reader.inbox().heads(now_ms(), TURNS_MAX * 2))
                .await
            {
                Ok(rows) => {
                    let busy: HashSet<String> = lanes.values().cloned().collect();
                    for row in rows {
                        if tasks.len() - aheads.len() < TURNS_MAX && !busy.contains(&row.lane) {
                            let lane = row.lane.clone();
                            lanes.insert(tasks.spawn(work(Arc::clone(&messages), row)).id(), lane);
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "the spool can't be read now"),
            }
        }
        tokio::select! {
            () = messages.inbox.notified() => messages.arrived.notify_waiters(),
            () = tokio::time::sleep(LOOK_EVERY) => {}
            Some(done) = tasks.join_next_with_id() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(%error, "a turn ended badly; it is resumed at the next start");
                        error.id()
                    }
                };
                lanes.remove(&id);
                aheads.remove(&id);
                messages.inbox.notify_one();
            }
            () = messages.stop.cancelled() => {}
        }
    }
    // Turns go on in the upstream; their rows are resumed at the next start.
    tasks.shutdown().await;
}

/// Goes on with a turn that a crash interrupted, unless it was told to stop and the crash came before that.
async fn resume(messages: Arc<Messages>, row: InboxRow) {
    match halt::behind(&messages, &row).await {
        Ok(stops) if stops.is_empty() => return work(messages, row).await,
        Ok(stops) => {
            for stop in stops {
                ahead(Arc::clone(&messages), stop).await;
            }
        }
        Err(error) => tracing::warn!(%error, "whether a turn was stopped can't be read"),
    }
    if is_open(&messages, &row.id).await {
        work(messages, row).await;
    }
}

/// An order that passes what came before it. What turns out to be none stays where it is.
async fn ahead(messages: Arc<Messages>, row: InboxRow) {
    let id = row.id.clone();
    let mut work = messages.working.enter(&id);
    work.is_ahead = true;
    if let Err(error) = handle(&messages, row, &work).await {
        tracing::error!(id, %error, "an order in a chat could not be carried out; it waits its turn");
    }
}

async fn is_open(messages: &Messages, id: &str) -> bool {
    let id = id.to_owned();
    let row = messages.store.read(move |reader| reader.inbox().get(&id));
    let state = row.await.ok().flatten().map(|row| row.state);
    !matches!(state, Some(InboxState::Done | InboxState::Failed))
}

async fn work(messages: Arc<Messages>, row: InboxRow) {
    let id = row.id.clone();
    let work = messages.working.enter(&id);
    if let Err(error) = handle(&messages, row, &work).await {
        if !is_open(&messages, &id).await {
            // Somebody said stop just then.
            tracing::debug!(id, %error, "a message was closed while it was worked on");
            return;
        }
        tracing::error!(%error, "a message from a chat could not be worked on; it waits");
        // Nothing was committed, so it is the head of its lane again; not at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Where an answer goes.
pub(super) struct Back {
    pub(super) channel: String,
    pub(super) account: String,
    pub(super) target: String,
    pub(super) thread: Option<String>,
    pub(super) reply_to: Option<String>,
}

async fn handle(
    messages: &Arc<Messages>,
    row: InboxRow,
    work: &halt::Work<'_>,
) -> Result<(), StoreError> {
    let halted = &work.halted;
    let inbound: Inbound = match serde_json::from_str(&row.payload) {
        Ok(inbound) => inbound,
        Err(error) => {
            return fail(
                messages,
                &row,
                &format!("the stored message can't be read: {error}"),
            )
            .await;
        }
    };
    // The message that a person sees acknowledged; none for what an API asked for.
    let mut shown = None;
    let mut order = None;
    let (route, back, message) = match inbound {
        Inbound::Channel(message) => {
            shown = Some(message.message_id.clone());
            let gathered = tokio::select! {
                gathered = burst::gather(messages, &row, message) => gathered?,
                () = halted.cancelled() => return Ok(()),
            };
            let Some(message) = gathered else {
                return Ok(());
            };
            let back = Back {
                channel: row.channel.clone(),
                account: row.account.clone(),
                target: message.chat.id.clone(),
                thread: message.chat.thread.clone(),
                // In a group it should be seen whom we answer.
                reply_to: (message.chat.kind != ChatKind::Direct)
                    .then(|| message.message_id.clone()),
            };
            let decision = decide(messages, &row, &message).await?;
            if row.run_id.is_some() && !matches!(decision, Decision::Route(_)) {
                // It was begun before this was decided otherwise.
                draft::end(messages, &row).await?;
            }
            match decision {
                Decision::Drop { rule } => {
                    return done(messages, &row, &format!("not answered: {rule}")).await;
                }
                Decision::Pair => return pairing::offer(messages, &row, &message, &back).await,
                Decision::Route(route) => {
                    if row.run_id.is_none() && loops::is_loop(messages, &row, &message) {
                        let why = "not answered: a bot that writes too often (botLoopProtection)";
                        return done(messages, &row, why).await;
                    }
                    match orders::judge(messages, &row, &message, &route, &back).await? {
                        Judged::Text if work.is_ahead => return Ok(()),
                        Judged::Text => {}
                        Judged::Order(one) => order = Some(one),
                        Judged::Done => return Ok(()),
                    }
                    (route, back, message)
                }
            }
        }
        Inbound::Api(request) => {
            let message = as_message(&request);
            let (agent, session_key) =
                messages
                    .routing
                    .load()
                    .session_for_target(&row.channel, &row.account, &message);
            let route = Route {
                agent,
                session_key,
                matched_by: "turn",
                pins_route: false,
                standing: Standing {
                    owner: request.is_owner,
                    ..Standing::default()
                },
            };
            let back = Back {
                channel: row.channel.clone(),
                account: row.account.clone(),
                target: request.target.clone(),
                thread: request.thread.clone(),
                reply_to: request.reply_to.clone(),
            };
            (route, back, Box::new(message))
        }
    };
    let begun = row.run_id.is_some();
    let mut is_told = false;
    let own = loop {
        let own = messages.own_agents(&route.agent).await;
        if own.is_some() || !messages.upstream.is_off() {
            break own;
        }
        if !messages.may_find_agents() {
            let why = "no agent is reachable: no OpenClaw gateway is behind this one";
            return fail(messages, &row, why).await;
        }
        if !is_told {
            is_told = true;
            tracing::warn!(
                id = row.id,
                channel = row.channel,
                "a message from a chat waits: {NO_MODEL}"
            );
            note(messages, &row.id, "waits", NO_MODEL).await?;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = halted.cancelled() => return Ok(()),
            () = messages.stop.cancelled() => return Ok(()),
        }
    };
    if own.is_none() && messages.upstream.word() != "ready" {
        note(
            messages,
            &row.id,
            "waits",
            &format!("the OpenClaw gateway is {}", messages.upstream.word()),
        )
        .await?;
    }
    tokio::select! {
        () = messages.upstream.ready(), if own.is_none() => {}
        () = std::future::ready(()), if own.is_some() => {}
        () = halted.cancelled() => return Ok(()),
        () = messages.stop.cancelled() => return Ok(()),
    }
    let settings = messages.settings.load_full();
    let age_max = i64::try_from(settings.inbound_age_max.as_millis()).unwrap_or(i64::MAX);
    if !begun && now_ms().saturating_sub(row.received_ms) > age_max {
        return ask_instead(messages, &row, &message, &back, settings.reply_age_max).await;
    }
    if let Some(order) = &order
        && orders::run(
            messages,
            &row,
            (&*message, &route, &back),
            order,
            own.as_ref(),
            halted,
        )
        .await?
    {
        return Ok(());
    }
    if work.is_ahead {
        // A text after all: it waits its turn.
        return Ok(());
    }
    // Alone they take an administrator; what follows them is the sender's own. Before it is begun: twice does no harm.
    let rest = order.as_ref().and_then(commands::after_reset);
    let rest = rest.filter(|_| !route.standing.owner && own.is_none());
    if rest.is_some()
        && !begun
        && let Err(error) = messages.upstream.reset(&route.session_key).await
    {
        return settle(messages, &row, Err(error), &back, None).await;
    }
    begin(messages, &row, &route, &back).await?;
    crash_point!("intake.turn_begun");
    let status = shown
        .and_then(|shown| signs::acknowledge(messages, &back, &route.agent, &message, shown, &row));
    let params = params::of(messages, &row, &route, &message, rest).await;
    let is_owner =
        route.standing.owner || (rest.is_none() && order.as_ref().is_some_and(commands::is_reset));
    if let Some(status) = &status {
        status.is(Doing::Thinking);
    }
    let ended = CancellationToken::new();
    let turn = async {
        let work = async {
            match &own {
                Some(app) => agents::turn(app, &route.agent, &params).await,
                None => {
                    messages
                        .upstream
                        .turn(&row.id, params, settings.turn_timeout, is_owner)
                        .await
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            // Its row is closed by who said so.
            () = halted.cancelled() => None,
            outcome = work => Some(outcome),
        };
        ended.cancel();
        outcome
    };
    // The draft ends with the step that it is at: what was begun must be known.
    let both = async { tokio::join!(turn, draft::show(messages, &row, &back, &ended)) };
    let (outcome, draft) = tokio::select! {
        both = both => both,
        never = signs::typing(messages, &back, &route.agent) => match never {},
        // The row stays a turn: the next start asks for the same run again.
        () = messages.stop.cancelled() => return Ok(()),
    };
    let Some(outcome) = outcome else {
        return Ok(());
    };
    // What is put back has come to no end: it is as when it was taken up.
    if let Some(status) = &status
        && put_back(&row, &outcome).is_none()
    {
        let is_good = matches!(&outcome, Ok(turn) if turn.failed.is_none());
        status.is(if is_good { Doing::Done } else { Doing::Failed });
    }
    signs::show_typing(messages, &back, false).await;
    crash_point!("intake.turn_done");
    settle(messages, &row, outcome, &back, draft).await
}

/// Ends a row with what became of it, or puts it back.
pub(super) async fn settle(
    messages: &Messages,
    row: &InboxRow,
    outcome: Result<Turn, CallError>,
    back: &Back,
    draft: Option<String>,
) -> Result<(), StoreError> {
    let reply_age = messages.settings.load().reply_age_max;
    if let Some(why) = put_back(row, &outcome) {
        return wait(messages, row, &why).await;
    }
    match outcome {
        Ok(turn) => close(messages, row, &turn, back, draft, reply_age).await,
        Err(CallError::Refused(error)) => {
            let turn = Turn {
                replies: Vec::new(),
                failed: Some(refusal(&error).0),
            };
            close(messages, row, &turn, back, draft, reply_age).await
        }
        Err(error @ (CallError::NotSent(_) | CallError::Lost(_) | CallError::Late(_))) => {
            fail(messages, row, &error.to_string()).await
        }
    }
}

/// Why a row is put back with this, to be asked for again. `None`: it ends.
fn put_back(row: &InboxRow, outcome: &Result<Turn, CallError>) -> Option<String> {
    if row.attempts >= ATTEMPTS_MAX {
        return None;
    }
    match outcome {
        Ok(_) => None,
        Err(CallError::Refused(error)) => {
            let (why, is_retryable) = refusal(error);
            is_retryable.then_some(why)
        }
        Err(error @ (CallError::NotSent(_) | CallError::Lost(_) | CallError::Late(_))) => {
            Some(error.to_string())
        }
    }
}

/// What an error object of the upstream says, and whether asking again may help.
fn refusal(error: &str) -> (String, bool) {
    let error: Value = serde_json::from_str(error).unwrap_or(Value::Null);
    let why = channels::web::head(error["message"].as_str().unwrap_or("the agent refused"));
    (why, error["retryable"] == true)
}

/// The chat that a message came from: `{channel, account, target, thread}`.
pub(super) fn chat_of(row: &InboxRow) -> Option<Value> {
    let (target, thread) = match serde_json::from_str(&row.payload).ok()? {
        Inbound::Channel(message) => (message.chat.id, message.chat.thread),
        Inbound::Api(request) => (request.target, request.thread),
    };
    Some(
        json!({ "channel": row.channel, "account": row.account, "target": target, "thread": thread }),
    )
}

/// The API's request as if the target had written it.
fn as_message(request: &TurnRequest) -> InboundMessage {
    InboundMessage {
        event_id: String::new(),
        message_id: String::new(),
        kind: channels::message::EventKind::Message,
        chat: channels::message::Chat {
            kind: ChatKind::Direct,
            id: request.target.clone(),
            thread: request.thread.clone(),
            parent: None,
            title: None,
        },
        sender: channels::message::Sender {
            id: request.target.clone(),
            username: None,
            name: None,
            is_bot: false,
            roles: Vec::new(),
        },
        text: request.content.clone(),
        reply_to: None,
        edit_of: None,
        quoted: None,
        mentions_us: true,
        attachments: Vec::new(),
        sent_at_ms: now_ms(),
    }
}

pub(super) async fn decide(
    messages: &Messages,
    row: &InboxRow,
    message: &InboundMessage,
) -> Result<Decision, StoreError> {
    let (channel, account, sender) = (
        row.channel.clone(),
        row.account.clone(),
        message.sender.id.clone(),
    );
    let paired = messages
        .store
        .read(move |reader| reader.pairings().is_approved(&channel, &account, &sender))
        .await?;
    let accounts = messages.accounts.load();
    let settings = accounts
        .settings(&row.channel, &row.account)
        .cloned()
        .unwrap_or_default();
    Ok(messages.routing.load().decide(
        &row.channel,
        &row.account,
        &settings,
        message,
        Known { paired },
    ))
}

/// The session and the turn, in one transaction.
pub(super) async fn begin(
    messages: &Messages,
    row: &InboxRow,
    route: &Route,
    back: &Back,
) -> Result<(), StoreError> {
    let (id, rule) = (
        row.id.clone(),
        format!("{} to agent {}", route.matched_by, route.agent),
    );
    let first = row.run_id.is_none();
    let last_route = json!({
        "channel": back.channel, "account": back.account, "target": back.target, "thread": back.thread,
    });
    let session = NewSession {
        key: route.session_key.clone(),
        agent: route.agent.clone(),
        channel: back.channel.clone(),
        account: back.account.clone(),
        target: back.target.clone(),
        thread: back.thread.clone(),
        last_route: Some(last_route.to_string()),
        metadata: None,
    };
    let pins_route = route.pins_route;
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            if first {
                tx.history().note(&id, now, "routed", &rule)?;
            }
            if pins_route || tx.sessions().get(&session.key)?.is_none() {
                tx.sessions().upsert(&session, now)?;
            } else {
                // Somebody else's message in a shared session: answers of later must not go to them.
                tx.sessions().touch(&session.key, now)?;
            }
            tx.inbox().begin_turn(&id, &session.key, &id, now)
        })
        .await
}

/// The answers and the end of the spool row, in one transaction.
async fn close(
    messages: &Messages,
    row: &InboxRow,
    turn: &Turn,
    back: &Back,
    draft: Option<String>,
    reply_age: Duration,
) -> Result<(), StoreError> {
    let mut payloads: Vec<Payload> = turn
        .replies
        .iter()
        .map(|reply| Payload {
            content: reply.text.clone(),
            media: reply
                .media
                .iter()
                .map(|source| Media {
                    source: source.clone(),
                    voice: false,
                })
                .collect(),
            thread: back.thread.clone(),
            ..Payload::default()
        })
        .collect();
    if let Some(why) = &turn.failed
        && payloads.is_empty()
    {
        payloads.push(Payload {
            content: format!("⚠️ The agent could not answer: {why}"),
            thread: back.thread.clone(),
            ..Payload::default()
        });
    }
    if let Some(first) = payloads.first_mut() {
        first.reply_to.clone_from(&back.reply_to);
        first.draft.clone_from(&draft);
    }
    let why = match (&turn.failed, payloads.len()) {
        (Some(why), _) => format!("the run failed: {why}"),
        (None, 0) => "the agent had nothing to say".to_owned(),
        (None, n) => format!("answered with {n} message(s)"),
    };
    let left_over = draft.filter(|_| payloads.is_empty());
    finish(messages, row, payloads, back, &why, reply_age).await?;
    if let Some(draft) = left_over {
        let target = back.target.clone();
        draft::discard(messages, &back.channel, &back.account, target, draft).await;
    }
    Ok(())
}

/// What is said in answer to a row.
pub(super) fn reply(back: &Back, payload: &Payload, cause: &str, age: Duration) -> NewOutbound {
    let expires = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    NewOutbound {
        id: None,
        lane: lane(
            &back.channel,
            &back.account,
            &back.target,
            back.thread.as_deref(),
        ),
        channel: back.channel.clone(),
        account: back.account.clone(),
        target: back.target.clone(),
        payload: serde_json::to_string(payload).unwrap_or_default(),
        source: "reply".to_owned(),
        cause: Some(cause.to_owned()),
        expires_ms: Some(now_ms().saturating_add(expires)),
    }
}

pub(super) async fn finish(
    messages: &Messages,
    row: &InboxRow,
    payloads: Vec<Payload>,
    back: &Back,
    why: &str,
    reply_age: Duration,
) -> Result<(), StoreError> {
    let (id, why) = (row.id.clone(), why.to_owned());
    let rows: Vec<NewOutbound> = payloads
        .iter()
        .map(|payload| reply(back, payload, &id, reply_age))
        .collect();
    let (channel, account) = (back.channel.clone(), back.account.clone());
    crash_point!("intake.before_close");
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            for row in rows {
                tx.outbox().enqueue(row, now)?;
            }
            tx.forget_cursor(&channel, &account, &draft::key(&id))?;
            tx.forget_cursor(&channel, &account, &orders::said_key(&id))?;
            tx.inbox().done(&id, &why, now)
        })
        .await?;
    crash_point!("intake.after_close");
    messages.outbox.notify_one();
    // A turn without an answer has come to rest with this.
    drop(messages.finished.send(super::Finished {
        id: row.id.as_str().into(),
    }));
    Ok(())
}

/// It waited too long to be answered as if nothing had happened.
async fn ask_instead(
    messages: &Messages,
    row: &InboxRow,
    message: &InboundMessage,
    back: &Back,
    reply_age: Duration,
) -> Result<(), StoreError> {
    let minutes = now_ms().saturating_sub(row.received_ms) / 60_000;
    let payload = Payload {
        content: format!(
            "I was away when you wrote this {minutes} minutes ago: “{}”. Is it still of interest? Then send it again.",
            channels::web::head(&message.text)
        ),
        thread: back.thread.clone(),
        reply_to: back.reply_to.clone(),
        ..Payload::default()
    };
    finish(
        messages,
        row,
        vec![payload],
        back,
        "too old to be answered late; asked instead",
        reply_age,
    )
    .await
}

pub(super) async fn note(
    messages: &Messages,
    id: &str,
    step: &'static str,
    detail: &str,
) -> Result<(), StoreError> {
    let (id, detail) = (id.to_owned(), detail.to_owned());
    messages
        .store
        .write(move |tx| tx.history().note(&id, now_ms(), step, &detail))
        .await
}

pub(super) async fn done(messages: &Messages, row: &InboxRow, why: &str) -> Result<(), StoreError> {
    let (id, why) = (row.id.clone(), why.to_owned());
    messages
        .store
        .write(move |tx| tx.inbox().done(&id, &why, now_ms()))
        .await
}

async fn fail(messages: &Messages, row: &InboxRow, why: &str) -> Result<(), StoreError> {
    tracing::warn!(
        id = row.id,
        channel = row.channel,
        why,
        "a message from a chat was given up; `openclaw-gateway why` tells more"
    );
    draft::end(messages, row).await?;
    let (id, why) = (row.id.clone(), why.to_owned());
    let (channel, account) = (row.channel.clone(), row.account.clone());
    messages
        .store
        .write(move |tx| {
            tx.forget_cursor(&channel, &account, &orders::said_key(&id))?;
            tx.inbox().fail(&id, &why, now_ms())
        })
        .await?;
    // Whoever waits for the outcome of a turn.
    drop(messages.finished.send(super::Finished {
        id: row.id.as_str().into(),
    }));
    Ok(())
}

async fn wait(messages: &Messages, row: &InboxRow, why: &str) -> Result<(), StoreError> {
    let pause = 1000_i64 << row.attempts.clamp(0, 5);
    let (id, why) = (row.id.clone(), why.to_owned());
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            tx.inbox().wait(&id, &why, now + pause, now)
        })
        .await
}
