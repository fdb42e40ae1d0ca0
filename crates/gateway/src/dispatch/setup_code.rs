//! `device.pair.setupCode` with a supervised OpenClaw. The code says where a phone is to come; OpenClaw would say where it
//! listens itself, which is for this gateway alone. It is told our address, by the rules by which it finds its own.
//!
//! Source: `resolvePairingGatewayUrl` in src/pairing/setup-code.ts at 2026.9.6.

use std::net::Ipv4Addr;

use serde_json::{Map, Value};
use wire::error::ErrorShape;
use wire::frame::RequestFrame;

use crate::app::App;
use crate::ingress::listen;
use crate::native::system;

const METHOD: &str = "device.pair.setupCode";

/// The frame to send up in place of `text`; `None`: as it came.
///
/// # Errors
/// Where only the command line can make a code.
pub(super) fn told(
    app: &App,
    frame: &RequestFrame<'_>,
    text: &str,
) -> Result<Option<String>, ErrorShape> {
    if frame.method != METHOD || app.supervisor().is_none() {
        return Ok(None);
    }
    let params = frame.params.map_or("{}", |params| params.get());
    // What can't be read is the upstream's to refuse.
    let (Ok(mut params), Ok(mut whole)) = (
        serde_json::from_str::<Map<String, Value>>(params),
        serde_json::from_str::<Map<String, Value>>(text),
    ) else {
        return Ok(None);
    };
    let facts = app.facts.load();
    let tailscale = app.tailscale().and_then(|exposure| exposure.host.clone());
    let found = Around {
        tailscale,
        lan: system::lan_address,
        tailnet: || listen::tailnet_addresses().0,
    };
    match place(&params, &facts.config, facts.port, &found) {
        Place::Theirs => Ok(None),
        Place::Here(url) => {
            params.insert("publicUrl".to_owned(), url.into());
            whole.insert("params".to_owned(), params.into());
            Ok(Some(Value::Object(whole).to_string()))
        }
        Place::Pinned => Err(ErrorShape::invalid_request(
            "A phone must know this gateway's certificate: make the setup code with `openclaw qr` on the gateway's machine.",
        )),
    }
}

/// What of the machine decides.
struct Around {
    /// Its name in the tailnet, where Tailscale holds a route to here.
    tailscale: Option<String>,
    lan: fn() -> Option<Ipv4Addr>,
    tailnet: fn() -> Option<Ipv4Addr>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The caller or the user's file says it, or there is none beyond this machine, which OpenClaw says too.
    Theirs,
    Here(String),
    /// Over TLS with a certificate that is in no code but one that OpenClaw's command line makes.
    Pinned,
}

fn place(params: &Map<String, Value>, config: &Value, port: u16, around: &Around) -> Place {
    let is_said = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    let gateway = &config["gateway"];
    if params.get("publicUrl").is_some_and(is_said)
        || params.get("preferRemoteUrl") == Some(&Value::Bool(true))
        || is_said(&config["plugins"]["entries"]["device-pair"]["config"]["publicUrl"])
    {
        return Place::Theirs;
    }
    if let Some(name) = &around.tailscale {
        return Place::Here(format!("wss://{name}"));
    }
    if is_said(&gateway["remote"]["url"]) {
        return Place::Theirs;
    }
    let host = match gateway["bind"].as_str() {
        Some("lan") => (around.lan)().filter(Ipv4Addr::is_private),
        Some("tailnet") => (around.tailnet)(),
        Some("custom") => gateway["customBindHost"]
            .as_str()
            .and_then(|host| host.trim().parse().ok()),
        _ => None,
    };
    match host {
        None => Place::Theirs,
        Some(_) if gateway["tls"]["enabled"] == true => Place::Pinned,
        Some(host) => Place::Here(format!("ws://{host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_phone_is_sent_to_where_it_can_come() {
        let at_home = || Around {
            tailscale: None,
            lan: || Some(Ipv4Addr::new(192, 168, 1, 7)),
            tailnet: || Some(Ipv4Addr::new(100, 100, 1, 7)),
        };
        let check = |params: Value, gateway: Value, around: Around, expected: Place| {
            let params = params.as_object().cloned().expect("params");
            let config = json!({ "gateway": gateway });
            assert_eq!(
                place(&params, &config, 18789, &around),
                expected,
                "{gateway}"
            );
        };
        let here = |url: &str| Place::Here(url.to_owned());
        check(json!({}), json!({}), at_home(), Place::Theirs);
        let lan = json!({ "bind": "lan" });
        check(
            json!({}),
            lan.clone(),
            at_home(),
            here("ws://192.168.1.7:18789"),
        );
        check(
            json!({ "publicUrl": "wss://x" }),
            lan.clone(),
            at_home(),
            Place::Theirs,
        );
        check(
            json!({ "preferRemoteUrl": true }),
            lan.clone(),
            at_home(),
            Place::Theirs,
        );
        let public = Around {
            lan: || Some(Ipv4Addr::new(203, 0, 113, 7)),
            ..at_home()
        };
        check(json!({}), lan, public, Place::Theirs);
        check(
            json!({}),
            json!({ "bind": "tailnet" }),
            at_home(),
            here("ws://100.100.1.7:18789"),
        );
        let custom = json!({ "bind": "custom", "customBindHost": "10.0.0.7" });
        check(json!({}), custom, at_home(), here("ws://10.0.0.7:18789"));
        let secure = json!({ "bind": "lan", "tls": { "enabled": true } });
        check(json!({}), secure.clone(), at_home(), Place::Pinned);
        let served = Around {
            tailscale: Some("desk.tail.ts.net".to_owned()),
            ..at_home()
        };
        check(json!({}), secure, served, here("wss://desk.tail.ts.net"));
        let elsewhere = json!({ "bind": "lan", "remote": { "url": "wss://far" } });
        check(json!({}), elsewhere, at_home(), Place::Theirs);
    }
}
