//! The rules that look only at who a client says it is and where it sits. No state, no IO.
//!
//! Source: handshake-auth-helpers.ts, connect-policy.ts and connect-device-metadata.ts under
//! src/gateway/server/ws-connection, and src/utils/message-channel.ts, at 2026.9.6.

use wire::connect::{ClientInfo, ConnectParams, client_id, client_mode};

use super::address;
use super::attribution::Attribution;
use super::credentials::Method;
use super::device::metadata;
use super::origin;
use super::refusal::PairingReason;

/// Where a client is, once its credential is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingLocality {
    DirectLocal,
    /// A browser on this machine that reaches the gateway through a container's port.
    BrowserContainerLocal,
    SharedSecretLoopbackLocal,
    CliContainerLocal,
    Remote,
}

/// What the client id and mode stand for.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Control UI or TUI: must have a device.
    pub is_control_ui: bool,
    pub is_browser_operator_ui: bool,
    pub is_copilot: bool,
    pub is_webchat: bool,
    pub is_native_app_ui: bool,
    pub is_backend: bool,
    pub is_cli: bool,
}

impl Kind {
    pub fn of(client: &ClientInfo) -> Self {
        let id = client.id.as_str();
        let mode = client.mode.as_str();
        let native = [
            client_id::MACOS_APP,
            client_id::LINUX_APP,
            client_id::IOS_APP,
            client_id::ANDROID_APP,
        ];
        Self {
            is_control_ui: matches!(id, client_id::CONTROL_UI | client_id::TUI),
            is_browser_operator_ui: matches!(
                id,
                client_id::CONTROL_UI | client_id::BROWSER_COPILOT
            ),
            is_copilot: id == client_id::BROWSER_COPILOT,
            is_webchat: mode == client_mode::WEBCHAT || id == client_id::WEBCHAT_UI,
            is_native_app_ui: mode == client_mode::UI && native.contains(&id),
            is_backend: id == client_id::GATEWAY_CLIENT && mode == client_mode::BACKEND,
            is_cli: id == client_id::CLI && mode == client_mode::CLI,
        }
    }
}

pub fn locality(
    attribution: &Attribution,
    params: &ConnectParams,
    shared_ok: bool,
    method: Method,
) -> PairingLocality {
    if attribution.is_local() {
        return PairingLocality::DirectLocal;
    }
    let shared = shared_ok && method.is_shared_secret();
    let direct = !attribution.forwarded();
    let browser = attribution.browser_origin();
    let host = address::host_name(attribution.host.as_deref().unwrap_or_default());
    let container_browser = params.client.id == client_id::CONTROL_UI
        && params.client.mode == client_mode::WEBCHAT
        && browser.is_some()
        && address::is_private_or_loopback(attribution.peer)
        && address::is_loopback_host(&host)
        && address::is_loopback_host(&origin::hostname(browser));
    if shared && direct && container_browser {
        return PairingLocality::BrowserContainerLocal;
    }
    let loopback = browser.is_none()
        && address::is_loopback(attribution.peer)
        && address::is_private_or_loopback_host(&host);
    if shared && direct && loopback {
        return if Kind::of(&params.client).is_cli {
            PairingLocality::CliContainerLocal
        } else {
            PairingLocality::SharedSecretLoopbackLocal
        };
    }
    PairingLocality::Remote
}

/// A backend on this machine needs no pairing of its own.
pub fn skips_pairing(
    kind: Kind,
    locality: PairingLocality,
    has_browser_origin: bool,
    shared_ok: bool,
    method: Method,
) -> bool {
    let local = matches!(
        locality,
        PairingLocality::DirectLocal | PairingLocality::SharedSecretLoopbackLocal
    );
    kind.is_backend
        && local
        && !has_browser_origin
        && (matches!(method, Method::None | Method::DeviceToken)
            || shared_ok && method.is_shared_secret())
}

/// The command line on this machine keeps the scopes it asks for.
pub fn keeps_cli_scopes(
    kind: Kind,
    locality: PairingLocality,
    has_browser_origin: bool,
    shared_ok: bool,
    method: Method,
) -> bool {
    let local = matches!(
        locality,
        PairingLocality::DirectLocal | PairingLocality::CliContainerLocal
    );
    kind.is_cli && local && !has_browser_origin && shared_ok && method.is_shared_secret()
}

/// Whether a local device is paired, or upgraded, without asking a person.
pub fn pairs_silently(
    kind: Kind,
    locality: PairingLocality,
    has_browser_origin: bool,
    auto_approve_local: bool,
    method: Method,
    reason: PairingReason,
) -> bool {
    let own_ui = kind.is_control_ui || kind.is_webchat;
    if locality == PairingLocality::Remote || (has_browser_origin && !own_ui) {
        return false;
    }
    match reason {
        PairingReason::MetadataUpgrade => {
            !has_browser_origin
                && !own_ui
                && match locality {
                    PairingLocality::DirectLocal => kind.is_native_app_ui,
                    PairingLocality::CliContainerLocal
                    | PairingLocality::SharedSecretLoopbackLocal => true,
                    PairingLocality::BrowserContainerLocal | PairingLocality::Remote => false,
                }
        }
        _ if !auto_approve_local => false,
        PairingReason::ScopeUpgrade => {
            matches!(method, Method::None | Method::Token | Method::Password)
        }
        PairingReason::NotPaired | PairingReason::RoleUpgrade => true,
    }
}

/// Why a handshake without a device goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingDevice {
    Allow,
    ControlUiNeedsDevice,
    Unauthorized,
    DeviceRequired,
}

/// How a paired device's platform and family compare with what it claims now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinning {
    pub mismatch: bool,
    /// Replace the claim by the pinned value.
    pub platform: Option<String>,
    pub device_family: Option<String>,
    /// The pinned value moves on: the same app after a system update.
    pub refresh_platform: Option<String>,
}

/// Platform and family may not change behind a paired key, but for renamed runtimes and system updates.
pub fn pin(
    client: &ClientInfo,
    paired_platform: Option<&str>,
    paired_family: Option<&str>,
) -> Pinning {
    let claimed = metadata(Some(&client.platform));
    let claimed_family = metadata(client.device_family.as_deref());
    let pinned = metadata(paired_platform);
    let pinned_family = metadata(paired_family);
    let is_node_host = client.id == client_id::NODE_HOST && client.mode == client_mode::NODE;
    let (runtime, runtime_family) = runtime_identity(&pinned);

    let same_runtime = is_node_host
        && !pinned.is_empty()
        && !claimed.is_empty()
        && runtime_identity(&claimed).0 == runtime;
    let renamed_runtime = pinned_family.is_empty()
        && runtime != pinned
        && claimed == runtime
        && claimed_family == metadata(runtime_family);
    let is_runtime = same_runtime || renamed_runtime;
    let is_mac_app_pin = is_node_host
        && matches!(claimed.as_str(), "darwin" | "macos")
        && is_versioned("macos", &pinned);
    let family = native_family(&client.id, &claimed);
    let is_update = !pinned.is_empty()
        && !claimed.is_empty()
        && claimed != pinned
        && (family.is_some() && family == native_family(&client.id, &pinned)
            || client.id == client_id::MACOS_APP
                && family == Some("macos")
                && matches!(pinned.as_str(), "darwin" | "macos"));
    let platform_mismatch =
        !pinned.is_empty() && claimed != pinned && !is_runtime && !is_mac_app_pin && !is_update;
    let family_mismatch = !pinned_family.is_empty() && claimed_family != pinned_family;
    let platform = if pinned.is_empty() {
        None
    } else if is_runtime {
        Some(runtime.to_owned())
    } else if claimed == pinned || is_mac_app_pin {
        paired_platform.map(str::to_owned)
    } else if is_update {
        Some(client.platform.clone())
    } else {
        None
    };
    Pinning {
        mismatch: platform_mismatch || family_mismatch,
        platform,
        device_family: if pinned_family.is_empty() {
            None
        } else {
            paired_family.map(str::to_owned)
        },
        refresh_platform: is_update.then(|| client.platform.clone()),
    }
}

/// Source: packages/gateway-client/src/gateway-client-platform.ts at 2026.9.6.
fn runtime_identity(platform: &str) -> (&str, Option<&'static str>) {
    match platform {
        "darwin" => ("macos", Some("Mac")),
        "win32" => ("windows", Some("Windows")),
        "linux" => ("linux", Some("Linux")),
        other => (other, None),
    }
}

fn native_family(client: &str, platform: &str) -> Option<&'static str> {
    let starts = |word: &str| {
        platform
            .strip_prefix(word)
            .is_some_and(|rest| rest.chars().next().is_none_or(char::is_whitespace))
    };
    match client {
        client_id::IOS_APP if starts("ios") || starts("ipados") => Some("ios-family"),
        client_id::ANDROID_APP if starts("android") => Some("android"),
        client_id::WATCHOS_APP if is_versioned("watchos", platform) => Some("watchos"),
        client_id::MACOS_APP if is_versioned("macos", platform) => Some("macos"),
        _ => None,
    }
}

/// `<word> 1`, `<word> 1.2` or `<word> 1.2.3`.
fn is_versioned(word: &str, platform: &str) -> bool {
    let Some(version) = platform
        .strip_prefix(word)
        .and_then(|rest| rest.strip_prefix(' '))
    else {
        return false;
    };
    let parts: Vec<&str> = version.split('.').collect();
    parts.len() <= 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Desktop node hosts of older releases name their platform by Node's word for it.
/// Source: `normalizeNodeHostCompatibilityMetadata` at 2026.9.6.
pub fn normalize_node_host(client: &mut ClientInfo) {
    if client.id != client_id::NODE_HOST || client.mode != client_mode::NODE {
        return;
    }
    let (platform, family) = match client.platform.as_str() {
        "darwin" | "macos" => ("macos", "Mac"),
        "linux" => ("linux", "Linux"),
        "win32" | "windows" => ("windows", "Windows"),
        _ => return,
    };
    let own = client.device_family.as_deref().unwrap_or_default().trim();
    if !own.is_empty() && own.to_lowercase() != family.to_lowercase() {
        return;
    }
    if client.platform == platform && !own.is_empty() {
        return;
    }
    client.device_family = Some(if own.is_empty() { family } else { own }.to_owned());
    client.platform = platform.to_owned();
}
