//! Whether an address carries a credential.
//!
//! At least as careful as the original (packages/net-policy/src/redact-sensitive-url.ts at 2026.9.6):
//! it may hide an odd address that the original shows, never the reverse.

use percent_encoding::percent_decode_str;

const DECODE_DEPTH_MAX: usize = 9;

const SENSITIVE_PARAMETERS: &[&str] = &[
    "token",
    "key",
    "api_key",
    "apikey",
    "secret",
    "access_token",
    "auth_token",
    "password",
    "pass",
    "passwd",
    "auth",
    "jwt",
    "session",
    "id_token",
    "code",
    "client_secret",
    "app_secret",
    "hook_token",
    "refresh_token",
    "signature",
    "x_amz_signature",
    "x_amz_security_token",
    "private_key",
    "credential",
    "authorization",
    "sig",
    "x_api_key",
    "x_access_token",
    "x_auth_token",
];

/// Paths whose values are addresses that may carry a credential.
pub(super) fn is_url_path(path: &str) -> bool {
    if [".baseUrl", ".httpUrl", ".cdpUrl", ".request.proxy.url"]
        .iter()
        .any(|end| path.ends_with(end))
    {
        return true;
    }
    let servers = path
        .strip_prefix("nodeHost.")
        .unwrap_or(path)
        .strip_prefix("mcp.servers.");
    servers
        .and_then(|rest| rest.strip_suffix(".url"))
        .is_some_and(|server| !server.is_empty() && !server.contains('.'))
}

pub(super) fn has_secret(value: &str) -> bool {
    let mut text = value.to_owned();
    for _ in 0..DECODE_DEPTH_MAX {
        if has_user_info(&text) || has_sensitive_parameter(&text) || has_bot_token(&text) {
            return true;
        }
        let Ok(decoded) = percent_decode_str(&text).decode_utf8() else {
            return true;
        };
        if decoded == text {
            return false;
        }
        text = decoded.into_owned();
    }
    true
}

/// `user:password@` before the host, also after sloppy or missing slashes.
fn has_user_info(text: &str) -> bool {
    let lower = text.to_lowercase();
    let schemes = ["http:", "https:", "ws:", "wss:", "ftp:"];
    let starts = schemes
        .iter()
        .flat_map(|scheme| {
            lower
                .match_indices(scheme)
                .map(|(at, found)| at + found.len())
        })
        .chain(lower.match_indices("//").map(|(at, _)| at + 2))
        .chain(lower.match_indices("\\\\").map(|(at, _)| at + 2));
    starts.into_iter().any(|start| {
        let rest = lower[start..].trim_start_matches(['/', '\\']);
        let end = rest.find(|c: char| matches!(c, '/' | '\\' | '?' | '#') || c.is_whitespace());
        let authority = &rest[..end.unwrap_or(rest.len())];
        // A password with a slash in it spills over the authority's end.
        let spilled = end.is_some()
            && authority.split_once(':').is_some_and(|(_, port)| {
                !port.bytes().all(|byte| byte.is_ascii_digit()) && !authority.starts_with('[')
            })
            && rest
                .split(char::is_whitespace)
                .next()
                .is_some_and(|word| word.contains('@'));
        authority.contains('@') || spilled
    })
}

fn has_sensitive_parameter(text: &str) -> bool {
    text.split(['?', '&', '#', ';']).skip(1).any(|part| {
        part.split_once('=')
            .is_some_and(|(name, _)| is_sensitive_parameter(name))
    })
}

fn is_sensitive_parameter(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(|c| !c.is_whitespace() && !c.is_control() && *c != '+')
        .map(|c| if c == '-' { '_' } else { c })
        .flat_map(char::to_lowercase)
        .collect();
    let last_is_token = name.rsplit('_').next() == Some("token");
    let scoped_token = name.rsplit_once('_').is_some_and(|(head, scope)| {
        scope.len() >= 16
            && scope.bytes().all(|byte| byte.is_ascii_hexdigit())
            && head.rsplit('_').next() == Some("token")
    });
    SENSITIVE_PARAMETERS.contains(&name.as_str()) || last_is_token || scoped_token
}

/// `/bot123456:…`, as Telegram's addresses have it.
fn has_bot_token(text: &str) -> bool {
    text.to_lowercase().match_indices("/bot").any(|(at, _)| {
        let rest = &text[at + 4..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let secret = rest[digits..].strip_prefix(':').unwrap_or_default();
        let length = secret
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            .count();
        let ends = matches!(secret.as_bytes().get(length), None | Some(b'/'));
        digits >= 6 && length >= 20 && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_seen() {
        for url in [
            "https://u:p@host/v1",
            "http:u@host",
            "//u:p@host",
            "https://host/?api_key=1",
            "https://host/#access-token=1",
            "https://host/?x=1&Session_Token=2",
            "https://host/?next=https%3A%2F%2Fu%3Ap%40host",
            "https://api.telegram.org/bot123456:abcdefghijklmnopqrstu/getMe",
            "https://u:pa/ss@host/",
            "https://host/?token_0123456789abcdef=1",
        ] {
            assert!(has_secret(url), "{url}");
        }
        for url in [
            "https://host/v1",
            "http://127.0.0.1:8080/v1?model=x",
            "https://host/@scope/pkg",
            "https://host:443/a@b",
            "plain text",
            "",
            "https://host/100%25",
        ] {
            assert!(!has_secret(url), "{url}");
        }
    }

    #[test]
    fn only_some_paths_are_addresses() {
        assert!(is_url_path("models.providers.x.baseUrl") && is_url_path("mcp.servers.a.url"));
        assert!(!is_url_path("mcp.servers.a.b.url") && !is_url_path("gateway.remote.url"));
    }
}
