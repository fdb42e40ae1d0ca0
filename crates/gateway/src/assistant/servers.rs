//! MCP servers of agents that run here: `mcp.servers` of the user's file, begun when a turn first needs them.
//!
//! Source: agent-bundle-mcp-runtime.ts and agent-bundle-mcp-manager.ts at 2026.9.6. A session has its own servers, over its
//! turns, until it is reset or deleted, its idle time is over, its server is changed in the file, or the gateway stops. A
//! server that is not there takes its tools with it and nothing else.

mod offer;
mod process;
mod server;
mod settings;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use store::AgentSession;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::server::{Faults, Health, Server};
use self::settings::{Named, Spec};
use crate::app::App;
pub(super) use offer::Offer;
pub(crate) use settings::unhonoured;

/// Sessions that have servers at once. At the limit the one that was longest without a turn loses its own.
/// Source: docs/gateway/config-extensions.md at 2026.9.6; there the new session is refused.
const SESSIONS_MAX: usize = 256;
/// How long all servers together may take to end when the gateway stops.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// The servers of all sessions.
#[derive(Default)]
pub(crate) struct Servers {
    racks: Mutex<HashMap<String, Arc<Rack>>>,
    /// Made for the first server: without one there is no need of certificates.
    client: OnceLock<reqwest::Client>,
    faults: Arc<Faults>,
}

/// The servers of one session.
struct Rack {
    session_id: String,
    servers: Mutex<Vec<Arc<Server>>>,
    /// Turns that use them.
    turns: AtomicUsize,
    used: Mutex<Instant>,
    /// Ends them when the session's idle time is over.
    timer: Mutex<Option<AbortHandle>>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

/// While a turn has this, its servers stay.
struct Lease {
    servers: Arc<Servers>,
    key: String,
    rack: Arc<Rack>,
    idle: Option<Duration>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.rack.used.lock() = Instant::now();
        self.rack.turns.fetch_sub(1, Ordering::AcqRel);
        let (Some(idle), Ok(runtime)) = (self.idle, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (servers, key, rack) = (
            Arc::clone(&self.servers),
            self.key.clone(),
            Arc::clone(&self.rack),
        );
        let timer = runtime.spawn(async move {
            tokio::time::sleep(idle).await;
            if rack.turns.load(Ordering::Acquire) == 0 {
                servers.retire_if(&key, |known| Arc::ptr_eq(known, &rack));
            }
        });
        if let Some(before) = self.rack.timer.lock().replace(timer.abort_handle()) {
            before.abort();
        }
    }
}

impl Servers {
    /// The tools of a session's servers, as far as those are there; begins what is not. `hides`: the server of this safe name
    /// has no tool that the policy allows.
    pub(super) async fn offer(
        self: &Arc<Self>,
        app: &App,
        session: &AgentSession,
        hides: impl Fn(&str) -> bool,
    ) -> Option<Offer> {
        let idle = settings::idle(&app.facts.load().config);
        let lease = self.lease(session, wanted(app), idle)?;
        let servers: Vec<Arc<Server>> = lease.rack.servers.lock().clone();
        let mut asked = JoinSet::new();
        for (at, server) in servers.into_iter().enumerate() {
            if !hides(&server.spec.safe_name) {
                asked.spawn(async move { (at, server.catalog().await, server) });
            }
        }
        let mut answered = Vec::new();
        while let Some(done) = asked.join_next().await {
            // What failed is in the log already.
            if let Ok((at, Ok(catalog), server)) = done {
                answered.push((at, server, catalog));
            }
        }
        answered.sort_by_key(|(at, ..)| *at);
        let offers = answered
            .into_iter()
            .map(|(_, server, catalog)| (server, catalog));
        Some(Offer::new(offers.collect(), lease))
    }

    /// The session's servers as the file has them now; `None` when it has none.
    fn lease(
        self: &Arc<Self>,
        session: &AgentSession,
        specs: Vec<Spec>,
        idle: Option<Duration>,
    ) -> Option<Lease> {
        if specs.is_empty() {
            return None;
        }
        let client = self.client()?;
        let (rack, gone) = {
            let mut racks = self.racks.lock();
            let known = racks.get(&session.key).cloned();
            let (rack, mut gone) = match known {
                Some(rack) if rack.session_id == session.session_id => (rack, Vec::new()),
                other => {
                    let mut gone: Vec<Arc<Rack>> = other.into_iter().collect();
                    gone.extend(room(&mut racks)?);
                    let rack = Arc::new(Rack {
                        session_id: session.session_id.clone(),
                        servers: Mutex::default(),
                        turns: AtomicUsize::new(0),
                        used: Mutex::new(Instant::now()),
                        timer: Mutex::default(),
                    });
                    racks.insert(session.key.clone(), Arc::clone(&rack));
                    (rack, gone.drain(..).flat_map(|rack| rack.take()).collect())
                }
            };
            rack.turns.fetch_add(1, Ordering::AcqRel);
            gone.extend(rack.adopt(specs, &client, &self.faults));
            (rack, gone)
        };
        retire_all(gone);
        Some(Lease {
            servers: Arc::clone(self),
            key: session.key.clone(),
            rack,
            idle,
        })
    }

    fn client(&self) -> Option<reqwest::Client> {
        if let Some(client) = self.client.get() {
            return Some(client.clone());
        }
        // The headers of a server are for its own origin.
        let at_home = reqwest::redirect::Policy::custom(|attempt| {
            let first = attempt.previous().first().map(reqwest::Url::origin);
            match first == Some(attempt.url().origin()) && attempt.previous().len() < 10 {
                true => attempt.follow(),
                false => attempt.error("it leads to another origin"),
            }
        });
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(60))
            .redirect(at_home)
            .user_agent(concat!("openclaw-gateway/", env!("CARGO_PKG_VERSION")))
            .use_preconfigured_tls(channels::web::tls_config())
            .build();
        match client {
            Ok(client) => Some(self.client.get_or_init(|| client).clone()),
            Err(error) => {
                tracing::error!(%error, "MCP servers cannot be reached");
                None
            }
        }
    }

    /// Ends what the file no longer has, or has otherwise; everything else goes on.
    pub(crate) fn follow(&self, app: &App) {
        let specs = wanted(app);
        self.faults.keep(&specs);
        let racks: Vec<Arc<Rack>> = self.racks.lock().values().cloned().collect();
        retire_all(
            racks
                .iter()
                .flat_map(|rack| rack.drop_changed(&specs))
                .collect(),
        );
    }

    /// Ends the servers of a session.
    pub(super) fn retire(&self, key: &str) {
        self.retire_if(key, |_| true);
    }

    fn retire_if(&self, key: &str, is_meant: impl Fn(&Arc<Rack>) -> bool) {
        let gone = {
            let mut racks = self.racks.lock();
            match racks.get(key).is_some_and(is_meant) {
                true => racks.remove(key),
                false => None,
            }
        };
        if let Some(rack) = gone {
            retire_all(rack.take());
        }
    }

    /// Ends all of them: asks, waits a while, and kills what is left.
    pub(crate) async fn stop(&self) {
        let racks: Vec<Arc<Rack>> = self.racks.lock().drain().map(|(_, rack)| rack).collect();
        let servers: Vec<Arc<Server>> = racks.iter().flat_map(|rack| rack.take()).collect();
        let mut ending = JoinSet::new();
        for server in &servers {
            let server = Arc::clone(server);
            ending.spawn(async move { server.retire().await });
        }
        let all = async { while ending.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, all).await.is_err() {
            tracing::warn!("MCP servers did not end in time; they are killed");
        }
        servers.iter().for_each(|server| server.kill());
    }

    /// `[{name, state, transport, tools, sessions, error}]`, one for each server of the file. Who asks needs no secret, so
    /// what a program wrote to standard error is not in it.
    pub(crate) fn status(&self, app: &App) -> Value {
        let named = named(app);
        let racks: Vec<Arc<Rack>> = self.racks.lock().values().cloned().collect();
        let rows = named.iter().map(|named| match &named.spec {
            Err(why) => json!({ "name": named.name, "state": "unusable", "error": why }),
            Ok(spec) => {
                let healths: Vec<Health> =
                    racks.iter().filter_map(|rack| rack.health(spec)).collect();
                let fault = healths.iter().find_map(|health| match health {
                    Health::Failed(why) => Some(why.clone()),
                    _ => None,
                });
                let tools = healths.iter().find_map(|health| match health {
                    Health::Ready(tools) => Some(*tools),
                    _ => None,
                });
                let ready = healths
                    .iter()
                    .filter(|health| matches!(health, Health::Ready(_)));
                let state = match (&fault, tools) {
                    (Some(_), _) => "failed",
                    (None, Some(_)) => "ready",
                    (None, None) => "idle",
                };
                json!({
                    "name": named.name, "state": state, "transport": spec.transport(),
                    "tools": tools, "sessions": ready.count(), "error": fault,
                })
            }
        });
        rows.collect()
    }
}

impl Rack {
    /// Makes them those of `specs`, in their order, and hands out those that are to end.
    fn adopt(
        &self,
        specs: Vec<Spec>,
        client: &reqwest::Client,
        faults: &Arc<Faults>,
    ) -> Vec<Arc<Server>> {
        let mut servers = self.servers.lock();
        let mut before = std::mem::take(&mut *servers);
        *servers = specs
            .into_iter()
            .map(|spec| {
                let same = before.iter().position(|server| server.spec == spec);
                match same {
                    Some(at) => before.swap_remove(at),
                    None => Server::new(spec, client.clone(), Arc::clone(faults)),
                }
            })
            .collect();
        before
    }

    fn drop_changed(&self, specs: &[Spec]) -> Vec<Arc<Server>> {
        let mut servers = self.servers.lock();
        let (stay, gone) = std::mem::take(&mut *servers)
            .into_iter()
            .partition(|server| specs.contains(&server.spec));
        *servers = stay;
        gone
    }

    fn take(&self) -> Vec<Arc<Server>> {
        std::mem::take(&mut *self.servers.lock())
    }

    fn health(&self, spec: &Spec) -> Option<Health> {
        let servers = self.servers.lock();
        let server = servers.iter().find(|server| server.spec == *spec)?;
        Some(server.health())
    }
}

fn named(app: &App) -> Vec<Named> {
    let facts = app.facts.load();
    let mut named = settings::read(&facts.config, &|name| app.variable(name));
    let (mark, owner) = super::exec::mark(&facts.state_dir);
    for named in &mut named {
        if let Ok(Spec {
            way: settings::Way::Pipes { environment, .. },
            ..
        }) = &mut named.spec
        {
            environment.insert(mark.clone(), owner.clone());
        }
    }
    named
}

fn wanted(app: &App) -> Vec<Spec> {
    let specs = named(app).into_iter().filter_map(|named| match named.spec {
        Ok(spec) => Some(spec),
        Err(why) => {
            tracing::debug!(server = named.name, why, "an MCP server cannot be used");
            None
        }
    });
    specs.collect()
}

/// Makes room for one more session: what has to go for it; `None` when all are in use.
fn room(racks: &mut HashMap<String, Arc<Rack>>) -> Option<Option<Arc<Rack>>> {
    if racks.len() < SESSIONS_MAX {
        return Some(None);
    }
    let idle = racks
        .iter()
        .filter(|(_, rack)| rack.turns.load(Ordering::Acquire) == 0)
        .min_by_key(|(_, rack)| *rack.used.lock());
    let Some((key, _)) = idle else {
        tracing::warn!(
            "{SESSIONS_MAX} sessions use MCP servers at once; a turn goes on without them"
        );
        return None;
    };
    let key = key.clone();
    Some(racks.remove(&key))
}

fn retire_all(servers: Vec<Arc<Server>>) {
    for server in servers {
        tokio::spawn(async move { server.retire().await });
    }
}

/// What of `mcp.servers` can be told without starting anything: the server's name, and why it cannot work.
pub(crate) fn findings(
    config: &Value,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<(String, Result<&'static str, String>)> {
    let named = settings::read(config, variable).into_iter();
    let found = named.map(|named| {
        let spec = named.spec.and_then(|spec| match missing(&spec) {
            Some(why) => Err(why),
            None => Ok(spec.transport()),
        });
        (named.name, spec)
    });
    found.collect()
}

/// What of a program is not on this machine.
fn missing(spec: &Spec) -> Option<String> {
    let settings::Way::Pipes {
        command,
        environment,
        cwd,
        ..
    } = &spec.way
    else {
        return None;
    };
    if let Some(cwd) = cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
        return Some(format!("its cwd {} is no folder", cwd.display()));
    }
    if command.contains('/') {
        let base = cwd.clone().unwrap_or_default();
        return (!base.join(command).is_file()).then(|| format!("{command} is not there"));
    }
    let path = environment.get("PATH").map_or("", String::as_str);
    let is_there = std::env::split_paths(path).any(|folder| folder.join(command).is_file());
    (!is_there).then(|| format!("{command} is in no folder of PATH"))
}

#[cfg(test)]
mod tests;
