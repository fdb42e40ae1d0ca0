//! What the linker must know of a Node addon.

fn main() {
    napi_build::setup();
}
