//! Operator scopes: the closed set, what each implies, and a set of them small enough to copy.

use std::fmt;

/// One operator scope. Source: src/gateway/operator-scopes.ts at 2026.9.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    Admin,
    Read,
    Write,
    SessionsRead,
    SessionsWrite,
    Approvals,
    Questions,
    Pairing,
    Talk,
    TalkSecrets,
}

impl Scope {
    pub const ALL: [Self; 10] = [
        Self::Admin,
        Self::Read,
        Self::Write,
        Self::SessionsRead,
        Self::SessionsWrite,
        Self::Approvals,
        Self::Questions,
        Self::Pairing,
        Self::Talk,
        Self::TalkSecrets,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "operator.admin",
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::SessionsRead => "operator.sessions.read",
            Self::SessionsWrite => "operator.sessions.write",
            Self::Approvals => "operator.approvals",
            Self::Questions => "operator.questions",
            Self::Pairing => "operator.pairing",
            Self::Talk => "operator.talk",
            Self::TalkSecrets => "operator.talk.secrets",
        }
    }

    /// Exact and case-sensitive, as the original compares.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a connection holds. Unknown strings grant nothing and are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScopeSet(u16);

impl ScopeSet {
    pub const EMPTY: Self = Self(0);

    pub fn parse<I, S>(scopes: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        scopes
            .into_iter()
            .filter_map(|scope| Scope::parse(scope.as_ref()))
            .collect()
    }

    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Holds exactly this scope; implications are [`Self::satisfies`]'s business.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a requirement is met. Source: `operatorScopeSatisfied` in src/shared/operator-scope-compat.ts.
    pub const fn satisfies(self, required: Scope) -> bool {
        if self.contains(required) || self.contains(Scope::Admin) {
            return true;
        }
        match required {
            Scope::Read | Scope::Talk | Scope::SessionsWrite => self.contains(Scope::Write),
            Scope::SessionsRead => {
                self.contains(Scope::Write)
                    || self.contains(Scope::Read)
                    || self.contains(Scope::SessionsWrite)
            }
            _ => false,
        }
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_and_admin_imply_what_the_original_says() {
        let check = |held: &[&str], required, expected| {
            assert_eq!(
                ScopeSet::parse(held).satisfies(required),
                expected,
                "{held:?} for {required}"
            );
        };
        check(&["operator.admin"], Scope::TalkSecrets, true);
        check(&["operator.write"], Scope::Read, true);
        check(&["operator.write"], Scope::Talk, true);
        check(&["operator.write"], Scope::SessionsWrite, true);
        check(&["operator.write"], Scope::SessionsRead, true);
        check(&["operator.write"], Scope::Approvals, false);
        check(&["operator.write"], Scope::Admin, false);
        check(&["operator.read"], Scope::SessionsRead, true);
        check(&["operator.read"], Scope::SessionsWrite, false);
        check(&["operator.sessions.write"], Scope::SessionsRead, true);
        check(&["operator.sessions.write"], Scope::Write, false);
        check(&["operator.talk"], Scope::TalkSecrets, false);
        check(&["Operator.Admin", "admin", ""], Scope::Read, false);
    }

    #[test]
    fn a_set_lists_what_it_holds() {
        let set = ScopeSet::parse(["operator.write", "operator.read", "nonsense"]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Scope::Read, Scope::Write]);
        assert!(ScopeSet::parse(["nonsense"]).is_empty());
    }
}
