//! Scope rules that read the params of a call, before those are validated.

use serde_json::value::RawValue;

use super::{AuthzError, FULL, Grant, admit, only, table};
use crate::raw::{self, Fields, is_js_space, js_trim};
use crate::scope::{Scope, ScopeSet};

/// One rule per method whose scope depends on params.
/// Source: `resolveDynamicLeastPrivilegeOperatorScopesForMethod` in src/gateway/method-scopes.ts at 2026.9.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dynamic {
    Agent,
    NodeInvoke,
    SessionsCreate,
    SessionsPatch,
    SessionsPatchMany,
    SessionsDelete,
    SessionsDispatch,
    SessionsMove,
    TalkConfig,
    FsListDir,
    ChannelsPairingApprove,
    PluginsSessionAction,
    EnvironmentsList,
}

impl Dynamic {
    /// The narrowest scopes that this very call needs.
    pub fn required(self, params: Option<&RawValue>) -> &'static [Scope] {
        let fields = params.and_then(Fields::parse);
        let fields = fields.as_ref();
        match self {
            Self::Agent => only(admin_if(
                fields
                    .and_then(|fields| fields.text("message"))
                    .is_some_and(|message| is_session_reset(&message)),
            )),
            Self::NodeInvoke => only(fields.map_or(Scope::Write, node_invoke)),
            Self::SessionsCreate => only(fields.map_or(Scope::Write, sessions_create)),
            Self::SessionsPatch => only(fields.map_or(Scope::Write, sessions_patch)),
            Self::SessionsPatchMany => only(fields.map_or(Scope::Write, sessions_patch_many)),
            Self::SessionsDelete => only(fields.map_or(Scope::Admin, sessions_delete)),
            Self::SessionsDispatch => only(fields.map_or(Scope::Write, sessions_dispatch)),
            Self::SessionsMove => only(fields.map_or(Scope::Write, sessions_move)),
            Self::TalkConfig => match fields.is_some_and(|f| f.is_true("includeSecrets")) {
                true => &[Scope::Read, Scope::TalkSecrets],
                false => only(Scope::Read),
            },
            Self::FsListDir => only(admin_if(fields.is_some_and(|f| f.has("nodeId")))),
            Self::ChannelsPairingApprove => {
                match fields.is_some_and(|f| f.is_true("bootstrapCommandOwner")) {
                    true => &[Scope::Pairing, Scope::Admin],
                    false => only(Scope::Pairing),
                }
            }
            Self::PluginsSessionAction => match fields.is_some_and(names_session_action) {
                true => EVERY_CLI_SCOPE,
                false => only(Scope::Write),
            },
            Self::EnvironmentsList => {
                let runtime = fields.and_then(|fields| fields.text("runtimeId"));
                only(match runtime.is_some_and(|id| !id.is_empty()) {
                    true => Scope::Write,
                    false => Scope::Read,
                })
            }
        }
    }

    /// For callers without `operator.admin`.
    pub(super) fn authorize(
        self,
        name: &str,
        scopes: ScopeSet,
        params: Option<&RawValue>,
    ) -> Result<Grant, AuthzError> {
        let required = self.required(params);
        if self == Self::PluginsSessionAction {
            // No action is registered here: an action that is named needs write, and a call that names
            // none is let through to its params check by any operator scope.
            let fields = params.and_then(Fields::parse);
            let unnamed = fields.is_some_and(|fields| !names_session_action(&fields));
            let allowed = match unnamed {
                true => !scopes.is_empty(),
                false => scopes.satisfies(Scope::Write),
            };
            return match allowed {
                true => Ok(FULL),
                false => Err(AuthzError::Scope {
                    missing: Scope::Write,
                    required,
                }),
            };
        }
        match required.iter().find(|scope| !scopes.satisfies(**scope)) {
            None => Ok(FULL),
            Some(missing) => admit(name, *missing, required, scopes, params),
        }
    }
}

/// `CLI_DEFAULT_OPERATOR_SCOPES`, in its order: shown when the action is unknown.
const EVERY_CLI_SCOPE: &[Scope] = &[
    Scope::Admin,
    Scope::Read,
    Scope::Write,
    Scope::Approvals,
    Scope::Questions,
    Scope::Pairing,
    Scope::TalkSecrets,
];

/// What `resolveBaseSessionMutationRequiredScope` says of the methods that session scopes may stand in for.
pub(super) fn session_mutation_scope(name: &str, params: Option<&RawValue>) -> Option<Scope> {
    let rule = match name {
        "sessions.recover" => return Some(Scope::Write),
        "sessions.create" => Dynamic::SessionsCreate,
        "sessions.patch" => Dynamic::SessionsPatch,
        "sessions.patchMany" => Dynamic::SessionsPatchMany,
        "sessions.delete" => Dynamic::SessionsDelete,
        _ => return None,
    };
    rule.required(params).first().copied()
}

fn admin_if(condition: bool) -> Scope {
    if condition {
        Scope::Admin
    } else {
        Scope::Write
    }
}

fn is_in(list: &[&str], key: &str) -> bool {
    list.binary_search(&key).is_ok()
}

fn is_text(value: Option<&RawValue>, expected: &str) -> bool {
    value
        .and_then(raw::text)
        .is_some_and(|text| text == expected)
}

/// `/^\/(new|reset)(?:\s+([\s\S]*))?$/i`. Source: src/gateway/agent-command-policy.ts.
fn is_session_reset(message: &str) -> bool {
    ["/new", "/reset"].iter().any(|command| {
        message
            .get(..command.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(command))
            && message[command.len()..]
                .chars()
                .next()
                .is_none_or(is_js_space)
    })
}

fn names_session_action(fields: &Fields<'_>) -> bool {
    ["pluginId", "actionId"].iter().all(|name| {
        fields
            .text(name)
            .is_some_and(|value| !js_trim(&value).is_empty())
    })
}

fn sessions_create(fields: &Fields<'_>) -> Scope {
    let incognito = |name| fields.text(name).is_some_and(|key| is_incognito_key(&key));
    admin_if(
        fields.is_true("incognito")
            || incognito("key")
            || incognito("parentSessionKey")
            || fields.has("execNode")
            || fields.has("toolOverrides")
            || is_text(fields.get("permissionMode"), "full"),
    )
}

/// `agent:<id>:(dashboard|subagent|internal-session-effects):incognito-<id>`.
/// Source: `isIncognitoSessionKey` in src/sessions/session-key.ts.
fn is_incognito_key(key: &str) -> bool {
    let key = js_trim(key).to_lowercase();
    let mut parts = key.split(':');
    parts.next() == Some("agent")
        && parts.next().is_some_and(|agent| !agent.is_empty())
        && matches!(
            parts.next(),
            Some("dashboard" | "subagent" | "internal-session-effects")
        )
        && parts
            .next()
            .and_then(|tail| tail.strip_prefix("incognito-"))
            .is_some_and(|id| !id.is_empty())
        && parts.next().is_none()
}

fn sessions_patch(fields: &Fields<'_>) -> Scope {
    let ordinary = |key: &str| {
        is_in(table::PATCH_WRITE_ENVELOPE, key) || is_in(table::PATCH_WRITE_MUTATIONS, key)
    };
    patch_scope(fields, ordinary)
}

fn sessions_patch_many(fields: &Fields<'_>) -> Scope {
    let patch = fields.get("patch").and_then(Fields::parse);
    patch.map_or(Scope::Write, |patch| {
        patch_scope(&patch, |key| is_in(table::PATCH_WRITE_MUTATIONS, key))
    })
}

fn patch_scope(fields: &Fields<'_>, ordinary: impl Fn(&str) -> bool) -> Scope {
    admin_if(
        is_text(fields.get("permissionMode"), "full")
            || fields.has("sandboxMode")
            || !fields.keys().all(ordinary),
    )
}

fn sessions_delete(fields: &Fields<'_>) -> Scope {
    admin_if(
        !fields.is_true("archivedOnly")
            || !fields
                .keys()
                .all(|key| is_in(table::DELETE_WRITE_FIELDS, key)),
    )
}

/// Params that do not validate need write only: the handler then says what is wrong with them.
/// Source: `SessionsDispatchParamsSchema`, whose target modes exclude each other.
fn sessions_dispatch(fields: &Fields<'_>) -> Scope {
    let valid = fields.has("key")
        && fields.iter().all(|(key, value)| match key {
            "key" | "agentId" | "profileId" | "deviceId" => is_length(value, 1, usize::MAX),
            "autoDevice" => value.get() == "true",
            "machineClass" => is_length(value, 1, 128),
            "os" => is_length(value, 1, 64),
            _ => false,
        });
    let has = |name| fields.has(name);
    let machine = has("machineClass") || has("os");
    let targets = [has("profileId"), has("deviceId"), has("autoDevice")];
    let one_mode = match targets {
        [true, false, false] => true,
        [false, true, false] | [false, false, true] => !machine,
        [false, false, false] => !machine,
        _ => false,
    };
    admin_if(valid && one_mode && !targets[1] && !targets[2])
}

/// Source: `SessionsMoveParamsSchema`; only a valid move to a cloud profile needs admin.
fn sessions_move(fields: &Fields<'_>) -> Scope {
    let valid = fields.has("key")
        && fields.iter().all(|(key, value)| match key {
            "key" | "agentId" => is_length(value, 1, usize::MAX),
            "expected" => Fields::parse(value).is_some_and(|source| is_move_source(&source)),
            "target" => Fields::parse(value).is_some_and(|target| is_profile_target(&target)),
            _ => false,
        });
    admin_if(valid && fields.has("expected") && fields.has("target"))
}

fn is_move_source(source: &Fields<'_>) -> bool {
    source.len() == 3
        && source.iter().all(|(key, value)| match key {
            "generation" => is_integer_from(value, 0.0),
            "ownerEpoch" => is_integer_from(value, 1.0),
            "environmentId" => is_worker_id(value),
            _ => false,
        })
}

fn is_profile_target(target: &Fields<'_>) -> bool {
    target.has("profileId")
        && is_text(target.get("kind"), "profile")
        && target.iter().all(|(key, value)| match key {
            "kind" => true,
            "profileId" => is_worker_id(value),
            "machineClass" => is_length(value, 1, 128),
            "os" => is_length(value, 1, 64),
            _ => false,
        })
}

fn is_length(value: &RawValue, min: usize, max: usize) -> bool {
    raw::text(value).is_some_and(|text| (min..=max).contains(&text.chars().count()))
}

fn is_integer_from(value: &RawValue, min: f64) -> bool {
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
    raw::number(value)
        .is_some_and(|number| number.fract() == 0.0 && (min..=MAX_SAFE_INTEGER).contains(&number))
}

/// `^\S(?:.*\S)?$` in 1 to 256 characters. Source: `WorkerIdentifierSchema`.
fn is_worker_id(value: &RawValue) -> bool {
    is_length(value, 1, 256)
        && raw::text(value).is_some_and(|text| {
            !text.starts_with(is_js_space)
                && !text.ends_with(is_js_space)
                && !text.contains(['\n', '\r', '\u{2028}', '\u{2029}'])
        })
}

/// Source: src/infra/node-commands.ts and src/gateway/node-browser-proxy-policy.ts.
fn node_invoke(fields: &Fields<'_>) -> Scope {
    let Some(command) = fields.text("command") else {
        return Scope::Write;
    };
    let browser_proxy = matches!(&*command, "browser.proxy" | "browser.proxy.upload.v1");
    // A forbidden change of a browser profile needs write only: the handler refuses it for everyone.
    if browser_proxy && is_forbidden_browser_mutation(fields.get("params")) {
        return Scope::Write;
    }
    admin_if(browser_proxy || matches!(&*command, "fs.listDir" | "terminal.upload"))
}

fn is_forbidden_browser_mutation(params: Option<&RawValue>) -> bool {
    let Some(fields) = params.and_then(Fields::parse) else {
        return false;
    };
    let (Some(method), Some(path)) = (fields.text("method"), fields.text("path")) else {
        return false;
    };
    let (method, path) = (js_trim(&method).to_uppercase(), js_trim(&path));
    if path.is_empty() {
        return false;
    }
    let mut path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    if path.len() > 1 {
        path.truncate(path.trim_end_matches('/').len());
    }
    match &*method {
        "POST" => path == "/profiles/create" || path == "/reset-profile",
        "DELETE" => path
            .strip_prefix("/profiles/")
            .is_some_and(|id| !id.is_empty() && !id.contains('/')),
        _ => false,
    }
}
