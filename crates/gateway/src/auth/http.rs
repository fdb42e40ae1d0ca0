//! HTTP answers that refuse, byte for byte the original's.
//!
//! Source: src/gateway/http-common.ts at 2026.9.6.

use std::time::Duration;

/// A refused HTTP request or upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRefusal {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// Hold the answer back this long; zero unless a local client is guessing.
    pub delay: Duration,
    /// Why, for the log: the original's reason word.
    pub reason: String,
}

impl HttpRefusal {
    pub fn unauthorized(reason: impl Into<String>) -> Self {
        Self::json(
            401,
            r#"{"error":{"message":"Unauthorized","type":"unauthorized"}}"#,
            reason,
        )
    }

    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let mut refusal = Self::json(
            429,
            r#"{"error":{"message":"Too many failed authentication attempts. Please try again later.","type":"rate_limited"}}"#,
            "rate_limited",
        );
        if retry_after_ms > 0 {
            let seconds = retry_after_ms.div_ceil(1000);
            refusal
                .headers
                .insert(0, ("Retry-After", seconds.to_string()));
        }
        refusal
    }

    pub fn proxy_attribution_required() -> Self {
        Self::json(
            403,
            r#"{"error":{"message":"Proxy client attribution is required. Configure gateway.trustedProxies narrowly and make the proxy overwrite or safely rebuild forwarded client headers.","type":"proxy_attribution_required"}}"#,
            "proxy_attribution_required",
        )
    }

    fn json(status: u16, body: &str, reason: impl Into<String>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", "application/json; charset=utf-8".to_owned())],
            body: body.to_owned(),
            delay: Duration::ZERO,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_equal_the_originals() {
        let length = |refusal: HttpRefusal| (refusal.status, refusal.body.len());
        // Content-Length of the original's own answers.
        assert_eq!(length(HttpRefusal::unauthorized("x")), (401, 58));
        assert_eq!(
            length(HttpRefusal::proxy_attribution_required()),
            (403, 212)
        );
        let limited = HttpRefusal::rate_limited(1_001);
        assert_eq!(limited.status, 429);
        assert_eq!(limited.headers[0], ("Retry-After", "2".to_owned()));
        assert_eq!(HttpRefusal::rate_limited(0).headers.len(), 1);
    }
}
