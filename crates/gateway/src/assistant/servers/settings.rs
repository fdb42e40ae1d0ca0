//! `mcp.servers` of the user's file: which servers there are, and which keys mean less here than with OpenClaw.
//!
//! Source: docs/cli/mcp/transports.md, mcp-transport-config.ts and mcp-stdio.ts at 2026.9.6.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mcp::filter::Filter;
use serde_json::{Map, Value};

use crate::assistant::exec;

/// More servers than this are left out, the last ones in the file first.
const SERVERS_MAX: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// For the list of tools, unless the file says how long an answer may take.
const LIST_WITHIN: Duration = Duration::from_millis(1500);
/// As long as the original's timers go.
const WITHIN_MAX: Duration = Duration::from_millis(2_147_483_647);

/// Of a program's environment it gets these, and what the file says. Source: getDefaultEnvironment of the TypeScript SDK.
const INHERITED: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

const OAUTH: &str = "signing in by OAuth is not done here: the server is left out. Give it a header with a token, or run its agents with OpenClaw";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Way {
    Pipes {
        command: String,
        args: Vec<String>,
        /// All of it.
        environment: BTreeMap<String, String>,
        cwd: Option<PathBuf>,
    },
    Http {
        url: reqwest::Url,
        headers: HeaderMap,
        /// With one stream of events, as servers of 2024.
        is_legacy: bool,
    },
}

/// One server that is wanted. Equal ones need no new connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(super) name: String,
    /// Before each of its tools' names.
    pub(super) safe_name: String,
    pub(super) way: Way,
    pub(super) connect_within: Duration,
    pub(super) answer_within: Duration,
    pub(super) list_within: Duration,
    pub(super) filter: Filter,
}

impl Spec {
    /// `stdio`, `sse`, `streamable-http`.
    pub(super) const fn transport(&self) -> &'static str {
        match &self.way {
            Way::Pipes { .. } => "stdio",
            Way::Http {
                is_legacy: true, ..
            } => "sse",
            Way::Http { .. } => "streamable-http",
        }
    }
}

/// A server that is configured and not switched off, or why it cannot be one.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) spec: Result<Spec, String>,
}

fn configured(config: &Value) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let servers = config.pointer("/mcp/servers").and_then(Value::as_object);
    servers
        .into_iter()
        .flatten()
        .filter_map(|(name, entry)| Some((name, entry.as_object()?)))
}

/// Every server of the file that is not switched off, in the file's order. `variable`: of our environment.
pub(super) fn read(config: &Value, variable: &dyn Fn(&str) -> Option<String>) -> Vec<Named> {
    let wanted: Vec<_> = configured(config)
        .filter(|(_, entry)| entry.get("enabled") != Some(&Value::Bool(false)))
        .collect();
    let safe_names = mcp::names::of_servers(wanted.iter().map(|(name, _)| name.as_str()));
    let specs = wanted.iter().zip(safe_names).enumerate();
    specs
        .map(|(at, ((name, entry), safe_name))| Named {
            name: (*name).clone(),
            spec: match at < SERVERS_MAX {
                true => spec(name, safe_name, entry, variable),
                false => Err(format!("only the first {SERVERS_MAX} servers are used")),
            },
        })
        .collect()
}

fn spec(
    name: &str,
    safe_name: String,
    entry: &Map<String, Value>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Spec, String> {
    let text = |key: &str| {
        let text = entry.get(key).and_then(Value::as_str).map(str::trim);
        text.filter(|text| !text.is_empty())
    };
    let within = |key: &str| {
        let ms = entry.get(key).and_then(Value::as_f64);
        let ms = ms.filter(|ms| *ms > 0.0 && ms.is_finite());
        ms.map(|ms| Duration::from_secs_f64((ms / 1000.0).min(WITHIN_MAX.as_secs_f64())))
    };
    let answer_within = within("requestTimeoutMs");
    let way = match text("command") {
        Some(command) => pipes(name, command, entry, variable)?,
        None => http(&text, entry, variable)?,
    };
    Ok(Spec {
        name: name.to_owned(),
        safe_name,
        way,
        connect_within: within("connectionTimeoutMs").unwrap_or(CONNECT_WITHIN),
        answer_within: answer_within.unwrap_or(ANSWER_WITHIN),
        list_within: answer_within.unwrap_or(LIST_WITHIN),
        filter: Filter::read(entry.get("toolFilter").unwrap_or(&Value::Null)),
    })
}

fn pipes(
    name: &str,
    command: &str,
    entry: &Map<String, Value>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Way, String> {
    let mut environment: BTreeMap<String, String> = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), variable(name)?)))
        // A function of the shell that exported it.
        .filter(|(_, value)| !value.starts_with("()"))
        .collect();
    for (key, value) in texts(entry.get("env"), variable)? {
        match exec::is_dangerous_for_servers(&key) {
            true => tracing::warn!(
                server = name,
                variable = key,
                "a variable of an MCP server changes what programs load or run; it is left out"
            ),
            false => drop(environment.insert(key, value)),
        }
    }
    let args = entry.get("args").and_then(Value::as_array);
    let args = args.into_iter().flatten().filter_map(Value::as_str);
    let cwd = ["cwd", "workingDirectory"].iter().find_map(|key| {
        let cwd = entry.get(*key).and_then(Value::as_str);
        cwd.filter(|cwd| !cwd.trim().is_empty())
    });
    Ok(Way::Pipes {
        command: command.to_owned(),
        args: args.map(str::to_owned).collect(),
        environment,
        cwd: cwd.map(PathBuf::from),
    })
}

fn http<'a>(
    text: &dyn Fn(&str) -> Option<&'a str>,
    entry: &Map<String, Value>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Way, String> {
    let transport = text("transport").or_else(|| match text("type")? {
        "http" => Some("streamable-http"),
        other => Some(other),
    });
    let is_legacy = match transport.map(str::to_lowercase).as_deref() {
        None | Some("sse") => true,
        Some("streamable-http") => false,
        Some("stdio") => return Err("its command is missing".to_owned()),
        Some(other) => {
            return Err(format!(
                "transport {other} is none of stdio, sse, streamable-http"
            ));
        }
    };
    let Some(address) = text("url") else {
        return Err("it has neither a command nor a url".to_owned());
    };
    let url =
        reqwest::Url::parse(address).map_err(|error| format!("its url cannot be used: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "its url is {}: only http and https are spoken",
            url.scheme()
        ));
    }
    if text("auth") == Some("oauth") {
        return Err(OAUTH.to_owned());
    }
    let mut headers = HeaderMap::new();
    for (name, value) in texts(entry.get("headers"), variable)? {
        let header = HeaderName::try_from(&name).ok();
        let value = HeaderValue::try_from(&value).ok();
        let (Some(header), Some(mut value)) = (header, value) else {
            return Err(format!("its header {name} is no HTTP header"));
        };
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(Way::Http {
        url,
        headers,
        is_legacy,
    })
}

/// Texts by name; numbers and switches count as texts, `{source: "env", id}` as what stands in that variable. What is
/// none of them is left out, as by the original.
fn texts(
    given: Option<&Value>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, String> {
    let mut texts = Vec::new();
    for (name, value) in given.and_then(Value::as_object).into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Object(secret) => {
                let text = |key: &str| secret.get(key).and_then(Value::as_str).map(str::trim);
                let (Some(source), Some(id)) = (text("source"), text("id")) else {
                    continue;
                };
                if source != "env" {
                    return Err(format!(
                        "{name} is a secret from {source}: only those from env are read here"
                    ));
                }
                variable(id)
                    .ok_or_else(|| format!("{name} is in the variable {id}, which is not set"))?
            }
            _ => continue,
        };
        texts.push((name.clone(), value));
    }
    Ok(texts)
}

/// How long servers of a session stay without a turn; `None`: as long as the session.
pub(super) fn idle(config: &Value) -> Option<Duration> {
    let ms = config.pointer("/mcp/sessionIdleTtlMs")?.as_f64()?;
    (ms >= 1.0 && ms.is_finite()).then(|| Duration::from_secs_f64((ms.floor() / 1000.0).min(1e9)))
}

/// Keys under `mcp` that mean something to OpenClaw and nothing, or less, here: each with what happens instead.
pub(crate) fn unhonoured(config: &Value) -> Vec<String> {
    const HONOURED: [&str; 14] = [
        "enabled",
        "command",
        "args",
        "env",
        "cwd",
        "workingDirectory",
        "url",
        "transport",
        "type",
        "headers",
        "requestTimeoutMs",
        "connectionTimeoutMs",
        "toolFilter",
        // Of another program alone.
        "codex",
    ];
    const LESS: [(&str, &str); 6] = [
        ("auth", OAUTH),
        ("oauth", "signing in by OAuth is not done here"),
        (
            "sslVerify",
            "certificates are always verified; SSL_CERT_FILE adds your own authority",
        ),
        ("clientCert", "no client certificate is shown"),
        ("clientKey", "no client certificate is shown"),
        ("supportsParallelToolCalls", "calls follow each other"),
    ];
    let mut words = Vec::new();
    let settings = config.get("mcp").and_then(Value::as_object);
    for key in settings.into_iter().flatten().map(|(key, _)| key.as_str()) {
        match key {
            "servers" | "sessionIdleTtlMs" => {}
            "apps" => words.push(
                "mcp.apps means nothing here: what servers show in windows is not shown".to_owned(),
            ),
            key => words.push(format!("mcp.{key} means nothing here")),
        }
    }
    for (name, entry) in configured(config) {
        for (key, value) in entry {
            let known = LESS.iter().find(|(less, _)| less == key);
            match known {
                // As it is done here.
                Some(("sslVerify", _)) if *value == Value::Bool(true) => {}
                Some(("supportsParallelToolCalls", _)) if *value == Value::Bool(false) => {}
                Some((_, instead)) => words.push(format!("mcp.servers.{name}.{key}: {instead}")),
                None if HONOURED.contains(&key.as_str()) => {}
                None => words.push(format!("mcp.servers.{name}.{key} means nothing here")),
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "PATH" => Some("/bin".to_owned()),
            "TOKEN" => Some("s3cret".to_owned()),
            _ => None,
        }
    }

    fn one(entry: Value) -> Result<Spec, String> {
        let config = json!({ "mcp": { "servers": { "a b": entry } } });
        read(&config, &variable).remove(0).spec
    }

    #[test]
    fn every_way_to_write_a_server_is_read() {
        let spec = one(json!({ "command": "npx", "args": ["-y", 7, "x"], "workingDirectory": "/srv", "url": "http://unused",
            "env": { "A": 1, "B": true, "C": { "source": "env", "id": "TOKEN" }, "D": [], "LD_PRELOAD": "x", "GITHUB_TOKEN": "t", "EDITOR": "x" },
            "requestTimeoutMs": 20000 })).expect("read");
        assert_eq!(
            (spec.safe_name.as_str(), spec.transport(), spec.list_within),
            ("a-b", "stdio", Duration::from_secs(20))
        );
        let Way::Pipes {
            args,
            environment,
            cwd,
            ..
        } = spec.way
        else {
            panic!("pipes")
        };
        assert_eq!(
            (args, cwd),
            (
                vec!["-y".to_owned(), "x".to_owned()],
                Some(PathBuf::from("/srv"))
            )
        );
        let expected = [
            ("A", "1"),
            ("B", "true"),
            ("C", "s3cret"),
            ("GITHUB_TOKEN", "t"),
            ("PATH", "/bin"),
        ];
        assert_eq!(
            environment,
            expected
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        );
        let transport = |entry: Value| one(entry).map(|spec| spec.transport());
        assert_eq!(transport(json!({ "url": "http://h/sse" })), Ok("sse"));
        assert_eq!(
            transport(json!({ "url": "http://h/", "type": "http" })),
            Ok("streamable-http")
        );
        assert_eq!(
            transport(json!({ "url": "http://h/", "transport": "streamable-http" })),
            Ok("streamable-http")
        );
        let spec =
            one(json!({ "url": "http://h/", "headers": { "Authorization": "Bearer s3cret" } }))
                .expect("read");
        assert!(
            !format!("{spec:?}").contains("s3cret"),
            "a header is not shown"
        );
        assert_eq!(
            (spec.list_within, spec.answer_within),
            (LIST_WITHIN, ANSWER_WITHIN)
        );
        for ms in [1e30, f64::MAX] {
            let spec =
                one(json!({ "command": "x", "requestTimeoutMs": ms, "connectionTimeoutMs": ms }));
            let spec = spec.expect("read");
            assert_eq!(
                (spec.answer_within, spec.connect_within),
                (WITHIN_MAX, WITHIN_MAX)
            );
            let config = json!({ "mcp": { "sessionIdleTtlMs": ms } });
            assert!(idle(&config).is_some(), "{ms}");
        }
    }

    #[test]
    fn what_is_no_server_says_why() {
        let check = |entry: Value, expected: &str| {
            let why = one(entry.clone()).expect_err("no server");
            assert!(why.contains(expected), "{entry}: {why}");
        };
        check(json!({}), "neither a command nor a url");
        check(json!({ "transport": "stdio" }), "its command is missing");
        check(
            json!({ "transport": "carrier-pigeon", "url": "http://h" }),
            "none of stdio, sse",
        );
        check(json!({ "url": "nonsense" }), "cannot be used");
        check(json!({ "url": "file:///etc" }), "only http and https");
        check(json!({ "url": "http://h", "auth": "oauth" }), "OAuth");
        check(
            json!({ "url": "http://h", "headers": { "a b": "x" } }),
            "no HTTP header",
        );
        let secret = |source: &str, id: &str| json!({ "command": "x", "env": { "KEY": { "source": source, "id": id } } });
        check(secret("file", "/k"), "only those from env");
        check(secret("env", "UNSET"), "UNSET, which is not set");
        let config = json!({ "mcp": { "servers": { "off": { "enabled": false, "command": "x" }, "odd": 7 } } });
        assert!(read(&config, &variable).is_empty());
    }

    #[test]
    fn keys_that_mean_less_are_named() {
        let config = json!({ "mcp": { "apps": { "enabled": true }, "sessionIdleTtlMs": 1500.7, "servers": { "docs": {
            "url": "http://h", "auth": "oauth", "sslVerify": true, "clientCert": "x", "codex": {}, "colour": "red" } } } });
        assert_eq!(idle(&config), Some(Duration::from_millis(1500)));
        let named = unhonoured(&config).join("\n");
        for word in [
            "mcp.apps",
            "docs.auth: signing in",
            "docs.clientCert",
            "docs.colour means nothing",
        ] {
            assert!(named.contains(word), "{word}: {named}");
        }
        assert!(
            !named.contains("sslVerify") && !named.contains("codex"),
            "{named}"
        );
    }
}
