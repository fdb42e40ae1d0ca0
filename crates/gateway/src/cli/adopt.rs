//! `adopt` and `uninstall`: the port of OpenClaw's own gateway changes hands, and back.
//!
//! Both are lists of [`Step`]s, printed before and while they are taken. One that fails is undone together with those before it,
//! last first, so that whoever served before serves again; the same when a person interrupts. Behind the point of return, where OpenClaw serves already, one that
//! fails is told and the rest is done.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::manager::Unit;
use self::process::Running;
use super::target::environment;
use super::{To, api, complain, print, service};
use crate::auth::pairing::{MadeBy, store::Store};
use crate::bridge::process::find;
use crate::config::settings::TlsSettings;
use crate::config::{ConfigDocument, Env, OwnSettings, Paths, UpstreamMode};
use crate::procfs::{self, Holder};

mod log;
mod manager;
mod process;
mod restore;
mod step;
mod walk;

pub(super) use log::keep_log;
pub(super) use restore::uninstall;
use step::Step;
use walk::{Interrupt, Walked, walk};

/// A gateway may finish what it does for so long after it was asked to stop; then it is killed, as a service manager would.
const STOP_WITHIN: Duration = Duration::from_secs(45);
/// The same for OpenClaw's, which lets its turns end: as long as its own unit gives it. Source: `GATEWAY_SERVICE_STOP_TIMEOUT_MS` at
/// 2026.9.6.
const ORIGINAL_STOPS_WITHIN: Duration = Duration::from_secs(330);
/// From a start to readiness; a first start of OpenClaw makes its databases.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// Beside our state: who served before.
const RECORD_FILE: &str = "adopted.json";
/// Where a gateway that no service manager keeps writes its log.
const OUR_LOG: &str = "gateway.log";
const ORIGINAL_LOG: &str = "openclaw.log";

#[derive(Debug, clap::Args)]
pub(super) struct Adopt {
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Uninstall {
    /// Start OpenClaw's own gateway again in our place.
    #[arg(long)]
    restore: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Who served before, for the way back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Record {
    at_ms: u64,
    port: u16,
    /// The unit that was stopped, and whether it started with the machine.
    unit: Option<String>,
    enabled: bool,
    /// It ran without the service manager.
    by_hand: bool,
}

impl Record {
    fn read(own_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(own_dir.join(RECORD_FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// What one step is about, for all of them.
struct Place<'a> {
    profile: Option<&'a str>,
    env: Env,
    paths: Paths,
    own: OwnSettings,
    port: u16,
    to: To,
    /// Whether a user's service manager answers.
    managed: bool,
    record: Record,
    interrupt: Interrupt,
}

/// What was started and is waited for.
enum Started<'a> {
    Process { child: Child, log: log::Keeper },
    Service(&'a str),
}

impl Started<'_> {
    fn process(
        surroundings: &process::Surroundings,
        program: &Path,
        args: &[impl AsRef<std::ffi::OsStr>],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let (log, told) = log::Keeper::start(&log)?;
        let child = surroundings.start(program, args, told)?;
        Ok(Self::Process { child, log })
    }

    /// Nobody waits for it any more. One that no service manager keeps would take the port later, unseen.
    fn give_up(&mut self) {
        match self {
            Self::Process { child, .. } => process::end_group(child, STOP_WITHIN),
            // Stopped as its unit, by who undoes this.
            Self::Service(_) => {}
        }
    }

    /// Why it will not come, once it is dead.
    fn end(&mut self) -> Option<String> {
        match self {
            Self::Process { child, log } => {
                let status = child.try_wait().ok()??;
                let last = log.end();
                Some(format!(
                    "it ended with {status}; the end of {}:\n{last}",
                    log.file.display()
                ))
            }
            Self::Service(name) => {
                let unit = Unit::find(name).ok()?;
                let lives = unit.is_some_and(|unit| unit.active && !unit.loops());
                (!lives).then(|| format!("it ended: journalctl --user -u {name} has why"))
            }
        }
    }
}

const fn is_ours(holder: &Holder) -> bool {
    matches!(holder, Holder::Us(_))
}

const fn is_original(holder: &Holder) -> bool {
    matches!(holder, Holder::OpenClaw(_))
}

impl<'a> Place<'a> {
    fn look(profile: Option<&'a str>) -> anyhow::Result<Self> {
        let (env, paths) = environment(profile)?;
        let document = ConfigDocument::load(&paths, &env)?;
        let own = OwnSettings::load(&paths.own_file)?;
        let configured = document
            .get(&["gateway", "port"])
            .and_then(|port| port.as_u64())
            .and_then(|port| u16::try_from(port).ok());
        let port = crate::config::gateway_port(&env, configured);
        // Its certificate may not exist before the first start.
        let to = To {
            port: Some(port),
            token: None,
            timeout: 5_000,
        };
        if TlsSettings::of(&document, &paths).enabled {
            super::target::Target::resolve(profile, &to)?;
        }
        Ok(Self {
            profile,
            env,
            paths,
            own,
            port,
            to,
            managed: manager::answers(),
            record: Record::default(),
            interrupt: Interrupt::default(),
        })
    }

    /// Waits until nobody listens on the port.
    fn freed(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STOP_WITHIN;
        while let Some(holder) = procfs::holder_of(self.port) {
            if Instant::now() > deadline {
                bail!("port {} is still held by {holder}", self.port);
            }
            api::pause(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// A unit of this user's service manager.
    fn unit(&self, name: &str) -> anyhow::Result<Option<Unit>> {
        match self.managed {
            true => Unit::find(name),
            false => Ok(None),
        }
    }

    /// Our units as they were before they were stopped.
    fn start_again(&self, units: &[Unit]) -> anyhow::Result<()> {
        if let [_, ours] = units {
            // A socket unit does not start beside a service that runs.
            ours.stop(false)?;
        }
        for unit in units {
            match unit.active {
                true => unit.start(unit.enabled)?,
                false if unit.enabled => unit.enable()?,
                false => {}
            }
        }
        let served = units
            .iter()
            .any(|unit| unit.active && unit.name == service::UNIT);
        match served {
            true => self.ready(Started::Service(service::UNIT), is_ours, "this gateway"),
            // Whoever connects starts it.
            false => Ok(()),
        }
    }

    /// Takes units of ours away, and what belongs to them.
    fn remove(&self, names: &[&str]) -> anyhow::Result<()> {
        let ours = service::unit_for_user(self.profile)?;
        for name in names {
            // Its link would stay and lead nowhere.
            let unit = self.unit(name).ok().flatten();
            if let Some(unit) = unit.filter(|unit| unit.enabled) {
                unit.disable()?;
            }
            if *name == service::UNIT {
                manager::Carried::remove(&ours)?;
            }
            let file = ours.with_file_name(name);
            if file.exists() {
                std::fs::remove_file(&file)
                    .with_context(|| format!("cannot remove {}", file.display()))?;
            }
        }
        match self.managed {
            true => manager::reload(),
            false => Ok(()),
        }
    }

    /// Waits until the right one listens and is ready; one that does not come in time, or is waited for no longer, does not stay.
    fn ready(
        &self,
        mut started: Started<'_>,
        is_right: fn(&Holder) -> bool,
        who: &str,
    ) -> anyhow::Result<()> {
        let answered = self.answers(&mut started, is_right, who);
        if answered.is_err() {
            started.give_up();
        }
        answered
    }

    fn answers(
        &self,
        started: &mut Started<'_>,
        is_right: fn(&Holder) -> bool,
        who: &str,
    ) -> anyhow::Result<()> {
        /// The service manager is a program to be run.
        const LOOK_EVERY: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + READY_WITHIN;
        let mut looked = Instant::now();
        loop {
            let why = match procfs::holder_of(self.port) {
                Some(holder) if is_right(&holder) => {
                    match api::get(self.profile, &self.to, "/readyz") {
                        Ok(_) => return Ok(()),
                        Err(why) => format!("{why:#}"),
                    }
                }
                Some(holder) => format!("port {} is held by {holder}", self.port),
                None => format!("nobody listens on port {}", self.port),
            };
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                // It may have started itself anew: then another one has its lock.
                let lives_on = || process::lock_of(&self.paths.state_dir).is_some();
                if let Some(end) = started.end()
                    && !lives_on()
                {
                    bail!("{who} did not start: {end}");
                }
            }
            if self.interrupt.is_asked() {
                bail!("interrupted while {who} was waited for: {why}");
            }
            if Instant::now() > deadline {
                bail!(
                    "{who} was not ready within {} s: {why}",
                    READY_WITHIN.as_secs()
                );
            }
            api::pause(Duration::from_millis(100))?;
        }
    }

    /// The installed OpenClaw and its Node, as seen with these variables.
    fn openclaw(&self, env: &Env) -> anyhow::Result<(PathBuf, PathBuf)> {
        let places = find::Places::from_env(env);
        let settings = &self.own.upstream;
        let package = find::package(&places, &settings.command)?;
        let node = api::blocking(async {
            let node = find::node(
                &places,
                &package,
                &settings.command,
                settings.node.as_deref(),
            );
            Ok(node.await?)
        })?;
        Ok((node.program, package.entry()))
    }

    fn start_original(&self, surroundings: &process::Surroundings) -> anyhow::Result<()> {
        let (node, entry) = self.openclaw(&surroundings.env())?;
        let port = self.port.to_string();
        let args = [
            entry.into_os_string(),
            "gateway".into(),
            "run".into(),
            "--port".into(),
            port.into(),
        ];
        let log = self.paths.own_dir.join(ORIGINAL_LOG);
        let started = Started::process(surroundings, &node, &args, log)?;
        self.ready(started, is_original, "OpenClaw's gateway")
    }
}

pub(super) fn adopt(profile: Option<&str>, args: &Adopt) -> anyhow::Result<ExitCode> {
    let mut at = Place::look(profile)?;
    if at.own.upstream.mode == UpstreamMode::Attach {
        bail!(
            "upstream.mode is \"attach\" in {}: that gateway keeps its port. Set it to \"auto\" or \"supervise\" to have it started behind this one",
            at.paths.own_file.display()
        );
    }
    let unit = at.unit(&manager::original(profile))?;
    let socket = at.unit(service::SOCKET)?;
    let running = at.original()?;
    if let Some(running) = &running {
        at.keeps_no_service(running, unit.as_ref())?;
    }
    let found = procfs::holder_of(at.port);
    match &found {
        Some(holder @ Holder::Us(_)) => {
            print(&format!(
                "port {} is this gateway's already: {holder}",
                at.port
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Some(holder @ Holder::Manager(_)) if socket.as_ref().is_some_and(|unit| unit.active) => {
            print(&format!(
                "port {} is this gateway's already: {} starts it as soon as somebody connects ({holder})",
                at.port,
                service::SOCKET
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Some(holder @ (Holder::Other(_) | Holder::Manager(_))) => bail!(
            "port {} is held by {holder}, which is no OpenClaw: stop it, or set gateway.port",
            at.port
        ),
        Some(Holder::OpenClaw(_)) | None => {}
    }
    if let Some(unit) = &unit
        && let Some(port) = unit.port()?
    {
        at.has_port(&unit.name, port)?;
    }
    let serves = unit.as_ref().is_some_and(|unit| match &running {
        Some(running) => unit.runs(running.pid),
        // On its way to the port, which nobody else has.
        None => unit.is_up(),
    });
    // What the unit started ends with it.
    let by_hand = running.filter(|_| !serves);
    if unit.is_none() && by_hand.is_none() {
        bail!(
            "no OpenClaw gateway was found: neither the service {} nor a process on port {} or in the lock of {}. `openclaw-gateway service install` installs this one alone",
            manager::original(profile),
            at.port,
            at.paths.state_dir.display()
        );
    }
    if at.own.upstream.mode != UpstreamMode::Off {
        let seen = by_hand
            .as_ref()
            .map_or_else(|| at.env.clone(), |running| running.surroundings.env());
        at.openclaw(&seen)
            .context("OpenClaw could not be started behind this gateway")?;
    }
    let carried = match &unit {
        Some(unit) => manager::Carried::of(unit)?,
        None => manager::Carried::default(),
    };
    if let Some(running) = by_hand.as_ref().filter(|_| at.managed) {
        tell_of_secrets(running, &at.paths, &carried);
    }
    at.record = Record {
        at_ms: crate::clock::now_ms(),
        port: at.port,
        unit: unit.as_ref().map(|unit| unit.name.clone()),
        enabled: unit.as_ref().is_some_and(|unit| unit.enabled),
        by_hand: by_hand.is_some(),
    };
    let env = match (at.managed, &by_hand) {
        (true, _) => None,
        (false, Some(running)) => Some(running.surroundings.clone()),
        (false, None) => bail!("no service manager answers (systemctl --user)"),
    };
    let mut steps = vec![Step::KeepRecord];
    steps.extend(
        unit.filter(|unit| unit.active || unit.enabled)
            .map(|unit| Step::StopService { unit, serves }),
    );
    steps.extend(by_hand.map(Step::EndOriginal));
    if at.managed {
        let former = std::fs::read_to_string(service::unit_for_user(profile)?).ok();
        steps.push(Step::InstallOurs { carried, former });
    }
    // Installed before with a socket unit, it is started with that.
    let socket = socket.filter(|unit| !unit.active).into_iter();
    steps.push(match env {
        None => Step::StartOurs(socket.chain([Unit::named(service::UNIT)]).collect()),
        Some(surroundings) => Step::RunOurs(surroundings),
    });
    Ok(walk(&at, &steps, args.dry_run)?.code())
}

impl Place<'_> {
    /// OpenClaw's gateway of this state directory, by the port or else by its lock.
    ///
    /// # Errors
    /// When the one on the port is another user's, or keeps its state elsewhere.
    fn original(&self) -> anyhow::Result<Option<Running>> {
        let pid = match procfs::found_at(self.port) {
            Some((pid, Holder::OpenClaw(_))) => pid,
            Some(_) => return Ok(None),
            None => match process::lock_of(&self.paths.state_dir) {
                Some(lock) => {
                    if let Some(port) = lock.port {
                        let who = format!("OpenClaw's gateway (pid {})", lock.pid);
                        self.has_port(&who, port)?;
                    }
                    lock.pid
                }
                None => return Ok(None),
            },
        };
        let running = Running::read(pid)?;
        let theirs = Paths::resolve(&running.surroundings.env())?.state_dir;
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real(&theirs) != real(&self.paths.state_dir) {
            bail!(
                "OpenClaw's gateway (pid {pid}) keeps its state in {}, and this command looks at {}: set OPENCLAW_STATE_DIR or --profile to the same",
                theirs.display(),
                self.paths.state_dir.display()
            );
        }
        Ok(Some(running))
    }

    /// # Errors
    /// When that is not the port that this command, and so our service, has.
    fn has_port(&self, who: &str, port: u16) -> anyhow::Result<()> {
        if port != self.port {
            bail!(
                "{who} has port {port}, and this command looks at port {}: set gateway.port to {port} in {}, and no other OPENCLAW_GATEWAY_PORT here",
                self.port,
                self.paths.config_file.display()
            );
        }
        Ok(())
    }

    /// # Errors
    /// When a service that is not `unit` keeps it: that would start it again as soon as it ends.
    fn keeps_no_service(&self, running: &Running, unit: Option<&Unit>) -> anyhow::Result<()> {
        let pid = running.pid;
        let unit = unit.filter(|unit| unit.active);
        let is_of = |name: &str| unit.is_some_and(|unit| unit.name == name);
        if let Some(service) = running.service().filter(|service| !is_of(&service.name)) {
            let name = service.name;
            let (manager, scope) = match service.is_users {
                true if !self.managed => bail!(
                    "OpenClaw's gateway (pid {pid}) belongs to {name} of its user, and that user's service manager does not answer here: run this in a session of that user, where `systemctl --user status` works"
                ),
                true => ("systemctl --user", ""),
                false => ("sudo systemctl", " --system"),
            };
            bail!(
                "OpenClaw's gateway (pid {pid}) belongs to {name}, which would start it again. Stop that for good, `{manager} disable --now {name}`, then install this gateway, `openclaw-gateway service install{scope}`"
            );
        }
        let env = running.surroundings.env();
        if let Some(marker) = env
            .trimmed("OPENCLAW_SERVICE_MARKER")
            .filter(|_| unit.is_none())
        {
            let name = env.trimmed("OPENCLAW_SYSTEMD_UNIT").unwrap_or("a service");
            bail!(
                "OpenClaw's gateway (pid {pid}) was started by {name} (OPENCLAW_SERVICE_MARKER={marker}), which is not seen here and may start it again: run this where `systemctl --user status` shows it, or stop it first"
            );
        }
        Ok(())
    }
}

/// A service does not have what the shell of a gateway that was started by hand had.
fn tell_of_secrets(running: &Running, paths: &Paths, carried: &manager::Carried) {
    let mut there = manager::environment();
    there.set("OPENCLAW_STATE_DIR", paths.state_dir.display().to_string());
    for name in carried.names() {
        there.set(name, "");
    }
    let names = running
        .surroundings
        .secrets_beyond(&there.with_dotenv(paths, None));
    if !names.is_empty() {
        complain(&format!(
            "its environment has {}, which the service will not have: put them into .env of the state directory if they are needed",
            names.join(", ")
        ));
    }
}

/// A device that this gateway paired and OpenClaw does not know.
#[derive(Debug, Clone)]
struct Local {
    id: String,
    what: String,
}

/// Read as plain JSON: the running gateway owns the file.
fn locals(paths: &Paths) -> Vec<Local> {
    let text = std::fs::read_to_string(paths.own_dir.join("devices.json")).unwrap_or_default();
    let book: Value = serde_json::from_str(&text).unwrap_or_default();
    let paired = book["paired"].as_object().into_iter().flatten();
    paired
        .filter(|(_, row)| row["madeBy"] == "local")
        .map(|(id, row)| {
            let word = |key: &str| row[key].as_str().or_else(|| row["about"][key].as_str());
            let name = word("displayName").or_else(|| word("clientId"));
            Local {
                id: id.clone(),
                what: format!(
                    "{id}  {}  {}",
                    name.unwrap_or("unnamed"),
                    word("platform").unwrap_or("?")
                ),
            }
        })
        .collect()
}

/// Forgotten here, so that a later life of this gateway asks OpenClaw about them.
fn hand_over(paths: &Paths, locals: &[Local]) -> anyhow::Result<()> {
    let file = paths.own_dir.join("devices.json");
    let (store, mut book, _) = Store::open(&file, crate::clock::now_ms())?;
    for local in locals {
        let is_local = |own: &crate::auth::pairing::Paired| own.made_by == MadeBy::Local;
        if book.device(&local.id).is_some_and(is_local) {
            book.remove(&local.id);
        }
    }
    store.save(&book)?;
    Ok(())
}
