use serde_json::json;

use super::*;
use crate::config::Secret;

fn read_env(config: &Value, vars: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path().to_string_lossy().into_owned();
    let mut env = Env::from_pairs(vars.iter().copied());
    env.set("OPENCLAW_STATE_DIR", &*root);
    env.set("HOME", &*root);
    let text = serde_json::to_string_pretty(config).expect("json");
    let text = text.replace("~dir~", &root);
    std::fs::write(dir.path().join("openclaw.json"), text).expect("write");
    let secret = dir.path().join("secret.json");
    std::fs::write(&secret, r#"{"gateway":{"token":"from-file"}}"#).expect("write");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let paths = Paths::resolve(&env).expect("paths");
    let document = ConfigDocument::read(&paths, &env);
    Settings::read(&document, &paths).map_err(|error| error.to_string().replace(&root, "~"))
}

pub(crate) fn read(config: &Value) -> Result<Settings, String> {
    read_env(config, &[])
}

#[test]
fn defaults() {
    let settings = read(&json!({"gateway": {"bind": "loopback"}})).expect("valid");
    assert_eq!(
        (settings.mode, settings.port, settings.bind),
        (None, 18789, BindMode::Loopback)
    );
    assert_eq!(settings.auth.mode, AuthMode::Token);
    assert_eq!(settings.auth.mode_source, AuthModeSource::Default);
    assert!(settings.auth.token.is_none() && settings.auth.check_configured().is_err());
    assert_eq!(settings.auth.rate_limit, RateLimit::default());
    assert!(settings.control_ui.enabled && settings.nodes.pairing.auto_approve_local);
    assert_eq!(settings.agents.ids, ["main"]);
    assert_eq!(settings.agents.default_id.as_deref(), Some("main"));
    assert_eq!(settings.hooks.path, "/hooks");
    assert_eq!(settings.reload, ReloadMode::Hybrid);
}

#[test]
fn values() {
    let settings = read(&json!({
        "gateway": {
            "mode": "local", "port": 4000, "bind": "custom", "customBindHost": "10.0.0.1",
            "auth": {"mode": "trusted-proxy", "trustedProxy": {"userHeader": "x-user"}, "rateLimit": {"maxAttempts": 3}},
            "trustedProxies": ["10.0.0.0/8"],
            "controlUi": {"basePath": "ui/", "allowedOrigins": [" https://a ", ""]},
            "http": {"endpoints": {"responses": {"enabled": true}}, "securityHeaders": {"strictTransportSecurity": false}},
            "tls": {"enabled": true, "certPath": "~/c.pem"},
        },
        "agents": {"entries": {"Ops Team": {"name": "Ops"}, "b": {"default": true}}},
        "session": {"dmScope": "per-peer", "identityLinks": {"a": ["telegram:1"]}},
        "hooks": {"enabled": true, "token": "t", "path": "in/"},
    }))
    .expect("valid");
    assert_eq!(settings.bind, BindMode::Custom(Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(settings.auth.rate_limit.max_attempts, 3);
    assert_eq!(settings.control_ui.base_path, "/ui");
    assert_eq!(settings.control_ui.allowed_origins, ["https://a"]);
    assert!(settings.http.responses && !settings.http.chat_completions);
    assert!(settings.tls.cert_path.is_absolute());
    assert_eq!(settings.agents.ids, ["ops-team", "b"]);
    assert_eq!(settings.agents.default_id.as_deref(), Some("b"));
    assert_eq!(settings.hooks.path, "/in");
    assert_eq!(settings.session.identity_links["a"], ["telegram:1"]);
}

#[test]
fn credentials_come_in_the_original_s_order() {
    let auth = |auth: Value, vars: &[(&str, &str)]| {
        let config = json!({"gateway": {"auth": auth, "bind": "loopback"}});
        read_env(&config, vars).map(|settings| {
            let auth = settings.auth;
            let show =
                |secret: Option<Secret>| secret.map_or("-".to_owned(), |s| s.expose().to_owned());
            format!(
                "{} {} {}",
                auth.mode.as_str(),
                show(auth.token),
                show(auth.password)
            )
        })
    };
    let env_token = ("OPENCLAW_GATEWAY_TOKEN", "env");
    let env_password = ("OPENCLAW_GATEWAY_PASSWORD", "envpw");
    assert_eq!(auth(json!({}), &[env_token]), Ok("token env -".to_owned()));
    assert_eq!(
        auth(json!({}), &[env_token, env_password]),
        Ok("password env envpw".to_owned())
    );
    assert_eq!(
        auth(json!({"token": "file"}), &[env_token]),
        Ok("token file -".to_owned())
    );
    assert_eq!(
        auth(json!({"token": " file "}), &[]),
        Ok("token file -".to_owned())
    );
    assert_eq!(
        auth(json!({"token": "${T}"}), &[("T", "sub")]),
        Ok("token sub -".to_owned())
    );
    assert_eq!(
        auth(json!({"token": "${T}"}), &[env_token]),
        Ok("token env -".to_owned())
    );
    assert_eq!(
        auth(json!({"password": "pw"}), &[]),
        Ok("password - pw".to_owned())
    );
    assert_eq!(
        auth(json!({"mode": "none"}), &[]),
        Ok("none - -".to_owned())
    );
    let env_ref = json!({"source": "env", "provider": "default", "id": "T"});
    assert_eq!(
        auth(json!({"token": env_ref}), &[("T", "ref")]),
        Ok("token ref -".to_owned())
    );
    assert_eq!(
        auth(json!({"token": "$T"}), &[("T", "ref")]),
        Ok("token ref -".to_owned())
    );
    let fails = |value: Value, vars: &[(&str, &str)], part: &str| {
        let error = auth(value, vars).expect_err("an error");
        assert!(error.contains(part), "{error}");
    };
    fails(
        json!({"token": env_ref}),
        &[env_token],
        "Environment variable \"T\" is missing or empty.",
    );
    fails(
        json!({"token": {"source": "exec", "provider": "x", "id": "T"}}),
        &[],
        "Secret provider \"x\" is not configured (ref: exec:x:T).",
    );
    fails(
        json!({"token": {"source": "store", "id": "T"}}),
        &[],
        "is resolved by OpenClaw only",
    );
    fails(
        json!({"token": "a", "password": "b"}),
        &[],
        "gateway.auth.mode is unset",
    );
    fails(
        json!({"token": "change-me-now"}),
        &[],
        "published example placeholder",
    );
    fails(
        json!({"token": "__OPENCLAW_REDACTED__"}),
        &[],
        "redaction sentinel",
    );
}

#[test]
fn secrets_come_from_files() {
    let config = |path: &str, id: &str| {
        json!({
            "gateway": {"auth": {"mode": "token", "token": {"source": "file", "provider": "p", "id": id}}},
            "secrets": {"providers": {"p": {"source": "file", "path": path}}},
        })
    };
    let settings = read(&config("~dir~/secret.json", "/gateway/token")).expect("valid");
    assert_eq!(
        settings.auth.token.as_ref().map(Secret::expose),
        Some("from-file")
    );
    let error = read(&config("~dir~/secret.json", "/gateway/x")).expect_err("no such pointer");
    assert!(
        error.contains("JSON pointer /gateway/x does not exist"),
        "{error}"
    );
    let error = read(&config("~dir~/openclaw.json", "/gateway/x")).expect_err("readable by all");
    assert!(error.contains("owner only"), "{error}");
}

#[test]
fn wrong_types_name_the_place() {
    let fails = |config: Value, want: &str| {
        let error = read(&config).expect_err("invalid");
        assert!(error.starts_with(want), "{error}");
    };
    fails(
        json!({"gateway": {"port": "x"}}),
        "~/openclaw.json:3:5: gateway.port: Invalid input: expected number, received string;",
    );
    fails(
        json!({"gateway": {"port": 0}}),
        "~/openclaw.json:3:5: gateway.port: Too small: expected number to be >=1;",
    );
    fails(
        json!({"gateway": {"bind": "all"}}),
        "~/openclaw.json:3:5: gateway.bind: Invalid input (allowed: \"auto\", \"lan\"",
    );
    fails(
        json!({"gateway": {"trustedProxies": ["a", 3]}}),
        "~/openclaw.json:5:7: gateway.trustedProxies[1]: Invalid input: expected string, received number;",
    );
    fails(
        json!({"gateway": {"bind": "custom"}}),
        "~/openclaw.json:2:3: gateway.customBindHost: gateway.bind=custom requires",
    );
    fails(
        json!({"hooks": {"enabled": true}}),
        "~/openclaw.json:3:5: hooks.enabled: hooks.enabled requires hooks.token",
    );
}

#[test]
fn exposure_needs_a_secret() {
    let settings = |gateway: Value| read(&json!({"gateway": gateway})).expect("valid");
    let token = json!({"mode": "token", "token": "secret"});
    let lan = settings(json!({"bind": "lan", "auth": token}));
    let error = lan
        .check_exposure("0.0.0.0")
        .expect_err("no origins")
        .to_string();
    assert!(
        error.starts_with("non-loopback Control UI requires"),
        "{error}"
    );
    assert!(lan.check_exposure("127.0.0.1").is_ok());
    let none = settings(json!({"bind": "lan", "auth": {"mode": "none"}}));
    let error = none
        .check_exposure("0.0.0.0")
        .expect_err("open")
        .to_string();
    assert!(
        error.starts_with("refusing to bind gateway to 0.0.0.0:18789 without auth"),
        "{error}"
    );
    let ok = settings(json!({"auth": token, "controlUi": {"allowedOrigins": ["https://a"]}}));
    assert!(ok.check_exposure("0.0.0.0").is_ok());
}

#[test]
fn agent_ids_are_normalised() {
    for (id, want) in [
        ("Main", "main"),
        (" a b ", "a-b"),
        ("", "main"),
        ("--x--", "x"),
        ("é", "main"),
        ("_x", "_x"),
    ] {
        assert_eq!(normalize_agent_id(id), want, "{id}");
    }
}

#[test]
fn container_marks() {
    assert!(names_container("0::/docker/abc") && names_container("1:x:/lxc/a"));
    assert!(names_container("0::/system.slice/cri-containerd-a1.scope"));
    assert!(!names_container("0::/init.scope") && !names_container("0::/flxcs"));
}
