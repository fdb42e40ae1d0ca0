//! One server of one session: begun when it is first needed, listed, called, begun again after a crash, ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mcp::{Connection, Endpoint, Error, Tool};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::process::{self, Child, End};
use super::settings::{Spec, Way};
use crate::clock;

/// Pause before a server that failed is tried again; doubled with each failure in a row.
/// Source: BUNDLE_MCP_CATALOG_FAILURE_RETRY_MS at 2026.9.6, there without doubling.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// A connection that held this long was no failure: the next one is made at once.
const HELD: Duration = Duration::from_secs(10);
/// Calls in a row without an answer, after which the server is left alone for a while.
const FAILURES_MAX: u32 = 3;
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// What a server offers.
#[derive(Debug)]
pub(super) struct Catalog {
    /// Those that the user's filter lets through.
    pub(super) tools: Vec<Tool>,
    pub(super) has_resources: bool,
    pub(super) has_prompts: bool,
}

/// How a server is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// Not needed yet, or not any more.
    Idle,
    /// Answers; so many tools.
    Ready(usize),
    Failed(String),
}

struct Link {
    connection: Connection,
    child: Option<Child>,
    since: Instant,
}

impl Link {
    async fn end(&self) {
        self.connection.close().await;
        if let Some(child) = &self.child {
            child.end().await;
        }
    }
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    catalog: Option<Arc<Catalog>>,
    /// The server said that its list is another one now.
    is_stale: bool,
    /// Until then it is not asked for the new one: it did not give it.
    relist_at: Option<Instant>,
    fault: Option<Fault>,
    /// Calls in a row that failed, and those of them whose time was up.
    failures: u32,
    timeouts: u32,
    left_alone_until: Option<(Instant, i64)>,
    /// Connections in a row that ended soon after they began.
    short_lives: u32,
    is_retired: bool,
}

impl State {
    /// What can be asked now.
    fn open(&self) -> Option<&Arc<Link>> {
        let link = self.link.as_ref().filter(|_| !self.is_retired)?;
        link.connection.closed().is_none().then_some(link)
    }

    fn usable(&self) -> Option<Arc<Catalog>> {
        self.open()?;
        let is_old = self.is_stale && self.relist_at.is_none_or(|at| at <= Instant::now());
        self.catalog.clone().filter(|_| !is_old)
    }

    fn is_current(&self, link: &Arc<Link>) -> bool {
        let own = self.link.as_ref();
        !self.is_retired && own.is_some_and(|own| Arc::ptr_eq(own, link))
    }
}

/// Why a server is not there.
#[derive(Debug, Clone)]
struct Reason {
    why: String,
    end: Option<End>,
}

impl Reason {
    fn of(why: &impl ToString, end: Option<End>) -> Self {
        let why = why.to_string();
        Self { why, end }
    }

    /// Without what its program wrote, which may be a secret.
    fn open(&self) -> String {
        match &self.end {
            Some(end) => format!("{} ({})", self.why, end.how),
            None => self.why.clone(),
        }
    }
}

impl From<String> for Reason {
    fn from(why: String) -> Self {
        Self { why, end: None }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let complaint = self.end.as_ref().and_then(|end| end.complaint.as_ref());
        match (&self.end, complaint) {
            (Some(end), Some(complaint)) => {
                write!(f, "{} ({}: {complaint})", self.why, end.how)
            }
            _ => f.write_str(&self.open()),
        }
    }
}

#[derive(Clone)]
pub(super) struct Fault {
    reason: Reason,
    /// In a row.
    count: u32,
    retry_at: Instant,
}

/// Beginnings that failed, by the servers' names: what hangs for one session is not waited for by the next one.
#[derive(Default)]
pub(super) struct Faults(Mutex<HashMap<String, (Spec, Fault)>>);

impl Faults {
    fn of(&self, spec: &Spec) -> Option<Fault> {
        let known = self.0.lock();
        let (same, fault) = known.get(&spec.name)?;
        (same == spec).then(|| fault.clone())
    }

    /// There is one for each server of the file at most, and as few as are configured.
    fn note(&self, spec: &Spec, fault: Fault) {
        let mut known = self.0.lock();
        known.insert(spec.name.clone(), (spec.clone(), fault));
    }

    fn forget(&self, spec: &Spec) -> bool {
        self.0.lock().remove(&spec.name).is_some()
    }

    /// Keeps those of servers that are still wanted.
    pub(super) fn keep(&self, specs: &[Spec]) {
        self.0.lock().retain(|_, (spec, _)| specs.contains(spec));
    }
}

pub(super) struct Server {
    pub(super) spec: Spec,
    client: reqwest::Client,
    faults: Arc<Faults>,
    state: Mutex<State>,
    /// One at a time begins or lists.
    refreshing: tokio::sync::Mutex<()>,
}

impl Server {
    pub(super) fn new(spec: Spec, client: reqwest::Client, faults: Arc<Faults>) -> Arc<Self> {
        Arc::new(Self {
            spec,
            client,
            faults,
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state.lock();
        if let Some(fault) = &state.fault {
            return Health::Failed(fault.reason.open());
        }
        match (&state.link, &state.catalog) {
            (Some(_), Some(catalog)) => Health::Ready(catalog.tools.len()),
            _ => Health::Idle,
        }
    }

    /// What it offers now; it is begun for that when need be. A server that failed a moment ago is not waited for.
    ///
    /// # Errors
    /// Why it offers nothing.
    pub(super) async fn catalog(self: &Arc<Self>) -> Result<Arc<Catalog>, String> {
        let is_again = {
            let state = self.state.lock();
            if state.is_retired {
                return Err(self.retired());
            }
            if let Some(catalog) = state.usable() {
                return Ok(catalog);
            }
            match self.fault(&state) {
                Some(fault) if Instant::now() < fault.retry_at => {
                    return Err(fault.reason.to_string());
                }
                // A turn waits for a first try, and for one after a server that worked.
                Some(fault) => (fault.count > 0).then(|| fault.reason.to_string()),
                None => None,
            }
        };
        // It goes on when the turn that needs it is called off: the next one finds it begun.
        let own = Arc::clone(self);
        let refreshed = tokio::spawn(async move { own.refresh().await });
        match is_again {
            Some(why) => Err(why),
            None => refreshed
                .await
                .unwrap_or_else(|_broken| Err("its start broke; the log says why".to_owned())),
        }
    }

    /// What stands in the way of beginning it; nothing does while it can be asked.
    fn fault(&self, state: &State) -> Option<Fault> {
        match state.open() {
            Some(_) => None,
            None => state.fault.clone().or_else(|| self.faults.of(&self.spec)),
        }
    }

    async fn refresh(self: Arc<Self>) -> Result<Arc<Catalog>, String> {
        let _turn = self.refreshing.lock().await;
        let known = {
            // While this waited for its turn, another one may have tried in vain, and everything may have been ended.
            let state = self.state.lock();
            if state.is_retired {
                return Err(self.retired());
            }
            if let Some(catalog) = state.usable() {
                return Ok(catalog);
            }
            if let Some(fault) = self.fault(&state)
                && Instant::now() < fault.retry_at
            {
                return Err(fault.reason.to_string());
            }
            state.open().cloned()
        };
        let link = match known {
            Some(link) => Ok(link),
            None => self.begin().await,
        };
        let listed = match link {
            Ok(link) => {
                // What is told while it is listed makes the list stale again.
                self.state.lock().is_stale = false;
                match self.list(&link).await {
                    Ok(catalog) => Ok((link, catalog)),
                    Err(why) => match self.keeps(&link, &why) {
                        Some(catalog) => return Ok(catalog),
                        None => Err(Reason::from(why)),
                    },
                }
            }
            Err(reason) => Err(reason),
        };
        match listed {
            Ok((link, catalog)) => {
                let catalog = Arc::new(catalog);
                if self.works(Arc::clone(&catalog)) {
                    return Ok(catalog);
                }
                link.end().await;
                Err(self.retired())
            }
            Err(reason) => Err(self.failed(reason)),
        }
    }

    /// What it offered before it did not give its new list: it may answer calls all the same.
    fn keeps(&self, link: &Arc<Link>, why: &str) -> Option<Arc<Catalog>> {
        let mut state = self.state.lock();
        if !state.is_current(link) || state.open().is_none() {
            return None;
        }
        let catalog = state.catalog.clone()?;
        state.is_stale = true;
        state.relist_at = Some(Instant::now() + PAUSE);
        tracing::warn!(
            server = %self.spec.name, why, again_in = ?PAUSE,
            "an MCP server does not tell its new list of tools; turns go on with the one before"
        );
        Some(catalog)
    }

    /// False: it was ended meanwhile.
    fn works(&self, catalog: Arc<Catalog>) -> bool {
        let mut state = self.state.lock();
        if state.is_retired {
            return false;
        }
        state.catalog = Some(catalog);
        state.relist_at = None;
        let was_known = self.faults.forget(&self.spec);
        if state.fault.take().is_some() || was_known {
            tracing::info!(server = %self.spec.name, "the MCP server works again");
        }
        true
    }

    /// False: it was ended meanwhile.
    fn holds(&self, link: &Arc<Link>) -> bool {
        let mut state = self.state.lock();
        if !state.is_retired {
            state.link = Some(Arc::clone(link));
            // What the one before offered is not what this one does.
            state.catalog = None;
        }
        !state.is_retired
    }

    async fn begin(self: &Arc<Self>) -> Result<Arc<Link>, Reason> {
        let own = Arc::downgrade(self);
        let changed = Arc::new(move || {
            if let Some(own) = own.upgrade() {
                own.state.lock().is_stale = true;
            }
        });
        let within = self.spec.connect_within;
        let (connection, child) = match &self.spec.way {
            Way::Pipes {
                command,
                args,
                environment,
                cwd,
            } => {
                let started = process::start(
                    &self.spec.name,
                    (command, args),
                    environment,
                    cwd.as_deref(),
                );
                let started = started.await.map_err(|error| match cwd {
                    Some(cwd) if !cwd.is_dir() => format!("its cwd {} is no folder", cwd.display()),
                    _ => format!("{command} cannot be started: {error}"),
                })?;
                let (output, input) = (started.output, started.input);
                let begun = Connection::over_pipes(output, input, within, changed).await;
                match begun {
                    Ok(connection) => (connection, Some(started.child)),
                    Err(error) => {
                        let is_late = error.to_string().starts_with("timed out");
                        let ended = match is_late {
                            true => None,
                            false => started.child.post_mortem().await,
                        };
                        started.child.end().await;
                        return Err(Reason::of(&error, ended));
                    }
                }
            }
            Way::Http {
                url,
                headers,
                is_legacy,
            } => {
                let endpoint = Endpoint {
                    client: self.client.clone(),
                    url: url.clone(),
                    headers: headers.clone(),
                };
                let begun = match is_legacy {
                    true => Connection::over_events(endpoint, within, changed).await,
                    false => Connection::over_http(endpoint, within, changed).await,
                };
                (begun.map_err(|error| error.to_string())?, None)
            }
        };
        let link = Arc::new(Link {
            connection,
            child,
            since: Instant::now(),
        });
        if !self.holds(&link) {
            link.end().await;
            return Err(self.retired().into());
        }
        tokio::spawn(Arc::clone(self).watch(Arc::clone(&link)));
        Ok(link)
    }

    /// Notes the end of a connection that nobody asked for.
    async fn watch(self: Arc<Self>, link: Arc<Link>) {
        link.connection.ended().await;
        if !self.state.lock().is_current(&link) {
            return;
        }
        let why = link.connection.closed().unwrap_or_default();
        let ended = match &link.child {
            Some(child) => {
                let ended = child.post_mortem().await;
                child.end().await;
                ended
            }
            None => None,
        };
        let reason = Reason::of(&why, ended);
        let has_held = link.since.elapsed() >= HELD;
        let mut state = self.state.lock();
        if !state.is_current(&link) {
            return;
        }
        state.link = None;
        // The first time it is begun again at once.
        let count = match has_held {
            true => 0,
            false => state.short_lives,
        };
        state.short_lives = count + 1;
        tracing::warn!(server = %self.spec.name, why = %reason, "an MCP server ended; the next call begins it again");
        state.fault = Some(Fault {
            reason,
            count,
            retry_at: Instant::now() + pause(count),
        });
    }

    async fn list(&self, link: &Link) -> Result<Catalog, String> {
        let listed = link.connection.tools(self.spec.list_within).await;
        let mut tools = listed.map_err(|error| format!("its tools cannot be listed: {error}"))?;
        tools.retain(|tool| self.spec.filter.allows(&tool.name));
        Ok(Catalog {
            tools,
            has_resources: link.connection.offers("resources"),
            has_prompts: link.connection.offers("prompts"),
        })
    }

    /// Notes a failed beginning or list: one line in the log for each.
    fn failed(&self, reason: Reason) -> String {
        let why = reason.to_string();
        let link = {
            let mut state = self.state.lock();
            if state.is_retired {
                return why;
            }
            let known = state.fault.clone().or_else(|| self.faults.of(&self.spec));
            let count = known.map_or(0, |fault| fault.count) + 1;
            let again = pause(count);
            tracing::warn!(
                server = %self.spec.name, why, again_in = ?again,
                "an MCP server is not there; turns go on without its tools"
            );
            let fault = Fault {
                reason,
                count,
                retry_at: Instant::now() + again,
            };
            self.faults.note(&self.spec, fault.clone());
            state.fault = Some(fault);
            state.catalog = None;
            state.link.take()
        };
        if let Some(link) = link {
            tokio::spawn(async move { link.end().await });
        }
        why
    }

    /// Calls a tool. Dropping the future calls it off at the server too.
    ///
    /// # Errors
    /// Words for the model.
    pub(super) async fn call(
        self: &Arc<Self>,
        tool: &str,
        arguments: Map<String, Value>,
    ) -> Result<Value, String> {
        let link = self.link().await?;
        let within = self.spec.answer_within;
        let answered = link.connection.call(tool, arguments, within).await;
        self.judged(&link, answered)
    }

    /// Asks for anything else.
    ///
    /// # Errors
    /// Words for the model.
    pub(super) async fn ask(
        self: &Arc<Self>,
        method: &str,
        params: Value,
    ) -> Result<Value, String> {
        let link = self.link().await?;
        let within = self.spec.answer_within;
        let answered = link.connection.ask(method, params, within).await;
        self.judged(&link, answered)
    }

    /// All entries of a list.
    ///
    /// # Errors
    /// Words for the model.
    pub(super) async fn entries(
        self: &Arc<Self>,
        method: &str,
        field: &str,
    ) -> Result<Vec<Value>, String> {
        let link = self.link().await?;
        let within = self.spec.answer_within;
        let answered = link.connection.list(method, field, within).await;
        self.judged(&link, answered)
    }

    async fn link(self: &Arc<Self>) -> Result<Arc<Link>, String> {
        let name = &self.spec.name;
        let until = self.state.lock().left_alone_until;
        if let Some((until, at_ms)) = until
            && Instant::now() < until
        {
            return Err(format!(
                "MCP server \"{name}\" is paused after repeated tool failures; retry after {}",
                jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default()
            ));
        }
        let whose = |why| format!("MCP server \"{name}\" is not connected: {why}");
        let open = || self.state.lock().open().cloned();
        // Whether its list is a new one is the next turn's business.
        if let Some(link) = open() {
            return Ok(link);
        }
        self.catalog().await.map_err(whose)?;
        open().ok_or_else(|| whose("it ended just now".to_owned()))
    }

    fn judged<T>(&self, link: &Arc<Link>, answered: Result<T, Error>) -> Result<T, String> {
        let mut state = self.state.lock();
        let answered = match answered {
            // Its own refusal is an answer, to arguments that are none of its.
            Ok(_) | Err(Error::Refused { .. }) => {
                (state.failures, state.timeouts) = (0, 0);
                state.left_alone_until = None;
                return answered.map_err(|error| error.to_string());
            }
            Err(error) => error,
        };
        state.failures += 1;
        if matches!(answered, Error::TimedOut { .. }) {
            state.timeouts += 1;
        }
        if state.failures >= FAILURES_MAX {
            let hangs = state.timeouts >= FAILURES_MAX;
            (state.failures, state.timeouts) = (0, 0);
            // One that does not answer at all is begun anew by the next call, one that fails at once after a while.
            if !hangs {
                let at_ms = clock::now_ms() + LEFT_ALONE.as_secs() * 1000;
                let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
                state.left_alone_until = Some((Instant::now() + LEFT_ALONE, at_ms));
            }
            // A program that fails at once says so over pipes that hold; over HTTP it may be another program by now.
            let is_over = hangs || link.child.is_none();
            if is_over && state.is_current(link) {
                state.link = None;
                tracing::warn!(server = %self.spec.name, why = %answered, "an MCP server does not answer; it is begun anew");
                let link = Arc::clone(link);
                tokio::spawn(async move { link.end().await });
            }
        }
        Err(answered.to_string())
    }

    fn retired(&self) -> String {
        format!(
            "MCP server \"{}\" was ended; it is there again in the next turn if it is still configured",
            self.spec.name
        )
    }

    /// Ends it for good.
    pub(super) async fn retire(&self) {
        let link = {
            let mut state = self.state.lock();
            state.is_retired = true;
            state.catalog = None;
            // It stays known until it has ended: whoever has no time for that kills it.
            state.link.clone()
        };
        if let Some(link) = link {
            link.end().await;
            self.state.lock().link = None;
        }
    }

    /// Kills the process of a server that is being retired, at once.
    pub(super) fn kill(&self) {
        let state = self.state.lock();
        if let Some(child) = state.link.as_ref().and_then(|link| link.child.as_ref()) {
            child.kill();
        }
    }
}

fn pause(count: u32) -> Duration {
    match count {
        0 => Duration::ZERO,
        count => (PAUSE * 2_u32.saturating_pow(count.min(16) - 1)).min(PAUSE_MAX),
    }
}
