//! A secret that cannot be printed by accident.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// A token or password. `Debug` and `Display` never show it; comparison takes the same time wherever
/// two values of equal length differ.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The secret itself: for the wire or an owner-only file, never for a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is this secret, without an early exit on the first differing byte.
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "[secret] Some([secret])"
        );
        assert!(
            secret.matches("hunter2") && !secret.matches("hunter") && !secret.matches("hunter3")
        );
    }
}
