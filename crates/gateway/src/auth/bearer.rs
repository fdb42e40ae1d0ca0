//! HTTP requests: a bearer is the shared secret, or on the Control UI's own routes a paired device's token.
//!
//! Source: src/gateway/http-auth-utils.ts at 2026.9.6.

use std::collections::VecDeque;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;

use super::attribution::{Attribution, header};
use super::credentials::{Counting, Denied, Method, Question, Sent, Surface, trimmed};
use super::http::HttpRefusal;
use super::limiter::{Class, Verdict};
use super::pairing::MadeBy;
use super::settings::Mode;
use super::{Auth, UpstreamTrust, scopes, secret};

/// Bearers that the upstream took a moment ago.
const ACCEPTED_MAX: usize = 256;
const ACCEPTED_TTL_MS: u64 = 60_000;

/// Which rule a route follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpSurface<'a> {
    /// `/v1/…`, `/tools/…`: the shared secret only.
    Api,
    /// What the Control UI reads: a device token will do. `query_token` is `?token=`, on the routes that take it.
    ControlUiRead { query_token: Option<&'a str> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAuth {
    Allowed(HttpPrincipal),
    Refused(HttpRefusal),
    /// The token may belong to a device of the upstream's: ask it, report with [`Auth::upstream_bearer_verdict`], and
    /// decide again; or pass the request on as it is.
    AskUpstream {
        token: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPrincipal {
    pub method: Method,
    pub scopes: Vec<String>,
    pub user: Option<String>,
}

#[derive(Default)]
pub(super) struct AcceptedBearers(Mutex<VecDeque<(String, u64)>>);

impl AcceptedBearers {
    fn accept(&self, token: &str, now_ms: u64) {
        let mut kept = self.0.lock();
        kept.retain(|(_, until_ms)| *until_ms > now_ms);
        if kept.len() == ACCEPTED_MAX {
            kept.pop_front();
        }
        kept.push_back((
            secret::sha256_hex(token.as_bytes()),
            now_ms + ACCEPTED_TTL_MS,
        ));
    }

    fn has(&self, token: &str, now_ms: u64) -> bool {
        let hash = secret::sha256_hex(token.as_bytes());
        self.0
            .lock()
            .iter()
            .any(|(own, until_ms)| *until_ms > now_ms && secret::equal(own, &hash))
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// `Authorization: Bearer <token>`; the scheme in any case.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let raw = trimmed(header(headers, "authorization").as_deref())?;
    let scheme = raw.get(..7)?;
    if !scheme.eq_ignore_ascii_case("bearer ") {
        return None;
    }
    trimmed(raw.get(7..))
}

impl Auth {
    /// Decides an HTTP request. The secret is read from the settings of this moment (GHSA-m8wm-r5vq-qjpg).
    pub fn bearer(
        &self,
        headers: &HeaderMap,
        attribution: &Attribution,
        surface: HttpSurface<'_>,
        upstream: UpstreamTrust,
        now_ms: u64,
    ) -> HttpAuth {
        let settings = self.settings();
        let is_read = matches!(surface, HttpSurface::ControlUiRead { .. });
        let token = bearer_token(headers).or_else(|| match surface {
            HttpSurface::ControlUiRead { query_token } => trimmed(query_token),
            HttpSurface::Api => None,
        });
        let key = attribution.client_ip.to_string();
        let deviceless = !is_read || matches!(settings.mode, Mode::TrustedProxy | Mode::None);
        let device_token = token.as_deref().filter(|_| !deviceless);
        let deferred = device_token.is_some();
        let counting = Counting {
            limiter: &self.limiter,
            key: &key,
            now_ms,
            deferred,
        };
        let question = Question {
            settings: &settings,
            attribution,
            headers,
            sent: &Sent::bearer(token.as_deref()),
            surface: Surface::Http,
            counting: (!is_read || token.is_some()).then_some(counting),
            tailscale_user: None,
        };
        let (verdict, delay) = question.decide();
        let denied = match verdict {
            Ok(granted) => {
                let scopes = declared_scopes(granted.method, is_read, attribution);
                return HttpAuth::Allowed(HttpPrincipal {
                    method: granted.method,
                    scopes,
                    user: granted.user,
                });
            }
            Err(denied) => denied,
        };
        match device_token {
            Some(token) if denied.reason != "proxy_attribution_required" => {
                self.device_bearer(token, &key, &denied, upstream, now_ms)
            }
            _ => HttpAuth::Refused(refusal(&denied, delay)),
        }
    }

    /// The answer to [`HttpAuth::AskUpstream`]: the upstream took the bearer, or said 401.
    pub fn upstream_bearer_verdict(
        &self,
        attribution: &Attribution,
        token: &str,
        accepted: bool,
        now_ms: u64,
    ) {
        if accepted {
            self.bearers.accept(token, now_ms);
            let key = attribution.client_ip.to_string();
            self.limiter.reset(&key, Class::DeviceToken);
            self.limiter.reset(&key, Class::SharedSecret);
        }
    }

    fn device_bearer(
        &self,
        token: &str,
        key: &str,
        denied: &Denied,
        upstream: UpstreamTrust,
        now_ms: u64,
    ) -> HttpAuth {
        let record_shared = || {
            if matches!(
                denied.reason.as_str(),
                "token_mismatch" | "password_mismatch"
            ) {
                return self
                    .limiter
                    .record_failure_and_delay(key, Class::SharedSecret, now_ms);
            }
            Duration::ZERO
        };
        if let Verdict::Locked { retry_after_ms } =
            self.limiter.check(key, Class::DeviceToken, now_ms)
        {
            let delay = record_shared();
            return HttpAuth::Refused(refusal(&Denied::limited(retry_after_ms), delay));
        }
        if let Some(scopes) = self.scopes_of_device_token(token, now_ms) {
            self.limiter.reset(key, Class::DeviceToken);
            return HttpAuth::Allowed(HttpPrincipal {
                method: Method::DeviceToken,
                scopes,
                user: None,
            });
        }
        // Counted even when the upstream is asked: its verdict takes the count back.
        let delay = record_shared().max(self.limiter.record_failure_and_delay(
            key,
            Class::DeviceToken,
            now_ms,
        ));
        if upstream == UpstreamTrust::Reachable && self.has_unknown_tokens() {
            return HttpAuth::AskUpstream {
                token: token.to_owned(),
            };
        }
        HttpAuth::Refused(refusal(denied, delay))
    }

    fn scopes_of_device_token(&self, token: &str, now_ms: u64) -> Option<Vec<String>> {
        if self.bearers.has(token, now_ms) {
            return Some(vec![scopes::READ.to_owned()]);
        }
        let (device_id, held) = self.read(|book| {
            book.paired.values().find_map(|own| {
                let entry = own
                    .tokens
                    .get("operator")
                    .filter(|entry| entry.revoked_at_ms.is_none())?;
                (entry.matches(token) == Some(true))
                    .then(|| (own.device_id.clone(), entry.scopes.clone()))
            })
        })?;
        let mut asked = vec![scopes::READ.to_owned()];
        asked.extend(held.iter().cloned());
        let generation = self.live.load().generation.clone();
        let verified = self.touch(|book| {
            book.verify_token(
                &device_id,
                "operator",
                &asked,
                token,
                generation.as_deref(),
                now_ms,
            )
        });
        verified.ok().map(|_| held)
    }

    fn has_unknown_tokens(&self) -> bool {
        self.read(|book| {
            let of_upstream = book
                .paired
                .values()
                .filter(|own| own.made_by != MadeBy::Local);
            of_upstream
                .filter_map(|own| own.tokens.get("operator"))
                .any(|entry| entry.revoked_at_ms.is_none() && entry.hash.is_none())
        })
    }
}

fn declared_scopes(method: Method, is_read: bool, attribution: &Attribution) -> Vec<String> {
    let default = || scopes::SHARED_SECRET_HTTP.map(str::to_owned).to_vec();
    let may_declare = method == Method::TrustedProxy || (method == Method::None && !is_read);
    match attribution.scopes_cap.as_deref().filter(|_| may_declare) {
        Some(header) => header
            .split(',')
            .map(str::trim)
            .filter(|own| !own.is_empty())
            .map(str::to_owned)
            .collect(),
        None => default(),
    }
}

fn refusal(denied: &Denied, delay: Duration) -> HttpRefusal {
    let mut refusal = match denied.retry_after_ms {
        Some(retry_after_ms) => HttpRefusal::rate_limited(retry_after_ms),
        None if denied.reason == "proxy_attribution_required" => {
            HttpRefusal::proxy_attribution_required()
        }
        None => HttpRefusal::unauthorized(denied.reason.clone()),
    };
    refusal.delay = delay;
    refusal
}
