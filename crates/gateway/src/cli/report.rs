//! `report`: what somebody who looks into a bug needs, in a folder, without secrets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex_lite::Regex;
use serde_json::{Value, json};

use super::target::{Target, environment};
use super::{To, api, config, doctor, print};
use crate::bridge::process::find;
use crate::config::redact::Hints;
use crate::config::{ConfigDocument, Env, Keepers, OwnSettings, Paths, SecretRef, Secrets};
use crate::native::log_tail;

#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// The folder to make; it must not exist yet.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[command(flatten)]
    to: To,
}

/// A shorter value hides more than it protects: it would be found in every other word.
const SECRET_BYTES_MIN: usize = 5;
const HIDDEN: &str = "***";
/// What `encodeURIComponent` escapes.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Hides what is known to be secret on this machine, and what looks like it.
#[derive(Debug, Default)]
struct Mask {
    secrets: Vec<String>,
}

impl Mask {
    /// Every secret of the configuration, of our own settings and state, of the environment and of `.env`.
    fn of(env: &Env, paths: &Paths, profile: Option<&str>, to: &To) -> Self {
        let mut secrets = Vec::new();
        let document = ConfigDocument::read(paths, env);
        let with_own = crate::messages::owned::with_own(&document.resolved, &paths.own_dir);
        for config in [Some(&document.resolved), with_own.as_ref().ok()]
            .into_iter()
            .flatten()
        {
            Hints::bundled().redact_collecting(config, &mut secrets);
            // Those kept in files and variables; a program that keeps some is not started for this.
            let keepers = Keepers {
                config,
                env: &document.env,
                paths,
            };
            let mut kept = BTreeSet::new();
            SecretRef::within(config, config, &mut kept);
            // What a secret is called is hidden in an answer, but is no secret: `value`, for one, is in every report.
            secrets.retain(|text| !kept.iter().any(|reference| reference.id() == text));
            kept.retain(|reference| !reference.is_kept_by_a_program());
            let kept = Secrets::resolve(kept, keepers);
            secrets.extend(kept.values().map(|secret| secret.expose().to_owned()));
        }
        if let Ok(target) = Target::resolve(profile, to) {
            secrets.extend(target.token.into_iter().chain(target.password));
        }
        if let Ok(own) = OwnSettings::load(&paths.own_file)
            && let Some(token) = own.upstream.token
        {
            secrets.push(token.expose().to_owned());
        }
        let looks_secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            ["token", "secret", "password", "passwd", "key", "credential"]
                .iter()
                .any(|part| name.contains(part))
        };
        let all = env.with_dotenv(paths, std::env::current_dir().ok().as_deref());
        let all = all.with_config_vars(&document.resolved);
        secrets.extend(
            all.iter()
                .filter(|(name, _)| looks_secret(name))
                .map(|(_, value)| value.to_owned()),
        );
        // Also from files that can't be parsed now: what was logged of them was written when they could.
        let assigned = Regex::new(
            r#"(?i)["']?([\w.-]*(?:token|secret|passw|key|credential)[\w.-]*)["']?\s*[:=]\s*(?:"([^"\n]+)"|'([^'\n]+)')"#,
        );
        if let Ok(assigned) = assigned {
            for file in [&paths.config_file, &paths.own_file] {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                let values = assigned.captures_iter(&text);
                secrets.extend(values.filter_map(|found| {
                    let value = found.get(2).or_else(|| found.get(3))?.as_str();
                    // A file's or a variable's name is no secret.
                    let is_name = found[1].ends_with("file") || value.starts_with("${");
                    (!is_name).then(|| value.to_owned())
                }));
            }
        }
        Self::new(secrets)
    }

    fn new(mut secrets: Vec<String>) -> Self {
        for secret in &mut secrets {
            *secret = secret.trim().to_owned();
        }
        secrets.retain(|secret| secret.len() >= SECRET_BYTES_MIN);
        // A secret that is part of another one must not break that one up.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    fn text(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in &self.secrets {
            // As it is, as JSON writes it, and as URLs do: with all but letters and digits escaped, or as a browser.
            let json = Value::from(secret.as_str()).to_string();
            let url = |set| utf8_percent_encode(secret, set).to_string();
            let (strict, lax) = (url(NON_ALPHANUMERIC), url(URI_COMPONENT));
            for form in [secret.as_str(), json.trim_matches('"'), &strict, &lax] {
                if out.contains(form) {
                    out = out.replace(form, HIDDEN);
                }
            }
        }
        let mut lines: Vec<String> = Vec::new();
        for line in out.lines() {
            lines.push(log_tail::redact(line).into_owned());
        }
        lines.join("\n") + "\n"
    }
}

pub(super) fn run(profile: Option<&str>, report: &Report) -> anyhow::Result<ExitCode> {
    let (env, paths) = environment(profile)?;
    let folder = report.output.clone().unwrap_or_else(|| {
        PathBuf::from(format!("openclaw-report-{}", crate::clock::now_ms() / 1000))
    });
    anyhow::ensure!(
        !folder.exists(),
        "{} exists; name another folder with --output",
        folder.display()
    );
    let mask = Mask::of(&env, &paths, profile, &report.to);
    let to = &report.to;
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let parts: [(&str, &str, anyhow::Result<String>); 8] = [
        (
            "versions.json",
            "versions of this gateway, OpenClaw and the system",
            Ok(pretty(&versions(&env, &paths))),
        ),
        (
            "doctor.json",
            "what `doctor` finds, and the last connects that were refused",
            doctor::look(profile).map(|found| pretty(&found.json())),
        ),
        (
            "config.json",
            "the configuration in force, with the origin of each value",
            config::shown(profile, true).map(|shown| pretty(&shown.json())),
        ),
        (
            "status.json",
            "state of the gateway, of OpenClaw behind it and of the rollout",
            status(profile, to).map(|status| pretty(&status)),
        ),
        (
            "channels.json",
            "channel accounts, without messages",
            api::get(profile, to, "/api/channels").map(|channels| pretty(&channels)),
        ),
        (
            "metrics.txt",
            "metrics, as Prometheus gets them",
            api::get_text(profile, to, crate::metrics::route::PATH),
        ),
        (
            "log.txt",
            "the last lines of the gateway's log",
            api::get(profile, to, crate::recent_log::PATH)
                .map(|log| lines(&log, |line| line.as_str().unwrap_or_default().to_owned())),
        ),
        (
            "upstream.txt",
            "the last lines that OpenClaw wrote",
            api::get(profile, to, "/api/upstream/logs").map(|log| {
                lines(&log, |line| {
                    format!(
                        "{} {} {}",
                        line["atMs"],
                        line["pid"],
                        line["text"].as_str().unwrap_or_default()
                    )
                })
            }),
        ),
    ];
    crate::config::create_private_dir(&folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut index = String::from(
        "A report of openclaw-gateway, to attach to a bug. Secrets were replaced by ***; messages are not in it. Look through it\nbefore you hand it on.\n\n",
    );
    for (name, what, content) in parts {
        match content {
            Ok(content) => {
                write(&folder, name, &mask.text(&content))?;
                index.push_str(&format!("{name:<15} {what}\n"));
            }
            Err(error) => index.push_str(&format!("{name:<15} missing: {error:#}\n")),
        }
    }
    write(&folder, "README.txt", &mask.text(&index))?;
    print(&format!("{}\n\n{}", folder.display(), mask.text(&index)));
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let file = folder.join(name);
    crate::config::replace_private(&file, text.as_bytes())
        .with_context(|| format!("{}: cannot be written", file.display()))
}

fn versions(env: &Env, paths: &Paths) -> Value {
    let own = OwnSettings::load(&paths.own_file).unwrap_or_default();
    let package = find::package(&find::Places::from_env(env), &own.upstream.command);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "gateway": env!("CARGO_PKG_VERSION"),
        "speaksAs": wire::REFERENCE_VERSION,
        "protocol": wire::PROTOCOL_VERSION,
        "openclaw": package.as_ref().ok().map(|found| found.version.to_string()),
        "openclawAt": package.as_ref().ok().map(|found| found.root.display().to_string()),
        "openclawMissing": package.as_ref().err().map(ToString::to_string),
        "system": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "kernel": kernel.trim(),
        "stateDir": paths.state_dir,
    })
}

fn status(profile: Option<&str>, to: &To) -> anyhow::Result<Value> {
    let ask = |path: &str| match api::get(profile, to, path) {
        Ok(answer) => answer,
        Err(error) => Value::from(format!("{error:#}")),
    };
    Ok(json!({
        "upstream": api::get(profile, to, crate::upstream::PATH)?,
        "rollout": ask(crate::rollout::PATH),
        "ready": ask("/readyz"),
        "started": ask("/startupz"),
    }))
}

fn lines(log: &Value, line: impl Fn(&Value) -> String) -> String {
    let ansi = Regex::new("\u{1b}\\[[0-9;]*m").ok();
    let all = log["lines"].as_array().into_iter().flatten();
    let text: Vec<String> = all
        .map(|entry| {
            let text = line(entry);
            // Colours of a terminal, which would also cut a secret into pieces.
            ansi.as_ref().map_or_else(
                || text.clone(),
                |ansi| ansi.replace_all(&text, "").into_owned(),
            )
        })
        .collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form_and_a_short_one_does_not_eat_the_text() {
        let mask = Mask::new(
            ["pa\"ss+word/1", "pa\"ss", "abc", " spaced-secret "]
                .map(str::to_owned)
                .to_vec(),
        );
        for text in [
            "pa\"ss+word/1",
            "{\"x\":\"pa\\\"ss+word/1\"}",
            "http://h/?k=pa%22ss%2Bword%2F1&y",
            "http://h/?k=spaced-secret and spaced%2Dsecret",
            "Authorization: Bearer 0123456789abcdef",
            "it is spaced-secret, really",
        ] {
            let masked = mask.text(text);
            assert!(masked.contains(HIDDEN), "{masked}");
            for secret in ["ss+word", "ss%2B", "0123456789", "spaced"] {
                assert!(!masked.contains(secret), "{masked}");
            }
        }
        assert_eq!(mask.text("abcdef\n"), "abcdef\n");
    }
}
