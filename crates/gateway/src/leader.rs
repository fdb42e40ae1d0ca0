//! A program at the head of a process group of its own, which dies with this gateway: a command, a server of tools, the holder
//! of a route.

use std::io;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

use crate::bridge::process::die_with_parent;

/// Starts `command`, tells `started`, and returns once it has ended, before its status is taken: while it is a zombie its number
/// is nobody else's, and its group can be ended. `None`: it did not start, and whoever waits has been told why.
///
/// Blocks: it wants a thread of its own, for as long as the program runs, since Linux sends the parent-death signal when the
/// thread that started it ends.
pub(crate) fn run(
    mut command: Command,
    started: oneshot::Sender<io::Result<Pid>>,
) -> Option<(Child, Pid)> {
    die_with_parent(&mut command);
    let spawned = command.spawn();
    // Closes our copies of the pipes' other ends.
    drop(command);
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            // Nobody waiting means that nobody asks.
            started.send(Err(error)).ok();
            return None;
        }
    };
    let leader = Pid::from_child(&child);
    // Nobody waiting means that the start was given up: the guard of the receiver's owner is gone too.
    if started.send(Ok(leader)).is_err() {
        rustix::process::kill_process_group(leader, Signal::KILL).ok();
    }
    while rustix::process::waitid(
        WaitId::Pid(leader),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .is_err_and(|error| error == rustix::io::Errno::INTR)
    {}
    Some((child, leader))
}
