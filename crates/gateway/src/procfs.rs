//! What Linux says of processes: `/proc`. Elsewhere nothing is known and every reading is zero or `None`.

use std::collections::HashSet;
use std::fs;

/// One process, as `/proc/<pid>/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    pid: u32,
    parent: u32,
    group: u32,
    /// User and system time, clock ticks.
    ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    /// Source: proc_pid_stat(5). The name is in parentheses and may hold any character, so fields count from the last one.
    fn parse(text: &str) -> Option<Self> {
        let pid = text.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            parent: u32::try_from(number(1)?).ok()?,
            group: u32::try_from(number(2)?).ok()?,
            ticks: number(11)? + number(12)?,
            threads: number(17)?,
            virtual_bytes: number(20)?,
            resident_pages: number(21)?,
        })
    }

    fn cpu_seconds(&self, units: Units) -> f64 {
        self.ticks as f64 / units.ticks_per_second as f64
    }

    const fn resident_bytes(&self, units: Units) -> u64 {
        self.resident_pages * units.page_bytes
    }
}

/// What a tick and a page are on this machine.
#[derive(Debug, Clone, Copy)]
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
}

impl Units {
    /// From the auxiliary vector: pairs of machine words, kind and value. Source: getauxval(3).
    fn read() -> Self {
        const PAGE_SIZE: usize = 6;
        const CLOCK_TICKS: usize = 17;
        const WORD: usize = size_of::<usize>();
        let mut units = Self {
            ticks_per_second: 100,
            page_bytes: 4096,
        };
        for pair in fs::read("/proc/self/auxv")
            .unwrap_or_default()
            .chunks_exact(2 * WORD)
        {
            let word = |at: usize| {
                let mut bytes = [0; WORD];
                bytes.copy_from_slice(&pair[at..at + WORD]);
                usize::from_ne_bytes(bytes)
            };
            match (word(0), word(WORD) as u64) {
                (PAGE_SIZE, bytes) if bytes > 0 => units.page_bytes = bytes,
                (CLOCK_TICKS, ticks) if ticks > 0 => units.ticks_per_second = ticks,
                _ => {}
            }
        }
        units
    }
}

/// This process now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Own {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) open_files: u64,
    /// 0: no limit, or not known.
    pub(crate) open_files_max: u64,
}

impl Own {
    pub(crate) fn read() -> Self {
        let Some(stat) = fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|text| Stat::parse(&text))
        else {
            return Self::default();
        };
        let units = Units::read();
        Self {
            cpu_seconds: stat.cpu_seconds(units),
            resident_bytes: stat.resident_bytes(units),
            virtual_bytes: stat.virtual_bytes,
            threads: stat.threads,
            open_files: open_files(),
            open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .unwrap_or_default(),
        }
    }
}

/// Since Linux 6.2 the folder's size is their number; before, it is 0 and they are counted.
fn open_files() -> u64 {
    match fs::metadata("/proc/self/fd") {
        Ok(folder) if folder.len() > 0 => folder.len(),
        _ => fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
    }
}

/// A process and all that it started, as far as they still live.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tree {
    pub(crate) processes: u64,
    /// Sum of what each has resident: pages that several share count for each of them.
    pub(crate) resident_bytes: u64,
    /// Of those that live; what ended ones used is not in it.
    pub(crate) cpu_seconds: f64,
}

/// The tree below `root`: its descendants and its process group, so that what lost its parent counts too. Reads a line
/// for each process of the machine, so not on a thread that serves. `None` when `root` does not live.
pub(crate) fn tree(root: u32) -> Option<Tree> {
    let mut all: Vec<Stat> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        // One that ended meanwhile is not there.
        .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect();
    let mut members = HashSet::from([root]);
    let mut tree = Tree::default();
    let units = Units::read();
    all.iter().find(|process| process.pid == root)?;
    loop {
        let before = tree.processes;
        all.retain(|process| {
            let is_member =
                process.pid == root || process.group == root || members.contains(&process.parent);
            if is_member {
                members.insert(process.pid);
                tree.processes += 1;
                tree.resident_bytes += process.resident_bytes(units);
                tree.cpu_seconds += process.cpu_seconds(units);
            }
            !is_member
        });
        if tree.processes == before {
            return Some(tree);
        }
    }
}

/// A process that listens on a port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A gateway of this program.
    Us(String),
    /// OpenClaw's own gateway, which calls itself as this program. Source: `process.title` in the package's entry.
    OpenClaw(String),
    /// systemd, for a socket unit whose service does not run.
    Manager(String),
    Other(String),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Us(process) | Self::Other(process) => out.write_str(process),
            Self::OpenClaw(process) => write!(out, "OpenClaw's gateway, {process}"),
            Self::Manager(process) => write!(out, "a socket unit of systemd, {process}"),
        }
    }
}

impl Holder {
    /// `command`: as it calls itself. `program`: the name of its file.
    fn of(pid: &str, command: &str, program: &str) -> Self {
        const OWN: &str = "openclaw-gateway";
        let process = format!(
            "{} (pid {pid})",
            command.chars().take(80).collect::<String>()
        );
        if program.starts_with(OWN) {
            Self::Us(process)
        } else if command.starts_with(OWN) || command.contains("openclaw.mjs") {
            Self::OpenClaw(process)
        } else if program.trim_end_matches(" (deleted)") == "systemd" {
            Self::Manager(process)
        } else {
            Self::Other(process)
        }
    }

    /// Of those that have the same socket, the one that serves it: a service manager, or a shell, keeps what it passed on.
    fn choose(all: impl IntoIterator<Item = (u32, Self)>) -> Option<(u32, Self)> {
        let mut best: Option<(u32, Self)> = None;
        for (pid, holder) in all {
            match (&holder, &best) {
                (Self::Us(_) | Self::OpenClaw(_), _) => return Some((pid, holder)),
                (Self::Other(_), None | Some((_, Self::Manager(_)))) | (Self::Manager(_), None) => {
                    best = Some((pid, holder));
                }
                (Self::Other(_) | Self::Manager(_), Some(_)) => {}
            }
        }
        best
    }
}

/// The process that listens on a TCP port; `None` when it is free or cannot be told.
pub(crate) fn holder_of(port: u16) -> Option<Holder> {
    found_at(port).map(|(_, holder)| holder)
}

/// The same with its number, which is 0 for another user's.
/// Source: /proc/net/tcp and the socket inodes under /proc/<pid>/fd.
pub(crate) fn found_at(port: u16) -> Option<(u32, Holder)> {
    let wanted = format!(":{port:04X}");
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                // Column 3: state 0A is LISTEN.
                let listens = columns.get(3) == Some(&"0A") && columns.get(1)?.ends_with(&wanted);
                if listens {
                    columns.get(9).map(|inode| (*inode).to_owned())
                } else {
                    None
                }
            })
        })?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?;
    let holders = processes.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut files = std::fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let holds = files.any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        });
        // One that ended meanwhile holds nothing.
        holds
            .then(|| process(pid))
            .flatten()
            .map(|holder| (pid, holder))
    });
    let unseen = || (0, Holder::Other("another user's process".to_owned()));
    Some(Holder::choose(holders).unwrap_or_else(unseen))
}

/// What a process is; `None` when it does not live.
pub(crate) fn process(pid: u32) -> Option<Holder> {
    let of = |what: &str| format!("/proc/{pid}/{what}");
    let command = std::fs::read(of("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let program = std::fs::read_link(of("exe")).unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy();
    Some(Holder::of(&pid.to_string(), command.trim(), &program))
}

/// Who started a process, as long as both live.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Stat::parse(&text).map(|stat| stat.parent)
}

/// Whether this process was started to ignore a signal, as `nohup` has SIGHUP ignored. Source: proc_pid_status(5), `SigIgn`.
pub(crate) fn ignores(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_in_mask(&status, signal)
}

fn is_in_mask(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::try_from(signal - 1).ok();
    let bit = bit.and_then(|bit| 1_u64.checked_shl(bit));
    mask.unwrap_or_default() & bit.unwrap_or_default() != 0
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_process_calls_itself() {
        let line = "7 (a) b ) (c) S 3 5 5 0 -1 4194560 1 2 3 4 11 22 0 0 20 0 9 0 100 4096 12 1844";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.group), (7, 3, 5));
        assert_eq!((stat.ticks, stat.threads), (33, 9));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (4096, 12));
        for wrong in ["", "7", "7 (x", "7 (x) S 1", "x (x) S 1 2 3"] {
            assert_eq!(Stat::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn openclaw_s_gateway_is_not_taken_for_this_one() {
        let of = |command, program| Holder::of("7", command, program);
        let title = "openclaw-gateway";
        assert_eq!(
            of("target/x run", title),
            Holder::Us("target/x run (pid 7)".to_owned())
        );
        assert!(matches!(of(title, "node"), Holder::OpenClaw(_)));
        assert!(matches!(
            of("node /x/openclaw.mjs gateway", "node"),
            Holder::OpenClaw(_)
        ));
        assert!(matches!(of("nginx: master", "nginx"), Holder::Other(_)));
        let manager = "/usr/lib/systemd/systemd --user";
        assert!(matches!(of(manager, "systemd"), Holder::Manager(_)));
        // Replaced while it runs.
        assert!(matches!(
            of("x", "openclaw-gateway (deleted)"),
            Holder::Us(_)
        ));
    }

    #[test]
    fn the_one_that_serves_is_told_from_those_that_passed_the_socket_on() {
        let who = |name: &str| name.to_owned();
        let (us, other, manager) = (
            || (9, Holder::Us(who("us"))),
            || (5, Holder::Other(who("sh"))),
            || (1, Holder::Manager(who("systemd"))),
        );
        assert_eq!(Holder::choose([manager(), other(), us()]), Some(us()));
        assert_eq!(Holder::choose([us(), manager()]), Some(us()));
        assert_eq!(Holder::choose([manager(), other()]), Some(other()));
        assert_eq!(Holder::choose([other(), manager()]), Some(other()));
        assert_eq!(Holder::choose([manager()]), Some(manager()));
        assert_eq!(Holder::choose([]), None);
    }

    #[test]
    fn an_ignored_signal_is_read_from_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\n";
        assert!(is_in_mask(status, 1) && is_in_mask(status, 13));
        assert!(!is_in_mask(status, 2) && !is_in_mask(status, 0) && !is_in_mask("", 1));
    }

    #[test]
    fn we_are_alive_and_use_something() {
        let own = Own::read();
        assert!(own.resident_bytes > 1_000_000 && own.virtual_bytes > own.resident_bytes);
        assert!(own.threads >= 1 && own.open_files >= 3, "{own:?}");
    }

    /// A shell, its child and its grandchild, which prints when all three live.
    #[test]
    fn a_tree_is_all_that_was_started() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'echo up; cat; :'; :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(shell.stdout.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        let root = shell.id();
        let mut seen = tree(root).unwrap();
        // `cat` is forked right after the line.
        for _ in 0..10_000 {
            if seen.processes == 3 {
                break;
            }
            seen = tree(root).unwrap();
        }
        assert_eq!(seen.processes, 3);
        assert!(seen.resident_bytes > 100_000, "{seen:?}");
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(tree(root), None);
    }
}
