//! `config.get|set|patch|apply` as methods: answered here with and without an upstream, from the user's file.

use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use wire::error::{ErrorCode, ErrorShape};

use super::NativeReply;
use crate::app::App;
use crate::clock;
use crate::config::schema::Schema;
use crate::messages::methods::Task;

/// The methods answered here.
pub(crate) const NAMES: [&str; 4] = ["config.get", "config.set", "config.patch", "config.apply"];

/// Answered by the upstream, about a configuration that client and upstream know by different hashes: ours and its own.
const CREDENTIALS: &str = "plugins.credentials.inspect";

/// The task that answers this call; `None` for any other method, or before the configuration is followed.
pub(crate) fn find(app: &Arc<App>, method: &str, params: Option<&RawValue>) -> Option<Task> {
    if method == CREDENTIALS {
        return credentials(app, params);
    }
    let name = *NAMES.iter().find(|name| **name == method)?;
    app.follower()?;
    let app = Arc::clone(app);
    let params = params.map(ToOwned::to_owned);
    Some(Box::pin(async move { serve(&app, name, params).await }))
}

async fn serve(app: &Arc<App>, method: &'static str, params: Option<Box<RawValue>>) -> NativeReply {
    wire::schema::check(method, params.as_deref())?;
    let follower = app.follower().ok_or_else(|| broken(method))?;
    let api = Arc::clone(&follower.api);
    if method == "config.get" {
        let applied = follower.applied.load_full();
        let answer = tokio::task::spawn_blocking(move || api.get(Some(&applied)).to_string());
        return answer.await.map_err(|_panic| broken(method));
    }
    let params: Value = params
        .and_then(|params| serde_json::from_str(params.get()).ok())
        .unwrap_or_else(|| json!({}));
    let schema = installed(app).await;
    let written = tokio::task::spawn_blocking(move || {
        let installed: Option<Value> = schema.and_then(|answer| serde_json::from_str(&answer).ok());
        let installed = installed.and_then(|answer| Some(Schema::of(answer.get("schema")?)));
        api.write(method, &params, installed.as_ref(), clock::now_ms())
    });
    let written = written.await.map_err(|_panic| broken(method))??;
    if written.changed && !follower.apply_now().await {
        return Err(ErrorShape::new(
            ErrorCode::Unavailable,
            format!(
                "{method} persisted but was not applied to the active Gateway (rejected); see its log, then run config.get and use config.apply to reapply the saved config or restart the Gateway"
            ),
        ));
    }
    Ok(written.answer.to_string())
}

/// The call with the upstream's hash in place of ours, the answer with ours in place of its. A hash that is not that of the
/// file now goes on as it is, and the upstream says what it says of a stale one.
fn credentials(app: &Arc<App>, params: Option<&RawValue>) -> Option<Task> {
    app.upstream.borrow().ready()?;
    let api = Arc::clone(&app.follower()?.api);
    let mut params: Value = serde_json::from_str(params?.get()).ok()?;
    let sent = params["baseHash"].as_str()?.to_owned();
    let control = app.control.clone();
    Some(Box::pin(async move {
        let ours = tokio::task::spawn_blocking(move || api.hash()).await;
        let ours = ours.map_err(|_panic| broken(CREDENTIALS))?;
        if sent == ours {
            let seen = control.call("config.get", json!({})).await;
            let seen: Value = seen
                .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
                .map_err(|error| refusal(&error))?;
            params["baseHash"] = seen["hash"].clone();
        }
        let answer = control.call(CREDENTIALS, params).await;
        let answer = answer.map_err(|error| refusal(&error))?;
        let mut answer: Value =
            serde_json::from_str(&answer).map_err(|error| refusal(&error.to_string()))?;
        if let Some(hash) = answer.get_mut("baseHash") {
            *hash = ours.into();
        }
        Ok(answer.to_string())
    }))
}

/// The upstream's own error, or that there was no answer.
pub(super) fn refusal(error: &str) -> ErrorShape {
    serde_json::from_str(error).unwrap_or_else(|_not_json| ErrorShape::retryable(error, None))
}

/// The upstream's `config.schema`: only it knows what the installed plugins may be configured with. Asked at every
/// write, since it is large and writes are rare.
async fn installed(app: &App) -> Option<String> {
    app.upstream.borrow().ready()?;
    match app.control.call("config.schema", json!({})).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::warn!(
                error,
                "OpenClaw did not tell its schema; what plugins are configured with is written unchecked"
            );
            None
        }
    }
}

fn broken(method: &str) -> ErrorShape {
    ErrorShape::retryable(
        format!("{method} failed inside the gateway; see its log"),
        None,
    )
}
