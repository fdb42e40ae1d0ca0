//! `cargo xtask ci`: every suite in order, each timed and logged, the whole under a time limit.
//!
//! A failed suite does not stop the others unless they need it. The last line is `N passed, N failed`:
//! the tests of `cargo test` and `node --test` together; a suite that fails in any other way counts
//! as one failure.

mod failures;
mod plan;

use self::plan::{LANES, PORTS, Suite, Work, pick, suites};
pub(crate) use self::plan::{entries, file_name};
use crate::process::{self, Ended};
use crate::setup::{self, Scope, Tools};
use crate::{Result, launch, tidy};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// All suites together, on the machine that CI has (2 cores, nothing compiled yet).
const TOTAL_LIMIT: Duration = Duration::from_secs(55 * 60);
/// One suite: a hang must not eat the time of the rest. What runs beside others, a build, only has the limit of the whole.
const SUITE_LIMIT: Duration = Duration::from_secs(20 * 60);
/// What a suite started has this long to end after the suite.
const LEFTOVER_GRACE: Duration = Duration::from_secs(3);
/// The stripped release binary, bytes.
const BINARY_BYTES_MAX: u64 = 25_000_000;

pub(crate) fn command(root: &Path, args: &[String]) -> ExitCode {
    let outcome = suites(root).and_then(|all| {
        if args.iter().any(|a| a == "--list") {
            for suite in &all {
                // Named once, where its end is awaited.
                if !matches!(suite.work, Work::Beside(_) | Work::SetupBegins) {
                    println!("{}", suite.name);
                }
            }
            return Ok(true);
        }
        Ok(Run::new(root, pick(all, args)?)?.all())
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

struct Row {
    name: String,
    /// Empty: passed.
    problem: String,
    took: Duration,
    counts: Counts,
}

impl Row {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            problem: String::new(),
            took: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    fn tell(&self) {
        let word = if self.problem.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        println!(
            "<== {}: {word} in {:.1} s {}",
            self.name,
            self.took.as_secs_f64(),
            self.problem
        );
    }

    /// A suite that broke without a failed test counts as one.
    fn closed(mut self) -> Self {
        if !self.problem.is_empty() && self.counts.failed == 0 {
            self.counts.failed = 1;
        }
        self
    }
}

/// Where suites run and write.
#[derive(Clone)]
struct Place {
    root: PathBuf,
    logs: PathBuf,
    /// Every suite's TMPDIR is in here: what it leaves in files and processes can be found and removed.
    scratch: PathBuf,
}

struct Run<'a> {
    root: &'a Path,
    suites: Vec<Suite>,
    place: Place,
    started: Instant,
    tools: Option<Tools>,
    setting_up: Option<JoinHandle<(Result<Tools>, Duration)>>,
    beside: Vec<(String, JoinHandle<Row>)>,
    rows: Vec<Row>,
}

impl<'a> Run<'a> {
    fn new(root: &'a Path, suites: Vec<Suite>) -> Result<Self> {
        let logs = root.join("artifacts/logs");
        fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
        let scratch = std::env::temp_dir().join(format!("oc-ci-{}", std::process::id()));
        Ok(Self {
            root,
            suites,
            place: Place {
                root: root.to_owned(),
                logs,
                scratch,
            },
            started: Instant::now(),
            tools: None,
            setting_up: None,
            beside: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Runs the suites, prints the table and the closing line; true when all is well.
    fn all(mut self) -> bool {
        let mut suites = std::mem::take(&mut self.suites).into_iter().peekable();
        while let Some(suite) = suites.next() {
            if let Work::Beside(args) = &suite.work {
                println!("==> {} (beside what follows)", suite.name);
                let running = self.start_beside(&suite.name, args);
                self.beside.push(running);
                continue;
            }
            if let Work::SetupBegins = suite.work {
                println!("==> {} (beside what follows)", suite.name);
                let root = self.root.to_owned();
                self.setting_up = Some(thread::spawn(move || {
                    let started = Instant::now();
                    let tools = setup::setup(&root, Scope::Suites);
                    (tools, started.elapsed())
                }));
                continue;
            }
            let is_shared = |suite: &Suite| matches!(suite.work, Work::SharedNodeTests(_));
            if is_shared(&suite) {
                let mut sharing = vec![suite];
                sharing.extend(std::iter::from_fn(|| suites.next_if(is_shared)));
                let rows = self.side_by_side(&sharing);
                self.rows.extend(rows);
                continue;
            }
            let row = self.one(&suite);
            row.tell();
            self.rows.push(row);
        }
        let late = self.started.elapsed() > TOTAL_LIMIT;
        let text = report(&self.rows, self.started.elapsed(), late);
        // Kept beside the logs; the same text is on the terminal, so a full disk hides nothing.
        drop(fs::write(self.root.join("artifacts/suites.txt"), &text));
        drop(fs::remove_dir_all(&self.place.scratch));
        print!("{text}");
        !late && self.rows.iter().all(|row| row.problem.is_empty())
    }

    /// [`LANES`] of them at a time, in their order; the rows by name.
    fn side_by_side(&self, suites: &[Suite]) -> Vec<Row> {
        let next = AtomicUsize::new(0);
        let take = || suites.get(next.fetch_add(1, Ordering::Relaxed));
        let all_of_lane = |lane: u16| {
            let ran = std::iter::from_fn(take).map(|suite| {
                let row = self.one_of_lane(suite, lane);
                row.tell();
                row
            });
            ran.collect::<Vec<_>>()
        };
        let mut rows: Vec<Row> = thread::scope(|scope| {
            let lanes: Vec<_> = (0..LANES)
                .map(|lane| {
                    let all_of_lane = &all_of_lane;
                    scope.spawn(move || all_of_lane(lane))
                })
                .collect();
            lanes
                .into_iter()
                .flat_map(|lane| lane.join().unwrap_or_default())
                .collect()
        });
        for suite in suites {
            if rows.iter().all(|row| row.name != suite.name) {
                let mut row = Row::new(&suite.name);
                row.problem = "its thread panicked".to_owned();
                rows.push(row.closed());
            }
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    fn one_of_lane(&self, suite: &Suite, lane: u16) -> Row {
        let mut row = Row::new(&suite.name);
        if let Some(why) = self.unmet(suite) {
            row.problem = why;
            return row.closed();
        }
        println!("==> {}", suite.name);
        let started = Instant::now();
        let ran = match &suite.work {
            Work::SharedNodeTests(files) => self.node_tests(suite, files, Some(lane)),
            _ => Err("runs by itself".into()),
        };
        match ran {
            Ok((counts, problem)) => (row.counts, row.problem) = (counts, problem),
            Err(error) => row.problem = error,
        }
        row.took = started.elapsed();
        row.closed()
    }

    /// Why a suite can't run.
    fn unmet(&self, suite: &Suite) -> Option<String> {
        let unmet = suite.needs.iter().find(|need| {
            self.rows
                .iter()
                .any(|done| done.name == **need && !done.problem.is_empty())
        });
        if let Some(need) = unmet {
            return Some(format!("not run: needs {need}"));
        }
        let is_late = self.left().is_zero();
        is_late.then(|| format!("not run: past {} minutes", TOTAL_LIMIT.as_secs() / 60))
    }

    fn one(&mut self, suite: &Suite) -> Row {
        let mut row = Row::new(&suite.name);
        if let Some(why) = self.unmet(suite) {
            row.problem = why;
        } else {
            println!("==> {}", suite.name);
            let started = Instant::now();
            match suite.work {
                Work::Awaited => return self.ended_beside(&suite.name),
                Work::Setup => return self.set_up(row),
                _ => {}
            }
            match self.work(suite) {
                Ok((counts, problem)) => (row.counts, row.problem) = (counts, problem),
                Err(error) => row.problem = error,
            }
            row.took = started.elapsed();
        }
        row.closed()
    }

    /// Starts a cargo command that runs while the next suites do; its row is there once it has ended.
    fn start_beside(&self, name: &str, args: &[&str]) -> (String, JoinHandle<Row>) {
        let (mut cargo, limit, place) = (lints(args), self.left(), self.place.clone());
        let name = name.to_owned();
        let label = name.clone();
        let running = thread::spawn(move || {
            let started = Instant::now();
            let (counts, problem) = place
                .logged(&label, &mut cargo, limit, cargo_counts)
                .unwrap_or_else(|error| (Counts::default(), error));
            Row {
                name: label,
                problem,
                took: started.elapsed(),
                counts,
            }
            .closed()
        });
        (name, running)
    }

    /// Waits for the setup.
    fn set_up(&mut self, mut row: Row) -> Row {
        match self.setting_up.take().map(JoinHandle::join) {
            Some(Ok((tools, took))) => {
                row.took = took;
                match tools {
                    Ok(tools) => self.tools = Some(tools),
                    Err(error) => row.problem = error,
                }
            }
            None => row.problem = "never started".to_owned(),
            Some(Err(_)) => row.problem = "its thread panicked".to_owned(),
        }
        row.closed()
    }

    /// Waits for what [`Self::start_beside`] began; how long that took counts from there.
    fn ended_beside(&mut self, name: &str) -> Row {
        let at = self.beside.iter().position(|(running, _)| running == name);
        let row = at.map(|at| self.beside.swap_remove(at).1.join());
        match row {
            Some(Ok(row)) => row,
            other => Row {
                name: name.to_owned(),
                problem: match other {
                    None => "never started".to_owned(),
                    Some(_) => "its thread panicked".to_owned(),
                },
                took: Duration::ZERO,
                counts: Counts::default(),
            }
            .closed(),
        }
    }

    fn left(&self) -> Duration {
        TOTAL_LIMIT.saturating_sub(self.started.elapsed())
    }

    /// What the suite counted, and what is wrong (empty: nothing).
    fn work(&mut self, suite: &Suite) -> Result<(Counts, String)> {
        match &suite.work {
            Work::Tidy => tidy::command(self.root).map(|()| (Counts::default(), String::new())),
            Work::Cargo(args) => self.logged(suite, &mut lints(args), cargo_counts),
            Work::SetupBegins
            | Work::Setup
            | Work::Beside(_)
            | Work::Awaited
            | Work::SharedNodeTests(_) => Err("runs beside the others".into()),
            Work::NodeTests(files) => self.node_tests(suite, files, None),
            Work::BinarySize => {
                let problem =
                    binary_size(&launch::target(self.root).join("release/openclaw-gateway"))?;
                Ok((Counts::default(), problem))
            }
            Work::BenchSmoke => {
                // That each runs is what counts here, so the tests' own build does.
                let mut node = self.node("debug")?;
                // The measures that have been seen to run on both sides; the others are for `make bench`.
                node.args([
                    "bench/run.mjs",
                    "--smoke",
                    "--profile",
                    "debug",
                    "--no-write",
                    "--only",
                    "healthz,wsTrivial,bridged,start",
                ]);
                self.logged(suite, &mut node, |_| Some(Counts::default()))
            }
        }
    }

    fn node_tests(
        &self,
        suite: &Suite,
        files: &[PathBuf],
        lane: Option<u16>,
    ) -> Result<(Counts, String)> {
        let mut node = self.node("debug")?;
        node.args(["--test", "--test-concurrency=1", "--test-reporter=spec"])
            .args(files);
        if let Some(lane) = lane {
            let width = (PORTS.end - PORTS.start) / LANES;
            let from = PORTS.start + lane * width;
            node.env("TEST_PORTS", format!("{from}-{}", from + width));
        }
        self.logged(suite, &mut node, node_counts)
    }

    /// The pinned Node, with our binary of that profile as the one under test.
    fn node(&self, profile: &str) -> Result<Command> {
        let tools = self.tools.as_ref().ok_or("the setup did not run")?;
        let mut node = Command::new(&tools.node);
        node.env("PATH", tools.path()?);
        node.env(
            "GATEWAY_BIN",
            launch::target(self.root)
                .join(profile)
                .join("openclaw-gateway"),
        );
        Ok(node)
    }

    fn logged(
        &self,
        suite: &Suite,
        command: &mut Command,
        counts: fn(&str) -> Option<Counts>,
    ) -> Result<(Counts, String)> {
        let limit = SUITE_LIMIT.min(self.left());
        self.place.logged(&suite.name, command, limit, counts)
    }
}

/// Cargo with Clippy as the compiler of our own crates: one build finds what `cargo clippy -- -D warnings` finds, which
/// would compile everything a second time. What it builds is what rustc builds. Release builds stay as people make them.
fn lints(args: &[&str]) -> Command {
    let mut cargo = launch::cargo();
    cargo.args(args).env("CARGO_TERM_COLOR", "never");
    if !args.contains(&"--release") {
        cargo
            .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
            .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings");
    }
    cargo
}

impl Place {
    /// What Node keeps of OpenClaw's scripts, compiled, is in a folder of TMPDIR: one for all suites, or each makes it anew.
    fn share_compiled(&self, scratch: &Path) -> Result<()> {
        const NAME: &str = "node-compile-cache";
        let shared = self.scratch.join(NAME);
        let link = scratch.join(NAME);
        fs::create_dir_all(&shared).map_err(|e| format!("{}: {e}", shared.display()))?;
        match std::os::unix::fs::symlink(&shared, &link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(format!("{}: {error}", link.display()))
            }
            _ => Ok(()),
        }
    }

    fn logged(
        &self,
        name: &str,
        command: &mut Command,
        limit: Duration,
        counts: fn(&str) -> Option<Counts>,
    ) -> Result<(Counts, String)> {
        let slug: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let log = self.logs.join(format!("{slug}.log"));
        let scratch = self.scratch.join(&slug);
        fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
        self.share_compiled(&scratch)?;
        command.current_dir(&self.root).env("TMPDIR", &scratch);
        let Ended { ok, mut reason } = process::run(name, command, &log, limit)?;
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let counted = counts(&text);
        if ok && counted.is_none() {
            reason = "its log has no summary of tests".to_owned();
        }
        let counted = counted.unwrap_or_default();
        if ok && counted.failed > 0 {
            reason = "tests failed although it says success".to_owned();
        }
        let left = leftovers(&scratch);
        if !left.is_empty() {
            reason.push_str(&format!(
                "{}left processes behind: {left}",
                if ok { "" } else { "; " }
            ));
        }
        if !reason.is_empty() {
            println!("{}", failure_excerpt(&text));
            reason.push_str(&format!(" (whole log: artifacts/logs/{slug}.log)"));
            for test in failures::failed_tests(&text) {
                reason.push_str(&format!("\n  {test}"));
            }
        }
        Ok((counted, reason))
    }
}

/// Ends what still runs with this TMPDIR and answers its names.
fn leftovers(scratch: &Path) -> String {
    let mark = format!("TMPDIR={}", scratch.display());
    let deadline = Instant::now() + LEFTOVER_GRACE;
    let mut left = process::with_environment(&mark);
    while !left.is_empty() && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(50));
        left = process::with_environment(&mark);
    }
    let names: Vec<String> = left
        .iter()
        .map(|pid| format!("{pid} ({})", process::name(*pid)))
        .collect();
    process::signal("-KILL", &left);
    names.join(", ")
}

/// Small enough, and it runs: what a linker made of it is seen by nobody else here.
fn binary_size(binary: &Path) -> Result<String> {
    let bytes = fs::metadata(binary)
        .map_err(|e| format!("{}: {e}", binary.display()))?
        .len();
    println!("    {} is {:.2} MB", file_name(binary), bytes as f64 / 1e6);
    if bytes > BINARY_BYTES_MAX {
        return Ok(format!("{bytes} bytes, at most {BINARY_BYTES_MAX} allowed"));
    }
    let ran = Command::new(binary)
        .arg("version")
        .output()
        .map_err(|e| format!("{}: {e}", binary.display()))?;
    if ran.status.success() {
        return Ok(String::new());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Ok(format!("it does not run: {}", said.trim()))
}

/// Sums the `test result:` lines; for other cargo commands there are none, and nothing to count.
#[expect(clippy::unnecessary_wraps, reason = "the same shape as node_counts")]
fn cargo_counts(log: &str) -> Option<Counts> {
    let mut sum = Counts::default();
    for line in log.lines().filter(|l| l.starts_with("test result:")) {
        let words: Vec<&str> = line.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        let count = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        sum.passed += count("passed").unwrap_or(0);
        sum.failed += count("failed").unwrap_or(0);
        sum.skipped += count("ignored").unwrap_or(0);
    }
    Some(sum)
}

/// The summary at the end of the `spec` reporter's output.
fn node_counts(log: &str) -> Option<Counts> {
    let last = |word: &str| {
        log.lines().rev().find_map(|line| {
            line.strip_prefix(&format!("ℹ {word} "))?
                .parse::<u64>()
                .ok()
        })
    };
    Some(Counts {
        passed: last("pass")?,
        failed: last("fail")? + last("cancelled")?,
        skipped: last("skipped")? + last("todo")?,
    })
}

/// The part of a log a person wants first: from where the failures are summed up, else its end.
fn failure_excerpt(log: &str) -> String {
    const LINES_MAX: usize = 80;
    let lines: Vec<&str> = log.lines().collect();
    let summed_up = lines
        .iter()
        .position(|l| l.starts_with("✖ failing tests") || *l == "failures:");
    let from = summed_up.unwrap_or_else(|| lines.len().saturating_sub(LINES_MAX));
    lines[from..]
        .iter()
        .take(LINES_MAX)
        .map(|l| format!("    | {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The table, and last the closing line.
fn report(rows: &[Row], took: Duration, late: bool) -> String {
    let mut text = format!(
        "\n{:<20} {:<7} {:>8} {:>7} {:>7} {:>8}\n",
        "suite", "result", "seconds", "passed", "failed", "skipped"
    );
    let mut sum = Counts::default();
    for row in rows {
        let word = if row.problem.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        let Counts {
            passed,
            failed,
            skipped,
        } = row.counts;
        sum.passed += passed;
        sum.failed += failed;
        sum.skipped += skipped;
        let seconds = row.took.as_secs_f64();
        text.push_str(&format!(
            "{:<20} {word:<7} {seconds:>8.1} {passed:>7} {failed:>7} {skipped:>8}\n",
            row.name
        ));
    }
    text.push_str(&format!(
        "{:<20} {:<7} {:>8.1}\n",
        "all",
        "",
        took.as_secs_f64()
    ));
    for row in rows.iter().filter(|row| !row.problem.is_empty()) {
        text.push_str(&format!("FAILED {}: {}\n", row.name, row.problem));
    }
    if late {
        text.push_str(&format!(
            "FAILED time: {} s, at most {} s allowed\n",
            took.as_secs(),
            TOTAL_LIMIT.as_secs()
        ));
        sum.failed += 1;
    }
    text.push_str(&format!("\n{} passed, {} failed\n", sum.passed, sum.failed));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_results_are_summed_over_binaries() {
        let log = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                   test result: FAILED. 40 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out\n";
        let counts = cargo_counts(log).expect("always something");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (43, 2, 1));
    }

    #[test]
    fn node_results_are_the_last_summary() {
        let summary = |pass, fail| {
            format!(
                "ℹ tests 9\nℹ suites 0\nℹ pass {pass}\nℹ fail {fail}\nℹ cancelled 1\nℹ skipped 2\nℹ todo 3\nℹ duration_ms 1.5\n"
            )
        };
        let counts = node_counts(&format!("{}✔ a\n{}", summary(1, 1), summary(5, 4)))
            .expect("has a summary");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (5, 5, 5));
        assert!(
            node_counts("✔ a\nℹ pass 3\n").is_none(),
            "half a summary is none"
        );
    }

    #[test]
    fn the_last_line_counts_suites_that_only_break() {
        let row = |name: &str, problem: &str, passed, failed| Row {
            name: name.to_owned(),
            problem: problem.to_owned(),
            took: Duration::from_secs(1),
            counts: Counts {
                passed,
                failed,
                skipped: 0,
            },
        };
        let rows = [
            row("cargo test", "", 12, 0),
            row("fmt", "exit status: 1", 0, 1),
        ];
        let text = report(&rows, Duration::from_secs(2), false);
        assert!(text.ends_with("\n12 passed, 1 failed\n"), "{text}");
        assert!(text.contains("FAILED fmt: exit status: 1"), "{text}");
        let late = report(&rows[..1], TOTAL_LIMIT, true);
        assert!(late.ends_with("\n12 passed, 1 failed\n"), "{late}");
    }
}
