//! Whose device an address of the tailnet is, as the daemon on this machine says.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::command::Tailscale;

/// Source: `readTailscaleWhoisIdentity` in src/infra/tailscale.ts at 2026.9.6.
const KEPT: Duration = Duration::from_secs(60);
/// After a failure.
const KEPT_FAILED: Duration = Duration::from_secs(5);
/// Addresses remembered; the rest is asked for each time.
const KEPT_MAX: usize = 1_024;

/// Processes at once, however many clients come.
const ASKED_MAX: usize = 4;

/// A login, or that there is none, and how long that is believed.
type Known = Option<(Option<String>, Instant)>;

/// What the daemon said a moment ago. One question about an address at a time.
#[derive(Debug)]
pub(super) struct Whois {
    known: Mutex<HashMap<IpAddr, Arc<tokio::sync::Mutex<Known>>>>,
    places: Semaphore,
}

impl Default for Whois {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            places: Semaphore::new(ASKED_MAX),
        }
    }
}

impl Whois {
    pub(super) async fn login(&self, tailscale: &Tailscale, address: IpAddr) -> Option<String> {
        let of_address = self.of(address);
        let mut known = of_address.lock().await;
        if let Some((login, until)) = &*known
            && *until > Instant::now()
        {
            return login.clone();
        }
        let place = self.places.acquire().await.ok()?;
        let asked = tailscale
            .json(&["whois", "--json", &address.to_string()])
            .await;
        drop(place);
        let (login, kept) = match asked {
            Ok(said) => (login_in(&said), KEPT),
            Err(error) => {
                tracing::warn!(%address, %error, "tailscale whois failed: its client must use the gateway's secret");
                (None, KEPT_FAILED)
            }
        };
        *known = Some((login.clone(), Instant::now() + kept));
        login
    }

    fn of(&self, address: IpAddr) -> Arc<tokio::sync::Mutex<Known>> {
        let mut known = self.known.lock();
        if known.len() >= KEPT_MAX {
            let now = Instant::now();
            known.retain(|_, one| match one.try_lock() {
                Ok(one) => one.as_ref().is_some_and(|(_, until)| *until > now),
                Err(_asked_now) => true,
            });
        }
        if let Some(one) = known.get(&address) {
            return Arc::clone(one);
        }
        let one = Arc::default();
        if known.len() < KEPT_MAX {
            known.insert(address, Arc::clone(&one));
        }
        one
    }
}

/// The places where one version or another has it. Source: `parseWhoisIdentity` at 2026.9.6.
fn login_in(said: &Value) -> Option<String> {
    let profile = ["UserProfile", "userProfile", "User"]
        .iter()
        .map(|name| &said[*name])
        .find(|profile| profile.is_object());
    let of = |holder: &Value, names: &[&str]| {
        names
            .iter()
            .filter_map(|name| holder[*name].as_str())
            .map(str::trim)
            .find(|login| !login.is_empty())
            .map(str::to_owned)
    };
    profile
        .and_then(|profile| of(profile, &["LoginName", "Login", "login"]))
        .or_else(|| of(said, &["LoginName", "login"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_login_is_found_where_each_version_has_it() {
        for said in [
            json!({"UserProfile": {"LoginName": " a@b.c "}}),
            json!({"UserProfile": {"LoginName": ""}, "LoginName": "a@b.c"}),
            json!({"User": {"login": "a@b.c"}}),
            json!({"login": "a@b.c"}),
        ] {
            assert_eq!(login_in(&said).as_deref(), Some("a@b.c"), "{said}");
        }
        assert_eq!(login_in(&json!({"UserProfile": {"LoginName": 7}})), None);
        assert_eq!(login_in(&json!([])), None);
    }
}
