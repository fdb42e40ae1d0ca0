//! A program at the head of a process group of its own, which dies with this gateway: a command, a server of tools, the holder
//! of a route.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::{oneshot, watch};

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

/// A program with all that it starts: when it ends, what is left of its group is killed.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) leader: Pid,
    /// Whether the group's number is still its own.
    may_signal: Arc<Mutex<bool>>,
    exited: watch::Receiver<Option<Exited>>,
}

/// How the leader ended; `None` when its status was not to be had.
pub(crate) type Exited = Option<ExitStatus>;

impl Group {
    /// Starts `command` in a group of its own. `name`: of the thread that waits for it.
    ///
    /// # Errors
    /// As the system says it.
    pub(crate) async fn start(name: &str, mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        let (started, starting) = oneshot::channel();
        let (ended, exited) = watch::channel(None);
        let may_signal = Arc::new(Mutex::new(true));
        let signalled = Arc::clone(&may_signal);
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                let Some((mut child, leader)) = run(command, started) else {
                    return;
                };
                {
                    let mut may_signal = signalled.lock();
                    rustix::process::kill_process_group(leader, Signal::KILL).ok();
                    *may_signal = false;
                }
                ended.send_replace(Some(child.wait().ok()));
            })?;
        let leader = starting
            .await
            .map_err(|_gone| io::Error::other("the thread that starts it ended"))??;
        Ok(Self {
            leader,
            may_signal,
            exited,
        })
    }

    /// Signals all of it. One that is gone already is what is wanted.
    pub(crate) fn signal(&self, signal: Signal) {
        let may_signal = self.may_signal.lock();
        if *may_signal {
            rustix::process::kill_process_group(self.leader, signal).ok();
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.exited.borrow().is_some()
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) -> Exited {
        let mut exited = self.exited.clone();
        // A closed channel means that its thread is gone, and the program before it.
        let seen = exited.wait_for(Option::is_some).await.ok()?;
        (*seen).flatten()
    }
}
