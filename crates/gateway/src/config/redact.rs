//! Hides secrets in what `config.get` shows, and puts them back in what is written.

/// Stands for a hidden value. Source: src/config/redact-sentinel.ts at 2026.9.6.
pub const SENTINEL: &str = "__OPENCLAW_REDACTED__";
