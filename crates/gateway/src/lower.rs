//! The user's configuration lowered to what each part of the gateway takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::app::Runtime;
use crate::auth::limiter::Policy;
use crate::auth::{AuthSettings, DeviceAutoApprove, Mode, TrustedProxy};
use crate::bridge::process::find::{self, FindError, Places};
use crate::config::{AuthMode, Env, Keepers, OwnSettings, Paths, SecretRef, Secrets, Settings};
use crate::control_ui::Root;
use crate::messages::{Accounts, owned};

/// What the references stand for that we follow ourselves: those of channel accounts that are ours, those of embedders' keys and,
/// with no gateway behind (`alone`), those of the models. One that can't be followed is logged, without a value, and stays what it
/// was `before`, with the configuration of then. Waits for the programs that keep some.
pub(crate) async fn secrets(
    config: &Value,
    env: &Env,
    paths: &Paths,
    own: &OwnSettings,
    alone: bool,
    before: Option<(&Value, &Secrets)>,
) -> Arc<Secrets> {
    let asked = config;
    let (config, env, paths, own) = (config.clone(), env.clone(), paths.clone(), own.clone());
    let found = tokio::task::spawn_blocking(move || {
        let keepers = Keepers {
            config: &config,
            env: &env,
            paths: &paths,
        };
        Secrets::resolve(wanted(keepers, &own, alone), keepers)
    });
    let mut found = found.await.unwrap_or_else(|error| {
        tracing::error!(%error, "following the secret references failed");
        Secrets::default()
    });
    if let Some((old, before)) = before {
        for (reference, why) in found.or_as_before(before, (old, asked)) {
            tracing::warn!(
                reference,
                why,
                "a secret reference can't be resolved now; what it stood for stays in use"
            );
        }
    }
    for (reference, why) in found.failed() {
        tracing::error!(reference, why, "a secret reference can't be resolved");
    }
    Arc::new(found)
}

/// The references that [`secrets`] follows.
pub(crate) fn wanted(keepers: Keepers<'_>, own: &OwnSettings, alone: bool) -> BTreeSet<SecretRef> {
    let mut wanted = BTreeSet::new();
    let config = keepers.config;
    // What is wrong with the file of our own channels is told by those who start them.
    let with_own = owned::with_own(config, &keepers.paths.own_dir);
    let accounts = Accounts::read(
        with_own.as_ref().unwrap_or(config),
        &own.channels_native,
        alone,
    );
    for account in accounts.all().values() {
        for value in account.settings.values() {
            SecretRef::within(config, value, &mut wanted);
        }
    }
    let providers = config
        .pointer("/models/providers")
        .and_then(Value::as_object)
        .filter(|_| alone);
    for settings in providers
        .into_iter()
        .flat_map(|providers| providers.values())
    {
        let headers = settings.get("headers").and_then(Value::as_object);
        let fields = headers.into_iter().flat_map(|headers| headers.values());
        wanted.extend(
            fields
                .chain(settings.get("apiKey"))
                .filter_map(|value| SecretRef::of(config, value)),
        );
    }
    wanted.extend(crate::memories::provider::references(config));
    wanted
}

/// `build_id`: of the Control UI that is served, when one is.
pub(crate) fn auth_settings(settings: &Settings, build_id: Option<String>) -> AuthSettings {
    let auth = &settings.auth;
    AuthSettings {
        mode: match auth.mode {
            AuthMode::Token => Mode::Token,
            AuthMode::Password => Mode::Password,
            AuthMode::TrustedProxy => Mode::TrustedProxy,
            AuthMode::None => Mode::None,
        },
        token: auth.token.as_ref().map(|token| token.expose().to_owned()),
        password: auth
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
        trusted_proxy: auth.trusted_proxy.as_ref().map(|proxy| TrustedProxy {
            user_header: proxy.user_header.clone(),
            required_headers: proxy.required_headers.clone(),
            allow_users: proxy.allow_users.clone(),
            allow_loopback: proxy.allow_loopback,
            device_auto_approve: proxy
                .device_auto_approve
                .enabled
                .then(|| DeviceAutoApprove {
                    scopes: proxy.device_auto_approve.scopes.clone(),
                }),
        }),
        trusted_proxies: settings.trusted_proxies.clone(),
        allow_real_ip_fallback: settings.allow_real_ip_fallback,
        allow_tailscale: auth.allow_tailscale,
        rate_limit: Policy {
            attempts_max: auth.rate_limit.max_attempts,
            window_ms: millis(auth.rate_limit.window),
            lockout_ms: millis(auth.rate_limit.lockout),
            exempt_loopback: auth.rate_limit.exempt_loopback,
        },
        allowed_origins: settings.control_ui.allowed_origins.clone(),
        host_header_origin_fallback: settings
            .control_ui
            .dangerously_allow_host_header_origin_fallback,
        control_ui_root_configured: settings.control_ui.root.is_some(),
        build_id,
        auto_approve_local: settings.nodes.pairing.auto_approve_local,
        auto_approve_cidrs: settings.nodes.pairing.auto_approve_cidrs.clone(),
        identity_scopes: auth.identity_scopes.clone(),
        roles_configured: settings.roles.is_some(),
    }
}

pub(crate) fn runtime(own: &OwnSettings) -> Runtime {
    Runtime {
        handshake_timeout: own.limits.handshake_timeout,
        http_header_timeout: own.limits.http_header_timeout,
        preauth_bytes_max: own.limits.preauth_bytes_max,
        payload_bytes_max: own.limits.payload_bytes_max,
        buffered_bytes_max: own.limits.buffered_bytes_max,
        identity: own.upstream.identity,
        upstream_hold: own.upstream.hold,
        native_disable: own.native_disable.clone(),
        rollout_percent: own.rollout_percent,
        rollout_paused: own.rollout_paused,
        shadow_percent: own.shadow_percent,
        guard: own.guard.clone(),
        memory_native: own.memory_native,
    }
}

/// Where the Control UI's files are: what is named, else the package that is installed.
pub(crate) fn control_ui_root(settings: &Settings, own: &OwnSettings, env: &Env) -> Root {
    if let Some(root) = &settings.control_ui.root {
        return Root::Configured(root.clone());
    }
    let named = own
        .control_ui_package
        .as_ref()
        .map(|path| vec![path.display().to_string()]);
    let command = named.as_ref().unwrap_or(&own.upstream.command);
    match find::package(&Places::from_env(env), command) {
        Ok(package) => Root::Bundled(package.control_ui()),
        Err(FindError::NotAPackage { named, why }) => {
            let why = format!("{named} is not an openclaw package ({why})");
            tracing::error!(
                "the Control UI cannot be served: {why}; correct [control_ui] package in openclaw-gateway.toml"
            );
            Root::Missing(why)
        }
        Err(_not_installed) => {
            Root::Missing("OpenClaw is not installed on this machine.".to_owned())
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
