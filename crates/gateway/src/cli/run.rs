//! `run`: from the files to a serving process, and what is printed on the way.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Weak};

use anyhow::Context as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::target::environment;
use super::{EXIT_CONFIG, complain, print};
use crate::app::App;
use crate::assistant::Assistant;
use crate::auth::{Auth, Door};
use crate::bridge::control::ALL_SCOPES;
use crate::bridge::process::{self, Plan, Supervisor, find, plan};
use crate::bridge::{Secret, UpstreamState, attach, remote};
use crate::config::{
    AdminListen, AuthMode, ConfigDocument, ConfigError, Env, LogFormat, OwnSettings, Paths,
    Settings, UpstreamMode, create_private, random_hex, replace_private,
};
use crate::control_ui::ControlUi;
use crate::discovery::{self, Advertiser};
use crate::ingress::listen::{self, Surroundings};
use crate::ingress::tls::ServerTls;
use crate::lower;
use crate::messages::{self, Messages};
use crate::recent_log::{self, RecentLog};
use crate::reload::Front;
use crate::systemd::Notifier;
use crate::tailscale;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Port to listen on instead of the configured one.
    #[arg(long)]
    port: Option<u16>,
    /// The TypeScript gateway behind this one, instead of [upstream] mode.
    #[arg(long, value_enum)]
    upstream: Option<UpstreamChoice>,
    /// How to start openclaw when it is supervised: a program and its arguments, separated by spaces.
    #[arg(long)]
    openclaw_command: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum UpstreamChoice {
    Off,
    Attach,
    Supervise,
    Auto,
}

impl From<UpstreamChoice> for UpstreamMode {
    fn from(mode: UpstreamChoice) -> Self {
        match mode {
            UpstreamChoice::Off => Self::Off,
            UpstreamChoice::Attach => Self::Attach,
            UpstreamChoice::Supervise => Self::Supervise,
            UpstreamChoice::Auto => Self::Auto,
        }
    }
}

pub(super) fn run(profile: Option<&str>, options: &Options) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    let mut own = OwnSettings::load(&paths.own_file)?;
    if let Some(mode) = options.upstream {
        own.upstream.mode = mode.into();
    }
    if let Some(command) = &options.openclaw_command {
        own.upstream.command = command.split_whitespace().map(str::to_owned).collect();
    }
    let log = RecentLog::default();
    log_to_stderr(&own, &log);
    // Two workers: the work is short and the machines are small; each further one costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut hurried = false;
    let ended = runtime.block_on(serve(&env, &paths, own, options, log, &mut hurried));
    // Drops the supervisor, which kills the child's group; waits for nothing else.
    runtime.shutdown_timeout(if hurried { HURRY } else { PATIENCE });
    ended
}

/// Everything that was accepted is on disk: what still blocks a thread, such as a program that is asked for a secret, is not.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
/// How often Ollama is looked for at the start, for the summary, and how long between.
const FIND_TRIES: u32 = 6;
const FIND_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// After a second signal: longest wait for threads that are in the middle of something.
const HURRY: std::time::Duration = std::time::Duration::from_millis(500);
/// Exit code after a second signal, as a shell gives it after Ctrl-C.
const EXIT_HURRIED: u8 = 130;

fn log_to_stderr(own: &OwnSettings, recent: &RecentLog) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_unset| {
        // What matters of MCP servers is said by us, without their addresses: those may hold a secret.
        tracing_subscriber::EnvFilter::new(format!("{},rmcp=off", own.log_level))
    });
    let terminal = std::io::stderr().is_terminal();
    let json = own.log_format == LogFormat::Json || own.log_format == LogFormat::Auto && !terminal;
    // What is kept is JSON, whatever is shown.
    let kept = fmt::layer().json().flatten_event(true).with_ansi(false);
    let shown = (!json).then(|| {
        fmt::layer()
            .with_ansi(terminal)
            .with_writer(recent_log::shown)
    });
    let log = tracing_subscriber::registry()
        .with(filter)
        .with(kept.with_writer(recent.writer(json)))
        .with(shown);
    // A second call (in a test process) keeps the first.
    drop(log.try_init());
}

/// What a first start made, or that nothing was needed.
enum TokenSource {
    Configured,
    /// In our state directory; the user's file has none and is not ours to edit.
    Stored,
    /// We wrote the user's file.
    Written,
}

async fn serve(
    env: &Env,
    paths: &Paths,
    own: OwnSettings,
    options: &Options,
    log: RecentLog,
    hurried: &mut bool,
) -> anyhow::Result<ExitCode> {
    create_own_dir(&paths.own_dir)?;
    let (document, settings, token, source) = credentials(env, paths)?;
    let port = options.port.unwrap_or(settings.port);
    let _lock = match lock_state(&paths.own_dir) {
        Ok(lock) => lock,
        Err(why) => {
            complain(&why);
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let tls = settings
        .tls
        .enabled
        .then(|| ServerTls::open(&settings.tls))
        .transpose()?
        .map(Arc::new);
    let surroundings = Surroundings::look(env, settings.bind);
    let passed = crate::systemd::passed_sockets(env);
    let listeners = match passed {
        Ok(passed) => listen::bind(&settings, port, &surroundings, passed).await,
        Err(why) => Err(why),
    };
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(why) => {
            complain(&why);
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let address = listeners.first().context("no listener")?.local_addr()?;
    let mut listeners: Vec<_> = listeners
        .into_iter()
        .map(|listener| (listener, Door::Ordinary))
        .collect();
    let exposed = match tailscale::start(env, &settings, address.port()).await {
        Ok(exposed) => exposed,
        Err(why) => {
            complain(&format!(
                "{why}. The gateway does not start without the route that gateway.tailscale asks for"
            ));
            return Ok(ExitCode::FAILURE);
        }
    };
    let admin = match own.admin_listen {
        AdminListen::Off => None,
        AdminListen::At(address) => Some(TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics; set [admin] listen in {} to another address, or to \"off\"", paths.own_file.display())
        })?),
    };
    let stopping = watch::Sender::new(false);
    let mut upstream = start_upstream(env, paths, &own, &token).await?;
    let control_ui = ControlUi::new(
        settings.control_ui.clone(),
        lower::control_ui_root(&settings, &own, &document.env),
        own.control_ui_native,
    );
    let auth = lower::auth_settings(&settings, control_ui.build_id());
    let (auth, damaged) = Auth::open(&paths.own_dir, auth, crate::clock::now_ms())
        .context("cannot open the pairing book")?;
    if let Some(damaged) = damaged {
        tracing::error!(
            ?damaged,
            "the pairing book was damaged and is kept aside; devices must pair again"
        );
    }
    let app = App::new(
        lower::runtime(&own),
        auth,
        control_ui,
        upstream.state.clone(),
        Arc::clone(&upstream.wake),
    );
    let alone = matches!(*upstream.state.borrow(), UpstreamState::Off);
    let secrets = lower::secrets(&document.resolved, &document.env, paths, &own, alone, None).await;
    app.keep_secrets(Arc::clone(&secrets));
    let facts = crate::native::Facts {
        config: document.resolved.clone(),
        state_dir: paths.state_dir.clone(),
        home: paths.home.clone(),
        config_path: paths.config_file.clone(),
        workspace_variable: env.trimmed("OPENCLAW_WORKSPACE_DIR").map(str::to_owned),
        state_dir_is_set: env.trimmed("OPENCLAW_STATE_DIR").is_some(),
        port,
    };
    let file_roots = file_roots(&facts);
    app.set_facts(facts);
    let messages = Messages::open(messages::Setup {
        own_dir: &paths.own_dir,
        own: &own,
        config: &document.resolved,
        secrets: &secrets,
        file_roots,
        control: app.control.clone(),
        people: crate::bridge::control::start_for_people(upstream.state.clone()),
        state: upstream.state.clone(),
        wake: Arc::clone(&upstream.wake),
    })
    .context("the message store cannot be started")?;
    app.log_to(log);
    app.set_env(document.env.clone());
    let assistant = Arc::new(Assistant::new(messages.store.clone()));
    tokio::spawn(recover(
        Arc::clone(&assistant),
        paths.state_dir.clone(),
        crate::clock::now_ms(),
    ));
    let schedule = Arc::new(crate::schedule::Schedule::new(messages.store.clone()));
    tokio::spawn(Arc::clone(&schedule).serve(Arc::clone(&app), Arc::clone(&assistant)));
    app.follow_clock(schedule);
    app.employ(assistant);
    messages.employ(&app);
    app.carry(Arc::clone(&messages));
    let carrying = messages.start();
    let current = crate::reload::Current {
        config: document.resolved.clone(),
        included: document.included.clone(),
        settings: settings.clone(),
        own: own.clone(),
        env: document.env.clone(),
    };
    let mut exposing = None;
    if let Some(exposed) = exposed {
        app.expose(Arc::clone(&exposed.exposure));
        if let Some(held) = exposed.held {
            listeners.push((held.listener, exposed.exposure.door()));
            let keeping = tailscale::keep(Arc::clone(&app), exposed.exposure, held.claim);
            exposing = Some(tokio::spawn(keeping));
        }
    }
    let advertiser = Arc::<Advertiser>::default();
    let front = Front {
        address,
        tls: tls.clone(),
        advertiser: Arc::clone(&advertiser),
        tailnet_name: app.tailscale().and_then(|it| it.host.clone()),
        state_dir: paths.state_dir.clone(),
    };
    crate::reload::start(&app, &messages, env, paths, current, front)?;
    crate::rollout::guard::start(&app, &paths.own_dir);
    let child = upstream.supervise(&app, stopping.subscribe());
    summarise(
        paths,
        &Listening {
            address,
            tls: tls.as_deref(),
            admin: admin.as_ref().and_then(|admin| admin.local_addr().ok()),
        },
        &token,
        &source,
        settings.auth.mode.as_str(),
        &upstream,
    );
    tokio::spawn(tell_found(Arc::downgrade(&app)));
    let signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let manager = Notifier::new(env);
    let (first, told) = tokio::sync::oneshot::channel();
    let served = async {
        app.run(listeners, tls.map(|tls| tls.acceptor()), admin, async {
            manager.ready();
            // Whoever tells us lives as long as this.
            drop(told.await);
            tracing::info!("stopping");
            manager.stopping();
            // Both ends at once: the child needs as long as our clients.
            stopping.send_replace(true);
            messages.stop.cancel();
        })
        .await;
        discovery::stop(advertiser).await;
        if let Some(exposing) = exposing {
            exposing.await.context("the Tailscale route ended badly")?;
        }
        carrying.await.context("the message path ended badly")?;
        if let Some(child) = child {
            child.await.context("the supervisor ended badly")?;
        }
        Ok(ExitCode::SUCCESS)
    };
    tokio::select! {
        ended = served => ended,
        () = manager.keep_alive() => Ok(ExitCode::FAILURE),
        () = second_signal(signals, first) => {
            tracing::warn!("a second signal: stopping at once; what was acknowledged is on disk");
            *hurried = true;
            Ok(ExitCode::from(EXIT_HURRIED))
        }
    }
}

/// The summary's last line, when there is no model but what runs on this machine anyway.
async fn tell_found(app: Weak<App>) {
    // Both may have been started with the machine.
    for _ in 0..FIND_TRIES {
        let Some(app) = app.upgrade() else { return };
        let Some(assistant) = app.assistant() else {
            return;
        };
        if let Some((model, place)) = assistant.look(&app).await {
            print(&format!(
                "  model     {model}, found at {place} (models.providers in openclaw.json names none)"
            ));
            return;
        }
        if !Assistant::may_find(&app) {
            return;
        }
        drop(app);
        tokio::time::sleep(FIND_EVERY).await;
    }
}

/// Tells of the first SIGTERM or SIGINT; resolves at the second.
async fn second_signal(
    (mut terminate, mut interrupt): (Signal, Signal),
    first: tokio::sync::oneshot::Sender<()>,
) {
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
    // Nobody to tell means that it has ended already.
    first.send(()).ok();
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
}

/// Says in the conversations which turns the last stop interrupted, as soon as the store can be written.
async fn recover(assistant: Arc<Assistant>, state_dir: PathBuf, since_ms: u64) {
    // What it left running ends before anything is said of it.
    let ended =
        tokio::task::spawn_blocking(move || crate::assistant::exec::end_orphans(&state_dir));
    if let Err(error) = ended.await {
        tracing::error!(%error, "what the last gateway left running could not be looked for");
    }
    loop {
        match assistant.recover(since_ms).await {
            Ok(0) => return,
            Ok(interrupted) => {
                tracing::warn!(
                    interrupted,
                    "turns were interrupted by the last stop; their conversations say so"
                );
                return;
            }
            // Readiness tells of the store.
            Err(error) => tracing::debug!(%error, "interrupted turns cannot be looked for yet"),
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

/// Where files that agents send may lie: their workspaces, and the original's media folder.
fn file_roots(facts: &crate::native::Facts) -> Vec<PathBuf> {
    let inputs = facts.inputs(0, 0);
    let roster = inputs.roster();
    let mut roots: Vec<PathBuf> = roster
        .agents
        .iter()
        .map(|agent| roster.workspace(&facts.config, agent, &inputs.places))
        .collect();
    roots.push(facts.state_dir.join("media"));
    // Links in the way are followed once, here; a file must lie below what they lead to.
    roots.iter().filter_map(|root| settled(root)).collect()
}

/// Where a folder is, or will be once somebody makes it.
fn settled(folder: &std::path::Path) -> Option<PathBuf> {
    folder.canonicalize().ok().or_else(|| {
        let (parent, name) = (folder.parent()?, folder.file_name()?);
        Some(settled(parent)?.join(name))
    })
}

struct Upstream {
    state: watch::Receiver<UpstreamState>,
    wake: Arc<Notify>,
    /// What is to be run, and where its state is told.
    child: Option<(Plan, watch::Sender<UpstreamState>)>,
    /// For the summary.
    description: String,
}

impl Upstream {
    /// Starts the child, if there is to be one. The task ends when it is gone.
    fn supervise(
        &mut self,
        app: &Arc<App>,
        stopping: watch::Receiver<bool>,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let (plan, state) = self.child.take()?;
        let control = app.control.clone();
        let call: process::Call = Arc::new(move |method, params| {
            let control = control.clone();
            Box::pin(async move { control.call(method, params).await })
        });
        let (handle, task) =
            Supervisor::start(plan, state, Arc::clone(&self.wake), Some(call), stopping);
        app.supervise_by(handle);
        Some(task)
    }
}

/// Our way to a gateway on another machine, which knows our device.
async fn elsewhere(
    paths: &Paths,
    place: remote::Place,
    tls: rustls::ClientConfig,
    token: &Secret,
) -> anyhow::Result<(SocketAddr, Arc<remote::Device>)> {
    let identity = crate::auth::Identity::load_or_create(&paths.own_dir.join("identity.json"))?;
    let address = remote::tunnel(place.clone(), tls)
        .await
        .context("no loopback listener for the gateway to attach to")?;
    let device = Arc::new(remote::Device::new(place, identity));
    let ready = remote::ready(address, token.clone(), Arc::clone(&device));
    remote::introduce(&ready, &ALL_SCOPES.map(str::to_owned))
        .await
        .map_err(|why| {
            ConfigError::new(why)
                .file(&paths.own_file)
                .key("upstream.url")
        })?;
    Ok((address, device))
}

async fn start_upstream(
    env: &Env,
    paths: &Paths,
    own: &OwnSettings,
    token: &Secret,
) -> anyhow::Result<Upstream> {
    let off = |description: &str| Upstream {
        state: watch::channel(UpstreamState::Off).1,
        wake: Arc::default(),
        child: None,
        description: description.to_owned(),
    };
    let settings = &own.upstream;
    match settings.mode {
        UpstreamMode::Off => Ok(off("off")),
        UpstreamMode::Attach => {
            let url = settings.url.as_deref().ok_or_else(|| {
                ConfigError::new("attach needs the address of the gateway")
                    .file(&paths.own_file)
                    .key("upstream.url")
                    .fix("add url = \"ws://127.0.0.1:<port>\" under [upstream]")
            })?;
            // Both were found right when the file was read.
            let target = remote::Target::parse(url).map_err(anyhow::Error::msg)?;
            let upstream_token = settings
                .token
                .as_ref()
                .map_or_else(|| token.clone(), |own| Secret::new(own.expose()));
            let description = match &target {
                remote::Target::Here(address) => format!("attached to {address}"),
                remote::Target::There(place) => format!("attached to {place}, over TLS"),
            };
            let (address, device) = match target {
                remote::Target::Here(address) => (address, None),
                remote::Target::There(place) => {
                    let tls = remote::tls(settings.tls_fingerprint.as_deref())
                        .map_err(anyhow::Error::msg)?;
                    let (address, device) = elsewhere(paths, place, tls, &upstream_token).await?;
                    (address, Some(device))
                }
            };
            let (state, receiver) = watch::channel(UpstreamState::Starting);
            tokio::spawn(attach::watch(
                address,
                upstream_token,
                device,
                state,
                Arc::default(),
            ));
            Ok(Upstream {
                state: receiver,
                wake: Arc::default(),
                child: None,
                description,
            })
        }
        UpstreamMode::Supervise | UpstreamMode::Auto => {
            let installed = match find::package(&find::Places::from_env(env), &settings.command) {
                Ok(installed) => installed,
                Err(why) if settings.mode == UpstreamMode::Auto => {
                    tracing::debug!(%why, "no openclaw to supervise");
                    return Ok(off(
                        "off (openclaw is not installed; `npm install -g openclaw` adds it)",
                    ));
                }
                Err(why) => {
                    return Err(ConfigError::new(why.to_string())
                        .file(&paths.own_file)
                        .key("upstream.command")
                        .into());
                }
            };
            // Auto: only for people who have used OpenClaw; anybody else gets no second gateway unasked.
            if settings.mode == UpstreamMode::Auto && !paths.state_dir.join("state").exists() {
                return Ok(off(
                    "off (openclaw is installed but has no state here; run with --upstream supervise)",
                ));
            }
            let (state, receiver) = watch::channel(UpstreamState::Starting);
            let sources = plan::Sources {
                env: env.clone(),
                paths: paths.clone(),
                upstream: settings.clone(),
                token: token.clone(),
            };
            Ok(Upstream {
                state: receiver,
                wake: Arc::default(),
                child: Some((sources.plan(), state)),
                description: format!("supervising openclaw {}", installed.version),
            })
        }
    }
}

fn create_own_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| {
            format!(
                "cannot create {}; make its parent writable, or set OPENCLAW_STATE_DIR",
                dir.display()
            )
        })
}

/// The shared token, made on a first start. Never none: this gateway does not run open by accident.
fn credentials(
    env: &Env,
    paths: &Paths,
) -> anyhow::Result<(ConfigDocument, Settings, Secret, TokenSource)> {
    let document = ConfigDocument::load(paths, env)?;
    let settings = Settings::read(&document, paths)?;
    if settings.auth.mode != AuthMode::Token {
        // Clients use what is configured; this one is between us and a supervised OpenClaw.
        return Ok((
            document,
            settings,
            Secret::new(new_token()?),
            TokenSource::Configured,
        ));
    }
    if let Some(token) = &settings.auth.token {
        let token = Secret::new(token.expose());
        return Ok((document, settings, token, TokenSource::Configured));
    }
    let token = match stored_token(paths) {
        Some(token) => token,
        None => {
            let (token, file) = (new_token()?, paths.own_dir.join("token"));
            replace_private(&file, token.as_bytes()).with_context(|| unwritable(&file))?;
            token
        }
    };
    if document.exists {
        return Ok((
            document,
            with_token(settings, &token),
            Secret::new(token),
            TokenSource::Stored,
        ));
    }
    let config =
        json!({ "gateway": { "mode": "local", "auth": { "mode": "token", "token": token } } });
    if let Some(parent) = paths.config_file.parent() {
        create_own_dir(parent)?;
    }
    // Never over a file that came meanwhile.
    create_private(&paths.config_file, format!("{config:#}\n").as_bytes())
        .with_context(|| unwritable(&paths.config_file))?;
    let document = ConfigDocument::load(paths, env)?;
    let settings = Settings::read(&document, paths)?;
    Ok((
        document,
        with_token(settings, &token),
        Secret::new(token),
        TokenSource::Written,
    ))
}

fn with_token(mut settings: Settings, token: &str) -> Settings {
    settings.auth.token = Some(crate::config::Secret::new(token));
    settings
}

/// The token a first start made.
pub(super) fn stored_token(paths: &Paths) -> Option<String> {
    let text = std::fs::read_to_string(paths.own_dir.join("token")).ok()?;
    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
}

/// As long as the original's own: 48 hexadecimal digits.
fn new_token() -> anyhow::Result<String> {
    random_hex(24).context("no token can be made")
}

fn unwritable(file: &Path) -> String {
    format!(
        "cannot write {}; make its folder writable, or set OPENCLAW_STATE_DIR",
        file.display()
    )
}

/// One gateway per state directory. The lock ends with the process, however that ends.
pub(super) fn lock_state(own_dir: &Path) -> Result<std::fs::File, String> {
    let path = own_dir.join("gateway.lock");
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    if file.try_lock().is_err() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        return Err(format!(
            "another openclaw-gateway (pid {}) runs on this state directory; stop it, or set OPENCLAW_STATE_DIR to another one",
            holder.trim()
        ));
    }
    let write = file
        .set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()));
    write.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(file)
}

/// Where this gateway is reached.
struct Listening<'a> {
    address: SocketAddr,
    tls: Option<&'a ServerTls>,
    admin: Option<SocketAddr>,
}

fn summarise(
    paths: &Paths,
    listening: &Listening<'_>,
    token: &Secret,
    source: &TokenSource,
    mode: &str,
    upstream: &Upstream,
) {
    let Listening {
        address,
        tls,
        admin,
    } = listening;
    let s = if tls.is_some() { "s" } else { "" };
    let terminal = std::io::stdout().is_terminal();
    let token_line = match source {
        TokenSource::Configured => format!("{mode}, as configured"),
        TokenSource::Written => format!(
            "token, made now and written to {}",
            paths.config_file.display()
        ),
        TokenSource::Stored => format!(
            "token, kept in {} (the OpenClaw CLI needs it in {})",
            paths.own_dir.join("token").display(),
            paths.config_file.display()
        ),
    };
    let mut lines = vec![
        format!(
            "openclaw-gateway {} (speaks as OpenClaw {})",
            env!("CARGO_PKG_VERSION"),
            wire::REFERENCE_VERSION
        ),
        format!("  address   ws{s}://{address} and http{s}://{address}"),
        format!("  auth      {token_line}"),
        format!("  upstream  {}", upstream.description),
        format!("  state     {}", paths.own_dir.display()),
    ];
    if let Some(tls) = tls {
        let [certificate, _] = tls.files();
        lines.push(format!(
            "  TLS       {}, SHA-256 {}",
            certificate.display(),
            tls.fingerprint()
        ));
    }
    if let Some(admin) = admin {
        lines.push(format!("  metrics   http://{admin}/metrics"));
        lines.push(format!("  console   http://{admin}/console/"));
    }
    if matches!(source, TokenSource::Stored) {
        lines.push(format!("  to add    under \"gateway\" in {}: \"auth\": {{ \"mode\": \"token\", \"token\": <content of the token file> }}", paths.config_file.display()));
    }
    lines.push(format!(
        "  connect   openclaw health    or    openclaw-gateway call health --port {}",
        address.port()
    ));
    if terminal {
        // A link that signs in: for the eyes of whoever sits at this terminal, never for a log.
        lines.push(format!(
            "  browser   http{s}://{address}/#token={}",
            token.expose()
        ));
    }
    print(&lines.join("\n"));
}
