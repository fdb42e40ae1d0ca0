//! The Matrix homeserver of the channel tests: Synapse in a Python environment of its own.

use super::{Setup, output, put};
use crate::Result;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Installs what `tests/synapse-requirements.txt` pins; the folder is named by Synapse's version,
/// and the tests find it by the same line.
pub(super) fn install(setup: &Setup<'_>) -> Result<PathBuf> {
    let requirements = setup.root.join("tests/synapse-requirements.txt");
    let pinned = fs::read_to_string(&requirements)
        .map_err(|e| format!("{}: {e}", requirements.display()))?;
    let Some(version) = pinned
        .lines()
        .find_map(|line| line.strip_prefix("matrix-synapse=="))
    else {
        return Err(format!(
            "{}: no line matrix-synapse==",
            requirements.display()
        ));
    };
    let place = setup.cache.join("synapse").join(version);
    if place.join("bin/python").exists() {
        return Ok(place);
    }
    let _held = setup.lock()?;
    if place.join("bin/python").exists() {
        return Ok(place);
    }
    let stage = setup.stage("synapse")?;
    // Debian's own: another Python on PATH may have no venv.
    output(
        Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(&stage),
    )?;
    let mut pip = Command::new(stage.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ])
    .args(["--disable-pip-version-check", "-r"])
    .arg(&requirements);
    setup.step(&format!("Synapse {version} (about 240 MB)"), &mut pip)?;
    put(&stage, &place)?;
    // Only `bin/python -m` is used: it works wherever the folder is.
    output(Command::new(place.join("bin/python")).args(["-c", "import synapse.app.homeserver"]))?;
    Ok(place)
}
