//! One target for libFuzzer, named by `FUZZ_TARGET`. Without libFuzzer in the build, the files named are run once each.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: std::sync::LazyLock<fuzz::Target> = std::sync::LazyLock::new(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        if name == "media" {
            // libFuzzer ends at any panic; those of decoders are caught, and what is not is still seen by its wrapper.
            std::panic::set_hook(Box::new(|_| {}));
        }
        fuzz::find(&name).unwrap_or_else(|error| panic!("FUZZ_TARGET: {error}"))
    });
    (TARGET.run)(bytes);
});

#[cfg(not(fuzzing))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let target = fuzz::find(&args.next().unwrap_or_default())?;
    for file in args {
        (target.run)(&std::fs::read(file)?);
    }
    Ok(())
}
