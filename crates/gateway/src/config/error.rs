//! What is wrong with a configuration: file, line, column, key and the fix.

use std::fmt;
use std::path::PathBuf;

/// Process exit code for configuration errors (`EX_CONFIG`), as the original's.
///
/// Source: `docs/gateway/embedding.md` ("exit code 78") at 2026.9.6.
pub const EXIT_CODE_CONFIG: i32 = 78;

/// A configuration that cannot be used. The process that meets it at start exits with
/// [`EXIT_CODE_CONFIG`]; a reload that meets it keeps the old settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigError {
    /// The file to edit; `None` when the fault is in an environment variable or a combination.
    pub file: Option<PathBuf>,
    /// 1-based line and column of the fault in `file`.
    pub position: Option<(u32, u32)>,
    /// Dotted path of the key, as the original writes it (`gateway.port`, `agents.list[0]`).
    pub key: Option<String>,
    pub what: String,
    /// What to do about it, as an instruction.
    pub fix: Option<String>,
}

impl ConfigError {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self
    }

    #[must_use]
    pub fn at(mut self, position: Option<(u32, u32)>) -> Self {
        self.position = position;
        self
    }

    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some((line, column)) = self.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(key) = self.key.as_deref().filter(|key| !key.is_empty()) {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)?;
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One finding about the user's file in the original's form: `issues[]` of `config.get`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Issue {
    /// Dotted path; empty for the whole file.
    pub path: String,
    pub message: String,
    /// The values the field accepts, when it is an enumeration.
    #[serde(rename = "allowedValues", skip_serializing_if = "Option::is_none")]
    pub allowed_values: Option<Vec<String>>,
    #[serde(
        rename = "allowedValuesHiddenCount",
        skip_serializing_if = "Option::is_none"
    )]
    pub allowed_values_hidden_count: Option<usize>,
}

impl Issue {
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            allowed_values: None,
            allowed_values_hidden_count: None,
        }
    }
}
