//! The life of the process is in `cli::run`; everything else there talks to a running one.

fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
