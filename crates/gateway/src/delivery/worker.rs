//! The loop that leases and the task that sends.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use channels::message::{Action, Attachment};
use channels::{Channel, Receipt, Reconciled, SendError};
use store::{Lease, OutboxRow, OutboxState, StoreError};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::PER_ACCOUNT_MAX;
use super::backoff::{self, Next};
use super::behind;
use super::files::{file, forget};
use super::prepare::{self, Part, Payload};
use crate::config::InDoubt;
use crate::messages::{Finished, Messages, Owner, crash_point, draft, now_ms, share};

/// How long messages that are on their way may take when the gateway stops; later they are in doubt.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// Longest sleep without looking, should a wake-up ever be missed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a service may take to answer one send.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(90);

type Account = (String, String);
/// An account in somebody's hands: a pause is about who asked for it.
type Way = (Account, Owner);

/// Works until the gateway stops.
pub(crate) async fn run(messages: Arc<Messages>) {
    let mut tasks: JoinSet<Option<Duration>> = JoinSet::new();
    // By task, so that one that panics frees its place too.
    let mut under_way: HashMap<tokio::task::Id, Way> = HashMap::new();
    let mut paused: HashMap<Way, Instant> = HashMap::new();
    let mut upstream = messages.upstream.watch();
    // What was on its way when the last run ended.
    if messages.store.opened().await.is_ok() {
        resolve_doubts(&messages).await;
    }
    while !messages.stop.is_cancelled() {
        let next_look = match lease_all(&messages, &mut tasks, &mut under_way, &paused).await {
            Ok(next_look) => next_look,
            Err(error) => {
                tracing::debug!(%error, "the outbox can't be read now");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = messages.outbox.notified() => {}
            () = tokio::time::sleep(next_look) => {}
            Ok(()) = upstream.changed() => {}
            Some(done) = tasks.join_next_with_id() => note(done, &mut under_way, &mut paused),
            () = messages.stop.cancelled() => {}
        }
        while let Some(done) = tasks.try_join_next_with_id() {
            note(done, &mut under_way, &mut paused);
        }
        paused.retain(|_, until| *until > Instant::now());
    }
    let ended = tokio::time::timeout(STOP_PATIENCE, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    if ended.is_err() {
        tracing::warn!(
            messages = tasks.len(),
            "still being sent while the gateway stops; they will be in doubt"
        );
    }
}

fn note(
    done: Result<(tokio::task::Id, Option<Duration>), tokio::task::JoinError>,
    under_way: &mut HashMap<tokio::task::Id, Way>,
    paused: &mut HashMap<Way, Instant>,
) {
    let (id, pause) = match done {
        Ok((id, pause)) => (id, pause),
        Err(error) => {
            tracing::error!(%error, "a delivery ended badly; its message is in doubt at the next start");
            (error.id(), None)
        }
    };
    if let Some(account) = under_way.remove(&id)
        && let Some(pause) = pause
    {
        paused.insert(account, Instant::now() + pause);
    }
}

/// Leases what is due, account by account; answers how long until something else is.
async fn lease_all(
    messages: &Arc<Messages>,
    tasks: &mut JoinSet<Option<Duration>>,
    under_way: &mut HashMap<tokio::task::Id, Way>,
    paused: &HashMap<Way, Instant>,
) -> Result<Duration, StoreError> {
    let now = now_ms();
    let due = messages
        .store
        .read(move |reader| reader.outbox().due_accounts(now))
        .await?;
    let mut look_again = LOOK_EVERY;
    let (mut wanted, mut held) = (Vec::new(), Vec::new());
    for (channel, account, _) in due {
        let key = (channel, account);
        let owner = messages.owner(&key.0, &key.1);
        if behind::waits(messages, &owner) {
            held.push(key);
            continue;
        }
        let key = (key, owner);
        if let Some(until) = paused.get(&key) {
            look_again = look_again.min(until.saturating_duration_since(Instant::now()));
            continue;
        }
        let busy = under_way
            .values()
            .filter(|account| **account == key)
            .count();
        let room = PER_ACCOUNT_MAX.saturating_sub(busy);
        if room > 0 {
            wanted.push((key, room));
        }
    }
    expire_held(messages, tasks, held, now).await?;
    if !wanted.is_empty() {
        crash_point!("delivery.before_lease");
        let leases = messages
            .store
            .write(move |tx| {
                let mut all: Vec<Lease> = Vec::new();
                for (((channel, account), _), room) in &wanted {
                    all.extend(tx.outbox().lease(channel, account, now, *room)?);
                }
                Ok(all)
            })
            .await?;
        crash_point!("delivery.after_lease");
        for lease in leases {
            let key = (lease.row.channel.clone(), lease.row.account.clone());
            let owner = messages.owner(&key.0, &key.1);
            let messages = Arc::clone(messages);
            let task = tasks.spawn(async move {
                match lease.row.state {
                    OutboxState::Dead => {
                        end_draft(&messages, &lease.row).await;
                        None
                    }
                    _ => deliver(&messages, lease.row).await,
                }
            });
            under_way.insert(task.id(), (key, owner));
        }
    }
    let next = messages
        .store
        .read(move |reader| reader.outbox().next_due_ms(now))
        .await?;
    if let Some(next) = next {
        let wait = u64::try_from(next.saturating_sub(now_ms())).unwrap_or(0);
        look_again = look_again.min(Duration::from_millis(wait));
    }
    Ok(look_again.max(Duration::from_millis(1)))
}

/// What waits for an OpenClaw that is away gets too old there as anywhere. Drafts are taken away beside: a service that hangs
/// holds up nobody's leases.
async fn expire_held(
    messages: &Arc<Messages>,
    tasks: &mut JoinSet<Option<Duration>>,
    held: Vec<Account>,
    now: i64,
) -> Result<(), StoreError> {
    if held.is_empty() {
        return Ok(());
    }
    let ask = held.clone();
    let some = messages.store.read(move |reader| {
        for (channel, account) in &ask {
            if reader.outbox().has_expired(channel, account, now)? {
                return Ok(true);
            }
        }
        Ok(false)
    });
    if !some.await? {
        return Ok(());
    }
    let expired = messages.store.write(move |tx| {
        let mut all = Vec::new();
        for (channel, account) in &held {
            all.extend(tx.outbox().expire(channel, account, now, PER_ACCOUNT_MAX)?);
        }
        Ok(all)
    });
    for row in expired.await? {
        let messages = Arc::clone(messages);
        tasks.spawn(async move {
            end_draft(&messages, &row).await;
            None
        });
    }
    Ok(())
}

/// Sends one message and commits what became of it. Answers how long the whole account should rest.
async fn deliver(messages: &Arc<Messages>, row: OutboxRow) -> Option<Duration> {
    let mut receipts: Vec<Receipt> = serde_json::from_str(&row.receipts).unwrap_or_default();
    let owner = messages.owner(&row.channel, &row.account);
    let outcome = send_all(messages, &row, &mut receipts).await;
    let attempts = u32::try_from(row.attempts).unwrap_or(u32::MAX);
    let attempts_max = messages.settings.load().attempts_max;
    let committed = match outcome {
        Ok(()) => {
            messages.supervisor.sent(&row.channel, &row.account);
            crash_point!("delivery.sent_before_ack");
            let done = delivered(messages, &row, &receipts).await;
            crash_point!("delivery.after_ack");
            (done, None)
        }
        // The account changed hands meanwhile: what one side could not send, the other may.
        Err(error @ (SendError::Retry { .. } | SendError::Unauthorized { .. }))
            if messages.owner(&row.channel, &row.account) != owner =>
        {
            (retry(messages, &row, &error, Duration::ZERO).await, None)
        }
        Err(error) => {
            tracing::info!(id = row.id, channel = row.channel, %error, attempts, "a message was not delivered");
            match backoff::next(&error, attempts, attempts_max, share()) {
                Next::Retry {
                    after,
                    whole_account,
                } => {
                    let done = retry(messages, &row, &error, after).await;
                    // A draft's last edit waits alone: it is what was edited too often, and others may be sent.
                    let is_edit = is_edit(&row) && matches!(error, SendError::Retry { .. });
                    (done, (whole_account && !is_edit).then_some(after))
                }
                Next::Doubt => (in_doubt(messages, &row, &error).await, None),
                Next::Bury => {
                    tracing::warn!(id = row.id, channel = row.channel, %error, "a message is a dead letter");
                    if receipts.is_empty() {
                        end_draft(messages, &row).await;
                    }
                    let (id, why) = (row.id.clone(), error.to_string());
                    (
                        messages
                            .store
                            .write(move |tx| tx.outbox().bury(&id, &why, now_ms()))
                            .await,
                        None,
                    )
                }
            }
        }
    };
    let (done, pause) = committed;
    if let Err(error) = done {
        // The lease stands; the next start finds the message in doubt.
        tracing::error!(id = row.id, %error, "what became of a message could not be written");
    }
    finished(messages, &row.id);
    pause
}

/// The draft of an answer that will not come.
async fn end_draft(messages: &Messages, row: &OutboxRow) {
    let payload: Payload = serde_json::from_str(&row.payload).unwrap_or_default();
    if let Some(draft) = payload.draft {
        let target = row.target.clone();
        draft::discard(messages, &row.channel, &row.account, target, draft).await;
    }
}

fn finished(messages: &Messages, id: &str) {
    // Nobody may be waiting.
    drop(messages.finished.send(Finished { id: Arc::from(id) }));
}

async fn delivered(
    messages: &Messages,
    row: &OutboxRow,
    receipts: &[Receipt],
) -> Result<(), StoreError> {
    let id = row.id.clone();
    let target = row.target.clone();
    let mut names: Vec<String> = Vec::new();
    for receipt in receipts {
        for name in std::iter::once(&receipt.message_id).chain(&receipt.more_ids) {
            if !name.is_empty() && *name != id {
                // As inbound ones: unique within the chat alone.
                names.push(format!("{target}/{name}"));
                names.push(name.clone());
            }
        }
    }
    let receipts = serde_json::to_string(receipts).unwrap_or_else(|_impossible| "[]".to_owned());
    messages
        .store
        .write(move |tx| tx.outbox().delivered(&id, &receipts, &names, now_ms()))
        .await
}

async fn retry(
    messages: &Messages,
    row: &OutboxRow,
    error: &SendError,
    after: Duration,
) -> Result<(), StoreError> {
    let (id, why) = (row.id.clone(), error.to_string());
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    messages
        .store
        .write(move |tx| {
            let now = now_ms();
            tx.outbox().retry(&id, &why, now.saturating_add(after), now)
        })
        .await
}

/// Marked first, then looked into: a crash in between leaves the mark.
async fn in_doubt(
    messages: &Arc<Messages>,
    row: &OutboxRow,
    error: &SendError,
) -> Result<(), StoreError> {
    let (id, why) = (row.id.clone(), error.to_string());
    messages
        .store
        .write(move |tx| tx.outbox().doubt(&id, &why, now_ms()))
        .await?;
    crash_point!("delivery.in_doubt");
    resolve(messages, row).await
}

/// Sends the parts that are not out yet.
async fn send_all(
    messages: &Arc<Messages>,
    row: &OutboxRow,
    receipts: &mut Vec<Receipt>,
) -> Result<(), SendError> {
    let payload: Payload =
        serde_json::from_str(&row.payload).map_err(|error| SendError::Rejected {
            reason: format!("the stored message can't be read: {error}"),
        })?;
    match messages.owner(&row.channel, &row.account) {
        Owner::Native => {
            let Some(channel) = messages.supervisor.get(&row.channel, &row.account) else {
                return Err(SendError::Retry {
                    after: None,
                    reason: format!("the account {}/{} is not running", row.channel, row.account),
                });
            };
            send_parts(messages, row, &payload, &*channel, receipts).await
        }
        Owner::Webchat => {
            receipts.push(webchat(messages, row, &payload).await?);
            Ok(())
        }
        Owner::Upstream => behind::send(messages, row, payload, receipts).await,
    }
}

async fn send_parts(
    messages: &Arc<Messages>,
    row: &OutboxRow,
    payload: &Payload,
    channel: &dyn Channel,
    receipts: &mut Vec<Receipt>,
) -> Result<(), SendError> {
    let store_failed = |error: StoreError| SendError::Retry {
        after: None,
        reason: error.to_string(),
    };
    let stored: Option<Vec<Part>> = row
        .parts
        .as_deref()
        .and_then(|parts| serde_json::from_str(parts).ok());
    let mut parts = match stored {
        Some(parts) => parts,
        None => {
            let parts = prepare::split(payload, channel.capabilities());
            if parts.len() > 1 {
                // Written before the first goes out: after a crash the rest must be the same.
                let (id, text) = (
                    row.id.clone(),
                    serde_json::to_string(&parts).unwrap_or_default(),
                );
                messages
                    .store
                    .write(move |tx| tx.outbox().split(&id, &text, now_ms()))
                    .await
                    .map_err(store_failed)?;
            }
            parts
        }
    };
    // They may become more on the way.
    while receipts.len() < parts.len() {
        let n = receipts.len();
        let drafted = match payload.draft.as_deref().filter(|_| n == 0) {
            Some(draft) => settle_draft(messages, row, payload, draft, &parts[0], channel).await?,
            None => None,
        };
        receipts.push(match drafted {
            Some(receipt) => receipt,
            None => {
                let files = files_of(messages, row, payload, &mut parts, n, channel).await?;
                send_part(messages, row, payload, &parts, n, files, channel).await?
            }
        });
        if n + 1 < parts.len() {
            part_sent(messages, row, receipts).await?;
            crash_point!("delivery.between_parts");
        }
    }
    Ok(())
}

/// Remembers what is out of a message before its next part goes.
pub(super) async fn part_sent(
    messages: &Messages,
    row: &OutboxRow,
    receipts: &[Receipt],
) -> Result<(), SendError> {
    let (id, so_far) = (
        row.id.clone(),
        serde_json::to_string(receipts).unwrap_or_default(),
    );
    messages
        .store
        .write(move |tx| tx.outbox().part_sent(&id, &so_far, now_ms()))
        .await
        // It went out and we can't say so: that is a doubt.
        .map_err(|error| SendError::Unknown {
            reason: error.to_string(),
        })
}

/// The files of part `n`. One that can't be had is left out while there are others; what does not go together, now that it is there,
/// becomes parts of its own. Both are on disk before anything of it goes out.
async fn files_of(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
    parts: &mut Vec<Part>,
    n: usize,
    channel: &dyn Channel,
) -> Result<Vec<Attachment>, SendError> {
    let wanted: Vec<usize> = parts[n].files().collect();
    let mut files: Vec<(usize, Attachment)> = Vec::new();
    let mut left_out: Vec<String> = Vec::new();
    for at in wanted {
        let Some(media) = payload.media.get(at) else {
            continue;
        };
        match file(messages, &row.id, at, media, channel.capabilities()).await {
            Ok(file) => files.push((at, file)),
            Err(SendError::Rejected { reason }) => left_out.push(reason),
            Err(error) => {
                forget_all(messages, &files).await;
                return Err(error);
            }
        }
    }
    let groups = prepare::together(&files);
    if groups.is_empty() && !left_out.is_empty() && parts.len() == 1 && parts[n].text.is_empty() {
        return Err(SendError::Rejected {
            reason: left_out.join("; "),
        });
    }
    if groups.len() > 1 || !left_out.is_empty() {
        let mut anew: Vec<Vec<usize>> = groups
            .iter()
            .map(|group| files[group.clone()].iter().map(|(at, _)| *at).collect())
            .collect();
        if anew.is_empty() {
            // What is said with it, or before and after it, is said all the same.
            anew.push(Vec::new());
            if parts[n].text.is_empty() {
                parts[n].text = "[a file that could not be had]".to_owned();
            }
        }
        prepare::regroup(parts, n, anew);
        for why in &left_out {
            tracing::warn!(id = row.id, why, "a file of a message is left out");
        }
        let (id, text) = (
            row.id.clone(),
            serde_json::to_string(&*parts).unwrap_or_default(),
        );
        let noted = messages
            .store
            .write(move |tx| {
                let now = now_ms();
                for why in &left_out {
                    tx.history().note(&id, now, "file left out", why)?;
                }
                tx.outbox().split(&id, &text, now)
            })
            .await;
        if let Err(error) = noted {
            forget_all(messages, &files).await;
            return Err(SendError::Retry {
                after: None,
                reason: error.to_string(),
            });
        }
    }
    // Fetched again when it is their turn.
    let later = files.split_off(groups.first().map_or(0, |group| group.end));
    forget_all(messages, &later).await;
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

async fn forget_all(messages: &Messages, files: &[(usize, Attachment)]) {
    for (_, file) in files {
        forget(&messages.media_dir, Path::new(&file.source)).await;
    }
}

async fn send_part(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
    parts: &[Part],
    n: usize,
    files: Vec<Attachment>,
    channel: &dyn Channel,
) -> Result<Receipt, SendError> {
    let message = prepare::outbound(&row.id, &row.target, payload, parts, n, files);
    crash_point!("delivery.before_send");
    let sent = tokio::time::timeout(SEND_TIMEOUT, channel.send(&message)).await;
    crash_point!("delivery.after_send");
    for file in &message.attachments {
        forget(&messages.media_dir, Path::new(&file.source)).await;
    }
    sent.unwrap_or_else(|_elapsed| {
        Err(SendError::Unknown {
            reason: format!("no answer within {SEND_TIMEOUT:?}"),
        })
    })
}

/// The draft becomes the first part; an edit may be repeated, so nothing of it is ever in doubt. `None`: it can't, was taken
/// away, and all is sent as usual.
async fn settle_draft(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
    draft: &str,
    part: &Part,
    channel: &dyn Channel,
) -> Result<Option<Receipt>, SendError> {
    if part.media.is_none() && payload.buttons.is_empty() {
        let message_id = draft.to_owned();
        let edit = Action::Edit {
            target: row.target.clone(),
            message_id: message_id.clone(),
            text: part.text.clone(),
        };
        crash_point!("delivery.before_send");
        let done = tokio::time::timeout(SEND_TIMEOUT, channel.act(&edit)).await;
        crash_point!("delivery.after_send");
        let again = |reason| SendError::Retry {
            after: None,
            reason,
        };
        match done {
            Ok(Ok(())) => {
                return Ok(Some(Receipt {
                    message_id,
                    more_ids: Vec::new(),
                }));
            }
            Ok(Err(SendError::Rejected { reason })) => {
                tracing::debug!(id = row.id, reason, "a draft can't become the answer");
            }
            Ok(Err(SendError::Unknown { reason })) => return Err(again(reason)),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Err(again(format!("no answer within {SEND_TIMEOUT:?}"))),
        }
    }
    without_draft(messages, row, payload, draft, Some(channel)).await?;
    Ok(None)
}

/// Takes the draft away, and answers the message as one of its own.
pub(super) async fn without_draft(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
    draft: &str,
    channel: Option<&dyn Channel>,
) -> Result<Payload, SendError> {
    let delete = Action::Delete {
        target: row.target.clone(),
        message_id: draft.to_owned(),
    };
    if let Some(channel) = channel {
        match tokio::time::timeout(SEND_TIMEOUT, channel.act(&delete)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(id = row.id, %error, "a draft can't be taken away");
            }
            Err(_elapsed) => tracing::debug!(id = row.id, "a draft can't be taken away in time"),
        }
    }
    // Before it goes out: a message that is in doubt from here on must not be taken for an edit.
    let anew = Payload {
        draft: None,
        ..payload.clone()
    };
    let (id, text) = (
        row.id.clone(),
        serde_json::to_string(&anew).unwrap_or_default(),
    );
    messages
        .store
        .write(move |tx| {
            tx.outbox().rewrite(
                &id,
                &text,
                "a message of its own instead of its draft",
                now_ms(),
            )
        })
        .await
        .map_err(|error| SendError::Retry {
            after: None,
            reason: error.to_string(),
        })?;
    Ok(anew)
}

/// Stored in the session's transcript, by whoever keeps it.
async fn webchat(
    messages: &Messages,
    row: &OutboxRow,
    payload: &Payload,
) -> Result<Receipt, SendError> {
    let session_key = payload
        .session_key
        .clone()
        .unwrap_or_else(|| webchat_session(&row.target));
    if !messages.upstream.is_off() {
        return messages
            .upstream
            .inject(&session_key, &payload.content)
            .await;
    }
    let said = store::Said {
        session_key,
        role: "assistant".to_owned(),
        text: payload.content.clone(),
        message_id: row.id.clone(),
        at_ms: now_ms(),
    };
    messages
        .store
        .write(move |tx| tx.transcripts().append(&said))
        .await
        .map_err(|error| SendError::Retry {
            after: None,
            reason: error.to_string(),
        })?;
    Ok(Receipt {
        message_id: row.id.clone(),
        more_ids: Vec::new(),
    })
}

/// The session that a target of the web chat names: a session key as it is, any other name the main session's.
pub(crate) fn webchat_session(target: &str) -> String {
    match crate::routing::SessionKey::parse(target) {
        Some(key) => key.to_string(),
        None => "agent:main:main".to_owned(),
    }
}

/// Looks into every message in doubt.
async fn resolve_doubts(messages: &Arc<Messages>) {
    let rows = match messages
        .store
        .read(|reader| reader.outbox().doubtful(500))
        .await
    {
        Ok(rows) => rows,
        Err(error) => {
            tracing::warn!(%error, "messages in doubt can't be read");
            return;
        }
    };
    // Accounts start beside us; what can't be asked now is held.
    for row in rows {
        let resolved = match is_edit(&row) {
            true => again(messages, &row, "an edit may be repeated").await,
            false => resolve(messages, &row).await,
        };
        if let Err(error) = resolved {
            tracing::error!(id = row.id, %error, "a message stays in doubt");
        }
    }
}

/// What was under way was the draft's last edit, as stored: nothing was sent yet.
fn is_edit(row: &OutboxRow) -> bool {
    let payload = serde_json::from_str::<Payload>(&row.payload);
    let receipts = serde_json::from_str::<Vec<Receipt>>(&row.receipts);
    payload.is_ok_and(|payload| payload.draft.is_some()) && receipts.is_ok_and(|all| all.is_empty())
}

async fn again(messages: &Messages, row: &OutboxRow, why: &'static str) -> Result<(), StoreError> {
    let id = row.id.clone();
    messages
        .store
        .write(move |tx| tx.outbox().resend(&id, why, now_ms()))
        .await?;
    messages.outbox.notify_one();
    Ok(())
}

/// Asks the service; where it can't tell, the policy decides.
async fn resolve(messages: &Arc<Messages>, row: &OutboxRow) -> Result<(), StoreError> {
    let again = |why: &'static str| again(messages, row, why);
    match messages.owner(&row.channel, &row.account) {
        // Once per message id.
        Owner::Webchat if messages.upstream.is_off() => return again("stored at most once").await,
        Owner::Native => {
            if let Some(channel) = messages.supervisor.get(&row.channel, &row.account) {
                if channel.capabilities().idempotent_send {
                    return again("the service knows a repeat").await;
                }
                let payload: Payload = serde_json::from_str(&row.payload).unwrap_or_default();
                let stored = row.parts.as_deref();
                let stored = stored.and_then(|parts| serde_json::from_str::<Vec<Part>>(parts).ok());
                let parts =
                    stored.unwrap_or_else(|| prepare::split(&payload, channel.capabilities()));
                if parts.len() == 1 {
                    let message =
                        prepare::outbound(&row.id, &row.target, &payload, &parts, 0, Vec::new());
                    match channel.reconcile(&message).await {
                        Ok(Reconciled::Arrived(receipt)) => {
                            let (id, names) = (row.id.clone(), vec![receipt.message_id.clone()]);
                            let receipts = serde_json::to_string(&[receipt]).unwrap_or_default();
                            return messages
                                .store
                                .write(move |tx| {
                                    tx.outbox().doubt_arrived(&id, &receipts, &names, now_ms())
                                })
                                .await;
                        }
                        Ok(Reconciled::NotArrived) => return again("it had not arrived").await,
                        Ok(Reconciled::CannotTell) => {}
                        Err(error) => {
                            tracing::warn!(id = row.id, %error, "the service can't be asked")
                        }
                    }
                }
            }
        }
        Owner::Webchat | Owner::Upstream => {}
    }
    match messages.settings.load().in_doubt {
        InDoubt::Hold => Ok(()),
        InDoubt::Resend => again("in_doubt is resend: it may arrive twice").await,
        InDoubt::Drop => {
            let id = row.id.clone();
            messages
                .store
                .write(move |tx| tx.outbox().drop_dead(&id, now_ms()))
                .await
        }
    }
}
