//! Applies changed files while running, and says what it could not apply.
//!
//! A file that can't be used changes nothing: the old settings stay, and the log says which line is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::reload::{ReloadPlan, Watcher, plan};
use crate::config::{AuthMode, ConfigDocument, Env, OwnSettings, Paths, Settings};
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
    pub(crate) settings: Settings,
    pub(crate) own: OwnSettings,
}

/// Follows both files until the gateway stops.
pub(crate) async fn follow(
    app: Arc<App>,
    messages: Arc<Messages>,
    env: Env,
    paths: Paths,
    mut current: Current,
) {
    let own_channels = paths.own_dir.join(OWN_FILE);
    let mut watcher = Watcher::new(&[&paths.config_file, &paths.own_file, &own_channels]);
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP does not reload");
            return;
        }
    };
    let mut stop = app.stopping.subscribe();
    loop {
        tokio::select! {
            () = watcher.changed() => {}
            _ = hangup.recv() => tracing::info!("SIGHUP: reading the configuration again"),
            _ = stop.changed() => return,
        }
        match read(&env, &paths) {
            Ok(new) => {
                apply(&app, &messages, &current, &new).await;
                current = new;
                app.reloads.applied.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                app.reloads.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    error = format!("{error:#}"),
                    "the changed configuration can't be used; the old one stays"
                );
            }
        }
    }
}

fn read(env: &Env, paths: &Paths) -> anyhow::Result<Current> {
    let own = OwnSettings::load(&paths.own_file)?;
    let document = ConfigDocument::load(paths, env)?.usable()?;
    let settings = Settings::read(&document, paths)?;
    Ok(Current {
        config: document.resolved.clone(),
        settings,
        own,
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
    // A mode is what clients were told; another one takes a restart.
    let same_mode = old.settings.auth.mode == new.settings.auth.mode;
    let has_secret = new.settings.auth.mode != AuthMode::Token || new.settings.auth.token.is_some();
    if same_mode && has_secret && plan.changed.iter().any(|path| path.starts_with("gateway")) {
        app.auth.reload(lower::auth_settings(&new.settings, None));
        close_stale(app);
    }
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
    if old.own.upstream != new.own.upstream || old.own.admin_listen != new.own.admin_listen {
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
