//! The environment of a command: what it inherits, what a model may set.
//!
//! Source: src/infra/host-env-security-policy.json and host-env-security.ts at 2026.9.6. Beyond the original, what lets its
//! holder into this gateway is left out, and what the user's file names as its secret.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Neither inherited nor set: they change what a program loads or runs.
const NEVER: &str = "\
ANT_OPTS BASHOPTS BASH_ENV BROWSER BZR_EDITOR BZR_PLUGIN_PATH BZR_SSH CARGO_BUILD_RUSTC
CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER CARGO_BUILD_RUSTC_WRAPPER CARGO_BUILD_RUSTDOC CATALINA_OPTS CC
CMAKE_CXX_COMPILER CMAKE_C_COMPILER CMAKE_TOOLCHAIN_FILE CONFIG_SHELL CONFIG_SITE CORECLR_PROFILER CPP CXX CXXCPP
DOTNET_ADDITIONAL_DEPS DOTNET_STARTUP_HOOKS ELIXIR_ERL_OPTIONS EMACSLOADPATH ENV ERL_AFLAGS ERL_FLAGS ERL_ZFLAGS
EXINIT FPATH GCONV_PATH GIT_ALLOW_PROTOCOL GIT_ALTERNATE_OBJECT_DIRECTORIES GIT_COMMON_DIR GIT_DIR GIT_EDITOR
GIT_EXEC_PATH GIT_EXTERNAL_DIFF GIT_HOOK_PATH GIT_INDEX_FILE GIT_NAMESPACE GIT_OBJECT_DIRECTORY
GIT_PROTOCOL_FROM_USER GIT_SEQUENCE_EDITOR GIT_SSL_CAINFO GIT_SSL_CAPATH GIT_SSL_NO_VERIFY GIT_TEMPLATE_DIR
GIT_WORK_TREE GLIBC_TUNABLES GRADLE_OPTS GVIMINIT HELM_PLUGINS HGEDITOR HGMERGE HGRCPATH HOSTALIASES IFS JAVA_OPTS
JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS JULIA_EDITOR KSH_ENV LUA_INIT LUA_INIT_5_1 LUA_INIT_5_2 LUA_INIT_5_3
LUA_INIT_5_4 MAKE MAKEFLAGS MAVEN_OPTS MFLAGS MYVIMRC NODE_OPTIONS NODE_PATH NODE_REDIRECT_WARNINGS
NODE_REPL_EXTERNAL_MODULE NODE_REPL_HISTORY NODE_V8_COVERAGE PACKER_PLUGIN_PATH PERL5LIB PERL5OPT PS4
PYTHONBREAKPOINT PYTHONHOME PYTHONPATH RUBYLIB RUBYOPT RUBYSHELL RUSTC RUSTC_WORKSPACE_WRAPPER RUSTC_WRAPPER
RUSTDOC R_ENVIRON R_ENVIRON_USER R_PROFILE R_PROFILE_USER SBT_OPTS SHELL SHELLOPTS SSLKEYLOGFILE SUDO_ASKPASS
SVN_EDITOR SVN_SSH TCLLIBPATH VAGRANT_VAGRANTFILE VIMINIT _JAVA_OPTIONS";

/// Not to be set by a model.
const NOT_SET: &str = "\
ALL_PROXY AMQP_URL ANSIBLE_CALLBACK_PLUGINS ANSIBLE_COLLECTIONS_PATH ANSIBLE_CONFIG ANSIBLE_CONNECTION_PLUGINS
ANSIBLE_FILTER_PLUGINS ANSIBLE_INVENTORY_PLUGINS ANSIBLE_LIBRARY ANSIBLE_LOOKUP_PLUGINS ANSIBLE_MODULE_UTILS
ANSIBLE_REMOTE_TEMP ANSIBLE_ROLES_PATH ANSIBLE_STRATEGY_PLUGINS AWS_ACCESS_KEY_ID AWS_CONFIG_FILE
AWS_CONTAINER_CREDENTIALS_FULL_URI AWS_CONTAINER_CREDENTIALS_RELATIVE_URI AWS_SECRET_ACCESS_KEY AWS_SECURITY_TOKEN
AWS_SESSION_TOKEN AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AZURE_AUTH_LOCATION AZURE_CLIENT_ID
AZURE_CLIENT_SECRET BUNDLE_GEMFILE BUN_CONFIG_REGISTRY CARGO_HOME CFLAGS CGO_CFLAGS CGO_LDFLAGS CLASSPATH
COMPOSER_HOME CONDA_DEFAULT_ENV CONDA_PREFIX CORECLR_PROFILER_PATH CPATH CPLUS_INCLUDE_PATH CURL_CA_BUNDLE
CURL_HOME C_INCLUDE_PATH DATABASE_URL DENO_DIR DOCKER_CERT_PATH DOCKER_CONTEXT DOCKER_HOST DOCKER_TLS_VERIFY
EDITOR FCEDIT GEM_HOME GEM_PATH GH_TOKEN GITHUB_TOKEN GITLAB_TOKEN GIT_ASKPASS GIT_PAGER GIT_PROXY_COMMAND GIT_SSH
GIT_SSH_COMMAND GOENV GOFLAGS GONOPROXY GONOSUMCHECK GONOSUMDB GOOGLE_APPLICATION_CREDENTIALS GOPATH GOPRIVATE
GOPROXY GRADLE_USER_HOME HELM_HOME HISTFILE HOME HTTPS_PROXY HTTP_PROXY KUBECONFIG LDFLAGS LESSCLOSE LESSOPEN
LIBRARY_PATH LUA_CPATH LUA_PATH MANPAGER MONGODB_URI NODE_AUTH_TOKEN NODE_EXTRA_CA_CERTS
NODE_TLS_REJECT_UNAUTHORIZED NO_PROXY NPM_TOKEN OBJC_INCLUDE_PATH OPENSSL_CONF OPENSSL_ENGINES PAGER PERL5DB
PERL5DBCMD PHPRC PHP_INI_SCAN_DIR PIP_CONFIG_FILE PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_INDEX_URL PIP_PYPI_URL
PIP_TRUSTED_HOST PROMPT_COMMAND PYTHONSTARTUP PYTHONUSERBASE REDIS_URL REQUESTS_CA_BUNDLE RUSTFLAGS
RUSTUP_DIST_ROOT RUSTUP_DIST_SERVER RUSTUP_HOME RUSTUP_TOOLCHAIN RUSTUP_UPDATE_ROOT R_LIBS_USER SSH_ASKPASS
SSH_AUTH_SOCK SSL_CERT_DIR SSL_CERT_FILE SUDO_EDITOR SYSTEMROOT TF_CLI_CONFIG_FILE TF_PLUGIN_CACHE_DIR
UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_INDEX UV_INDEX_URL UV_PYTHON VIRTUAL_ENV VISUAL WGETRC WINDIR
XDG_CACHE_HOME XDG_CONFIG_DIRS XDG_CONFIG_HOME XDG_DATA_DIRS XDG_DATA_HOME XDG_RUNTIME_DIR XDG_STATE_HOME
YARN_RC_FILENAME ZDOTDIR";

/// Of those, what a command inherits all the same.
const INHERITED: &str = "\
ALL_PROXY AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AZURE_AUTH_LOCATION
CURL_CA_BUNDLE DOCKER_CERT_PATH DOCKER_CONTEXT DOCKER_HOST DOCKER_TLS_VERIFY GIT_PAGER
GOOGLE_APPLICATION_CREDENTIALS GRADLE_USER_HOME HISTFILE HOME HTTPS_PROXY HTTP_PROXY KUBECONFIG MANPAGER
NODE_EXTRA_CA_CERTS NODE_TLS_REJECT_UNAUTHORIZED NO_PROXY PAGER REQUESTS_CA_BUNDLE RUSTUP_DIST_ROOT
RUSTUP_DIST_SERVER RUSTUP_HOME RUSTUP_TOOLCHAIN RUSTUP_UPDATE_ROOT SSH_AUTH_SOCK SSL_CERT_DIR SSL_CERT_FILE
SYSTEMROOT WINDIR XDG_CACHE_HOME XDG_CONFIG_DIRS XDG_CONFIG_HOME XDG_DATA_DIRS XDG_DATA_HOME XDG_RUNTIME_DIR
XDG_STATE_HOME ZDOTDIR";

const NEVER_BEGINNINGS: [&str; 3] = ["DYLD_", "LD_", "BASH_FUNC_"];
const NOT_SET_BEGINNINGS: [&str; 4] =
    ["GIT_CONFIG_", "NPM_CONFIG_", "CARGO_REGISTRIES_", "TF_VAR_"];
/// Of a service manager, for us alone.
const MANAGER: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

pub(super) type Environment = BTreeMap<String, String>;

/// What a command inherits of our own environment; `secrets`: names that the user's file keeps secrets in.
pub(super) fn inherited<'a>(
    own: impl Iterator<Item = (&'a str, &'a str)>,
    secrets: &BTreeSet<String>,
) -> Environment {
    let mut environment = Environment::new();
    for (name, value) in own {
        let upper = name.trim().to_uppercase();
        match upper.as_str() {
            "" => continue,
            "GIT_ALLOW_PROTOCOL" => {
                let protocols = value
                    .split(':')
                    .filter(|protocol| matches!(*protocol, "git" | "http" | "https" | "ssh"));
                let protocols: Vec<&str> = protocols.collect();
                environment.insert(name.to_owned(), protocols.join(":"));
                continue;
            }
            "GIT_PROTOCOL_FROM_USER" => {
                environment.insert(name.to_owned(), "0".to_owned());
                continue;
            }
            _ => {}
        }
        let is_kept =
            has(INHERITED, &upper) || matches!(upper.as_str(), "GH_TOKEN" | "GITHUB_TOKEN");
        let is_withheld = has(NEVER, &upper)
            || begins(&NEVER_BEGINNINGS, &upper)
            || (has(NOT_SET, &upper) && !is_kept)
            || MANAGER.contains(&upper.as_str())
            || is_ours(&upper)
            || secrets.contains(name);
        if !is_withheld {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    environment
}

/// Adds what a model asked for.
///
/// # Errors
/// The original's words about what may not be set.
pub(super) fn add(environment: &mut Environment, asked: &Map<String, Value>) -> Result<(), String> {
    let (mut blocked, mut invalid) = (BTreeSet::new(), BTreeSet::new());
    for (name, value) in asked {
        let Some(value) = value.as_str() else {
            continue;
        };
        let key = name.trim();
        if !is_portable(key) {
            let shown = if key.is_empty() { name } else { key };
            invalid.insert(shown.to_owned());
            continue;
        }
        let upper = key.to_uppercase();
        // Paging switched off is no program.
        if matches!(upper.as_str(), "GIT_PAGER" | "PAGER") && matches!(value, "" | "cat") {
            environment.insert(key.to_owned(), String::new());
            continue;
        }
        let is_target = upper.starts_with("CARGO_TARGET_")
            && (upper.ends_with("_LINKER") || upper.ends_with("_RUNNER"));
        let is_blocked = upper == "PATH"
            || has(NEVER, &upper)
            || has(NOT_SET, &upper)
            || begins(&NEVER_BEGINNINGS, &upper)
            || begins(&NOT_SET_BEGINNINGS, &upper)
            || is_target;
        match is_blocked {
            true => drop(blocked.insert(upper)),
            false => drop(environment.insert(key.to_owned(), value.to_owned())),
        }
    }
    if blocked.is_empty() && invalid.is_empty() {
        return Ok(());
    }
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let has_path = blocked.contains("PATH");
    if let (1, true, Some(only)) = (blocked.len(), invalid.is_empty(), blocked.first()) {
        return Err(match has_path {
            true => {
                "Security Violation: Custom 'PATH' variable is forbidden during host execution."
                    .to_owned()
            }
            false => format!(
                "Security Violation: Environment variable '{only}' is forbidden during host execution."
            ),
        });
    }
    let mut details = Vec::new();
    if !blocked.is_empty() {
        details.push(format!("blocked override keys: {}", list(&blocked)));
    }
    if !invalid.is_empty() {
        details.push(format!(
            "invalid non-portable override keys: {}",
            list(&invalid)
        ));
    }
    let details = details.join("; ");
    Err(match has_path {
        true => format!(
            "Security Violation: Custom 'PATH' variable is forbidden during host execution ({details})."
        ),
        false => format!("Security Violation: {details}."),
    })
}

/// Not for MCP servers, whoever asks. Source: isDangerousMcpStdioEnvVarName in mcp-config-shared.ts.
pub(super) fn is_dangerous_for_servers(name: &str) -> bool {
    const CREDENTIALS: &str = "\
AMQP_URL AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SECURITY_TOKEN AWS_SESSION_TOKEN AZURE_CLIENT_ID
AZURE_CLIENT_SECRET DATABASE_URL GH_TOKEN GITHUB_TOKEN GITLAB_TOKEN MONGODB_URI NODE_AUTH_TOKEN NPM_TOKEN REDIS_URL";
    let upper = name.trim().to_uppercase();
    has(NEVER, &upper)
        || begins(&NEVER_BEGINNINGS, &upper)
        || (has(NOT_SET, &upper) && !has(INHERITED, &upper) && !has(CREDENTIALS, &upper))
}

/// A variable whose value stands in the configuration is withheld from this length on.
const SECRET_BYTES_MIN: usize = 8;

/// The variables that the user's file keeps secrets in: `{ source: "env", id: "NAME" }`, `"$NAME"`, and `"${NAME}"`, in
/// whose place the value stands here (`variables`: this process's).
pub(super) fn secrets<'a>(
    config: &'a Value,
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeSet<String> {
    fn walk<'a>(value: &'a Value, names: &mut BTreeSet<String>, texts: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                if fields.get("source").and_then(Value::as_str) == Some("env")
                    && let Some(name) = fields.get("id").and_then(Value::as_str)
                {
                    names.insert(name.trim().to_owned());
                }
                for value in fields.values() {
                    walk(value, names, texts);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, names, texts)),
            Value::String(text) => {
                let text = text.trim();
                if let Some(name) = text.strip_prefix('$') {
                    names.insert(name.trim_matches(['{', '}']).to_owned());
                }
                texts.insert(text);
            }
            _ => {}
        }
    }
    let (mut names, mut texts) = (BTreeSet::new(), BTreeSet::new());
    walk(config, &mut names, &mut texts);
    for (name, value) in variables {
        // A short word or a path is none.
        let value = value.trim();
        if value.len() >= SECRET_BYTES_MIN && !value.starts_with('/') && texts.contains(value) {
            names.insert(name.to_owned());
        }
    }
    names
}

/// `prepend`, then what `PATH` has beside it, each once.
pub(super) fn prepend_path(environment: &mut Environment, prepend: &[String]) {
    let now = environment.get("PATH").cloned().unwrap_or_default();
    let mut parts: Vec<&str> = Vec::new();
    for part in prepend.iter().map(String::as_str).chain(now.split(':')) {
        let part = part.trim();
        if !part.is_empty() && !parts.contains(&part) {
            parts.push(part);
        }
    }
    let path = parts.join(":");
    if !path.is_empty() {
        environment.insert("PATH".to_owned(), path);
    }
}

fn has(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|listed| listed == name)
}

fn begins(beginnings: &[&str], name: &str) -> bool {
    beginnings
        .iter()
        .any(|beginning| name.starts_with(beginning))
}

/// What lets its holder into this gateway.
fn is_ours(upper: &str) -> bool {
    ["OPENCLAW_", "CLAWDBOT_", "MOLTBOT_"]
        .iter()
        .any(|ours| upper.starts_with(ours))
        && ["TOKEN", "PASSWORD", "SECRET", "_KEY"]
            .iter()
            .any(|word| upper.contains(word))
}

/// As a shell has names, and the parentheses that Windows has in some.
fn is_portable(name: &str) -> bool {
    let mut bytes = name.bytes();
    let begins = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'(' | b')'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_dangerous_is_set_and_no_secret_of_ours_is_inherited() {
        let own = [
            ("HOME", "/h"),
            ("PATH", "/bin"),
            ("OPENCLAW_GATEWAY_TOKEN", "t"),
            ("OPENCLAW_STATE_DIR", "/s"),
            ("MODEL_KEY", "k"),
            ("LD_PRELOAD", "x"),
            ("BASH_ENV", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("HTTP_PROXY", "p"),
            ("GITHUB_TOKEN", "g"),
            ("NOTIFY_SOCKET", "n"),
            ("SPELT_OUT", "sk-0123456789"),
            ("BY_NAME", "short"),
        ];
        let config = json!({
            "models": { "providers": {
                "p": { "apiKey": { "source": "env", "id": "MODEL_KEY" } },
                "q": { "apiKey": "sk-0123456789" }, "r": { "apiKey": "$BY_NAME" },
            } },
            "agents": { "defaults": { "workspace": "/bin", "name": "g" } },
        });
        let base = inherited(own.into_iter(), &secrets(&config, own.into_iter()));
        let names: Vec<&str> = base.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "GITHUB_TOKEN",
                "HOME",
                "HTTP_PROXY",
                "OPENCLAW_STATE_DIR",
                "PATH"
            ]
        );
        let check = |asked: Value, expected: Result<(), &str>| {
            let mut environment = base.clone();
            let added = add(&mut environment, asked.as_object().expect("an object"));
            assert_eq!(added, expected.map_err(str::to_owned), "{asked}");
        };
        check(json!({ "FOO": "1", "PAGER": "cat" }), Ok(()));
        check(
            json!({ "LD_PRELOAD": "x" }),
            Err(
                "Security Violation: Environment variable 'LD_PRELOAD' is forbidden during host execution.",
            ),
        );
        check(
            json!({ "path": "x" }),
            Err("Security Violation: Custom 'PATH' variable is forbidden during host execution."),
        );
        check(
            json!({ "A-B": "x", "LD_X": "1", "PATH": "2" }),
            Err(
                "Security Violation: Custom 'PATH' variable is forbidden during host execution (blocked override keys: LD_X, PATH; invalid non-portable override keys: A-B).",
            ),
        );
        for name in [
            "PAGER",
            "HOME",
            "git_config_count",
            "CARGO_TARGET_X_RUNNER",
            "BASH_FUNC_x",
        ] {
            let mut environment = base.clone();
            let asked = json!({ name: "x" });
            assert!(
                add(&mut environment, asked.as_object().expect("an object")).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn folders_come_first_and_once() {
        let mut environment = Environment::from([("PATH".to_owned(), "/a:/b:/a".to_owned())]);
        prepend_path(&mut environment, &["/b".to_owned(), " /c ".to_owned()]);
        assert_eq!(environment["PATH"], "/b:/c:/a");
    }
}
