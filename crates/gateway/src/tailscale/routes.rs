//! What `tailscale serve status --json` and `tailscale funnel status --json` say of routes that are there already.

use serde_json::Value;

/// A route in the background that an older OpenClaw left for this gateway: the root of the HTTPS port 443 with nothing
/// else on that port, leading to `http://127.0.0.1:<port>`. Source: `extractTailscaleServeGatewayUrls` with `forAdoption`
/// in src/shared/tailscale-status.ts at 2026.9.6.
pub(super) fn is_left_by_openclaw(status: &Value, port: u16) -> bool {
    if status["TCP"]["443"]["HTTPS"] != Value::Bool(true) {
        return false;
    }
    let Some(web) = status["Web"].as_object() else {
        return false;
    };
    let on_443: Vec<&Value> = web
        .iter()
        .filter(|(name, _)| https_port(name) == Some(443))
        .map(|(_, server)| server)
        .collect();
    let [server] = on_443[..] else { return false };
    let Some(handlers) = server["Handlers"].as_object().filter(|all| all.len() == 1) else {
        return false;
    };
    let target = handlers.get("/").and_then(|root| root["Proxy"].as_str());
    target.is_some_and(|target| {
        let target = target.strip_suffix('/').unwrap_or(target);
        ["127.0.0.1", "localhost"]
            .iter()
            .any(|host| target == format!("http://{host}:{port}"))
    })
}

/// Whether a Funnel leads to this gateway's ordinary port.
pub(super) fn funnels_to(status: &Value, port: u16) -> bool {
    let Some(open) = status["AllowFunnel"].as_object() else {
        return false;
    };
    open.iter()
        .filter(|(_, is_open)| **is_open == Value::Bool(true))
        .filter_map(|(name, _)| status["Web"][name]["Handlers"].as_object())
        .flat_map(|handlers| handlers.values())
        .filter_map(|handler| handler["Proxy"].as_str())
        .any(|target| leads_to(target, port))
}

fn leads_to(target: &str, port: u16) -> bool {
    let bare = target.split_once("://").map_or(target, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or_default();
    if bare == port.to_string() {
        return true;
    }
    bare.rsplit_once(':').is_some_and(|(host, its_port)| {
        its_port == port.to_string() && matches!(host, "127.0.0.1" | "localhost" | "[::1]" | "::1")
    })
}

fn https_port(name: &str) -> Option<u16> {
    match name.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => Some(443),
    }
}

/// Who holds an HTTPS port: the session in the foreground and where it leads, for the person who must decide.
pub(super) fn holder(status: &Value, port: u16) -> Option<String> {
    let sessions = status["Foreground"].as_object()?;
    let (session, config) = sessions
        .iter()
        .find(|(_, config)| !config["TCP"][port.to_string()].is_null())?;
    let route = config["Web"].as_object().and_then(|web| {
        let (name, server) = web
            .iter()
            .find(|(name, _)| https_port(name) == Some(port))?;
        let (path, handler) = server["Handlers"].as_object()?.iter().next()?;
        let target = handler["Proxy"].as_str().unwrap_or("no proxy");
        Some(format!("https://{name}{path} -> {target}"))
    });
    let route = route.unwrap_or_else(|| format!("HTTPS port {port}"));
    Some(format!(
        "session {session} ({})",
        route.chars().take(512).collect::<String>()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn serve(name: &str, handlers: &Value) -> Value {
        json!({"TCP": {"443": {"HTTPS": true}}, "Web": {name: {"Handlers": handlers}}})
    }

    #[test]
    fn only_what_is_certainly_an_older_openclaw_s_is_taken_over() {
        let root = |target: &str| serve("box.ts.net:443", &json!({"/": {"Proxy": target}}));
        for target in [
            "http://127.0.0.1:18789",
            "http://localhost:18789",
            "http://127.0.0.1:18789/",
        ] {
            assert!(is_left_by_openclaw(&root(target), 18789), "{target}");
        }
        for target in [
            "http://127.0.0.1:18790",
            "https://127.0.0.1:18789",
            "http://127.0.0.2:18789",
            "http://127.0.0.1:18789/x",
            "18789",
        ] {
            assert!(!is_left_by_openclaw(&root(target), 18789), "{target}");
        }
        let two = serve(
            "box.ts.net:443",
            &json!({"/": {"Proxy": "http://127.0.0.1:18789"}, "/other": {"Proxy": "http://127.0.0.1:3000"}}),
        );
        assert!(!is_left_by_openclaw(&two, 18789));
        let mut shared = root("http://127.0.0.1:18789");
        shared["Web"]["svc.ts.net:443"] =
            json!({"Handlers": {"/": {"Proxy": "http://127.0.0.1:3000"}}});
        assert!(!is_left_by_openclaw(&shared, 18789));
        let elsewhere = serve(
            "box.ts.net:8443",
            &json!({"/": {"Proxy": "http://127.0.0.1:18789"}}),
        );
        assert!(!is_left_by_openclaw(&elsewhere, 18789));
        assert!(!is_left_by_openclaw(&json!({}), 18789));
    }

    #[test]
    fn an_open_funnel_is_seen_and_a_closed_one_is_not() {
        let status = |open: bool, target: &str| {
            json!({"AllowFunnel": {"box.ts.net:443": open},
                   "Web": {"box.ts.net:443": {"Handlers": {"/": {"Proxy": target}}}}})
        };
        assert!(funnels_to(&status(true, "http://127.0.0.1:18789"), 18789));
        assert!(funnels_to(&status(true, "http://[::1]:18789/hook"), 18789));
        assert!(funnels_to(&status(true, "18789"), 18789));
        assert!(!funnels_to(&status(false, "http://127.0.0.1:18789"), 18789));
        assert!(!funnels_to(&status(true, "http://10.0.0.1:18789"), 18789));
    }

    #[test]
    fn who_holds_a_port_is_named() {
        let status = json!({"Foreground": {"abc": {"TCP": {"443": {"HTTPS": true}},
            "Web": {"box.ts.net:443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:9"}}}}}}});
        assert_eq!(
            holder(&status, 443).as_deref(),
            Some("session abc (https://box.ts.net:443/ -> http://127.0.0.1:9)")
        );
        assert_eq!(holder(&status, 8443), None);
    }
}
