//! What is asked of the upstream before it is stopped: to finish its work, and whether anything is still its own.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Call;

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
