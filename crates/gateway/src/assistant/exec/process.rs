//! Commands that run: each its own process group, its output read, its time limited, nothing of it left behind.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::output::Output;
use crate::clock;
use crate::leader;

/// Commands of one session that run at once.
const RUNNING_MAX: usize = 64;
/// Ended ones that are remembered, of all sessions.
const ENDED_MAX: usize = 50;
/// How long a group may take to end after SIGTERM. Source: cancellation-policy.ts at 2026.9.6.
const GRACE: Duration = Duration::from_secs(5);
/// How long the output of a killed group is waited for: what left the group may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Between the starting of a command and the end of a shutdown: the variable by which its descendants are known.
pub(super) const OWNER: &str = "OPENCLAW_EXEC_OWNER";

/// What to run.
#[derive(Debug)]
pub(super) struct Order {
    /// As the model wrote it.
    pub(super) command: String,
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    pub(super) environment: Environment,
    pub(super) cwd: PathBuf,
    pub(super) timeout: Option<Duration>,
    /// Whose it is: nobody else sees it.
    pub(super) session: String,
    /// How long it is remembered once it has ended.
    pub(super) remembered: Duration,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Exit,
    Signal,
    Timeout,
    Cancelled,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Timeout => "overall-timeout",
            Self::Cancelled => "manual-cancel",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<&'static str>,
    pub(super) reason: Reason,
    pub(super) ended_ms: u64,
}

impl Exit {
    /// As the original counts it: a command that ended by itself, whatever its code, unless the shell found nothing to
    /// run.
    pub(super) fn is_completed(&self) -> bool {
        self.reason == Reason::Exit && !matches!(self.code, Some(126 | 127))
    }

    /// `code 1`, `signal SIGKILL`.
    pub(super) fn label(&self) -> String {
        match (self.signal, self.code) {
            (Some(signal), _) => format!("signal {signal}"),
            (None, Some(code)) => format!("code {code}"),
            (None, None) => "unknown exit code".to_owned(),
        }
    }
}

/// A command that runs or ran.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: String,
    pub(super) command: String,
    pub(super) cwd: PathBuf,
    pub(super) session: String,
    pub(super) pid: u32,
    pub(super) started_ms: u64,
    remembered: Duration,
    /// Places it among those that began in the same millisecond.
    order: u64,
    state: Mutex<State>,
    /// Counts what happened to it.
    changed: watch::Sender<u64>,
    cancel: CancellationToken,
    /// Whether the group may be signalled: false before the number can be anybody else's.
    group: Mutex<bool>,
    leader: Pid,
}

#[derive(Debug)]
struct State {
    output: Output,
    exit: Option<Exit>,
    is_background: bool,
    last_output_ms: u64,
}

impl Process {
    pub(super) fn with_output<T>(&self, look: impl FnOnce(&mut Output) -> T) -> T {
        look(&mut self.state.lock().output)
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.state.lock().exit.clone()
    }

    pub(super) fn last_output_ms(&self) -> u64 {
        self.state.lock().last_output_ms
    }

    pub(super) fn is_background(&self) -> bool {
        self.state.lock().is_background
    }

    /// From here on it outlives the call that started it.
    pub(super) fn send_to_background(&self) {
        self.state.lock().is_background = true;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Asks for its end: SIGTERM to the group, SIGKILL after a while.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Resolves when it has ended.
    #[cfg(test)]
    pub(super) async fn ended(&self) -> Exit {
        let mut changes = self.changes();
        loop {
            if let Some(exit) = self.exit() {
                return exit;
            }
            if changes.changed().await.is_err() {
                // The sender lives in this very process.
                unreachable!("a process outlives who waits for it");
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let may_signal = self.group.lock();
        if *may_signal
            && let Err(error) = rustix::process::kill_process_group(self.leader, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, pid = self.pid, "cannot signal a command");
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.send_modify(|count| *count += 1);
    }
}

/// All commands of all sessions.
#[derive(Debug, Default)]
pub(super) struct Processes {
    all: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<String, Arc<Process>>,
    /// In the background, oldest first.
    ended: VecDeque<Arc<Process>>,
    count: u64,
}

impl Processes {
    /// Starts a command. `stopping`: becomes true when the gateway ends, and every command with it.
    ///
    /// # Errors
    /// Words for the model.
    pub(super) async fn start(
        self: &Arc<Self>,
        order: Order,
        stopping: watch::Receiver<bool>,
    ) -> Result<Arc<Process>, String> {
        let running = {
            let table = self.all.lock();
            let own = table.running.values();
            own.filter(|process| process.session == order.session)
                .count()
        };
        if running >= RUNNING_MAX {
            return Err(format!(
                "{RUNNING_MAX} commands of this conversation run already; end some of them with process kill"
            ));
        }
        let started_ms = clock::now_ms();
        let spawned = spawn(&order).await.map_err(|error| {
            format!(
                "Error: spawn {}: {error}",
                order.argv.first().map_or("", String::as_str)
            )
        })?;
        let Spawned {
            leader,
            reader,
            exited,
            release,
            status,
        } = spawned;
        let process = {
            let mut table = self.all.lock();
            table.count += 1;
            let process = Arc::new(Process {
                id: super::names::fresh(|id| {
                    table.running.contains_key(id) || table.ended.iter().any(|ended| ended.id == id)
                }),
                command: order.command,
                cwd: order.cwd,
                session: order.session,
                pid: leader.as_raw_nonzero().get().unsigned_abs(),
                started_ms,
                remembered: order.remembered,
                order: table.count,
                state: Mutex::new(State {
                    output: Output::default(),
                    exit: None,
                    is_background: false,
                    last_output_ms: started_ms,
                }),
                changed: watch::Sender::new(0),
                cancel: CancellationToken::new(),
                group: Mutex::new(true),
                leader,
            });
            table
                .running
                .insert(process.id.clone(), Arc::clone(&process));
            process
        };
        let watched = Watched {
            reader,
            exited,
            release,
            status,
        };
        let (processes, own) = (Arc::clone(self), Arc::clone(&process));
        tokio::spawn(async move {
            let exit = watch_over(&own, watched, order.timeout, stopping).await;
            processes.end(&own, exit);
        });
        Ok(process)
    }

    fn end(&self, process: &Arc<Process>, exit: Exit) {
        process.change(|state| state.exit = Some(exit));
        let mut table = self.all.lock();
        // Not there: it was removed while it ran.
        if table.running.remove(&process.id).is_some() && process.is_background() {
            table.ended.push_back(Arc::clone(process));
        }
        table.forget();
    }

    /// A command of a session, whether it still runs.
    pub(super) fn find(&self, session: &str, id: &str) -> Option<Arc<Process>> {
        let mut table = self.all.lock();
        table.forget();
        let running = table.running.get(id);
        running
            .or_else(|| table.ended.iter().find(|ended| ended.id == id))
            .filter(|process| process.session == session)
            .cloned()
    }

    /// Those in the background, newest first.
    pub(super) fn list(&self, session: &str) -> Vec<Arc<Process>> {
        let mut table = self.all.lock();
        table.forget();
        let all = table.running.values().chain(&table.ended);
        let mut list: Vec<Arc<Process>> = all
            .filter(|process| process.session == session && process.is_background())
            .cloned()
            .collect();
        list.sort_by_key(|process| std::cmp::Reverse((process.started_ms, process.order)));
        list
    }

    /// Forgets one; if it runs, its end is nobody's concern any more.
    pub(super) fn remove(&self, id: &str) {
        let mut table = self.all.lock();
        table.running.remove(id);
        table.ended.retain(|ended| ended.id != id);
    }
}

impl Table {
    fn forget(&mut self) {
        let now = clock::now_ms();
        self.ended.retain(|ended| {
            let kept_ms = u64::try_from(ended.remembered.as_millis()).unwrap_or(u64::MAX);
            ended
                .exit()
                .is_some_and(|exit| exit.ended_ms.saturating_add(kept_ms) > now)
        });
        while self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }
}

struct Spawned {
    leader: Pid,
    reader: pipe::Receiver,
    exited: oneshot::Receiver<()>,
    release: std::sync::mpsc::Sender<()>,
    status: oneshot::Receiver<Option<ExitStatus>>,
}

struct Watched {
    reader: pipe::Receiver,
    /// The shell has ended; it is still a zombie, so that its group's number is nobody else's.
    exited: oneshot::Receiver<()>,
    /// What is left of the group may be killed, and the zombie taken away.
    release: std::sync::mpsc::Sender<()>,
    status: oneshot::Receiver<Option<ExitStatus>>,
}

async fn spawn(order: &Order) -> io::Result<Spawned> {
    let (ours, theirs) = io::pipe()?;
    let (program, arguments) = order
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("nothing to run"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&order.cwd)
        .env_clear()
        .envs(&order.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
        .stderr(Stdio::from(OwnedFd::from(theirs)))
        .process_group(0);
    let (started, starting) = oneshot::channel();
    let (told_exited, exited) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    let (told_status, status) = oneshot::channel();
    std::thread::Builder::new()
        .name("exec".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            let Some((mut child, leader)) = leader::run(command, started) else {
                return;
            };
            told_exited.send(()).ok();
            // Gone senders release too.
            released.recv().ok();
            rustix::process::kill_process_group(leader, Signal::KILL).ok();
            told_status.send(child.wait().ok()).ok();
        })?;
    let leader = starting
        .await
        .map_err(|_gone| io::Error::other("the thread that starts it ended"))??;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(ours))?;
    Ok(Spawned {
        leader,
        reader,
        exited,
        release,
        status,
    })
}

/// Reads what it writes and ends it when its time is over, until it has ended and nothing holds its output.
async fn watch_over(
    process: &Process,
    watched: Watched,
    timeout: Option<Duration>,
    mut stopping: watch::Receiver<bool>,
) -> Exit {
    let Watched {
        mut reader,
        mut exited,
        release,
        status,
    } = watched;
    let mut buffer = vec![0; 16 * 1024];
    let (mut reads, mut has_exited) = (true, false);
    let mut reason = None;
    // The next thing to do about it, once it is to end.
    let mut next: Option<(Instant, Step)> =
        timeout.map(|limit| (Instant::now() + limit, Step::Ask));
    while reads || !has_exited {
        let due = next.map_or_else(far, |(at, _)| at);
        tokio::select! {
            read = reader.read(&mut buffer), if reads => match read {
                Ok(0) | Err(_) => reads = false,
                Ok(count) => process.change(|state| {
                    state.output.push(&buffer[..count]);
                    state.last_output_ms = clock::now_ms();
                }),
            },
            _ = &mut exited, if !has_exited => has_exited = true,
            () = tokio::time::sleep_until(due) => match next.take().map(|(_, step)| step) {
                Some(Step::Ask) => {
                    reason.get_or_insert(Reason::Timeout);
                    process.signal(Signal::TERM);
                    next = Some((Instant::now() + GRACE, Step::Kill));
                }
                Some(Step::Kill) => {
                    process.signal(Signal::KILL);
                    next = Some((Instant::now() + LAST_WORDS, Step::Leave));
                }
                // Something that left the group holds the pipe; it is not waited for.
                Some(Step::Leave) => break,
                None => {}
            },
            () = process.cancel.cancelled(), if reason.is_none() => {
                reason = Some(Reason::Cancelled);
                process.signal(Signal::TERM);
                next = Some((Instant::now() + GRACE, Step::Kill));
            }
            _ = stopping.wait_for(|stops| *stops) => {
                reason.get_or_insert(Reason::Cancelled);
                process.signal(Signal::KILL);
                break;
            }
        }
        // The shell has gone and was to go: what it left in its group goes now.
        if has_exited && reason.is_some() && !matches!(next, Some((_, Step::Leave))) {
            process.signal(Signal::KILL);
            next = Some((Instant::now() + LAST_WORDS, Step::Leave));
        }
    }
    *process.group.lock() = false;
    drop(release);
    let status = status.await.ok().flatten();
    let (code, signal) = match status {
        Some(status) => (status.code(), status.signal().map(name_of)),
        None => (None, None),
    };
    Exit {
        code,
        signal,
        reason: reason.unwrap_or(match signal {
            Some(_) => Reason::Signal,
            None => Reason::Exit,
        }),
        ended_ms: clock::now_ms(),
    }
}

#[derive(Clone, Copy)]
enum Step {
    Ask,
    Kill,
    Leave,
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(24 * 60 * 60)
}

fn name_of(signal: i32) -> &'static str {
    const NAMES: [(Signal, &str); 20] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::VTALARM, "SIGVTALRM"),
        (Signal::PROF, "SIGPROF"),
        (Signal::SYS, "SIGSYS"),
    ];
    let known = NAMES.iter().find(|(known, _)| known.as_raw() == signal);
    known.map_or("an unknown signal", |(_, name)| name)
}

/// Who owns commands that are started with this state directory.
pub(super) fn owner(state_dir: &Path) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        state_dir.as_os_str().as_encoded_bytes(),
    );
    let hex = digest
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"));
    let session = session_of("self").unwrap_or(0);
    format!("{}:{session}", hex.collect::<String>())
}

/// The session of a process: 0 where its leader is outside of our PID namespace, as in a container that was entered from
/// without. Read from the text of the kernel (proc(5), `stat`, field 6), since `rustix::process::getsid` takes that 0 for impossible.
fn session_of(process: &str) -> Option<i32> {
    session_in(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// The name, field 2, stands in brackets and may hold anything.
fn session_in(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Kills what a gateway that was killed left running with this state directory. What made itself independent of it
/// (`setsid`) stays, as a service would. Only Linux tells.
pub(super) fn end_orphans(state_dir: &Path) -> usize {
    let owner = owner(state_dir);
    let Some((place, _)) = owner.split_once(':') else {
        return 0;
    };
    let prefix = format!("{OWNER}={place}:");
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let mut ended = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        let session = environment.split(|byte| *byte == 0).find_map(|line| {
            std::str::from_utf8(line)
                .ok()?
                .strip_prefix(&prefix)?
                .parse::<i32>()
                .ok()
        });
        let (Some(session), Some(pid)) = (session, Pid::from_raw(pid)) else {
            continue;
        };
        let is_its = name.to_str().and_then(session_of) == Some(session);
        if is_its && rustix::process::kill_process(pid, Signal::KILL).is_ok() {
            ended += 1;
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(script: &str, timeout: Option<Duration>) -> Order {
        Order {
            command: script.to_owned(),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: Environment::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            cwd: PathBuf::from("/"),
            timeout,
            session: "main".to_owned(),
            remembered: Duration::from_secs(60),
        }
    }

    async fn run(script: &str, timeout: Option<Duration>) -> (Exit, String) {
        let processes = Arc::new(Processes::default());
        let (_stop, stopping) = watch::channel(false);
        let started = processes.start(order(script, timeout), stopping).await;
        let process = started.expect("started");
        let exit = process.ended().await;
        (
            exit,
            process.with_output(|output| output.all().0.to_owned()),
        )
    }

    #[tokio::test]
    async fn what_ends_is_told_as_it_ended() {
        let (exit, text) = run("echo out; echo err >&2; exit 3", None).await;
        assert_eq!(
            (exit.code, exit.reason, text.as_str()),
            (Some(3), Reason::Exit, "out\nerr\n")
        );
        let (exit, _) = run("kill -9 $$", None).await;
        assert_eq!(
            (exit.signal, exit.reason),
            (Some("SIGKILL"), Reason::Signal)
        );
        let (exit, _) = run("nothing-of-this-name", None).await;
        assert!(!exit.is_completed() && exit.code == Some(127));
    }

    #[test]
    fn the_session_of_a_process_is_read_whatever_its_name_is() {
        // In a container that was entered from without the leader is outside: the kernel says 0.
        assert_eq!(session_in("1 (cat) R 0 0 0 0 -1 4194560"), Some(0));
        assert_eq!(session_in("7 (a) R 1 (b) S 1 7 5 0 -1"), Some(5));
        assert_eq!(session_in("7 (cut"), None);
        assert_eq!(
            session_of("self"),
            session_of(&std::process::id().to_string())
        );
        assert!(session_of("self").is_some());
    }

    #[tokio::test]
    async fn time_ends_the_whole_group() {
        let script = "sleep 1000 & echo $!; wait";
        let (exit, text) = run(script, Some(Duration::from_millis(200))).await;
        assert_eq!(exit.reason, Reason::Timeout);
        let stat = format!("/proc/{}/stat", text.trim());
        // Gone, or dead and not yet taken away by whoever inherited it.
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let dies = async {
            while lives() {
                tokio::task::yield_now().await;
            }
        };
        let died = tokio::time::timeout(Duration::from_secs(5), dies).await;
        assert!(died.is_ok(), "it was killed with its shell");
    }

    #[tokio::test]
    async fn what_leaves_its_group_is_not_waited_for_once_it_is_over() {
        let processes = Arc::new(Processes::default());
        let (_stop, stopping) = watch::channel(false);
        let script = "setsid sleep 1000 & echo here";
        let started = processes.start(order(script, None), stopping).await;
        let process = started.expect("started");
        let mut changes = process.changes();
        while !process.with_output(|output| output.has_pending()) {
            changes.changed().await.expect("it lives");
        }
        process.cancel();
        assert_eq!(process.ended().await.reason, Reason::Cancelled);
    }

    #[tokio::test]
    async fn a_stop_of_the_gateway_ends_every_command() {
        let processes = Arc::new(Processes::default());
        let (stop, stopping) = watch::channel(false);
        let started = processes
            .start(order("trap '' TERM; sleep 1000", None), stopping)
            .await;
        let process = started.expect("started");
        process.send_to_background();
        stop.send_replace(true);
        assert_eq!(process.ended().await.signal, Some("SIGKILL"));
        assert_eq!(processes.list("other").len(), 0);
        assert_eq!(processes.list("main").len(), 1);
    }
}
