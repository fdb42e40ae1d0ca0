//! What this gateway itself answers below `/api/`: one list for its own port and for the admin listener.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::http::Body;
use crate::app::App;
use crate::auth::RemoteEnd;
use crate::messages::Messages;
use crate::{console, memories, messages, recent_log, rollout, shadow, upstream};

/// Whose a path is.
pub(crate) enum Api {
    Messages(Arc<Messages>),
    Shadow,
    Rollout,
    Upstream,
    RecentLog,
    Console,
    Memories,
}

/// `None`: somebody else's path.
pub(crate) fn of(app: &App, path: &str) -> Option<Api> {
    if let Some(messages) = app.messages().filter(|_| messages::api::is_ours(path)) {
        return Some(Api::Messages(Arc::clone(messages)));
    }
    match path {
        shadow::PATH => Some(Api::Shadow),
        rollout::PATH => Some(Api::Rollout),
        recent_log::PATH => Some(Api::RecentLog),
        path if path == upstream::PATH || path.starts_with("/api/upstream/") => Some(Api::Upstream),
        path if console::api::is_ours(path) => Some(Api::Console),
        path if memories::http::is_ours(path) => Some(Api::Memories),
        _ => None,
    }
}

/// Answers; each asks who is there.
pub(crate) async fn respond(
    api: Api,
    app: &Arc<App>,
    request: Request<Incoming>,
    peer: RemoteEnd,
) -> Response<Body> {
    match api {
        Api::Messages(messages) => messages::api::respond(app, &messages, request, peer).await,
        Api::Shadow => shadow::respond(app, &request, peer).await,
        Api::Rollout => rollout::respond(app, &request, peer).await,
        Api::Upstream => upstream::respond(app, &request, peer).await,
        Api::RecentLog => recent_log::respond(app, &request, peer).await,
        Api::Console => console::api::respond(app, &request, peer).await,
        Api::Memories => memories::http::respond(app, request, peer).await,
    }
}
