//! Memory and CPU of a process as Linux reports them in /proc.

use std::fs;

/// Seconds per tick of /proc/<pid>/stat: USER_HZ, 100 on every Linux port that this project runs on.
const TICK_S: f64 = 0.01;

#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub rss_kb: u64,
    /// The largest `rss_kb` since the process started.
    pub peak_kb: u64,
}

/// `None` when there is no such process (any more).
pub fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some(Memory {
        rss_kb: field("VmRSS:")?,
        peak_kb: field("VmHWM:")?,
    })
}

/// User plus system CPU seconds of all threads so far.
pub fn cpu_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold spaces; utime and stime are fields 14 and 15.
    let after = stat.rsplit_once(')')?.1;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let utime: f64 = fields.next()?.parse().ok()?;
    let stime: f64 = fields.next()?.parse().ok()?;
    Some((utime + stime) * TICK_S)
}
