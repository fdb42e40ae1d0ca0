//! Where the running gateway is, by the same variables and files as everybody else.

use std::net::SocketAddr;

use super::To;
use crate::config::settings::TlsSettings;
use crate::config::{ConfigDocument, Env, Keepers, Paths, SecretRef};
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
        let keepers = Keepers {
            config: &document.resolved,
            env: &document.env,
            paths: &paths,
        };
        // As it is written, or what a reference stands for.
        let credential = |key: &str| -> anyhow::Result<Option<String>> {
            let Some(value) = document.get(&["gateway", "auth", key]) else {
                return Ok(None);
            };
            match SecretRef::of(keepers.config, value).filter(|_| value.is_object()) {
                None => Ok(value.as_str().map(str::to_owned)),
                Some(reference) => {
                    let secret = reference.resolve(keepers).map_err(|why| {
                        document.error(&["gateway", "auth", key], why).fix(
                            "make the secret available, or say it with --token or OPENCLAW_GATEWAY_TOKEN",
                        )
                    })?;
                    Ok(Some(secret.expose().to_owned()))
                }
            }
        };
        let configured = document
            .get(&["gateway", "port"])
            .and_then(|port| port.as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let port = to
            .port
            .unwrap_or_else(|| crate::config::gateway_port(&env, configured));
        let given = |name: &str| env.trimmed(name).map(str::to_owned);
        let token = match to.token.clone().or_else(|| given("OPENCLAW_GATEWAY_TOKEN")) {
            Some(token) => Some(token),
            None => credential("token")?.or_else(|| super::run::stored_token(&paths)),
        };
        // One credential: the original refuses neither, but two would hide which one was wrong.
        let password = match (&token, given("OPENCLAW_GATEWAY_PASSWORD")) {
            (Some(_), _) => None,
            (None, Some(password)) => Some(password),
            (None, None) => credential("password")?,
        };
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
