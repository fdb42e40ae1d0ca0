//! SecretRef objects `{source, provider, id}`: `env` and `file` are resolved here.
//!
//! Source: src/secrets/resolve.ts and src/config/types.secrets.ts at 2026.9.6.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use crate::config::{ConfigDocument, Paths, Secret};

const DEFAULT_PROVIDER: &str = "default";
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A reference to a secret kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretRef {
    source: String,
    provider: String,
    id: String,
}

impl SecretRef {
    /// The reference a credential field holds, if it is one: an object, or `$NAME`.
    pub(super) fn of(document: &ConfigDocument, value: &Value) -> Option<Self> {
        if let Some(name) = value
            .as_str()
            .map(str::trim)
            .and_then(|text| text.strip_prefix('$'))
        {
            let provider = default_provider(document, "env");
            return is_env_id(name).then(|| Self {
                source: "env".to_owned(),
                provider,
                id: name.to_owned(),
            });
        }
        let source = value.get("source")?.as_str()?;
        let id = value
            .get("id")?
            .as_str()
            .filter(|id| !id.trim().is_empty())?;
        let known = matches!(source, "env" | "file" | "exec" | "store");
        let provider = match value.get("provider") {
            Some(provider) => provider.as_str()?.to_owned(),
            None => default_provider(document, source),
        };
        known.then(|| Self {
            source: source.to_owned(),
            provider,
            id: id.to_owned(),
        })
    }

    pub(super) fn label(&self) -> String {
        format!("{}:{}:{}", self.source, self.provider, self.id)
    }

    /// The secret. Errors say what is missing and never contain a value.
    pub(super) fn resolve(
        &self,
        document: &ConfigDocument,
        paths: &Paths,
    ) -> Result<Secret, String> {
        let configured = document.get(&["secrets", "providers", &self.provider]);
        let text = match (configured, self.source.as_str()) {
            (None, "env") if self.provider == default_provider(document, "env") => {
                self.from_env(document, None)?
            }
            (None, "store") => return Err(self.needs_openclaw()),
            (None, _) => {
                return Err(format!(
                    "Secret provider \"{}\" is not configured (ref: {}).",
                    self.provider,
                    self.label()
                ));
            }
            (Some(provider), source) => {
                let has = provider
                    .get("source")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if has != source {
                    return Err(format!(
                        "Secret provider \"{}\" has source \"{has}\" but ref requests \"{source}\".",
                        self.provider
                    ));
                }
                match source {
                    "env" => self.from_env(document, provider.get("allowlist"))?,
                    "file" => self.from_file(provider, paths)?,
                    _ => return Err(self.needs_openclaw()),
                }
            }
        };
        match text.trim() {
            "" => Err(format!("{} resolved to an empty value", self.label())),
            secret => Ok(Secret::new(secret)),
        }
    }

    fn needs_openclaw(&self) -> String {
        format!(
            "secret source \"{}\" is resolved by OpenClaw only (ref: {})",
            self.source,
            self.label()
        )
    }

    fn from_env(
        &self,
        document: &ConfigDocument,
        allowlist: Option<&Value>,
    ) -> Result<String, String> {
        let allowed = allowlist.and_then(Value::as_array).is_none_or(|names| {
            names
                .iter()
                .any(|name| name.as_str() == Some(self.id.as_str()))
        });
        if !allowed {
            return Err(format!(
                "Environment variable \"{}\" is not allowlisted in secrets.providers.{}.allowlist.",
                self.id, self.provider
            ));
        }
        match document.env.trimmed(&self.id) {
            Some(_) => Ok(document.env.get(&self.id).unwrap_or_default().to_owned()),
            None => Err(format!(
                "Environment variable \"{}\" is missing or empty.",
                self.id
            )),
        }
    }

    fn from_file(&self, provider: &Value, paths: &Paths) -> Result<String, String> {
        let path = provider
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let file = paths.user_path(path);
        let label = format!("secrets.providers.{}.path", self.provider);
        let failed = |what: String| format!("{label} {}: {what}", file.display());
        let meta = file
            .symlink_metadata()
            .map_err(|error| failed(error.to_string()))?;
        if !meta.is_file() {
            return Err(failed("must be a regular file, not a link".to_owned()));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(failed(
                "must be readable by its owner only (chmod 600)".to_owned(),
            ));
        }
        // SAFETY of trust, not memory: a secret another user may replace is no secret.
        if meta.uid() != current_uid() && meta.uid() != 0 {
            return Err(failed(
                "must belong to the user that runs the gateway".to_owned(),
            ));
        }
        let most = provider
            .get("maxBytes")
            .and_then(Value::as_u64)
            .unwrap_or(FILE_BYTES_MAX);
        if meta.len() > most {
            return Err(failed(format!("is larger than {most} bytes")));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if provider.get("mode").and_then(Value::as_str) == Some("singleValue") {
            if self.id != "value" {
                return Err(format!(
                    "singleValue file provider \"{}\" expects ref id \"value\".",
                    self.provider
                ));
            }
            let text = text.strip_suffix('\n').unwrap_or(text);
            return Ok(text.strip_suffix('\r').unwrap_or(text).to_owned());
        }
        let tree: Value = serde_json::from_str(text)
            .map_err(|error| failed(format!("is not JSON (line {})", error.line())))?;
        if !tree.is_object() {
            return Err(format!(
                "File provider \"{}\" payload is not a JSON object.",
                self.provider
            ));
        }
        match tree.pointer(&self.id).filter(|_| self.id.starts_with('/')) {
            Some(Value::String(secret)) => Ok(secret.clone()),
            Some(_) => Err(failed(format!("the value at {} is not a string", self.id))),
            None => Err(failed(format!("JSON pointer {} does not exist", self.id))),
        }
    }
}

fn default_provider(document: &ConfigDocument, source: &str) -> String {
    document
        .get(&["secrets", "defaults", source])
        .and_then(Value::as_str)
        .unwrap_or(DEFAULT_PROVIDER)
        .to_owned()
}

fn is_env_id(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes[0].is_ascii_uppercase()
        && bytes
            .iter()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
}

#[allow(
    unsafe_code,
    reason = "the C library's geteuid has no safe wrapper in our dependencies"
)]
fn current_uid() -> u32 {
    // SAFETY: geteuid takes no arguments, cannot fail and touches no memory of ours.
    unsafe { libc::geteuid() }
}
