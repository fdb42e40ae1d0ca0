//! `gateway.tailscale`: this gateway's address in the tailnet (Serve) or on the Internet (Funnel), held while it runs.
//!
//! Tailscale is told of a listener of its own on 127.0.0.1, so that nothing else can claim to be it. The route is held by
//! a `tailscale` process in the foreground, and is gone when that process or this gateway is.
//!
//! Source: docs/gateway/tailscale.md, src/gateway/server-tailscale.ts and src/infra/tailscale.ts at 2026.9.6.

mod claim;
mod command;
mod routes;
mod whois;

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::TcpListener;
use wire::connect::ConnectAuth;

use crate::app::App;
use crate::auth::{self, Attribution, Door, Ingress};
use crate::config::{Env, Settings, TailscaleMode};
use crate::ingress::outbound::Close;
use claim::Claim;
use command::Tailscale;
use whois::Whois;

/// The route that is asked for, and what is known while it is held.
#[derive(Debug)]
pub(crate) struct Exposure {
    door: Door,
    tailscale: Tailscale,
    whois: Whois,
    /// The machine's name in its tailnet.
    pub(crate) host: Option<String>,
    /// `https://<host>` and the Control UI's path there, while the route is held.
    page: parking_lot::Mutex<Option<String>>,
}

/// What is started before the gateway serves.
pub(crate) struct Ready {
    pub(crate) exposure: Arc<Exposure>,
    /// `None`: a Funnel route of somebody else's was left as it is.
    pub(crate) held: Option<Held>,
}

pub(crate) struct Held {
    pub(crate) listener: TcpListener,
    pub(crate) claim: Claim,
}

/// Takes the route, where the settings ask for one. `port`: of the ordinary listener.
///
/// # Errors
/// Why there is no route, and what to do. The gateway must not start without what was asked for.
pub(crate) async fn start(
    env: &Env,
    settings: &Settings,
    port: u16,
) -> Result<Option<Ready>, String> {
    let (door, word) = match settings.tailscale {
        TailscaleMode::Off => return Ok(None),
        TailscaleMode::Serve => (Door::Serve, "serve"),
        TailscaleMode::Funnel => (Door::Funnel, "funnel"),
    };
    let named = |why: String| format!("tailscale {word}: {why}");
    let mut tailscale = Tailscale::find(env).await.map_err(named)?;
    let exposure = |tailscale, host, page| {
        Arc::new(Exposure {
            door,
            tailscale,
            host,
            whois: Whois::default(),
            page: parking_lot::Mutex::new(page),
        })
    };
    if door == Door::Serve && settings.tailscale_preserve_funnel {
        let status = tailscale.json(&["funnel", "status", "--json"]).await;
        let status = status.map_err(|error| {
            named(format!(
                "the Funnel routes cannot be read, so nothing was changed: {error}"
            ))
        })?;
        if routes::funnels_to(&status, port) {
            tracing::warn!(
                port,
                "tailscale serve: a Funnel that this gateway does not hold leads to its port and was left as it is (gateway.tailscale.preserveFunnel); only routes of plugins that check their callers work through it. Set a gateway password, then gateway.tailscale.mode to funnel, and remove preserveFunnel"
            );
            return Ok(Some(Ready {
                exposure: exposure(tailscale, None, None),
                held: None,
            }));
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| named(format!("its listener on 127.0.0.1: {error}")))?;
    let target = listener
        .local_addr()
        .map_err(|error| named(error.to_string()))?
        .port();
    let claim = claim::take(&mut tailscale, word, target, port)
        .await
        .map_err(named)?;
    let host = match tailscale.hostname_once_settled().await {
        Ok(host) => Some(host),
        Err(error) => {
            tracing::debug!(%error, "tailscale: its name is not known");
            None
        }
    };
    if !claim.is_held() {
        return Err(named(claim.why_it_ended()));
    }
    let page = host
        .as_ref()
        .map(|host| format!("https://{host}{}/", settings.control_ui.base_path));
    match &page {
        Some(page) => tracing::info!(%page, "tailscale {word}: this gateway can be reached"),
        None => tracing::info!("tailscale {word}: this gateway can be reached"),
    }
    Ok(Some(Ready {
        exposure: exposure(tailscale, host, page),
        held: Some(Held { listener, claim }),
    }))
}

impl Exposure {
    pub(crate) fn door(&self) -> Door {
        self.door
    }

    /// The login of a client that came through Serve and says who it is, where Tailscale's daemon says the same.
    /// Source: `resolveManagedTailscaleIngress` in src/gateway/ingress-attribution.ts at 2026.9.6.
    pub(crate) async fn person(
        &self,
        settings: &auth::AuthSettings,
        attribution: &Attribution,
        headers: &http::HeaderMap,
        sent: Option<&ConnectAuth>,
    ) -> Option<String> {
        let counts = attribution.ingress == Ingress::TailscaleServe
            && settings.allow_tailscale
            && matches!(settings.mode, auth::Mode::Token | auth::Mode::Password)
            && auth::credentials::Sent::of(sent).is_empty();
        if !counts {
            return None;
        }
        let claimed = auth::attribution::header(headers, "tailscale-user-login")?;
        let claimed = claimed.trim();
        if claimed.is_empty() {
            return None;
        }
        let login = self
            .whois
            .login(&self.tailscale, attribution.client_ip)
            .await?;
        (login.to_lowercase() == claimed.to_lowercase()).then_some(login)
    }

    /// Where browsers are told to come from, since people are known there.
    /// Source: `resolveControlUiIdentity` in src/gateway/control-ui-identity.ts at 2026.9.6.
    pub(crate) fn identity_page(&self, settings: &auth::AuthSettings) -> Option<String> {
        let counts = self.door == Door::Serve
            && settings.allow_tailscale
            && matches!(settings.mode, auth::Mode::Token | auth::Mode::Password);
        counts.then(|| self.page.lock().clone())?
    }
}

/// Keeps the route until `stopping`, then gives it back. A route that is lost is a line in the log: this machine's clients
/// are served on, and those that were told of its address are told to come again.
pub(crate) async fn keep(app: Arc<App>, exposure: Arc<Exposure>, claim: Claim) {
    let mut stop = app.stopping.subscribe();
    // Also a stop that came before this began.
    let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
    tokio::select! {
        () = stopped => claim.release().await,
        () = claim.ended() => {
            tracing::error!(
                "tailscale: {}; nobody reaches this gateway through Tailscale until it is started again",
                claim.why_it_ended()
            );
            if exposure.page.lock().take().is_some() && exposure.door == Door::Serve
                && app.auth.settings().allow_tailscale
            {
                let close = Close::new(1012, "browser identity route changed");
                app.hub.close_if(&close, |subscriber| !subscriber.is_node);
            }
        }
    }
}
