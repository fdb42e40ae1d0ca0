//! Finds the installed `openclaw` package and a Node that can run it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::Env;

/// Node releases the original runs on: at least this minor of an even major, or any later major.
/// Source: node-version.mjs at 2026.9.6.
const NODE_FLOORS: [(u32, u32); 2] = [(24, 16), (26, 1)];
const ENTRY: &str = "openclaw.mjs";
/// A `node --version` that takes longer is not a Node.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// A start script is shorter; a longer file is not read for a path.
const SCRIPT_BYTES_MAX: u64 = 64 * 1024;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The folder with its `package.json`.
    pub root: PathBuf,
    pub version: String,
}

impl Package {
    pub fn entry(&self) -> PathBuf {
        self.root.join(ENTRY)
    }

    /// Where the built Control UI is.
    pub fn control_ui(&self) -> PathBuf {
        self.root.join("dist/control-ui")
    }
}

/// A Node that can run the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub program: PathBuf,
    /// As `node --version` says, without the `v`.
    pub version: String,
}

#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("openclaw is not installed: no `openclaw` on PATH, and no package in {}. Install it (npm install -g openclaw), or name it in openclaw-gateway.toml: [upstream] command = [\"/path/to/node\", \"/path/to/openclaw/openclaw.mjs\"]", listed(.looked))]
    NotInstalled { looked: Vec<PathBuf> },
    #[error(
        "[upstream] command names {named}, which is not an openclaw package: {why}. Give the path of openclaw.mjs in the installed package"
    )]
    NotAPackage { named: String, why: String },
    #[error("no Node that openclaw can run on: it needs >=24.16 <25, or >=26.1, and {}. Install Node 26 (https://nodejs.org, or nvm install 26), or name one in openclaw-gateway.toml: [upstream] command = [\"/path/to/node\", \"{entry}\"]", described(.seen))]
    NoNode {
        seen: Vec<(PathBuf, String)>,
        entry: String,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

fn described(nodes: &[(PathBuf, String)]) -> String {
    if nodes.is_empty() {
        return "none was found".to_owned();
    }
    let nodes: Vec<String> = nodes
        .iter()
        .map(|(path, what)| format!("{} is {what}", path.display()))
        .collect();
    nodes.join(", ")
}

/// Where to look: the environment as data, so that a test has its own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub path: Option<OsString>,
    pub home: Option<PathBuf>,
    /// `npm_config_prefix` or `NPM_CONFIG_PREFIX`.
    pub npm_prefix: Option<PathBuf>,
    /// `PNPM_HOME`.
    pub pnpm_home: Option<PathBuf>,
    /// Prefixes every system may have: `/usr/local`, `/opt/homebrew`, `/usr`.
    pub system_prefixes: Vec<PathBuf>,
}

impl Places {
    pub fn from_env(env: &Env) -> Self {
        let folder = |name: &str| env.trimmed(name).map(PathBuf::from);
        Self {
            path: env.get("PATH").map(OsString::from),
            home: folder("HOME"),
            npm_prefix: folder("NPM_CONFIG_PREFIX").or_else(|| folder("npm_config_prefix")),
            pnpm_home: folder("PNPM_HOME"),
            system_prefixes: ["/usr/local", "/opt/homebrew", "/usr"]
                .map(PathBuf::from)
                .to_vec(),
        }
    }

    fn on_path(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let folders: Vec<PathBuf> = self.path.iter().flat_map(std::env::split_paths).collect();
        let name = name.to_owned();
        folders
            .into_iter()
            .filter(|folder| folder.is_absolute())
            .map(move |folder| folder.join(&name))
            .filter(|file| file.is_file())
    }

    fn home(&self, below: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(below))
    }

    /// Folders of global packages, most specific first.
    fn package_roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = Vec::new();
        let lib = |prefix: PathBuf| prefix.join("lib/node_modules/openclaw");
        roots.extend(self.npm_prefix.clone().map(lib));
        roots.extend(
            self.home(".npmrc")
                .and_then(|file| npmrc_prefix(&file, self.home.as_deref()))
                .map(lib),
        );
        // A global package of npm lies beside the Node that npm belongs to.
        for node in self.on_path("node") {
            let real = node.canonicalize().unwrap_or(node);
            roots.extend(
                real.ancestors()
                    .nth(2)
                    .map(|prefix| lib(prefix.to_path_buf())),
            );
        }
        roots.extend(self.home(".npm-global").map(lib));
        roots.extend(self.home(".local").map(lib));
        for folder in [
            self.pnpm_home.clone(),
            self.home(".local/share/pnpm"),
            self.home("Library/pnpm"),
        ] {
            roots.extend(
                folder
                    .into_iter()
                    .flat_map(|folder| versions(&folder.join("global"), "node_modules/openclaw")),
            );
        }
        roots.extend(self.home(".bun/install/global/node_modules/openclaw"));
        roots.extend(self.home(".volta/tools/image/packages/openclaw").map(lib));
        for nvm in [
            self.home(".nvm/versions/node"),
            self.home(".local/share/nvm"),
        ] {
            roots.extend(
                nvm.into_iter()
                    .flat_map(|folder| versions(&folder, "lib/node_modules/openclaw")),
            );
        }
        roots.extend(self.system_prefixes.iter().cloned().map(lib));
        let mut once = BTreeSet::new();
        roots.retain(|root| once.insert(root.clone()));
        roots
    }

    /// Node binaries, most likely first.
    fn nodes(&self, package: &Package) -> Vec<PathBuf> {
        // `<prefix>/lib/node_modules/openclaw` was installed by `<prefix>/bin/node`'s npm.
        let mut nodes: Vec<PathBuf> = Vec::new();
        nodes.extend(
            package
                .root
                .ancestors()
                .nth(3)
                .map(|prefix| prefix.join("bin/node")),
        );
        nodes.extend(self.on_path("node"));
        for folder in [
            self.home(".nvm/versions/node"),
            self.home(".local/share/nvm"),
        ] {
            nodes.extend(
                folder
                    .into_iter()
                    .flat_map(|folder| versions(&folder, "bin/node")),
            );
        }
        for folder in [
            self.home(".local/share/fnm/node-versions"),
            self.home(".fnm/node-versions"),
        ] {
            nodes.extend(
                folder
                    .into_iter()
                    .flat_map(|folder| versions(&folder, "installation/bin/node")),
            );
        }
        nodes.extend(
            self.home(".volta/tools/image/node")
                .into_iter()
                .flat_map(|folder| versions(&folder, "bin/node")),
        );
        nodes.extend(self.home(".local/bin/node"));
        nodes.extend(
            self.system_prefixes
                .iter()
                .map(|prefix| prefix.join("bin/node")),
        );
        let mut once = BTreeSet::new();
        nodes.retain(|node| {
            node.is_file() && once.insert(node.canonicalize().unwrap_or_else(|_| node.clone()))
        });
        nodes
    }
}

/// `<folder>/<version>/<below>` for every version there, newest first.
fn versions(folder: &Path, below: &str) -> Vec<PathBuf> {
    let mut names: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let numbers = entry
                .file_name()
                .to_string_lossy()
                .split(|letter: char| !letter.is_ascii_digit())
                .filter_map(|part| part.parse().ok())
                .collect();
            (numbers, entry.path().join(below))
        })
        .collect();
    names.sort();
    names.into_iter().rev().map(|(_, path)| path).collect()
}

fn npmrc_prefix(file: &Path, home: Option<&Path>) -> Option<PathBuf> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().rev().find_map(|line| {
        line.trim()
            .strip_prefix("prefix")?
            .trim_start()
            .strip_prefix('=')
    })?;
    let value = value.trim().trim_matches('"');
    let home = home.map(Path::to_string_lossy);
    let value = match (
        value
            .strip_prefix("~/")
            .or_else(|| value.strip_prefix("${HOME}/")),
        home,
    ) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => value.to_owned(),
    };
    Path::new(&value)
        .is_absolute()
        .then(|| PathBuf::from(value))
}

/// The package: what `command` names, else the `openclaw` on PATH, else a global package.
///
/// `command` is `[upstream] command` of our settings: empty, `[openclaw]` or `[node, openclaw]`.
///
/// # Errors
/// When there is none, or `command` names something else.
pub fn package(places: &Places, command: &[String]) -> Result<Package, FindError> {
    if let Some(named) = command.last() {
        return at(Path::new(named)).map_err(|why| FindError::NotAPackage {
            named: named.clone(),
            why,
        });
    }
    for launcher in places.on_path("openclaw") {
        if let Ok(package) = at(&launcher) {
            return Ok(package);
        }
    }
    let looked = places.package_roots();
    looked
        .iter()
        .find_map(|root| read_package(root).ok())
        .ok_or(FindError::NotInstalled { looked })
}

/// A Node for `package`: the one `named` (`[upstream] node`), the one `command` names, else the first found that is new enough.
///
/// # Errors
/// When there is none.
pub async fn node(
    places: &Places,
    package: &Package,
    command: &[String],
    named: Option<&Path>,
) -> Result<Node, FindError> {
    let candidates = match (named, command) {
        (Some(node), _) => vec![node.to_path_buf()],
        (None, [node, _, ..]) => vec![PathBuf::from(node)],
        (None, _) => places.nodes(package),
    };
    let mut seen = Vec::new();
    for program in candidates {
        match node_version(&program).await {
            Ok(version) if is_supported(&version) => return Ok(Node { program, version }),
            Ok(version) => seen.push((program, version)),
            Err(why) => seen.push((program, format!("not usable ({why})"))),
        }
    }
    Err(FindError::NoNode {
        seen,
        entry: package.entry().display().to_string(),
    })
}

/// The package a launcher, an entry file or a package folder belongs to.
fn at(named: &Path) -> Result<Package, String> {
    let real = named.canonicalize().map_err(|error| error.to_string())?;
    if real.is_dir() {
        return read_package(&real);
    }
    if real.file_name().is_some_and(|name| name == ENTRY) {
        return read_package(real.parent().unwrap_or(&real));
    }
    // A launcher written by pnpm or the like: a script that names the entry file.
    let entry = entry_in_script(&real)
        .ok_or_else(|| format!("{} does not start openclaw.mjs", real.display()))?;
    let entry = entry
        .canonicalize()
        .map_err(|error| format!("{}: {error}", entry.display()))?;
    read_package(entry.parent().unwrap_or(&entry))
}

fn entry_in_script(script: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    std::fs::File::open(script)
        .ok()?
        .take(SCRIPT_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    let end = text.find("openclaw/openclaw.mjs")? + "openclaw/openclaw.mjs".len();
    let start = text[..end]
        .rfind(['"', '\'', ' ', '\n', '='])
        .map_or(0, |at| at + 1);
    let path = &text[start..end];
    let folder = script.parent()?;
    for variable in ["$basedir/", "${basedir}/", "$basedir_win/"] {
        if let Some(rest) = path.strip_prefix(variable) {
            return Some(folder.join(rest));
        }
    }
    Path::new(path).is_absolute().then(|| PathBuf::from(path))
}

fn read_package(root: &Path) -> Result<Package, String> {
    #[derive(Deserialize)]
    struct Manifest {
        name: String,
        version: String,
    }
    let file = root.join("package.json");
    let text = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    if manifest.name != "openclaw" {
        return Err(format!(
            "{} is the package {:?}",
            root.display(),
            manifest.name
        ));
    }
    if !root.join(ENTRY).is_file() {
        return Err(format!("{} has no {ENTRY}; reinstall it", root.display()));
    }
    let root = root.canonicalize().map_err(|error| error.to_string())?;
    Ok(Package {
        root,
        version: manifest.version,
    })
}

async fn node_version(program: &Path) -> Result<String, String> {
    let asked = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, asked)
        .await
        .map_err(|_elapsed| "no answer to --version".to_owned())?
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .strip_prefix('v')
        .filter(|_| output.status.success())
        .map(str::to_owned)
        .ok_or_else(|| "--version does not answer a version".to_owned())
}

/// Whether a released Node of this version runs the original.
fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(_)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let (newest, _) = NODE_FLOORS[NODE_FLOORS.len() - 1];
    major > newest
        || NODE_FLOORS
            .iter()
            .any(|&(floor_major, floor_minor)| major == floor_major && minor >= floor_minor)
}

#[cfg(test)]
mod tests;
