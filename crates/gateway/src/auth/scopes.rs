//! What one scope implies and which lists cover which.
//!
//! Source: src/shared/operator-scope-compat.ts, src/shared/device-auth.ts and src/gateway/operator-scopes.ts at
//! 2026.9.6.

pub const ADMIN: &str = "operator.admin";
pub const READ: &str = "operator.read";
pub const WRITE: &str = "operator.write";
pub const SESSIONS_READ: &str = "operator.sessions.read";
pub const SESSIONS_WRITE: &str = "operator.sessions.write";
pub const APPROVALS: &str = "operator.approvals";
pub const QUESTIONS: &str = "operator.questions";
pub const PAIRING: &str = "operator.pairing";
pub const TALK: &str = "operator.talk";
pub const TALK_SECRETS: &str = "operator.talk.secrets";

/// Every operator scope there is.
pub const ALL: [&str; 10] = [
    ADMIN,
    READ,
    WRITE,
    SESSIONS_READ,
    SESSIONS_WRITE,
    APPROVALS,
    QUESTIONS,
    PAIRING,
    TALK,
    TALK_SECRETS,
];

/// Scopes an HTTP caller with the shared secret has. Source: `CLI_DEFAULT_OPERATOR_SCOPES` at 2026.9.6.
pub const SHARED_SECRET_HTTP: [&str; 7] = [
    ADMIN,
    READ,
    WRITE,
    APPROVALS,
    QUESTIONS,
    PAIRING,
    TALK_SECRETS,
];

const OPERATOR_PREFIX: &str = "operator.";

/// Whether `granted` covers the one scope asked for.
pub fn covers(granted: &[impl AsRef<str>], asked: &str) -> bool {
    let has = |scope: &str| granted.iter().any(|own| own.as_ref().trim() == scope);
    asked.starts_with(OPERATOR_PREFIX)
        && (has(asked)
            || has(ADMIN)
            || (matches!(asked, READ | TALK | SESSIONS_READ | SESSIONS_WRITE) && has(WRITE))
            || (asked == SESSIONS_READ && (has(READ) || has(SESSIONS_WRITE))))
}

/// The first asked scope that `allowed` does not cover for this role; blank ones do not count.
pub fn first_missing<'a>(
    role: &str,
    asked: &'a [impl AsRef<str>],
    allowed: &[impl AsRef<str>],
) -> Option<&'a str> {
    let role = role.trim();
    asked.iter().map(AsRef::as_ref).find(|scope| {
        let scope = scope.trim();
        if scope.is_empty() {
            return false;
        }
        if role == "operator" {
            return !covers(allowed, scope);
        }
        let own = scope
            .strip_prefix(role)
            .is_some_and(|rest| rest.starts_with('.'));
        !(own && allowed.iter().any(|entry| entry.as_ref().trim() == scope))
    })
}

pub fn allow(role: &str, asked: &[impl AsRef<str>], allowed: &[impl AsRef<str>]) -> bool {
    first_missing(role, asked, allowed).is_none()
}

/// The first scope that belongs to none of the roles.
pub fn outside_roles<'a>(roles: &[String], asked: &'a [String]) -> Option<&'a str> {
    asked.iter().map(String::as_str).find(|scope| {
        let scope = scope.trim();
        !roles.iter().any(|role| {
            scope.is_empty()
                || scope
                    .strip_prefix(role.trim())
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    })
}

/// Trimmed, unique, sorted, with what `admin` and `write` imply.
pub fn normalize(scopes: &[impl AsRef<str>]) -> Vec<String> {
    let mut out = sorted_unique(scopes);
    let has = |out: &[String], scope: &str| out.iter().any(|own| own == scope);
    if has(&out, ADMIN) {
        out.extend([READ.to_owned(), WRITE.to_owned()]);
    } else if has(&out, WRITE) {
        out.push(READ.to_owned());
    }
    out.sort_unstable();
    out.dedup();
    out
}

pub fn sorted_unique(values: &[impl AsRef<str>]) -> Vec<String> {
    let mut out = unique(values);
    out.sort_unstable();
    out
}

/// Trimmed and unique, first seen first.
pub fn unique(values: &[impl AsRef<str>]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for value in values {
        let value = value.as_ref().trim();
        if !value.is_empty() && !out.iter().any(|own| own == value) {
            out.push(value.to_owned());
        }
    }
    out
}

/// The scopes a token of this role may hold.
pub fn of_role(role: &str, scopes: &[impl AsRef<str>]) -> Vec<String> {
    let mut out = normalize(scopes);
    out.retain(|scope| scope.starts_with(OPERATOR_PREFIX) == (role == "operator"));
    out
}

/// Keeps the scopes that the `x-openclaw-scopes` header lists; no header keeps all.
/// Source: `applyConnectionScopeCap` in connect-admission.ts at 2026.9.6.
pub fn cap(scopes: Vec<String>, header: Option<&str>) -> Vec<String> {
    let Some(header) = header else { return scopes };
    let declared: Vec<&str> = header
        .split(',')
        .map(str::trim)
        .filter(|scope| !scope.is_empty())
        .collect();
    scopes
        .into_iter()
        .filter(|scope| declared.contains(&scope.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn implications() {
        for (granted, asked, expected) in [
            (ADMIN, TALK_SECRETS, true),
            (WRITE, READ, true),
            (WRITE, TALK, true),
            (WRITE, SESSIONS_WRITE, true),
            (WRITE, APPROVALS, false),
            (READ, SESSIONS_READ, true),
            (READ, WRITE, false),
            (SESSIONS_WRITE, SESSIONS_READ, true),
            (SESSIONS_READ, READ, false),
            (ADMIN, "node.anything", false),
        ] {
            assert_eq!(
                covers(&[granted], asked),
                expected,
                "{granted} covers {asked}"
            );
        }
        assert!(allow("node", &["node.x"], &["node.x"]));
        assert!(!allow("node", &[READ], &[ADMIN]));
        assert_eq!(
            cap(vec![READ.into(), WRITE.into()], Some("operator.read, x")),
            [READ]
        );
        assert_eq!(cap(vec![READ.into()], Some("")), [""; 0]);
        assert_eq!(normalize(&[ADMIN]), [ADMIN, READ, WRITE]);
    }

    proptest! {
        #[test]
        fn a_cap_never_adds_and_covering_is_transitive(
            held in proptest::sample::subsequence(ALL.to_vec(), 0..=10),
            middle in proptest::sample::subsequence(ALL.to_vec(), 0..=10),
            asked in proptest::sample::subsequence(ALL.to_vec(), 0..=10),
        ) {
            let owned: Vec<String> = asked.iter().map(|scope| (*scope).to_owned()).collect();
            let capped = cap(owned.clone(), Some(&middle.join(",")));
            prop_assert!(capped.iter().all(|scope| owned.contains(scope)));
            if allow("operator", &middle, &held) && allow("operator", &asked, &middle) {
                prop_assert!(allow("operator", &asked, &held));
            }
            prop_assert!(allow("operator", &normalize(&held), &held));
        }
    }
}
