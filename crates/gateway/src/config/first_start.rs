//! The first start: a token is made, never a gateway that is open by accident.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::settings::{AuthMode, AuthSettings};
use super::{ConfigDocument, ConfigError, Paths, Secret, file};

/// Bytes of randomness in a made token, as the original's own (48 hexadecimal digits).
const TOKEN_BYTES: usize = 24;

/// What the first start did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStart {
    /// The configuration has what it needs; nothing was made.
    Nothing,
    /// There was no `openclaw.json`: it has been written. Read it again before going on.
    Wrote { file: PathBuf },
    /// The user's file has no token and was not touched. The gateway uses the token in `token_file`
    /// (owner only); clients need the same one.
    Advise {
        token: Secret,
        token_file: PathBuf,
        advice: Advice,
    },
}

/// How the user makes the made token known to other programs. Neither text contains the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The file that lacks the token.
    pub file: PathBuf,
    /// The line to add under `gateway.auth`, with the token left out.
    pub line: String,
    /// A command that does it.
    pub command: String,
}

impl Advice {
    /// The line with the token in it: for a terminal only, never for a log.
    pub fn line_with(&self, token: &Secret) -> String {
        self.line.replace("<token>", token.expose())
    }
}

/// Whether the user has a configuration file yet; before [`write_config`].
pub fn is_first(document: &ConfigDocument) -> bool {
    !document.exists
}

/// Writes `openclaw.json` with `gateway.mode` `local` and a new token, readable by the owner only.
/// A secret in the environment is used instead of a new one and is not written.
///
/// An existing file is never changed: if one appeared meanwhile, nothing is written.
pub fn write_config(document: &ConfigDocument, paths: &Paths) -> Result<FirstStart, ConfigError> {
    let env = &document.env;
    let has_secret = env.trimmed("OPENCLAW_GATEWAY_TOKEN").is_some()
        || env.trimmed("OPENCLAW_GATEWAY_PASSWORD").is_some();
    let failed = |error: io::Error| cannot_write(&paths.config_file, &error);
    let config = if has_secret {
        json!({"gateway": {"mode": "local"}})
    } else {
        let token = file::random_hex(TOKEN_BYTES).map_err(failed)?;
        json!({"gateway": {"mode": "local", "auth": {"mode": "token", "token": token}}})
    };
    let text = serde_json::to_string_pretty(&config).expect("a tree of strings is JSON") + "\n";
    let dir = paths.config_file.parent().unwrap_or(Path::new("/"));
    file::create_private_dir(dir).map_err(failed)?;
    match file::create_new(&paths.config_file, text.as_bytes()) {
        Ok(()) => Ok(FirstStart::Wrote {
            file: paths.config_file.clone(),
        }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(FirstStart::Nothing),
        Err(error) => Err(failed(error)),
    }
}

/// Gives a gateway in token mode without a token one of its own, kept in our state directory and used
/// again at the next start; the user's file is not touched.
pub fn own_token(auth: &AuthSettings, paths: &Paths) -> Result<FirstStart, ConfigError> {
    if auth.mode != AuthMode::Token || auth.token.is_some() {
        return Ok(FirstStart::Nothing);
    }
    let token_file = paths.own_dir.join("token");
    let token = read_or_make(&token_file)?;
    let advice = Advice {
        file: paths.config_file.clone(),
        line: "token: \"<token>\"".to_owned(),
        command: format!(
            "openclaw config set gateway.auth.token \"$(cat '{}')\"",
            token_file.display()
        ),
    };
    Ok(FirstStart::Advise {
        token,
        token_file,
        advice,
    })
}

fn read_or_make(token_file: &Path) -> Result<Secret, ConfigError> {
    let failed = |error: io::Error| cannot_write(token_file, &error);
    match std::fs::read_to_string(token_file) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {
            let token = file::random_hex(TOKEN_BYTES).map_err(failed)?;
            file::replace(token_file, format!("{token}\n").as_bytes()).map_err(failed)?;
            return Ok(Secret::new(token));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    file::create_private_dir(token_file.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
    let token = file::random_hex(TOKEN_BYTES).map_err(failed)?;
    match file::create_new(token_file, format!("{token}\n").as_bytes()) {
        Ok(()) => Ok(Secret::new(token)),
        // Another start was quicker; its token counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::read_to_string(token_file)
                .map(|text| Secret::new(text.trim()))
                .map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn cannot_write(file: &Path, error: &io::Error) -> ConfigError {
    ConfigError::new(format!("cannot be read or written: {error}"))
        .file(file)
        .fix("make its directory writable for this user, or set OPENCLAW_STATE_DIR to one that is")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Env, Settings};

    struct Home(tempfile::TempDir);

    impl Home {
        fn start(&self, vars: &[(&str, &str)]) -> (ConfigDocument, Paths) {
            let mut env = Env::from_pairs(vars.iter().copied());
            env.set("HOME", self.0.path().to_string_lossy());
            let paths = Paths::resolve(&env).expect("paths");
            (ConfigDocument::read(&paths, &env), paths)
        }

        fn mode(&self, file: &str) -> u32 {
            let meta = std::fs::metadata(self.0.path().join(file)).expect("exists");
            meta.permissions().mode() & 0o777
        }
    }

    #[test]
    fn without_a_file_one_is_written() {
        let home = Home(tempfile::tempdir().expect("temp dir"));
        let (document, paths) = home.start(&[]);
        assert!(is_first(&document));
        let file = paths.config_file.clone();
        assert_eq!(
            write_config(&document, &paths),
            Ok(FirstStart::Wrote { file })
        );
        assert_eq!(
            (home.mode(".openclaw"), home.mode(".openclaw/openclaw.json")),
            (0o700, 0o600)
        );

        let (document, paths) = home.start(&[]);
        assert!(!is_first(&document));
        let settings = Settings::read(&document, &paths).expect("valid");
        assert_eq!(
            settings
                .auth
                .token
                .as_ref()
                .map(|token| token.expose().len()),
            Some(48)
        );
        assert_eq!(own_token(&settings.auth, &paths), Ok(FirstStart::Nothing));
        let before = document.raw.clone();
        assert_eq!(write_config(&document, &paths), Ok(FirstStart::Nothing));
        assert_eq!(home.start(&[]).0.raw, before);
    }

    #[test]
    fn a_secret_in_the_environment_is_not_written() {
        let home = Home(tempfile::tempdir().expect("temp dir"));
        let (document, paths) = home.start(&[("OPENCLAW_GATEWAY_TOKEN", "from-env")]);
        write_config(&document, &paths).expect("written");
        let raw = home.start(&[]).0.raw.expect("a file");
        assert!(raw.contains("local") && !raw.contains("from-env") && !raw.contains("auth"));
    }

    #[test]
    fn a_file_without_a_token_is_left_alone() {
        let home = Home(tempfile::tempdir().expect("temp dir"));
        std::fs::create_dir(home.0.path().join(".openclaw")).expect("mkdir");
        let text = "{ gateway: { mode: 'local' } } // mine";
        std::fs::write(home.0.path().join(".openclaw/openclaw.json"), text).expect("write");
        let tokens: Vec<Secret> = (0..2)
            .map(|_| {
                let (document, paths) = home.start(&[]);
                let settings = Settings::read(&document, &paths).expect("valid");
                let FirstStart::Advise {
                    token,
                    token_file,
                    advice,
                } = own_token(&settings.auth, &paths).expect("a token")
                else {
                    panic!("no token was made")
                };
                assert!(advice.command.contains(&*token_file.to_string_lossy()));
                assert!(
                    !advice.command.contains(token.expose())
                        && !advice.line.contains(token.expose())
                );
                assert!(advice.line_with(&token).contains(token.expose()));
                token
            })
            .collect();
        assert_eq!(tokens[0], tokens[1]);
        assert_eq!(home.mode(".openclaw/openclaw-rs/token"), 0o600);
        assert_eq!(home.start(&[]).0.raw.as_deref(), Some(text));
    }
}
