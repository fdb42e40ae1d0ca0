//! Packs the recorded schema, a ninth of its size then, and says how the release binary for Linux is linked. It carries no symbols: `strip = true` in the profile would say so, but Cargo
//! forgets it for a package with profile settings of its own, which this one has.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// The first glibc whose loader takes packed relative relocations.
const GLIBC_WITH_RELR: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(error) = pack("src/config/schema/core.json") {
        println!("cargo::error={error}");
    }
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    link("--strip-all");
    // Known to lld, which is this target's linker since Rust 1.90.
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        // Functions that came out the same are kept once: 0.3 MB less.
        link("--icf=all");
        // A megabyte less, for systems at least as new; a build on an older one runs there.
        if glibc().is_some_and(|version| version >= GLIBC_WITH_RELR) {
            link("-z,pack-relative-relocs");
        }
    }
}

/// Leaves the file in the build's own folder, as zlib has it.
fn pack(file: &str) -> std::io::Result<()> {
    println!("cargo::rerun-if-changed={file}");
    let plain = std::fs::read(file)?;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&plain)?;
    let name = Path::new(file).file_name().unwrap_or_default();
    let folder = std::env::var_os("OUT_DIR").unwrap_or_default();
    std::fs::write(
        Path::new(&folder).join(name).with_added_extension("zz"),
        packed.finish()?,
    )
}

fn link(option: &str) {
    println!("cargo::rustc-link-arg-bins=-Wl,{option}");
}

/// This machine's, as `getconf` has it: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
