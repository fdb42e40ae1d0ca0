//! Applies changed files while running, and says what it could not apply.
//!
//! A file that can't be used changes nothing: the old settings stay, and the log says which line is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::app::App;
use crate::config::reload::{ReloadPlan, Watcher, plan};
use crate::config::settings::ReloadMode;
use crate::config::{
    AuthMode, ConfigApi, ConfigDocument, ConfigError, Env, OwnSettings, Paths, Settings,
};
use crate::control_ui::ControlUi;
use crate::dispatch::natives;
use crate::ingress::outbound::Close;
use crate::lower;
use crate::messages::Messages;
use crate::messages::owned::OWN_FILE;

/// How often files were taken or refused since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) applied: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What is in force.
pub(crate) struct Current {
    pub(crate) config: Value,
    /// What the user's file includes.
    pub(crate) included: Vec<PathBuf>,
    pub(crate) settings: Settings,
    pub(crate) own: OwnSettings,
    /// As the user's file and its `.env` make it.
    pub(crate) env: Env,
}

/// The way to the task that follows the files.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) api: Arc<ConfigApi>,
    /// The revision of the user's configuration that is in force.
    pub(crate) applied: ArcSwap<String>,
    requests: mpsc::Sender<oneshot::Sender<bool>>,
    own_file: PathBuf,
    own_dir: PathBuf,
}

impl Follower {
    /// `openclaw-gateway.toml`, and where our state is.
    pub(crate) fn own_files(&self) -> (&Path, &Path) {
        (&self.own_file, &self.own_dir)
    }

    /// Reads the files and applies them at once; answers whether they could be used.
    pub(crate) async fn apply_now(&self) -> bool {
        let (answer, done) = oneshot::channel();
        self.requests.send(answer).await.is_ok() && done.await.unwrap_or(false)
    }
}

/// Why the files are read.
enum Cause {
    Changed,
    Hangup,
    Asked(oneshot::Sender<bool>),
}

/// Begins to follow both files, and what the user's includes, until the gateway stops.
///
/// # Errors
/// The key of the configuration's hashes can be neither read nor made.
pub(crate) fn start(
    app: &Arc<App>,
    messages: &Arc<Messages>,
    env: &Env,
    paths: &Paths,
    current: Current,
) -> Result<(), ConfigError> {
    let api = Arc::new(ConfigApi::open(paths, env)?);
    let (requests, asked) = mpsc::channel(1);
    app.follow(Follower {
        applied: ArcSwap::from_pointee(api.revision(&current.config)),
        api,
        requests,
        own_file: paths.own_file.clone(),
        own_dir: paths.own_dir.clone(),
    });
    tokio::spawn(follow(
        Arc::clone(app),
        Arc::clone(messages),
        env.clone(),
        paths.clone(),
        current,
        asked,
    ));
    Ok(())
}

fn watch(paths: &Paths, included: &[PathBuf]) -> Watcher {
    let own_channels = paths.own_dir.join(OWN_FILE);
    let mut files: Vec<&Path> = vec![&paths.config_file, &paths.own_file, &own_channels];
    files.extend(included.iter().map(PathBuf::as_path));
    Watcher::new(&files)
}

async fn follow(
    app: Arc<App>,
    messages: Arc<Messages>,
    env: Env,
    paths: Paths,
    mut current: Current,
    mut asked: mpsc::Receiver<oneshot::Sender<bool>>,
) {
    let mut watcher = watch(&paths, &current.included);
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP does not reload");
            return;
        }
    };
    let mut stop = app.stopping.subscribe();
    loop {
        let cause = tokio::select! {
            () = watcher.changed() => Cause::Changed,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reading the configuration again");
                Cause::Hangup
            }
            Some(answer) = asked.recv() => Cause::Asked(answer),
            _ = stop.changed() => return,
        };
        let used = match read(&env, &paths) {
            Ok(new) => {
                tell_changed(&app, &paths, &current, &new);
                let new = match cause {
                    // SIGHUP is an order; anything else waits for the next start, when it is to be so.
                    Cause::Changed | Cause::Asked(_)
                        if current.settings.reload == ReloadMode::Off =>
                    {
                        held_back(&current, new)
                    }
                    _ => new,
                };
                if new.included != current.included {
                    watcher = watch(&paths, &new.included);
                }
                apply(&app, &messages, &current, &new).await;
                current = new;
                app.reloads.applied.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(error) => {
                app.reloads.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    error = format!("{error:#}"),
                    "the changed configuration can't be used; the old one stays"
                );
                false
            }
        };
        if let Cause::Asked(answer) = cause
            && answer.send(used).is_err()
        {
            tracing::debug!("who asked for the reload is gone");
        }
    }
}

/// With `gateway.reload.mode: "off"` the user's file waits for the next start; ours does not.
fn held_back(current: &Current, new: Current) -> Current {
    if new.config != current.config {
        tracing::warn!(
            "gateway.reload.mode is off: the changed openclaw.json takes effect at the next start, or now by SIGHUP"
        );
    }
    Current {
        config: current.config.clone(),
        settings: current.settings.clone(),
        ..new
    }
}

/// `config.changed`, as the original tells who may read the configuration.
fn tell_changed(app: &App, paths: &Paths, old: &Current, new: &Current) {
    let Some(follower) = app.follower().filter(|_| old.config != new.config) else {
        return;
    };
    if natives::is_disabled(app, "config.get") {
        return;
    }
    let payload = serde_json::json!({
        "path": paths.config_file,
        "hash": follower.api.hash(),
        "ts": crate::clock::now_ms(),
    });
    app.hub
        .broadcast("config.changed", &payload.to_string(), None);
}

fn read(env: &Env, paths: &Paths) -> anyhow::Result<Current> {
    let own = OwnSettings::load(&paths.own_file)?;
    let document = ConfigDocument::load(paths, env)?.usable()?;
    let settings = Settings::read(&document, paths)?;
    Ok(Current {
        config: document.resolved.clone(),
        included: document.included.clone(),
        settings,
        own,
        env: document.env.clone(),
    })
}

async fn apply(app: &Arc<App>, messages: &Arc<Messages>, old: &Current, new: &Current) {
    let plan: ReloadPlan = plan(
        (&old.config, Some(&old.settings)),
        (&new.config, Some(&new.settings)),
    );
    if plan.changed.is_empty() && old.own == new.own {
        // Perhaps the file of our own channels.
        messages.reload(&new.own, &new.config).await;
        return;
    }
    app.settings.store(Arc::new(lower::runtime(&new.own)));
    if let Some(child) = app.supervisor() {
        child.limit_memory(new.own.upstream.memory_max);
    }
    // A mode is what clients were told; another one takes a restart.
    let same_mode = old.settings.auth.mode == new.settings.auth.mode;
    let has_secret = new.settings.auth.mode != AuthMode::Token || new.settings.auth.token.is_some();
    if same_mode && has_secret && plan.changed.iter().any(|path| path.starts_with("gateway")) {
        let build_id = app.control_ui().build_id();
        app.auth
            .reload(lower::auth_settings(&new.settings, build_id));
        close_stale(app);
    }
    if let Some(follower) = app.follower() {
        let revision = follower.api.revision(&new.config);
        follower.applied.store(revision.into());
    }
    if old.settings.control_ui != new.settings.control_ui
        || old.own.control_ui_native != new.own.control_ui_native
        || old.own.control_ui_package != new.own.control_ui_package
    {
        let root = lower::control_ui_root(&new.settings, &new.own, &new.env);
        app.set_control_ui(ControlUi::new(
            new.settings.control_ui.clone(),
            root,
            new.own.control_ui_native,
        ));
    }
    app.set_env(new.env.clone());
    let facts = app.facts.load_full();
    app.set_facts(crate::native::Facts {
        config: new.config.clone(),
        ..crate::native::Facts::clone(&facts)
    });
    messages.reload(&new.own, &new.config).await;
    if old.own.channels_native != new.own.channels_native
        && let Some(child) = app.supervisor()
    {
        // An account changed hands: the child starts anew without it, or with it. Clients stay.
        tracing::info!("restarting openclaw, since channel accounts changed hands");
        child.restart();
    }
    tracing::info!(changed = ?plan.changed, native_disable = ?new.own.native_disable, "the changed configuration is in force");
    let ours: Vec<&String> = plan
        .restart
        .iter()
        .filter(|path| path.starts_with("gateway"))
        .collect();
    if !ours.is_empty() {
        tracing::warn!(keys = ?ours, "these take effect at the next start of this gateway");
    }
    // Of these the ceiling of the memory alone is in force already.
    let mut before = old.own.upstream.clone();
    before.memory_max = new.own.upstream.memory_max;
    if before != new.own.upstream || old.own.admin_listen != new.own.admin_listen {
        tracing::warn!(
            "changes under [upstream] and [admin] of openclaw-gateway.toml take effect at the next start"
        );
    }
}

/// Connections that the old secret or the old policy let in.
fn close_stale(app: &App) {
    app.hub.close_each(|subscriber| {
        let judged = subscriber.judged.as_deref()?;
        let (code, reason) = app.auth.stale(judged)?;
        Some(Close::new(code, reason))
    });
}
