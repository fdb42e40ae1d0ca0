//! Who may connect, and with which rights.
//!
//! A synchronous core without sockets: the ingress hands in an address, headers and parsed params, and gets back a
//! [`Decision`]. Calls that change the pairing book write it to disk before they return, so they may take
//! milliseconds; nothing here waits for anything else. Read in this order: [`attribution`], [`handshake`],
//! [`credentials`], [`device`], [`pairing`], [`methods`].

pub mod address;
pub mod attribution;
pub mod bearer;
pub mod credentials;
pub mod device;
mod files;
pub mod handshake;
pub mod http;
pub mod identity;
pub mod limiter;
pub mod methods;
pub mod origin;
pub mod pairing;
pub mod policy;
pub mod refusal;
pub mod scopes;
pub mod secret;
pub mod settings;
pub mod upstream;

use std::path::Path;
use std::sync::Arc;

use ::http::HeaderMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use wire::connect::{ClientInfo, ConnectParams};

pub use attribution::{Attribution, Door, Ingress, Locality, RemoteEnd};
pub use bearer::{HttpAuth, HttpPrincipal, HttpSurface};
pub use credentials::Method;
pub use http::HttpRefusal;
pub use identity::Identity;
pub use methods::{Caller, MethodError, Outcome};
pub use origin::{BrowserOrigin, is_gateway_host};
pub use policy::PairingLocality;
pub use refusal::{PairingReason, Refusal, RefusalLog};
pub use secret::sha256_hex;
pub use settings::{AuthSettings, DeviceAutoApprove, Mode, TrustedProxy};

use limiter::Limiter;
use pairing::Book;
use pairing::store::{Damaged, Store, StoreError};
use pairing::tokens::Mint;
use refusal::Recent;

/// The one authority on identities. Cheap to share; every method takes `&self`.
pub struct Auth {
    live: ArcSwap<Live>,
    identity: Identity,
    limiter: Limiter,
    /// For connections with a browser `Origin`: loopback is not exempt.
    browser_limiter: Limiter,
    ledger: Mutex<Ledger>,
    verdicts: upstream::Verdicts,
    gone: upstream::Gone,
    bearers: bearer::AcceptedBearers,
    upgrades: methods::Upgrades,
    recent: Recent,
    /// Bumped at every change of the book, to wake those who wait for an approval.
    revision: watch::Sender<u64>,
}

/// The settings of this moment, and what follows from them.
struct Live {
    settings: Arc<AuthSettings>,
    generation: Option<String>,
    policy_generation: String,
}

impl Live {
    fn new(settings: AuthSettings) -> Self {
        Self {
            generation: settings.generation(),
            policy_generation: settings.policy_generation(),
            settings: Arc::new(settings),
        }
    }
}

/// The book and the file under it.
struct Ledger {
    book: Book,
    store: Store,
    /// Something changed that may be lost in a crash: when a device was last seen.
    dirty: bool,
}

/// Why authentication could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One `connect`, everything known about it.
#[derive(Clone, Copy)]
pub struct ConnectAttempt<'a> {
    pub attribution: &'a Attribution,
    /// Of the upgrade request.
    pub headers: &'a HeaderMap,
    /// `connect.challenge`'s nonce on this connection.
    pub challenge: &'a str,
    pub params: &'a ConnectParams,
    pub upstream: UpstreamTrust,
    /// The login that Tailscale's daemon gives the client's address, where it is the one that the request claims.
    pub tailscale_user: Option<&'a str>,
    /// Whether a device has a live connection.
    pub is_connected: &'a dyn Fn(&str) -> bool,
}

/// What can be asked of the TypeScript gateway behind us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamTrust {
    /// None is configured: everything is decided here.
    Absent,
    /// Configured, but not answering now.
    Unreachable,
    Reachable,
}

/// What to do with a `connect`.
#[derive(Debug)]
pub enum Decision {
    Accept(Box<Principal>),
    Refuse(Box<Refusal>),
    /// Relay the handshake to the upstream as it is; report a success with [`Auth::remember_relayed`].
    Relay {
        why: RelayReason,
    },
    /// Ask the upstream whether this bearer is good (`GET /control-ui-config.json`: 200 or 401), report it with
    /// [`Auth::upstream_token_verdict`] and decide again.
    AskUpstream {
        token: String,
        device_id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayReason {
    /// Node connections belong to the upstream.
    Node,
    /// A setup code minted in the upstream's state.
    Bootstrap,
    /// A device that we do not know; the upstream may, or pairs it.
    UnknownDevice,
    /// A known device asks for more than it has, or changed its name.
    Upgrade(PairingReason),
    /// A credential that only the upstream's own processes hold.
    ExactIdentity,
    /// User profiles and roles are the upstream's.
    UserProfile,
}

/// An authenticated connection.
#[derive(Debug, Clone)]
pub struct Principal {
    pub role: Role,
    /// What the connection has, not what it asked for.
    pub scopes: Vec<String>,
    pub method: Method,
    /// Verified by a trusted proxy.
    pub user: Option<String>,
    pub device: Option<device::Proven>,
    /// As it describes itself, after pinning to what was paired.
    pub client: ClientInfo,
    pub caps: Vec<String>,
    pub commands: Vec<String>,
    /// [`Attribution::is_local`].
    pub is_local: bool,
    pub locality: PairingLocality,
    pub client_ip: Option<std::net::IpAddr>,
    /// The connection rests on the shared credential of `generation`.
    pub uses_shared_auth: bool,
    pub generation: Option<String>,
    pub policy_generation: String,
    pub browser_origin: Option<BrowserOrigin>,
    /// `auth` of `hello-ok`.
    pub hello_auth: Value,
    pub effects: Effects,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Operator,
    Node,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Node => "node",
        }
    }
}

impl Principal {
    /// The connection was let in by a device token: it may manage only its own device.
    pub fn is_device_token_auth(&self) -> bool {
        self.method == Method::DeviceToken
    }

    /// Shown in presence. Source: `isEphemeralGatewayClient` at 2026.9.6.
    pub fn tracks_presence(&self) -> bool {
        !matches!(self.client.mode.as_str(), "cli" | "backend" | "probe")
    }
}

/// What others must be told or lose because of a decision.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    pub events: Vec<AuthEvent>,
    pub closes: Vec<DeviceClose>,
}

/// A broadcast to clients with `operator.pairing`; may be dropped for slow ones.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthEvent {
    pub event: &'static str,
    pub payload: Value,
}

/// Connections of a device (of one role, if given) must close with 4001.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceClose {
    pub device_id: String,
    pub role: Option<String>,
    /// For requests that arrive before the close: `client invalidated: <reason>`.
    pub reason: &'static str,
}

impl DeviceClose {
    pub const CODE: u16 = 4001;
    /// Source: `disconnectClientsForDevice` in src/gateway/server-request-context.ts at 2026.9.6.
    pub const TEXT: &'static str = "device removed";
}

impl Auth {
    /// Opens `<state>/openclaw-rs` at `dir`: makes what is missing, reads what is there. A damaged pairing file is
    /// kept aside and reported; the gateway goes on with no pairings.
    ///
    /// # Errors
    /// When identity or pairings can be neither read nor made.
    pub fn open(
        dir: &Path,
        settings: AuthSettings,
        now_ms: u64,
    ) -> Result<(Self, Option<Damaged>), OpenError> {
        let identity = Identity::load_or_create(&dir.join("identity.json"))?;
        let (store, book, damaged) = Store::open(&dir.join("devices.json"), now_ms)?;
        let browser = limiter::Policy {
            exempt_loopback: false,
            ..settings.rate_limit
        };
        let auth = Self {
            limiter: Limiter::new(settings.rate_limit),
            browser_limiter: Limiter::new(browser),
            live: ArcSwap::from_pointee(Live::new(settings)),
            identity,
            ledger: Mutex::new(Ledger {
                book,
                store,
                dirty: false,
            }),
            verdicts: upstream::Verdicts::default(),
            gone: upstream::Gone::default(),
            bearers: bearer::AcceptedBearers::default(),
            upgrades: methods::Upgrades::default(),
            recent: Recent::default(),
            revision: watch::Sender::new(0),
        };
        Ok((auth, damaged))
    }

    /// Decides a `connect`. Every refusal is noted for [`Auth::recent_refusals`].
    pub fn connect(&self, attempt: &ConnectAttempt<'_>, now_ms: u64) -> Decision {
        let decision = handshake::decide(self, attempt, now_ms);
        if let Decision::Refuse(refusal) = &decision {
            self.recent.note(refusal.log.clone());
        }
        decision
    }

    /// Attributes a request by the current settings.
    ///
    /// # Errors
    /// The 403 to send instead of anything else.
    pub fn attribute(
        &self,
        from: RemoteEnd,
        headers: &HeaderMap,
    ) -> Result<Attribution, HttpRefusal> {
        let live = self.live.load();
        Attribution::of(from.ip(), from.door, headers, live.settings.trust())
    }

    pub fn settings(&self) -> Arc<AuthSettings> {
        Arc::clone(&self.live.load().settings)
    }

    /// Swaps the settings; ask [`Auth::stale`] about every live connection afterwards.
    pub fn reload(&self, settings: AuthSettings) {
        self.limiter.set_policy(settings.rate_limit);
        self.browser_limiter.set_policy(limiter::Policy {
            exempt_loopback: false,
            ..settings.rate_limit
        });
        self.bearers.clear();
        self.live.store(Arc::new(Live::new(settings)));
    }

    /// The close that a live connection has coming because the settings changed under it.
    /// Source: src/gateway/server/ws-origin-policy.ts and authenticated-request-dispatch.ts at 2026.9.6.
    pub fn stale(&self, principal: &Principal) -> Option<(u16, &'static str)> {
        let live = self.live.load();
        let settings = &live.settings;
        if principal.uses_shared_auth && principal.generation != live.generation {
            return Some((4001, "gateway auth changed"));
        }
        if principal.policy_generation != live.policy_generation {
            return Some((4001, "gateway policy changed"));
        }
        let origin = principal.browser_origin.as_ref()?;
        let allowed = origin.check(
            &settings.allowed_origins,
            settings.host_header_origin_fallback,
        );
        allowed.is_err().then_some((1008, "origin not allowed"))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last ten refusals, oldest first.
    pub fn recent_refusals(&self) -> Vec<RefusalLog> {
        self.recent.list()
    }

    /// Refusals since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.recent.noted()
    }

    /// Notes a refusal made outside, as for params that did not parse.
    pub fn note_refusal(&self, log: RefusalLog) {
        self.recent.note(log);
    }

    /// Writes what [`Auth::connect`] left unwritten (when devices were last seen). Call now and then and at the end.
    ///
    /// # Errors
    /// When the file cannot be written; the next call tries again.
    pub fn flush(&self) -> Result<(), StoreError> {
        let ledger = &mut *self.ledger.lock();
        if ledger.dirty {
            ledger.store.save(&ledger.book)?;
            ledger.dirty = false;
        }
        Ok(())
    }

    fn mint(&self) -> Mint<'_> {
        Mint {
            key: self.identity.token_key(),
        }
    }

    /// Changes the book and writes it, or changes nothing.
    fn commit<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, StoreError> {
        let ledger = &mut *self.ledger.lock();
        let mut next = ledger.book.clone();
        let out = change(&mut next);
        if next != ledger.book {
            ledger.store.save(&next)?;
            ledger.book = next;
            ledger.dirty = false;
            self.revision.send_modify(|revision| *revision += 1);
        }
        Ok(out)
    }

    /// Changes what may be lost in a crash, if `change` succeeds; else it must change nothing.
    fn touch<T, E>(&self, change: impl FnOnce(&mut Book) -> Result<T, E>) -> Result<T, E> {
        let ledger = &mut *self.ledger.lock();
        let out = change(&mut ledger.book);
        ledger.dirty |= out.is_ok();
        out
    }

    fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.ledger.lock().book)
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Auth")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
