//! Packs the schemas of the params, which are a seventh of their size so: each is read when its method is first called.

use std::io::Write as _;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/schema/params.txt");
    if let Err(error) = pack() {
        println!("cargo::error=src/schema/params.txt: {error}");
    }
}

fn pack() -> std::io::Result<()> {
    let plain = std::fs::read("src/schema/params.txt")?;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&plain)?;
    let folder = std::env::var_os("OUT_DIR").unwrap_or_default();
    std::fs::write(Path::new(&folder).join("params.zz"), packed.finish()?)
}
