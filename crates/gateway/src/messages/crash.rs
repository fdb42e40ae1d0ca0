//! Named places at which a debug build kills itself, so that tests can see what a crash there leaves.

/// Aborts when `OPENCLAW_RS_CRASH_AT` names this place. Nothing in release builds.
macro_rules! crash_point {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::messages::crash::reached($name);
        }
    };
}
pub(crate) use crash_point;

/// `name`, or `name#3`: at the third time.
pub(crate) fn reached(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("OPENCLAW_RS_CRASH_AT").ok()?;
        let (name, times) = match text.split_once('#') {
            Some((name, times)) => (name.to_owned(), times.parse().ok()?),
            None => (text, 1),
        };
        Some((name, times))
    });
    if let Some((at, times)) = wanted
        && at == name
        && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        // As kill -9: nothing is flushed, nothing is said.
        std::process::abort();
    }
}
