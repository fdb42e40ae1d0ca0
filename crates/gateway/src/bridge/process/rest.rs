//! What is asked of the upstream before it is stopped: to finish its work, and whether anything is still its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Call, ChannelAccount};

/// One question may take this long.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between looks at a draining gateway; it asks for more, and we have little time.
const DRAIN_POLL: Duration = Duration::from_millis(100);

/// Closes admission and waits until admitted work is done, at most until `deadline`.
///
/// Source: "Cooperative host suspension" in docs/gateway/external-apps.md at 2026.9.6.
pub(super) async fn drain(call: &Call, deadline: Instant) {
    let drained = async {
        let request = json!({
            "requestId": format!("openclaw-gateway-stop-{}", uuid::Uuid::new_v4()),
            "terminalPolicy": "terminate",
            "drain": true,
        });
        let mut answer = ask(call, "gateway.suspend.prepare", request).await?;
        let suspension = answer["suspensionId"].clone();
        while answer["status"] == "draining" {
            tokio::time::sleep(DRAIN_POLL).await;
            answer = ask(
                call,
                "gateway.suspend.status",
                json!({ "suspensionId": suspension }),
            )
            .await?;
        }
        Ok::<_, String>(answer["status"].as_str().unwrap_or("?").to_owned())
    };
    match tokio::time::timeout_at(deadline, drained).await {
        Ok(Ok(status)) => tracing::debug!(%status, "openclaw has finished its work"),
        Ok(Err(why)) => tracing::info!(%why, "openclaw could not be asked to finish its work"),
        Err(_elapsed) => tracing::info!(
            "openclaw still has work; stopping it, and it resumes that by its own rules"
        ),
    }
}

/// What an account received at most this long ago may not have been begun.
const SETTLES: Duration = Duration::from_secs(1);

/// Has it let go of accounts that leave it, in a moment when nothing is under way: while it is suspended it would go on to take
/// messages and keep them for itself, and what it has taken and not begun when an account stops waits there until that account is
/// its own again. Past `deadline` they are stopped all the same.
pub(super) async fn let_go(
    call: &Call,
    gap: &AtomicBool,
    leaving: &[ChannelAccount],
    deadline: Instant,
) {
    for account in leaving {
        let (channel, id) = account;
        match tokio::time::timeout_at(deadline, stop_quietly(call, gap, account)).await {
            Ok(Ok(())) => {
                tracing::info!(channel, account = id, "openclaw has let go of an account");
                continue;
            }
            Ok(Err(why)) => tracing::warn!(
                channel, account = id, %why,
                "openclaw could not be asked to let go of an account; what reaches it until it ends waits there"
            ),
            Err(_elapsed) => tracing::warn!(
                channel,
                account = id,
                "openclaw is never quiet; what it has taken and not begun waits there until it has this account again"
            ),
        }
        let params = json!({ "channel": channel, "accountId": id });
        if let Err(why) = ask(call, "channels.stop", params).await {
            tracing::debug!(%why, "the account ends with its gateway");
        }
    }
}

async fn stop_quietly(
    call: &Call,
    gap: &AtomicBool,
    account: &ChannelAccount,
) -> Result<(), String> {
    let (channel, id) = account;
    let params = json!({ "channel": channel, "accountId": id });
    loop {
        let before = quiet(call, gap, account).await?;
        ask(call, "channels.stop", params.clone()).await?;
        if !heard_at(call, account).await?.is_after(&before) {
            return Ok(());
        }
        // Something came just then. Started again it works on that, as it does after a crash.
        ask(call, "channels.start", params.clone()).await?;
    }
}

/// Waits until no work is under way and an account has received nothing for a while; answers when that last was.
async fn quiet(call: &Call, gap: &AtomicBool, account: &ChannelAccount) -> Result<Heard, String> {
    loop {
        let heard = heard_at(call, account).await?;
        let now = crate::clock::now_ms();
        let settled = |at: Option<u64>| {
            at.is_none_or(|at| u128::from(now.saturating_sub(at)) >= SETTLES.as_millis())
        };
        if settled(heard.event_ms) && settled(heard.message_ms) && is_idle(call, gap).await? {
            return Ok(heard);
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// When an account last heard from its service, and from a person; milliseconds since 1970.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    event_ms: Option<u64>,
    message_ms: Option<u64>,
}

impl Heard {
    /// A stopped account may tell nothing any more.
    fn is_after(&self, before: &Self) -> bool {
        let later = |now: Option<u64>, before| now.is_some() && now != before;
        later(self.event_ms, before.event_ms) || later(self.message_ms, before.message_ms)
    }
}

async fn heard_at(call: &Call, (channel, id): &ChannelAccount) -> Result<Heard, String> {
    let status = ask(call, "channels.status", json!({ "probe": false })).await?;
    let accounts = status["channelAccounts"][channel].as_array();
    let account = accounts
        .into_iter()
        .flatten()
        .find(|account| account["accountId"] == id.as_str());
    let ms = |key: &str| account.and_then(|account| account[key].as_u64());
    Ok(Heard {
        event_ms: ms("lastEventAt"),
        message_ms: ms("lastInboundAt"),
    })
}

/// It says whether it could be suspended at once, and is not left so; what clients ask in that moment waits.
async fn is_idle(call: &Call, gap: &AtomicBool) -> Result<bool, String> {
    let request = json!({
        "requestId": format!("openclaw-gateway-move-{}", uuid::Uuid::new_v4()),
        "terminalPolicy": "terminate",
    });
    gap.store(true, Ordering::Release);
    let asked = async {
        let answer = ask(call, "gateway.suspend.prepare", request).await?;
        if answer["status"] != "ready" {
            return Ok(false);
        }
        let suspension = json!({ "suspensionId": answer["suspensionId"] });
        ask(call, "gateway.suspend.resume", suspension).await?;
        Ok(true)
    };
    let is_idle = asked.await;
    gap.store(false, Ordering::Release);
    is_idle
}

/// Whether the upstream may be stopped to save memory, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It owns something that goes on by itself.
    Awake,
    /// Until somebody calls it, or its next job is due.
    Asleep { wake_in: Option<Duration> },
}

/// A job due sooner than this is not worth a stop and a start.
const SLEEP_MIN: Duration = Duration::from_secs(120);
/// It is started this much before its job is due.
const HEAD_START: Duration = Duration::from_secs(45);

/// Not while a channel account runs in it, work is under way, or a job is due soon. In doubt it stays awake.
pub(super) async fn may_sleep(call: &Call) -> Rest {
    match owns_something(call).await {
        Ok(Ok(wake_in)) => Rest::Asleep { wake_in },
        Ok(Err(what)) => {
            tracing::debug!(%what, "openclaw stays awake");
            Rest::Awake
        }
        Err(why) => {
            tracing::debug!(%why, "openclaw stays awake: it can't be asked");
            Rest::Awake
        }
    }
}

/// When its next job is due; the inner error is what keeps it awake.
async fn owns_something(call: &Call) -> Result<Result<Option<Duration>, String>, String> {
    let channels = ask(call, "channels.status", json!({ "probe": false })).await?;
    if let Some(account) = running_account(&channels) {
        return Ok(Err(format!("channel {account} runs in it")));
    }
    // Every OpenClaw has jobs of its own (heartbeat, memory), so having some can't be what keeps it awake.
    let cron = ask(call, "cron.status", json!({})).await?;
    let has_jobs = cron["enabled"] == true && cron["jobs"].as_u64() != Some(0);
    let wake_in = match cron["nextWakeAtMs"].as_u64().filter(|_| has_jobs) {
        None => None,
        Some(at_ms) => {
            let due_in = Duration::from_millis(at_ms.saturating_sub(crate::clock::now_ms()));
            if due_in < SLEEP_MIN {
                return Ok(Err(format!(
                    "its next job is due in {} s",
                    due_in.as_secs()
                )));
            }
            Some(due_in.saturating_sub(HEAD_START))
        }
    };
    // Ready only when nothing is under way, and then nothing new may begin: the suspension is not given back, since the
    // stop follows.
    let request =
        json!({ "requestId": format!("openclaw-gateway-sleep-{}", uuid::Uuid::new_v4()) });
    let answer = ask(call, "gateway.suspend.prepare", request).await?;
    if answer["status"] == "ready" {
        return Ok(Ok(wake_in));
    }
    Ok(Err(format!(
        "{} pieces of work are under way",
        answer["activeCount"]
    )))
}

/// A channel account that runs, as `channel/account`.
fn running_account(status: &Value) -> Option<String> {
    let accounts = status["channelAccounts"].as_object()?;
    accounts.iter().find_map(|(channel, list)| {
        let running = list
            .as_array()?
            .iter()
            .find(|account| account["running"] == true)?;
        Some(format!(
            "{channel}/{}",
            running["accountId"].as_str().unwrap_or("default")
        ))
    })
}

async fn ask(call: &Call, method: &'static str, params: Value) -> Result<Value, String> {
    let text = tokio::time::timeout(QUESTION_TIMEOUT, call(method, params))
        .await
        .map_err(|_elapsed| format!("{method} was not answered"))?
        .map_err(|error| format!("{method}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{method}: {error}"))
}
