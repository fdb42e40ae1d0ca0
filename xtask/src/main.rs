//! Every command a person or CI runs: `cargo xtask <command>`, usually through the Makefile.
//!
//! Needs nothing but std, so it builds in a second on a machine that has only the Rust toolchain.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to people"
)]

mod ci;
mod fuzz;
mod launch;
mod process;
mod sbom;
mod setup;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

/// What went wrong and what to do about it, ready to print.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
cargo xtask <command>

  setup [openclaw]       install what is missing, pinned, outside the tree; `openclaw` alone skips
                         the Debian packages that only the test suites need
  ci [SUITE…]            run every suite (or those named), seconds per suite, one closing line
  ci --list              name the suites
  tidy                   check the source tree: crate edges, file sizes, leftovers, docs in step
  sbom [FILE]            what the released gateway is made of, as a CycloneDX document
  fuzz [--seconds N] [--keep] [TARGET…]
                         libFuzzer on the parsers of outside bytes; --keep adds what it found to the corpus
  node ARGS…             run the pinned Node, e.g. `cargo xtask node --test tests/lib/*.test.mjs`
  run-with-openclaw ARGS…
                         start the gateway (release) with a real supervised OpenClaw behind it";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = root();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &args[..]),
    };
    let outcome = match command {
        "setup" => setup::command(&root, rest),
        "ci" => return ci::command(&root, rest),
        "sbom" => sbom::command(&root, rest),
        "tidy" => tidy::command(&root),
        "fuzz" => fuzz::command(&root, rest),
        "node" => launch::node(&root, rest),
        "run-with-openclaw" => launch::with_openclaw(&root, rest),
        "help" | "-h" | "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("unknown command `{other}`\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository this binary was built from.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}
