//! `cargo xtask fuzz [--seconds N] [--keep] [TARGET…]`: libFuzzer on the parsers of outside bytes, each for a while.
//!
//! The coverage that guides it comes from the stable compiler's own pass, so no other toolchain is needed. What is tried
//! stays in `target/fuzz`; with `--keep` what reaches new code joins `fuzz/corpus`, which `make test` replays.

use crate::process;
use crate::{Result, ci};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Seconds for each target when none are named.
const SECONDS: u64 = 60;
/// What libFuzzer may use before it calls an input a leak, MB.
const MEMORY_MB: u32 = 2048;
/// One input may take this long, seconds.
const INPUT_SECONDS: u32 = 10;
/// Building everything anew with coverage.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

struct Wish {
    seconds: u64,
    keep: bool,
    targets: Vec<String>,
}

pub(crate) fn command(root: &Path, args: &[String]) -> Result<()> {
    let wish = read(root, args)?;
    let binary = build(root)?;
    let mut broken = Vec::new();
    for target in &wish.targets {
        let row = run(root, &binary, target, &wish)?;
        println!("{row}");
        record(root, &row)?;
        if row.contains("\"ok\":false") {
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!(
        "broken: {}. The inputs are in target/fuzz/found: put each into fuzz/corpus with its fix",
        broken.join(", ")
    ))
}

fn read(root: &Path, args: &[String]) -> Result<Wish> {
    let mut wish = Wish {
        seconds: SECONDS,
        keep: false,
        targets: Vec::new(),
    };
    let all: Vec<String> = ci::entries(&root.join("fuzz/corpus"))?
        .iter()
        .map(|folder| ci::file_name(folder))
        .collect();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--keep" => wish.keep = true,
            "--seconds" => {
                let seconds = args.next().and_then(|text| text.parse().ok());
                wish.seconds = seconds.ok_or("--seconds needs a whole number")?;
            }
            name if all.iter().any(|one| one == name) => wish.targets.push(name.to_owned()),
            other => {
                return Err(format!(
                    "no fuzz target `{other}`: {} (the folders of fuzz/corpus)",
                    all.join(", ")
                ));
            }
        }
    }
    if wish.targets.is_empty() {
        wish.targets = all;
    }
    Ok(wish)
}

/// With coverage, into a folder of its own: nothing of it is what other builds make.
fn build(root: &Path) -> Result<PathBuf> {
    let host = "x86_64-unknown-linux-gnu";
    let folder = root.join("target/fuzz");
    let mut cargo = Command::new("cargo");
    // Named as a target, so that build scripts are made without coverage.
    cargo
        .args(["build", "--profile", "quick", "--locked", "-p", "fuzz"])
        .args(["--target", host, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", FLAGS)
        .current_dir(root);
    let log = root.join("artifacts/logs/fuzz-build.log");
    let ended = process::run("fuzz build", &mut cargo, &log, BUILD_LIMIT)?;
    if !ended.ok {
        return Err(format!(
            "fuzz build: {}\n{}",
            ended.reason,
            process::tail(&log, 20)
        ));
    }
    Ok(folder.join(host).join("quick/fuzz"))
}

/// One target for its time; the row of what was seen, as JSON.
fn run(root: &Path, binary: &Path, target: &str, wish: &Wish) -> Result<String> {
    let kept = root.join("fuzz/corpus").join(target);
    let tried = folder(root.join("target/fuzz/corpus").join(target))?;
    let found = folder(root.join("target/fuzz/found"))?;
    let log = root.join(format!("artifacts/logs/fuzz-{target}.log"));
    let mut fuzz = Command::new(binary);
    fuzz.env("FUZZ_TARGET", target)
        .arg(format!("-max_total_time={}", wish.seconds))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/{target}-", found.display()))
        .args(["-print_final_stats=1", "-max_len=8192"])
        .args([&tried, &kept])
        .current_dir(root);
    let limit = Duration::from_secs(wish.seconds + 300);
    let ended = process::run(&format!("fuzz {target}"), &mut fuzz, &log, limit)?;
    let text = fs::read_to_string(&log).unwrap_or_default();
    let stat = |name: &str| -> u64 {
        let line = text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(&format!("stat::{name}:")));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_default()
    };
    // `#123 DONE cov: 4567 ft: …`
    let covered = text
        .lines()
        .rev()
        .find_map(|line| line.split_once("cov: ")?.1.split(' ').next()?.parse().ok())
        .unwrap_or(0_u64);
    let row = format!(
        "{{\"target\":\"{target}\",\"ok\":{},\"seconds\":{},\"inputs\":{},\"edges\":{covered},\"peakRssMb\":{}}}",
        ended.ok,
        wish.seconds,
        stat("number_of_executed_units"),
        stat("peak_rss_mb")
    );
    if wish.keep && ended.ok {
        keep(binary, target, &tried, &kept)?;
    }
    Ok(row)
}

/// The fewest inputs that reach what all tried ones reach, beside those kept already.
fn keep(binary: &Path, target: &str, tried: &Path, kept: &Path) -> Result<()> {
    let mut merge = Command::new(binary);
    merge
        .env("FUZZ_TARGET", target)
        .args(["-set_cover_merge=1", "-max_len=8192"])
        .args([kept, tried]);
    let ended = merge
        .output()
        .map_err(|error| format!("{}: {error}", process::show(&merge)))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        process::show(&merge),
        String::from_utf8_lossy(&ended.stderr)
    ))
}

fn folder(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn record(root: &Path, row: &str) -> Result<()> {
    let file = root.join("bench/results/fuzz.jsonl");
    let mut out = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    writeln!(out, "{row}").map_err(|error| format!("{}: {error}", file.display()))
}
