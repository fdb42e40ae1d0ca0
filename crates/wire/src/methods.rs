//! The one list of gateway methods, and who may call them.
//!
//! [`lookup`] finds a row, [`authorize`] answers as the original's router does before it dispatches. Rows
//! are extracted from the package (`tests/tables/extract.mjs`); rules that read params are in `dynamic`.

mod dynamic;
mod table;

use std::fmt;

use serde_json::json;
use serde_json::value::RawValue;

use crate::error::{ErrorCode, ErrorShape};
use crate::scope::{Scope, ScopeSet};
pub use dynamic::Dynamic;
pub use table::{CORE_METHODS, METHODS};

/// One method of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    pub name: &'static str,
    pub rule: ScopeRule,
    /// Listed in `hello-ok.features.methods`; the others can be called all the same.
    pub advertised: bool,
    /// Answered with `UNAVAILABLE` until the original's sidecars are up.
    pub startup: bool,
    /// Counts against the budget of 30 control-plane writes per 60 s.
    pub control_plane: bool,
}

/// How the scope that a call needs is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeRule {
    Static(Scope),
    /// Only `role: "node"`, whatever its scopes.
    Node,
    /// Depends on the params.
    Dynamic(Dynamic),
}

const NODE: ScopeRule = ScopeRule::Node;

const fn scope(scope: Scope) -> ScopeRule {
    ScopeRule::Static(scope)
}

const fn dynamic(rule: Dynamic) -> ScopeRule {
    ScopeRule::Dynamic(rule)
}

const fn method(name: &'static str, rule: ScopeRule) -> Method {
    Method {
        name,
        rule,
        advertised: true,
        startup: false,
        control_plane: false,
    }
}

impl Method {
    const fn hidden(self) -> Self {
        Self {
            advertised: false,
            ..self
        }
    }

    const fn startup(self) -> Self {
        Self {
            startup: true,
            ..self
        }
    }

    const fn control_plane(self) -> Self {
        Self {
            control_plane: true,
            ..self
        }
    }

    /// Only the upstream knows the scope, from what its plugins registered: with an upstream the call goes
    /// there unchecked, without one [`authorize`] is right (nothing is registered).
    pub fn decided_upstream(&self) -> bool {
        self.rule == ScopeRule::Dynamic(Dynamic::PluginsSessionAction)
    }
}

/// Methods that this gateway has beyond the original's. An upstream never answers them, and its hello, which clients
/// get as it is, does not list them.
pub static OWN: [Method; 4] = [
    method("memory.forget", scope(Scope::Write)),
    method("memory.get", scope(Scope::Read)),
    method("memory.index", scope(Scope::Write)),
    method("memory.status", scope(Scope::Read)),
];

/// [`METHODS`], then [`OWN`].
pub fn all() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().chain(&OWN)
}

/// How many there are in [`all`].
pub fn count() -> usize {
    METHODS.len() + OWN.len()
}

/// The row of a method known at build time. Names of other plugins come with the upstream's hello; their
/// scope is the upstream's to check. No allocation; nine string comparisons.
pub fn lookup(name: &str) -> Option<&'static Method> {
    index_of(name).and_then(at)
}

/// Position in [`all`], for tables that run beside it.
pub fn index_of(name: &str) -> Option<usize> {
    let listed = table::BY_NAME
        .binary_search_by(|index| METHODS[usize::from(*index)].name.cmp(name))
        .ok()
        .map(|at| usize::from(table::BY_NAME[at]));
    listed.or_else(|| {
        let own = OWN.iter().position(|method| method.name == name)?;
        Some(METHODS.len() + own)
    })
}

/// The row at a position of [`index_of`].
pub fn at(index: usize) -> Option<&'static Method> {
    METHODS
        .get(index)
        .or_else(|| OWN.get(index.checked_sub(METHODS.len())?))
}

/// The narrowest scopes a call needs; empty when the name is unknown and not reserved (then only
/// `operator.admin` may call). Source: `resolveLeastPrivilegeOperatorScopesForMethod`.
pub fn required_scopes(name: &str, params: Option<&RawValue>) -> &'static [Scope] {
    match lookup(name).map(|method| method.rule) {
        Some(ScopeRule::Static(scope)) => only(scope),
        Some(ScopeRule::Dynamic(rule)) => rule.required(params),
        // The original keeps node methods out of this path; the answer is never shown.
        Some(ScopeRule::Node) => &[],
        None if is_reserved(name) => only(Scope::Admin),
        None => &[],
    }
}

/// Names that need `operator.admin` even when a plugin declares less.
/// Source: src/shared/gateway-method-policy.ts.
pub fn is_reserved(name: &str) -> bool {
    ["exec.approvals.", "config.", "wizard.", "update."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// What an admitted call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Set when a narrower session scope stood in for `operator.read`/`write`: the call is then limited to
    /// the caller's own sessions.
    pub session_scope: Option<Scope>,
}

const FULL: Grant = Grant {
    session_scope: None,
};

/// Why a call is refused; [`AuthzError::to_error`] is what the client sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthzError {
    #[error("unauthorized role: {0}")]
    Role(String),
    #[error("missing scope: {missing}")]
    Scope {
        missing: Scope,
        required: &'static [Scope],
    },
}

impl AuthzError {
    /// Source: `missingScopeErrorShape` in packages/gateway-protocol/src/schema/error-codes.ts.
    pub fn to_error(&self) -> ErrorShape {
        match self {
            Self::Role(_) => ErrorShape::invalid_request(self.to_string()),
            Self::Scope { missing, required } => ErrorShape::new(
                ErrorCode::Forbidden,
                self.to_string(),
            )
            .with_details(json!({
                "code": "MISSING_SCOPE",
                "missingScope": missing.as_str(),
                "requiredScopes": required.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
            })),
        }
    }
}

impl From<AuthzError> for ErrorShape {
    fn from(error: AuthzError) -> Self {
        error.to_error()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// May a connection with this role and these scopes call `name` with these params?
///
/// Same order of checks as `authorizeGatewayMethod` in src/gateway/server-methods.ts: `health` is open to
/// every connection, then role, then scope. An unknown name needs `operator.admin`, so that who lacks it
/// cannot probe names.
///
/// # Errors
/// [`AuthzError`] with the original's wording.
pub fn authorize(
    name: &str,
    role: &str,
    scopes: ScopeSet,
    params: Option<&RawValue>,
) -> Result<Grant, AuthzError> {
    if name == "health" {
        return Ok(FULL);
    }
    let rule = lookup(name).map(|method| method.rule);
    let node_method = rule == Some(ScopeRule::Node);
    match (role, node_method) {
        ("node", true) => return Ok(FULL),
        ("operator", false) => {}
        _ => return Err(AuthzError::Role(role.to_owned())),
    }
    // Source: how a paired device asks for more than it has, so no scope can be a condition.
    if matches!(
        name,
        "device.scopes.requestUpgrade" | "device.scopes.waitUpgrade"
    ) || scopes.contains(Scope::Admin)
    {
        return Ok(FULL);
    }
    match rule {
        Some(ScopeRule::Dynamic(rule)) => rule.authorize(name, scopes, params),
        Some(ScopeRule::Static(required)) => admit(name, required, only(required), scopes, params),
        Some(ScopeRule::Node) | None => Err(AuthzError::Scope {
            missing: Scope::Admin,
            required: only(Scope::Admin),
        }),
    }
}

/// One required scope against a set, with the session scopes that may stand in for it.
/// Source: `authorizeOperatorScopesForRequiredScope`.
fn admit(
    name: &str,
    required: Scope,
    all_required: &'static [Scope],
    scopes: ScopeSet,
    params: Option<&RawValue>,
) -> Result<Grant, AuthzError> {
    if scopes.satisfies(required) {
        return Ok(FULL);
    }
    let stand_in = match required {
        Scope::Read => Some(Scope::SessionsRead),
        Scope::Write => Some(Scope::SessionsWrite),
        Scope::Questions if name.starts_with("question.") => Some(Scope::SessionsWrite),
        _ => None,
    };
    if let Some(session_scope) = stand_in
        && scopes.satisfies(session_scope)
        && session_scope_of(name, params) == Some(session_scope)
    {
        return Ok(Grant {
            session_scope: Some(session_scope),
        });
    }
    Err(AuthzError::Scope {
        missing: required,
        required: all_required,
    })
}

/// Source: `resolveSessionMethodScope` in src/shared/session-method-scopes-base.ts.
fn session_scope_of(name: &str, params: Option<&RawValue>) -> Option<Scope> {
    if table::SESSION_READ.binary_search(&name).is_ok() {
        return Some(Scope::SessionsRead);
    }
    let writes = table::SESSION_WRITE.binary_search(&name).is_ok();
    (writes && dynamic::session_mutation_scope(name, params) != Some(Scope::Admin))
        .then_some(Scope::SessionsWrite)
}

const fn only(scope: Scope) -> &'static [Scope] {
    match scope {
        Scope::Admin => &[Scope::Admin],
        Scope::Read => &[Scope::Read],
        Scope::Write => &[Scope::Write],
        Scope::SessionsRead => &[Scope::SessionsRead],
        Scope::SessionsWrite => &[Scope::SessionsWrite],
        Scope::Approvals => &[Scope::Approvals],
        Scope::Questions => &[Scope::Questions],
        Scope::Pairing => &[Scope::Pairing],
        Scope::Talk => &[Scope::Talk],
        Scope::TalkSecrets => &[Scope::TalkSecrets],
    }
}

#[cfg(test)]
mod tests;
