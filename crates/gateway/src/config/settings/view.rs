//! Typed reading of a document; wrong types are collected in the original's words.

use std::cell::RefCell;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::document::type_name;
use crate::config::{ConfigDocument, ConfigError, Issue, Paths};

/// A document being read. Paths are dotted; keys with dots are not read through it.
pub(super) struct View<'a> {
    pub document: &'a ConfigDocument,
    findings: RefCell<Vec<(Vec<String>, Issue)>>,
}

impl<'a> View<'a> {
    pub(super) fn new(document: &'a ConfigDocument) -> Self {
        Self {
            document,
            findings: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn get(&self, path: &str) -> Option<&'a Value> {
        path.split('.')
            .try_fold(&self.document.resolved, |value, key| value.get(key))
    }

    pub(super) fn bool(&self, path: &str, default: bool) -> bool {
        match self.get(path) {
            Some(Value::Bool(value)) => *value,
            None => default,
            Some(other) => {
                self.wrong(path, "boolean", other);
                default
            }
        }
    }

    /// A string, as written.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong(path, "string", other);
                None
            }
        }
    }

    pub(super) fn path(&self, path: &str, paths: &Paths) -> Option<PathBuf> {
        self.text(path)
            .filter(|text| !text.trim().is_empty())
            .map(|text| paths.user_path(&text))
    }

    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        let Some(value) = self.get(path) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            self.wrong(path, "array", value);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text.clone()),
                other => self.wrong(&format!("{path}.{index}"), "string", other),
            }
        }
        texts
    }

    /// One of `words`.
    pub(super) fn word(&self, path: &str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.get(path)?;
        let found = value
            .as_str()
            .and_then(|text| words.iter().find(|word| **word == text));
        if found.is_none() {
            let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
            let mut issue = Issue::new(
                path,
                format!("Invalid input (allowed: {})", quoted.join(", ")),
            );
            issue.allowed_values = Some(words.iter().map(|word| (*word).to_owned()).collect());
            issue.allowed_values_hidden_count = Some(0);
            self.note(path, issue);
        }
        found.copied()
    }

    pub(super) fn number(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Value::Number(number) => number.as_f64(),
            other => {
                self.wrong(path, "number", other);
                None
            }
        }
    }

    pub(super) fn port(&self, path: &str) -> Option<u16> {
        let number = self.number(path)?;
        let message = if number.fract() != 0.0 {
            "Invalid input: expected int, received number"
        } else if number < 1.0 {
            "Too small: expected number to be >=1"
        } else if number > 65535.0 {
            "Too big: expected number to be <=65535"
        } else {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked above"
            )]
            return Some(number as u16);
        };
        self.note(path, Issue::new(path, message));
        None
    }

    pub(super) fn wrong(&self, path: &str, expected: &str, got: &Value) {
        let message = format!(
            "Invalid input: expected {expected}, received {}",
            type_name(got)
        );
        self.note(path, Issue::new(path, message));
    }

    fn note(&self, path: &str, issue: Issue) {
        let path = path.split('.').map(str::to_owned).collect();
        let mut findings = self.findings.borrow_mut();
        if !findings.iter().any(|(known, _)| *known == path) {
            findings.push((path, issue));
        }
    }

    pub(super) fn first_error(&self) -> Option<ConfigError> {
        let findings = self.findings.borrow();
        let (path, issue) = findings.first()?;
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let fix = match &issue.allowed_values {
            Some(_) => "use one of the allowed values, or remove the key for its default",
            None => "correct the value, or remove the key for its default",
        };
        Some(self.document.error(&path, issue.message.clone()).fix(fix))
    }

    pub(super) fn into_issues(self) -> Vec<Issue> {
        self.findings
            .into_inner()
            .into_iter()
            .map(|(_, issue)| issue)
            .collect()
    }
}
