//! What is done on the way, and how it is undone.

use std::fmt;

use anyhow::Context as _;

use super::manager::{self, Unit};
use super::process::{self, Running};
use super::{
    Local, ORIGINAL_STOPS_WITHIN, OUR_LOG, Place, RECORD_FILE, STOP_WITHIN, Started, hand_over,
    is_original, is_ours,
};
use crate::cli::service;
use crate::config::replace_private;
use crate::procfs::{self, Holder};

/// One step, and how it is undone.
pub(super) enum Step {
    /// OpenClaw's own service stops, and does not start with the machine any more.
    StopService {
        unit: Unit,
        /// Whether it has the port; else somebody else may.
        serves: bool,
    },
    /// OpenClaw's gateway that somebody started by hand.
    EndOriginal(Running),
    KeepRecord,
    InstallOurs {
        carried: manager::Carried,
        /// The unit that was there before.
        former: Option<String>,
    },
    /// A socket unit stands before its service, here and below: as long as it listens, whoever connects starts that.
    StartOurs(Vec<Unit>),
    /// Without a service manager, as whoever served before.
    RunOurs(process::Surroundings),
    StopOurs(Vec<Unit>),
    /// A gateway of this program that no service manager keeps.
    EndOurs(Running),
    StartService {
        unit: Unit,
        /// Whether it starts with the machine, too.
        enabled: bool,
    },
    StartOriginal(process::Surroundings),
    /// It was not what ran, and starts with the machine.
    EnableService(Unit),
    /// These of our units.
    RemoveOurs(Vec<&'static str>),
    HandOver(Vec<Local>),
    ForgetRecord,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StopService { unit, .. } if unit.enabled && !unit.active => write!(
                out,
                "keep {0} from starting with the machine (systemctl --user disable --now {0})",
                unit.name
            ),
            Self::StopService { unit, .. } if unit.enabled => write!(
                out,
                "stop {0} and keep it from starting with the machine (systemctl --user disable --now {0})",
                unit.name
            ),
            Self::StopService { unit, .. } => {
                write!(out, "stop {0} (systemctl --user stop {0})", unit.name)
            }
            Self::EndOriginal(running) => write!(
                out,
                "ask OpenClaw's gateway (pid {}) to stop, and wait for it {} s at most",
                running.pid,
                ORIGINAL_STOPS_WITHIN.as_secs()
            ),
            Self::KeepRecord => write!(out, "keep who served before, for the way back"),
            Self::InstallOurs { carried, .. } => {
                write!(out, "install {} for this user", service::UNIT)?;
                match carried.lines.len() {
                    0 => Ok(()),
                    count => write!(
                        out,
                        ", with {count} lines of environment from OpenClaw's unit"
                    ),
                }
            }
            Self::StartOurs(units) => write!(
                out,
                "start {0}, now and with the machine (systemctl --user enable --now {0}), and wait until it answers",
                names_of(units)
            ),
            Self::RunOurs(_) => write!(
                out,
                "start openclaw-gateway run, which no service manager keeps, and wait until it answers"
            ),
            Self::StopOurs(units) => write!(
                out,
                "stop {0} (systemctl --user disable --now {0})",
                names_of(units)
            ),
            Self::EndOurs(running) => {
                write!(out, "ask this gateway (pid {}) to stop", running.pid)
            }
            Self::StartService {
                unit,
                enabled: true,
            } => write!(
                out,
                "start {0}, now and with the machine (systemctl --user enable --now {0}), and wait until it answers",
                unit.name
            ),
            Self::StartService {
                unit,
                enabled: false,
            } => write!(
                out,
                "start {0} (systemctl --user start {0}), and wait until it answers",
                unit.name
            ),
            Self::StartOriginal(_) => write!(
                out,
                "start openclaw gateway run, which no service manager keeps, and wait until it answers"
            ),
            Self::EnableService(unit) => write!(
                out,
                "let {0} start with the machine again (systemctl --user enable {0})",
                unit.name
            ),
            Self::RemoveOurs(names) => {
                write!(out, "remove {}; openclaw-rs/ stays", names.join(" and "))
            }
            Self::HandOver(locals) => write!(
                out,
                "hand over {} devices that were paired here alone: OpenClaw pairs them at their next connect",
                locals.len()
            ),
            Self::ForgetRecord => write!(out, "forget who served before"),
        }
    }
}

fn names_of(units: &[Unit]) -> String {
    let names: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    names.join(" ")
}

impl Step {
    pub(super) fn take(&self, at: &Place<'_>) -> anyhow::Result<()> {
        match self {
            Self::StopService { unit, serves } => {
                unit.stop(unit.enabled)?;
                match serves {
                    true => at.freed(),
                    // Whoever has the port is another one.
                    false => Ok(()),
                }
            }
            Self::EndOriginal(running) => {
                running.end(ORIGINAL_STOPS_WITHIN)?;
                at.freed()
            }
            Self::KeepRecord => {
                crate::config::create_private_dir(&at.paths.own_dir)?;
                let text = serde_json::to_string(&at.record)?;
                let file = at.paths.own_dir.join(RECORD_FILE);
                replace_private(&file, format!("{text}\n").as_bytes())
                    .with_context(|| format!("cannot write {}", file.display()))
            }
            Self::InstallOurs { carried, .. } => {
                let file = service::write_for_user(at.profile)?;
                carried.write(&file)?;
                manager::reload()
            }
            Self::StartOurs(units) => {
                units.iter().try_for_each(|unit| unit.start(true))?;
                at.ready(Started::Service(service::UNIT), is_ours, "this gateway")
            }
            Self::RunOurs(surroundings) => {
                let program =
                    std::env::current_exe().context("cannot tell where this program is")?;
                let args: Vec<&str> = match at.profile {
                    Some(profile) => vec!["--profile", profile, "run"],
                    None => vec!["run"],
                };
                let log = at.paths.own_dir.join(OUR_LOG);
                let started = Started::process(surroundings, &program, &args, log)?;
                at.ready(started, is_ours, "this gateway")
            }
            Self::StopOurs(units) => {
                units.iter().try_for_each(|unit| unit.stop(true))?;
                at.freed()
            }
            Self::EndOurs(running) => {
                running.end(STOP_WITHIN)?;
                at.freed()
            }
            Self::StartService { unit, enabled } => {
                unit.start(*enabled)?;
                at.ready(
                    Started::Service(&unit.name),
                    is_original,
                    "OpenClaw's gateway",
                )
            }
            Self::StartOriginal(surroundings) => at.start_original(surroundings),
            Self::EnableService(unit) => unit.enable(),
            Self::RemoveOurs(names) => at.remove(names),
            Self::HandOver(locals) => hand_over(&at.paths, locals),
            Self::ForgetRecord => match std::fs::remove_file(at.paths.own_dir.join(RECORD_FILE)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
        }
    }

    /// As it was before; may be asked of a step that failed halfway. `None`: there is nothing to be undone.
    pub(super) fn undo(&self, at: &Place<'_>) -> Option<anyhow::Result<()>> {
        Some(match self {
            Self::StopService { unit, serves: true } => unit.start(unit.enabled).and_then(|()| {
                at.ready(
                    Started::Service(&unit.name),
                    is_original,
                    "OpenClaw's gateway",
                )
            }),
            // It came to nothing before, too.
            Self::StopService { unit, .. } if unit.active => unit.start(unit.enabled),
            Self::StopService { unit, .. } => unit.enable(),
            Self::EndOriginal(running) => match running.lives() {
                true => return None,
                false => at.start_original(&running.surroundings),
            },
            Self::KeepRecord => Self::ForgetRecord.take(at),
            Self::InstallOurs { former, .. } => {
                at.remove(&[service::UNIT]).and_then(|()| match former {
                    Some(text) => service::write(&service::unit_for_user(at.profile)?, text)
                        .and_then(|_| manager::reload()),
                    None => Ok(()),
                })
            }
            Self::StartOurs(units) => {
                let stopped = units.iter().try_for_each(|unit| unit.stop(!unit.enabled));
                stopped.and_then(|()| at.freed())
            }
            Self::RunOurs(_) => match procfs::found_at(at.port) {
                Some((pid, Holder::Us(_))) => Running::read(pid)
                    .and_then(|running| running.end(STOP_WITHIN))
                    .and_then(|()| at.freed()),
                _ => return None,
            },
            Self::StopOurs(units) => at.start_again(units),
            Self::EndOurs(running) => match running.lives() {
                true => return None,
                false => Self::RunOurs(running.surroundings.clone()).take(at),
            },
            Self::StartService { unit, enabled } => unit.stop(*enabled).and_then(|()| at.freed()),
            Self::StartOriginal(_) => match at.original() {
                Ok(Some(running)) => running.end(ORIGINAL_STOPS_WITHIN).and_then(|()| at.freed()),
                Ok(None) => return None,
                Err(why) => Err(why),
            },
            Self::EnableService(_)
            | Self::RemoveOurs(_)
            | Self::HandOver(_)
            | Self::ForgetRecord => return None,
        })
    }

    /// Before these OpenClaw serves already, or is not to: nothing is undone for them.
    pub(super) const fn is_behind_return(&self) -> bool {
        matches!(
            self,
            Self::EnableService(_) | Self::RemoveOurs(_) | Self::HandOver(_) | Self::ForgetRecord
        )
    }
}
