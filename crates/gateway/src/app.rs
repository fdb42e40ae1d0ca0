//! Composition root: what lives as long as the process, and the order of starting and stopping.

pub(crate) mod heap;
mod pages;
mod pairings;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use wire::limits;
use wire::raw::Fields;

use crate::auth::Door;
use crate::auth::{Auth, AuthEvent};
use crate::bridge::UpstreamState;
use crate::bridge::control::{self, Control, News};
use crate::config::{GuardSettings, IdentityMode};
use crate::control_ui::ControlUi;
use crate::events::Hub;
use crate::ingress::outbound::Close;
use crate::ingress::preauth::PreauthBudget;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::native::presence::{self, Presence};
use crate::native::system::Machine;
use crate::native::{self, health};

/// What running code needs of the configuration; swapped whole on a reload.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub handshake_timeout: Duration,
    pub http_header_timeout: Duration,
    pub preauth_bytes_max: usize,
    pub payload_bytes_max: usize,
    pub buffered_bytes_max: usize,
    /// As whom a client reaches the upstream.
    pub identity: IdentityMode,
    /// How long a call waits while the supervised upstream is replaced.
    pub upstream_hold: Duration,
    /// Native rows handed back to the upstream: names, or prefixes with `*`.
    pub native_disable: Vec<String>,
    /// Percent of clients whose native rows are answered here.
    pub rollout_percent: u8,
    pub rollout_paused: bool,
    /// Of 100 reads that the upstream answers, so many are compared with our own answer.
    pub shadow_percent: u8,
    /// When to go back to 0 % unasked.
    pub guard: GuardSettings,
    /// Memories are searched here although there is an upstream.
    pub memory_native: bool,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            http_header_timeout: Duration::from_secs(15),
            preauth_bytes_max: limits::PREAUTH_PAYLOAD_BYTES_MAX,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
            buffered_bytes_max: limits::BUFFERED_BYTES_MAX,
            identity: IdentityMode::Auto,
            upstream_hold: Duration::from_secs(30),
            native_disable: Vec::new(),
            rollout_percent: 100,
            rollout_paused: false,
            shadow_percent: 0,
            guard: crate::config::OwnSettings::default().guard,
            memory_native: false,
        }
    }
}

/// What the upstream has told us, served while it is true.
#[derive(Debug, Default, Clone)]
pub(crate) struct Known {
    /// Payload of its last hello to us.
    pub(crate) hello: Option<serde_json::Value>,
    pub(crate) health: health::Cache,
    pub(crate) last_heartbeat: Option<Arc<str>>,
}

#[derive(Debug)]
pub struct App {
    pub(crate) settings: ArcSwap<Runtime>,
    pub(crate) hub: Hub,
    pub(crate) preauth: PreauthBudget,
    pub(crate) upstream: watch::Receiver<UpstreamState>,
    /// Asks the supervisor to start a sleeping upstream.
    wake: Arc<tokio::sync::Notify>,
    supervisor: std::sync::OnceLock<crate::bridge::process::Handle>,
    /// Bytes that calls of all clients may wait with while the upstream is replaced.
    pub(crate) held_room: Arc<Semaphore>,
    pub(crate) proxy: crate::bridge::proxy::Proxy,
    pub(crate) boot_id: String,
    pub(crate) started: Instant,
    /// The same, Unix time in milliseconds.
    pub(crate) started_ms: u64,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) blocking_calls: Arc<Semaphore>,
    /// Calls that change the gateway itself, counted by caller.
    pub(crate) write_budget: Mutex<crate::dispatch::budget::Budget>,
    /// Calls whose answer is waited for without a thread, over all clients.
    pub(crate) waiting_calls: Arc<Semaphore>,
    /// Method names an upstream advertises that are not core methods.
    plugin_methods: ArcSwap<HashSet<String>>,
    pub(crate) known: ArcSwap<Known>,
    /// Our own health where there is no upstream.
    pub(crate) own_health: arc_swap::ArcSwapOption<native::health::AloneText>,
    pub(crate) control: Control,
    pub(crate) auth: Auth,
    losses: pairings::Losses,
    /// Configuration and places that native answers are made from.
    pub(crate) facts: ArcSwap<native::Facts>,
    pub(crate) presence: Mutex<Presence>,
    /// The upstream's rows, as JSON text; see [`crate::dispatch::presence`].
    pub(crate) upstream_presence: arc_swap::ArcSwapOption<String>,
    /// Told whenever a row changed; one task broadcasts, at most once per second.
    presence_changed: tokio::sync::Notify,
    /// `stateVersion.health`: the upstream's, when there is one.
    health_version: AtomicU64,
    pub(crate) stopping: watch::Sender<bool>,
    messages: std::sync::OnceLock<Arc<Messages>>,
    pub(crate) reloads: crate::reload::Counts,
    follower: std::sync::OnceLock<crate::reload::Follower>,
    control_ui: ArcSwap<ControlUi>,
    assistant: std::sync::OnceLock<Arc<crate::assistant::Assistant>>,
    schedule: std::sync::OnceLock<Arc<crate::schedule::Schedule>>,
    /// The environment that the user's file is read with.
    env: ArcSwap<crate::config::Env>,
    /// What the references of the user's file stand for.
    secrets: ArcSwap<crate::config::Secrets>,
    recent_log: std::sync::OnceLock<crate::recent_log::RecentLog>,
    tailscale: std::sync::OnceLock<Arc<crate::tailscale::Exposure>>,
    pub(crate) memories: Arc<crate::memories::Memories>,
    pub(crate) log_stream: Arc<crate::log_stream::LogStream>,
    pub(crate) shadow: crate::shadow::Shadow,
    pub(crate) traffic: crate::console::history::History,
    pub(crate) guard: crate::rollout::guard::Guard,
    pub(crate) media: crate::messages::api::media::Desk,
}

/// A few KiB each. One client has at most [`limits::REQUESTS_WAITING_MAX`] of them, so that many are needed to use them up.
const WAITING_CALLS_MAX: usize = 16 * 1024;

/// After that the start is over, also what it left to other tasks.
const SETTLED: Duration = Duration::from_secs(1);

impl App {
    pub(crate) fn new(
        settings: Runtime,
        auth: Auth,
        control_ui: ControlUi,
        upstream: watch::Receiver<UpstreamState>,
        wake: Arc<tokio::sync::Notify>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|app: &std::sync::Weak<Self>| {
            let app = app.clone();
            let control = control::start(
                upstream.clone(),
                Arc::new(move |news: News<'_>| {
                    if let Some(app) = app.upgrade() {
                        app.learn(news);
                    }
                }),
            );
            Self {
                settings: ArcSwap::from_pointee(settings),
                hub: Hub::default(),
                preauth: PreauthBudget::new(limits::PREAUTH_CONNECTIONS_PER_IP_MAX),
                upstream,
                wake,
                supervisor: std::sync::OnceLock::new(),
                held_room: crate::bridge::link::held_room(),
                proxy: crate::bridge::proxy::Proxy::default(),
                boot_id: uuid::Uuid::new_v4().to_string(),
                started: Instant::now(),
                started_ms: crate::clock::now_ms(),
                metrics: Arc::default(),
                blocking_calls: Arc::new(Semaphore::new(limits::REQUESTS_WAITING_MAX)),
                write_budget: Mutex::default(),
                waiting_calls: Arc::new(Semaphore::new(WAITING_CALLS_MAX)),
                plugin_methods: ArcSwap::default(),
                known: ArcSwap::default(),
                own_health: arc_swap::ArcSwapOption::default(),
                control,
                auth,
                losses: pairings::Losses::default(),
                facts: ArcSwap::default(),
                presence: Mutex::new(Presence::new(
                    &Machine::get().presence_host(wire::REFERENCE_VERSION),
                )),
                upstream_presence: arc_swap::ArcSwapOption::default(),
                presence_changed: tokio::sync::Notify::new(),
                health_version: AtomicU64::new(1),
                stopping: watch::Sender::new(false),
                messages: std::sync::OnceLock::new(),
                reloads: crate::reload::Counts::default(),
                follower: std::sync::OnceLock::new(),
                control_ui: ArcSwap::from_pointee(control_ui),
                assistant: std::sync::OnceLock::new(),
                schedule: std::sync::OnceLock::new(),
                env: ArcSwap::default(),
                secrets: ArcSwap::default(),
                recent_log: std::sync::OnceLock::new(),
                tailscale: std::sync::OnceLock::new(),
                memories: Arc::default(),
                log_stream: Arc::default(),
                shadow: crate::shadow::Shadow::default(),
                traffic: crate::console::history::History::default(),
                guard: crate::rollout::guard::Guard::default(),
                media: crate::messages::api::media::Desk::default(),
            }
        })
    }

    /// What native answers are made from; call again when the configuration changed.
    pub fn set_facts(&self, facts: native::Facts) {
        self.facts.store(Arc::new(facts));
    }

    /// From here on messages are taken.
    pub(crate) fn carry(&self, messages: Arc<Messages>) {
        if self.messages.set(messages).is_err() {
            tracing::error!("the message path was set twice");
        }
    }

    /// From here on the configuration is read and written here.
    pub(crate) fn follow(&self, follower: crate::reload::Follower) {
        if self.follower.set(follower).is_err() {
            tracing::error!("the configuration was followed twice");
        }
    }

    pub(crate) fn follower(&self) -> Option<&crate::reload::Follower> {
        self.follower.get()
    }

    /// From here on agents may run here.
    pub(crate) fn employ(&self, assistant: Arc<crate::assistant::Assistant>) {
        if self.assistant.set(assistant).is_err() {
            tracing::error!("the agents were started twice");
        }
    }

    /// The jobs of agents that run here.
    pub(crate) fn schedule(&self) -> Option<&Arc<crate::schedule::Schedule>> {
        self.schedule.get()
    }

    pub(crate) fn follow_clock(&self, schedule: Arc<crate::schedule::Schedule>) {
        // Set once, at the start.
        self.schedule.set(schedule).ok();
    }

    pub(crate) fn assistant(&self) -> Option<&Arc<crate::assistant::Assistant>> {
        self.assistant.get()
    }

    /// The log that is written to.
    pub(crate) fn log_to(&self, log: crate::recent_log::RecentLog) {
        // Set once, at the start.
        drop(self.recent_log.set(log));
    }

    pub(crate) fn expose(&self, exposure: Arc<crate::tailscale::Exposure>) {
        // Once per process: set by whoever starts it.
        self.tailscale.set(exposure).ok();
    }

    /// Set while `gateway.tailscale` is on.
    pub(crate) fn tailscale(&self) -> Option<&Arc<crate::tailscale::Exposure>> {
        self.tailscale.get()
    }

    pub(crate) fn recent_log(&self) -> crate::recent_log::RecentLog {
        self.recent_log.get().cloned().unwrap_or_default()
    }

    pub(crate) fn set_env(&self, env: crate::config::Env) {
        let env = Arc::new(env);
        self.memories.keys.env.store(Arc::clone(&env));
        self.env.store(env);
    }

    pub(crate) fn keep_secrets(&self, secrets: Arc<crate::config::Secrets>) {
        self.memories.keys.secrets.store(Arc::clone(&secrets));
        self.secrets.store(secrets);
    }

    pub(crate) fn secrets(&self) -> Arc<crate::config::Secrets> {
        self.secrets.load_full()
    }

    /// What a field of the user's file that may hold a secret refers to. `None`: it is no reference.
    pub(crate) fn secret(&self, value: &serde_json::Value) -> Option<Result<String, String>> {
        let found = self.secrets.load().get(&self.facts.load().config, value)?;
        Some(found.map(|secret| secret.expose().to_owned()))
    }

    /// The environment that the user's file is read with.
    pub(crate) fn environment(&self) -> Arc<crate::config::Env> {
        self.env.load_full()
    }

    /// The value of a variable that the user's file refers to.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.env.load().trimmed(name).map(str::to_owned)
    }

    pub(crate) fn control_ui(&self) -> Arc<ControlUi> {
        self.control_ui.load_full()
    }

    pub(crate) fn set_control_ui(&self, control_ui: ControlUi) {
        self.control_ui.store(Arc::new(control_ui));
    }

    /// The page that is served is of this build from here on; pages of another one must reload.
    pub(crate) fn serve_build(&self, build_id: Option<String>) {
        let settings = self.auth.settings();
        if settings.build_id != build_id {
            tracing::info!(
                build = build_id.as_deref().unwrap_or("unknown"),
                "the Control UI was replaced"
            );
            self.auth.reload(crate::auth::AuthSettings {
                build_id,
                ..crate::auth::AuthSettings::clone(&settings)
            });
        }
    }

    /// The revision of the user's configuration that is in force.
    pub(crate) fn applied_config_hash(&self) -> Option<Arc<String>> {
        self.follower().map(|follower| follower.applied.load_full())
    }

    pub(crate) fn messages(&self) -> Option<&Arc<Messages>> {
        self.messages.get()
    }

    /// Serves the given listeners until `stop` resolves, then drains.
    pub async fn run(
        self: &Arc<Self>,
        listeners: Vec<(TcpListener, Door)>,
        tls: Option<TlsAcceptor>,
        admin: Option<TcpListener>,
        stop: impl Future<Output = ()>,
    ) {
        for (listener, door) in listeners {
            // Tailscale ends TLS itself.
            let tls = tls.clone().filter(|_| door == Door::Ordinary);
            tokio::spawn(crate::ingress::http::serve(
                Arc::clone(self),
                listener,
                door,
                tls,
            ));
        }
        if let Some(admin) = admin {
            tokio::spawn(crate::ingress::admin::serve(Arc::clone(self), admin));
        }
        tokio::spawn(async {
            tokio::time::sleep(SETTLED).await;
            tokio::task::spawn_blocking(pages::give_back).await.ok();
        });
        let ticker = tokio::spawn(tick(Arc::clone(self)));
        let presence = tokio::spawn(tell_presence(Arc::clone(self)));
        let pairings = tokio::spawn(pairings::keep(Arc::clone(self)));
        let history = tokio::spawn(crate::console::history::keep(Arc::clone(self)));
        let memories = tokio::spawn(crate::memories::watching::keep(Arc::clone(self)));
        stop.await;
        memories.abort();
        ticker.abort();
        history.abort();
        presence.abort();
        pairings.abort();
        self.drain().await;
        if let Some(assistant) = self.assistant() {
            assistant.servers.stop().await;
        }
        if let Err(error) = self.auth.flush() {
            tracing::error!(%error, "cannot write when devices were last seen");
        }
    }

    /// Answers once the gateway stops, also to whoever asks later.
    pub(crate) async fn stops(&self) {
        // The sender lives as long as this.
        let mut stopping = self.stopping.subscribe();
        stopping.wait_for(|stops| *stops).await.ok();
    }

    /// Tells every client, then waits until they are gone or the time is up.
    async fn drain(&self) {
        self.stopping.send_replace(true);
        let payload = r#"{"reason":"gateway stopping"}"#;
        self.hub
            .shut_down(payload, &Close::new(1012, "service restart"));
        let deadline = Instant::now() + limits::CLOSE_GRACE + Duration::from_millis(200);
        while self.hub.len() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn is_plugin_method(&self, method: &str) -> bool {
        self.plugin_methods.load().contains(method)
    }

    /// Remembers what an upstream's hello teaches: its plugins' methods.
    pub(crate) fn learn_hello(&self, hello: &serde_json::Value) {
        let Some(names) = hello
            .pointer("/features/methods")
            .and_then(serde_json::Value::as_array)
        else {
            return;
        };
        let plugins: HashSet<String> = names
            .iter()
            .filter_map(serde_json::Value::as_str)
            .filter(|name| wire::methods::lookup(name).is_none())
            // A hello is the upstream's to write: keep what it can make us hold within reason.
            .take(1024)
            .map(str::to_owned)
            .collect();
        if plugins != **self.plugin_methods.load() {
            self.plugin_methods.store(Arc::new(plugins));
        }
    }

    /// Tells who may know what a decision about a device caused.
    pub(crate) fn announce(&self, events: &[AuthEvent]) {
        for event in events {
            self.hub
                .broadcast(event.event, &event.payload.to_string(), None);
        }
    }

    /// Keeps what the upstream says of itself.
    fn learn(self: &Arc<Self>, news: News<'_>) {
        match news {
            News::Hello(hello) => {
                self.import_pairings();
                self.learn_hello(&hello);
                // A new process: what the old one said of itself is no longer true, but for its health, which
                // stands until the new one is heard.
                self.known.rcu(|known| Known {
                    hello: Some(hello.clone()),
                    health: known.health.clone(),
                    last_heartbeat: None,
                });
                if let Some(version) = hello
                    .pointer("/snapshot/stateVersion/health")
                    .and_then(serde_json::Value::as_u64)
                {
                    self.health_version.store(version, Ordering::Relaxed);
                }
                let rows = hello.pointer("/snapshot/presence");
                self.keep_presence(&rows.map_or_else(|| "[]".to_owned(), ToString::to_string));
                self.ask_upstream();
            }
            News::Event {
                name: "health",
                payload: Some(payload),
                ..
            } => {
                let now_ms = crate::clock::now_ms();
                self.known.rcu(|known| {
                    let mut known = Known::clone(known);
                    known.health.event(payload, now_ms);
                    known
                });
                // Each of its events has a version of its own.
                self.health_version.fetch_add(1, Ordering::Relaxed);
            }
            News::Event {
                name: "presence",
                payload: Some(payload),
            } => {
                let rows = Fields::parse(payload).and_then(|fields| fields.get("presence"));
                if let Some(rows) = rows {
                    self.keep_presence(rows.get());
                }
            }
            News::Event {
                name: "heartbeat",
                payload: Some(payload),
                ..
            } => {
                let last: Arc<str> = payload.get().into();
                self.known.rcu(|known| Known {
                    last_heartbeat: Some(Arc::clone(&last)),
                    ..Known::clone(known)
                });
            }
            News::Event {
                name: "agent",
                payload: Some(payload),
            } => {
                if let Some(messages) = self.messages() {
                    messages.hear(payload);
                }
            }
            News::Event { name, .. } if name.starts_with("device.pair.") => self.import_pairings(),
            // Of its own file; told on only while the file is its affair.
            News::Event {
                name: "config.changed",
                payload: Some(payload),
            } if crate::dispatch::natives::is_disabled(self, "config.get") => {
                self.hub.broadcast("config.changed", payload.get(), None);
            }
            News::Event { .. } => {}
        }
    }

    /// Asks what the upstream tells only those who ask: its health with the parts its event lacks, and the
    /// last heartbeat before we listened.
    fn ask_upstream(self: &Arc<Self>) {
        let app = Arc::clone(self);
        tokio::spawn(async move {
            let health = app.control.call("health", serde_json::json!({})).await;
            match health.as_deref().map(serde_json::from_str::<&RawValue>) {
                Ok(Ok(payload)) => {
                    let now_ms = crate::clock::now_ms();
                    app.known.rcu(|known| {
                        let mut known = Known::clone(known);
                        known.health.answer(payload, now_ms);
                        known
                    });
                }
                Ok(Err(error)) => tracing::warn!(%error, "the upstream's health is not JSON"),
                Err(error) => tracing::debug!(error, "the upstream did not tell its health"),
            }
            let last = app
                .control
                .call("last-heartbeat", serde_json::json!({}))
                .await;
            match last {
                Ok(last) => {
                    let last: Arc<str> = last.into();
                    app.known.rcu(|known| Known {
                        // An event that came meanwhile is newer.
                        last_heartbeat: known
                            .last_heartbeat
                            .clone()
                            .or_else(|| Some(Arc::clone(&last))),
                        ..Known::clone(known)
                    });
                }
                Err(error) => {
                    tracing::debug!(error, "the upstream did not tell its last heartbeat")
                }
            }
        });
    }

    /// A client came: it gets a row when it is one of those that are shown.
    pub(crate) fn arrived(&self, key: &str, arrival: presence::Arrival<'_>) {
        self.presence
            .lock()
            .arrive(key, arrival, crate::clock::now_ms());
        self.presence_changed.notify_one();
    }

    pub(crate) fn left(&self, key: &str) {
        self.presence.lock().leave(key, crate::clock::now_ms());
        self.presence_changed.notify_one();
    }

    /// The upstream's rows of who is there have changed.
    fn keep_presence(&self, rows: &str) {
        crate::dispatch::presence::keep(self, rows);
        self.presence_changed.notify_one();
    }

    /// `stateVersion` as events and hellos carry it.
    pub(crate) fn state_version(&self) -> serde_json::Value {
        serde_json::json!({
            "presence": self.presence.lock().version(),
            "health": self.health_version.load(Ordering::Relaxed),
        })
    }

    /// Whether health is ours to tell: with an upstream it is its own.
    fn is_alone(&self) -> bool {
        matches!(*self.upstream.borrow(), UpstreamState::Off)
    }

    fn tell_health(&self) {
        self.health_version.fetch_add(1, Ordering::Relaxed);
        let health = crate::dispatch::natives::own_health_text(self);
        self.hub
            .broadcast("health", &health, Some(&self.state_version().to_string()));
    }

    /// Whether a client's own credential opens the upstream too: only then can its handshake be relayed.
    pub(crate) fn shares_upstream_token(&self) -> bool {
        let settings = self.auth.settings();
        let ready = self.upstream.borrow().ready().cloned();
        settings.mode == crate::auth::Mode::Token
            && ready.is_none_or(|ready| settings.token.as_deref() == Some(ready.token.expose()))
    }

    pub(crate) fn wake_upstream(&self) {
        self.wake.notify_one();
    }

    /// Who takes orders for the child (`supervise`).
    pub(crate) fn supervise_by(&self, handle: crate::bridge::process::Handle) {
        // Set once, at the start.
        drop(self.supervisor.set(handle));
    }

    /// The supervisor of the child, when there is one.
    pub(crate) fn supervisor(&self) -> Option<&crate::bridge::process::Handle> {
        self.supervisor.get()
    }

    /// What keeps this gateway from doing all its work, in words; empty: nothing.
    pub(crate) fn failing(&self) -> Vec<String> {
        let state = self.upstream.borrow();
        let ready = matches!(
            &*state,
            UpstreamState::Off | UpstreamState::Ready(_) | UpstreamState::Asleep
        );
        let mut failing = if ready {
            Vec::new()
        } else {
            vec![format!("upstream-{}", state.word())]
        };
        // What can't be stored can't be taken.
        if let Some(outage) = self.messages().and_then(|messages| messages.outage()) {
            failing.push(format!("store: {outage}"));
        }
        failing
    }

    /// `/readyz`: ready when what is configured to answer answers.
    pub(crate) fn readiness(&self) -> (StatusCode, Bytes) {
        let failing = self.failing();
        let ready = failing.is_empty();
        let body =
            serde_json::json!({ "ready": ready, "failing": failing, "uptimeMs": self.uptime_ms() });
        (
            if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            },
            body.to_string().into(),
        )
    }

    /// `/startupz`: we serve from the first accept on.
    pub(crate) fn startup(&self) -> (StatusCode, Bytes) {
        let body = serde_json::json!({
            "ok": true, "status": "started", "version": wire::REFERENCE_VERSION, "uptimeMs": self.uptime_ms(),
        });
        (StatusCode::OK, body.to_string().into())
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Requests received since the start.
    pub fn requests(&self) -> u64 {
        self.metrics.requests.load(Ordering::Relaxed)
    }
}

async fn tick(app: Arc<App>) {
    let mut every = tokio::time::interval_at(
        tokio::time::Instant::now() + limits::TICK_INTERVAL,
        limits::TICK_INTERVAL,
    );
    let mut last_health = Instant::now();
    loop {
        every.tick().await;
        if let Err(error) = app.auth.flush() {
            tracing::error!(%error, "cannot write when devices were last seen; trying again in 30 s");
        }
        drop(tokio::task::spawn_blocking(heap::give_back));
        let now_ms = crate::clock::now_ms();
        app.presence.lock().renew_live(now_ms);
        app.hub
            .broadcast("tick", &format!(r#"{{"ts":{now_ms}}}"#), None);
        if app.is_alone() && last_health.elapsed().as_millis() >= u128::from(health::REFRESH_MS) {
            last_health = Instant::now();
            app.tell_health();
        }
    }
}

/// Sends `presence` after changes, at most once per second however many clients come and go.
async fn tell_presence(app: Arc<App>) {
    let mut upstream = app.upstream.clone();
    loop {
        tokio::select! {
            () = app.presence_changed.notified() => {}
            // Its rows go with it.
            Ok(()) = upstream.changed() => {}
        }
        crate::dispatch::presence::tell(&app);
        tokio::time::sleep(Duration::from_millis(presence::COALESCE_MS)).await;
    }
}
