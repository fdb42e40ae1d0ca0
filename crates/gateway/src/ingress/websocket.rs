//! The upgrade from HTTP to WebSocket, refused and accepted as the `ws` library of the original does.

use client::socket::accept_key;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

/// Whether a request asks for an upgrade at all (Node hands these to the `upgrade` listener).
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection_says_so = headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|part| part.trim().eq_ignore_ascii_case("upgrade"))
        })
    });
    connection_says_so && headers.contains_key(header::UPGRADE)
}

/// Why an upgrade is not a WebSocket's: status, body and extra header as `ws` answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadUpgrade {
    pub(crate) status: StatusCode,
    pub(crate) body: &'static str,
    pub(crate) supported_versions: bool,
}

/// The accept key of a valid WebSocket upgrade.
///
/// # Errors
/// The answer to give. Source: `WebSocketServer.handleUpgrade` of the npm package `ws` 8.
pub(crate) fn check<B>(request: &Request<B>) -> Result<String, BadUpgrade> {
    let bad = |status, body| BadUpgrade {
        status,
        body,
        supported_versions: false,
    };
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(bad(StatusCode::METHOD_NOT_ALLOWED, "Invalid HTTP method"));
    }
    if !headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    {
        return Err(bad(StatusCode::BAD_REQUEST, "Invalid Upgrade header"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes);
    let Some(key) = key.filter(|key| is_key(key)) else {
        return Err(bad(
            StatusCode::BAD_REQUEST,
            "Missing or invalid Sec-WebSocket-Key header",
        ));
    };
    let version = headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    if !matches!(version, Some(b"13" | b"8")) {
        return Err(BadUpgrade {
            status: StatusCode::BAD_REQUEST,
            body: "Missing or invalid Sec-WebSocket-Version header",
            supported_versions: true,
        });
    }
    Ok(accept_key(key))
}

/// 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22]
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard_is_accepted() {
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn broken_upgrades_are_told_what_is_wrong() {
        let request = |key: &str, version: &str| {
            Request::builder()
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", "WebSocket")
                .header("sec-websocket-key", key)
                .header("sec-websocket-version", version)
                .body(())
                .expect("request")
        };
        let good = "dGhlIHNhbXBsZSBub25jZQ==";
        assert!(is_upgrade(request(good, "13").headers()));
        assert!(check(&request(good, "13")).is_ok());
        assert!(
            check(&request("short", "13"))
                .expect_err("key")
                .body
                .contains("Key")
        );
        assert!(
            check(&request(good, "7"))
                .expect_err("version")
                .supported_versions
        );
    }
}
