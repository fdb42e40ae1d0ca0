//! Packs the texts that the binary carries, and says how the release binary for Linux is linked. It carries no symbols: `strip = true` in the profile would say so, but Cargo
//! forgets it for a package with profile settings of its own, which this one has.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

/// The first glibc whose loader takes packed relative relocations.
const GLIBC_WITH_RELR: (u32, u32) = (2, 36);

/// Files and folders below `src`.
const TEXTS: [&str; 5] = [
    "config/redact/hints.json",
    "config/schema/core.json",
    "console/chat",
    "console/page",
    "messages/api/openapi.json",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for text in TEXTS {
        println!("cargo::rerun-if-changed=src/{text}");
        if let Err(error) = pack(&Path::new("src").join(text)) {
            println!("cargo::error=src/{text}: {error}");
        }
    }
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    // For what weighs how much (`bench/sizes.mjs`).
    println!("cargo::rerun-if-env-changed=CARGO_PROFILE_RELEASE_STRIP");
    if !is("CARGO_PROFILE_RELEASE_STRIP", "none") {
        link("--strip-all");
    }
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

/// Leaves a file, or those of a folder, in the build's own folder, as zlib has them.
fn pack(text: &Path) -> std::io::Result<()> {
    if text.is_dir() {
        for entry in std::fs::read_dir(text)? {
            pack(&entry?.path())?;
        }
        return Ok(());
    }
    let plain = std::fs::read(text)?;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&plain)?;
    let folder = std::env::var_os("OUT_DIR").unwrap_or_default();
    let place = text.strip_prefix("src").unwrap_or(text);
    let place = Path::new(&folder).join(place).with_added_extension("zz");
    std::fs::create_dir_all(place.parent().unwrap_or(&place))?;
    std::fs::write(place, packed.finish()?)
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
