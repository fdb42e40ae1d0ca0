//! Gives back the program's pages that only the start needed.
//!
//! Reading the configuration, migrating databases, making tables: code that ran once stays mapped, and counts as resident
//! memory for as long as the process lives. The pages are the file's own, unchanged; what is needed again is mapped again
//! from the page cache in microseconds.

use std::fs;

/// One mapping of the program's file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    len: usize,
}

/// Mappings of `program` in `/proc/self/smaps` that nobody can write and nobody has written: none of their pages is lost by
/// letting it go. Source: proc_pid_smaps(5).
fn unchanged(smaps: &str, program: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let hex = |text| usize::from_str_radix(text, 16).ok();
            let is_readable_only = words.next().is_some_and(|flags| {
                flags.starts_with('r') && flags.as_bytes().get(1) == Some(&b'-')
            });
            let is_ours = line.ends_with(program) && is_readable_only;
            candidate = hex(start)
                .zip(hex(end))
                .filter(|_| is_ours)
                .map(|(start, end)| Mapping {
                    start,
                    len: end.saturating_sub(start),
                });
        } else if first == "Anonymous:" && words.next() != Some("0") {
            // Relocated when the program was loaded, or changed by a debugger: only in memory.
            candidate = None;
        } else if first == "Swap:" {
            // Such pages may have been swapped out.
            let is_the_file_s = words.next() == Some("0");
            found.extend(candidate.take().filter(|_| is_the_file_s));
        }
    }
    found
}

/// Takes a millisecond or two. Where the system does not say what is mapped, nothing happens.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "which pages of the program are mapped can only be changed by a system call"
)]
pub(super) fn give_back() {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let (Some(program), Ok(smaps)) = (program.to_str(), fs::read_to_string("/proc/self/smaps"))
    else {
        return;
    };
    for mapping in unchanged(&smaps, program) {
        // SAFETY: the mapping is a private one of the program's file, not writable and without a changed page. Its pages are
        // read from the file again at the next access, with the same content.
        let refused = unsafe {
            libc::madvise(
                mapping.start as *mut libc::c_void,
                mapping.len,
                libc::MADV_DONTNEED,
            )
        };
        if refused != 0 {
            tracing::debug!(?mapping, "pages of the program were not given back");
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_written_is_let_go() {
        let mapping = |range: &str, flags: &str, path: &str, own: u32, swapped: u32| {
            format!(
                "{range} {flags} 00000000 fe:00 42   {path}\nSize: 8 kB\nAnonymous: {own} kB\nSwap: {swapped} kB\nVmFlags: rd mr\n"
            )
        };
        let smaps = [
            mapping("1000-3000", "r--p", "/opt/gateway", 0, 0),
            mapping("3000-9000", "r-xp", "/opt/gateway", 0, 0),
            mapping("9000-a000", "r--p", "/opt/gateway", 4, 0),
            mapping("9800-a000", "r--p", "/opt/gateway", 0, 4),
            mapping("a000-b000", "rw-p", "/opt/gateway", 0, 0),
            mapping("b000-c000", "r-xp", "/lib/libc.so.6", 0, 0),
            mapping("c000-d000", "r--p", "", 0, 0),
        ]
        .concat();
        let range = |start, len| Mapping { start, len };
        assert_eq!(
            unchanged(&smaps, "/opt/gateway"),
            [range(0x1000, 0x2000), range(0x3000, 0x6000)]
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_goes_on_without_the_pages_it_gave_back() {
        let program = std::env::current_exe().expect("a path");
        let smaps = fs::read_to_string("/proc/self/smaps").expect("readable");
        let mapped = unchanged(&smaps, program.to_str().expect("UTF-8"));
        assert!(!mapped.is_empty(), "its code is found");
        give_back();
        let again = fs::read_to_string("/proc/self/smaps").expect("readable");
        assert_eq!(unchanged(&again, program.to_str().expect("UTF-8")), mapped);
    }
}
