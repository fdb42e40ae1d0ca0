//! Where the running gateway is, by the same variables and files as everybody else.

use std::net::SocketAddr;

use super::To;
use crate::config::settings::TlsSettings;
use crate::config::{ConfigDocument, Env, Paths};
use crate::ingress::tls::leaf;
use crate::pinned;

pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) token: Option<String>,
    pub(super) password: Option<String>,
    /// How to speak TLS to it, when `gateway.tls` is on.
    pub(super) tls: Option<rustls::ClientConfig>,
}

impl Target {
    /// Flags, then variables, then the configuration, then the token we made ourselves.
    pub(super) fn resolve(profile: Option<&str>, to: &To) -> anyhow::Result<Self> {
        let (env, paths) = environment(profile)?;
        let document = ConfigDocument::read(&paths, &env);
        let text = |path: &[&str]| {
            document
                .get(path)
                .and_then(|value| value.as_str())
                .map(str::to_owned)
        };
        let configured = document
            .get(&["gateway", "port"])
            .and_then(|port| port.as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let port = to
            .port
            .unwrap_or_else(|| crate::config::gateway_port(&env, configured));
        let token = to
            .token
            .clone()
            .or_else(|| env.trimmed("OPENCLAW_GATEWAY_TOKEN").map(str::to_owned))
            .or_else(|| text(&["gateway", "auth", "token"]))
            .or_else(|| super::run::stored_token(&paths));
        let password = env
            .trimmed("OPENCLAW_GATEWAY_PASSWORD")
            .map(str::to_owned)
            .or_else(|| text(&["gateway", "auth", "password"]));
        // One credential: the original refuses neither, but two would hide which one was wrong.
        let password = if token.is_some() { None } else { password };
        let tls = TlsSettings::of(&document, &paths);
        let tls = if tls.enabled {
            Some(pinned::client(leaf(&tls.cert_path)?)?)
        } else {
            None
        };
        Ok(Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            token,
            password,
            tls,
        })
    }
}

/// The process's environment with `profile` applied, and the locations that follow from it.
pub(super) fn environment(profile: Option<&str>) -> anyhow::Result<(Env, Paths)> {
    let mut env = Env::from_process();
    if let Some(profile) = profile {
        crate::config::select_profile(&mut env, profile)?;
    }
    let paths = Paths::resolve(&env)?;
    Ok((env, paths))
}
