//! Applies changed files while running, and says what it could not apply.
//!
//! A file that can't be used changes nothing: the old settings stay, and the log says which line is wrong.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::app::App;
use crate::config::origins::{self, Shown};
use crate::config::reload::{ReloadPlan, Watcher, plan};
use crate::config::settings::{self, ReloadMode};
use crate::config::{
    AuthMode, ConfigApi, ConfigDocument, ConfigError, Env, OwnSettings, Paths, Settings,
};
use crate::control_ui::ControlUi;
use crate::discovery::{self, Advertiser, Beacon};
use crate::dispatch::natives;
use crate::ingress::listen;
use crate::ingress::outbound::Close;
use crate::ingress::tls::ServerTls;
use crate::lower;
use crate::messages::Messages;
use crate::messages::owned::{Accounts, OWN_FILE};
use crate::rollout::Note;

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

/// What shows this gateway to others, and follows the files too.
pub(crate) struct Front {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) advertiser: Arc<Advertiser>,
    /// The machine's name in its tailnet, where Tailscale holds a route to here.
    pub(crate) tailnet_name: Option<String>,
    pub(crate) state_dir: PathBuf,
}

impl Front {
    /// Shows the served certificate, and the network where we are, as the configuration says now.
    fn show(&self, current: &Current, renew: bool) {
        if let Some(tls) = self.tls.as_deref().filter(|_| renew) {
            tls.renew();
        }
        let machine = rustix::system::uname();
        let source = discovery::Source {
            config: &current.config,
            settings: &current.settings,
            env: &current.env,
            port: self.address.port(),
            fingerprint: self.tls.as_ref().map(|tls| tls.fingerprint()),
            machine: &machine.nodename().to_string_lossy(),
            is_direct: !self.address.ip().is_loopback(),
            is_container: settings::is_container(&current.env),
            tailnet_name: self.tailnet_name.as_deref(),
        };
        if current.settings.wide_area_domain.is_some() {
            let (ipv4, ipv6) = listen::tailnet_addresses();
            if let Some(zone) = source.zone(ipv4, ipv6) {
                self.write_zone(&zone);
            }
        }
        let beacon = Beacon::of(&source);
        // Withdrawing a former one waits for the network, rarely and briefly.
        tokio::task::block_in_place(|| self.advertiser.show(beacon));
    }

    fn write_zone(&self, zone: &discovery::Zone) {
        let file = zone.file(&self.state_dir);
        match zone.write(&self.state_dir, jiff::Timestamp::now()) {
            Ok(true) => {
                tracing::info!(file = %file.display(), "discovery: the DNS zone is written")
            }
            Ok(false) => {
                tracing::debug!(file = %file.display(), "discovery: the DNS zone says this already")
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "discovery: the DNS zone cannot be written; clients find what it said before")
            }
        }
    }
}

/// The way to the task that follows the files.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) api: Arc<ConfigApi>,
    /// The revision of the user's configuration that is in force.
    pub(crate) applied: ArcSwap<String>,
    requests: mpsc::Sender<oneshot::Sender<bool>>,
    env: Env,
    paths: Paths,
}

impl Follower {
    /// `openclaw-gateway.toml`, and where our state is.
    pub(crate) fn own_files(&self) -> (&Path, &Path) {
        (&self.paths.own_file, &self.paths.own_dir)
    }

    /// What is set in both files as they are now, and where each value comes from.
    ///
    /// # Errors
    /// A file that can't be used; what is in force is older than it.
    pub(crate) fn origins(&self) -> Result<Shown, ConfigError> {
        origins::shown(&self.env, &self.paths, true)
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
    front: Front,
) -> Result<(), ConfigError> {
    let api = Arc::new(ConfigApi::open(paths, env)?);
    // Whether it may sleep it says itself, once it is there.
    if current.own.upstream.on_demand && has_accounts(&current.config, &messages.accounts.load()) {
        app.wake_upstream();
    }
    let (requests, asked) = mpsc::channel(1);
    app.follow(Follower {
        applied: ArcSwap::from_pointee(api.revision(&current.config)),
        api,
        requests,
        env: env.clone(),
        paths: paths.clone(),
    });
    tokio::spawn(follow(
        Arc::clone(app),
        Arc::clone(messages),
        env.clone(),
        paths.clone(),
        current,
        front,
        asked,
    ));
    Ok(())
}

fn watch(paths: &Paths, included: &[PathBuf], tls: Option<&ServerTls>) -> Watcher {
    let own_channels = paths.own_dir.join(OWN_FILE);
    let mut files: Vec<&Path> = vec![&paths.config_file, &paths.own_file, &own_channels];
    files.extend(included.iter().map(PathBuf::as_path));
    files.extend(tls.iter().flat_map(|tls| tls.files()));
    Watcher::new(&files)
}

async fn follow(
    app: Arc<App>,
    messages: Arc<Messages>,
    env: Env,
    paths: Paths,
    mut current: Current,
    front: Front,
    mut asked: mpsc::Receiver<oneshot::Sender<bool>>,
) {
    let mut watcher = watch(&paths, &current.included, front.tls.as_deref());
    // The certificate's files, too, may have changed between the start and the first watch of them.
    front.show(&current, true);
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP does not reload");
            return;
        }
    };
    let mut stop = app.stopping.subscribe();
    // What was written between the start and this moment no watcher has seen.
    let mut is_behind = read(&env, &paths).await.map_or(true, |now| {
        now.config != current.config || now.own != current.own || now.included != current.included
    });
    loop {
        let cause = if std::mem::take(&mut is_behind) {
            Cause::Changed
        } else {
            tokio::select! {
                () = watcher.changed() => Cause::Changed,
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: reading the configuration again");
                    Cause::Hangup
                }
                Some(answer) = asked.recv() => Cause::Asked(answer),
                _ = stop.changed() => return,
            }
        };
        let used = match read(&env, &paths).await {
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
                    watcher = watch(&paths, &new.included, front.tls.as_deref());
                }
                apply(&app, &messages, &paths, &current, &new).await;
                let is_paused =
                    new.settings.reload == ReloadMode::Off && !matches!(cause, Cause::Hangup);
                front.show(&new, !is_paused);
                // Behind the settings: whoever is let back in comes back at the new percent.
                let note = Note::read(&paths.own_dir);
                app.guard.obey(&note, new.own.rollout_percent);
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

/// Aside, since a program may have to be asked for the gateway's own secret.
async fn read(env: &Env, paths: &Paths) -> anyhow::Result<Current> {
    let (env, paths) = (env.clone(), paths.clone());
    tokio::task::spawn_blocking(move || read_now(&env, &paths)).await?
}

fn read_now(env: &Env, paths: &Paths) -> anyhow::Result<Current> {
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

async fn apply(
    app: &Arc<App>,
    messages: &Arc<Messages>,
    paths: &Paths,
    old: &Current,
    new: &Current,
) {
    let alone = messages.is_alone();
    let before = app.secrets();
    let before = Some((&old.config, &*before));
    let secrets = lower::secrets(&new.config, &new.env, paths, &new.own, alone, before).await;
    app.keep_secrets(Arc::clone(&secrets));
    let plan: ReloadPlan = plan(
        (&old.config, Some(&old.settings)),
        (&new.config, Some(&new.settings)),
    );
    if plan.changed.is_empty() && old.own == new.own {
        // Perhaps the file of our own channels.
        messages.reload(&new.own, &new.config, &secrets).await;
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
    if let Some(assistant) = app.assistant() {
        assistant.servers.follow(app);
    }
    if let Some(schedule) = app.schedule() {
        schedule.look_again();
    }
    // An account changes hands: the child goes, and starts anew without it or with it. Clients stay.
    let between = match app.supervisor() {
        Some(child) if old.own.channels_native != new.own.channels_native => {
            tracing::info!("restarting openclaw, since channel accounts change hands");
            Some(
                child
                    .exchange(messages.arriving(&new.own, &new.config))
                    .await,
            )
        }
        _ => None,
    };
    messages.reload(&new.own, &new.config, &secrets).await;
    drop(between);
    // What it is given, it does not run in its sleep.
    let are_others = old.own.channels_native != new.own.channels_native
        || old.config["channels"] != new.config["channels"];
    if let Some(child) = app.supervisor().filter(|_| are_others)
        && has_accounts(&new.config, &messages.accounts.load())
    {
        child.wake();
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
    // Of these the ceiling of the memory and the patience of calls are in force already.
    let mut before = old.own.upstream.clone();
    before.memory_max = new.own.upstream.memory_max;
    before.hold = new.own.upstream.hold;
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

/// Whether OpenClaw has a channel account: nothing reaches that while its gateway sleeps.
fn has_accounts(config: &Value, ours: &Accounts) -> bool {
    let sections = config["channels"].as_object().into_iter().flatten();
    sections
        // These say something of all channels.
        .filter(|(name, _)| !matches!(name.as_str(), "defaults" | "modelByChannel"))
        .flat_map(|(name, section)| channels::accounts::of(name, section))
        .any(|account| account.enabled && ours.get(&account.channel, &account.id).is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn openclaw_has_the_accounts_that_are_enabled_and_not_ours() {
        #[track_caller]
        fn check(channels: Value, ours: &[&str], expected: bool) {
            let config = json!({ "channels": channels });
            let patterns: Vec<String> = ours.iter().map(|name| (*name).to_owned()).collect();
            let ours = Accounts::read(&config, &patterns, false);
            assert_eq!(has_accounts(&config, &ours), expected, "{config}");
        }
        check(json!(null), &[], false);
        check(json!({ "defaults": { "groupPolicy": "open" } }), &[], false);
        check(json!({ "whatsapp": { "enabled": false } }), &[], false);
        check(json!({ "whatsapp": {} }), &[], true);
        let two = json!({ "telegram": { "accounts": { "a": {}, "b": {} } } });
        check(two.clone(), &["telegram/a"], true);
        check(two.clone(), &["telegram"], false);
        check(two, &[], true);
    }
}
