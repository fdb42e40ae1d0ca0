//! Doors for the fuzz targets (`fuzz/`): parsers of outside bytes that are nobody else's business.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use wire::connect::ConnectParams;

use crate::auth::attribution::{Attribution, Door, Trust};
use crate::auth::{BrowserOrigin, address, bearer, device, origin, scopes};
use crate::ingress::websocket;
use crate::routing::SessionKey;
use crate::{config as files, control_ui};

/// Lines of `name: value`: who is calling, from where, over which page, with what.
pub fn headers(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts
            .next()
            .and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts
            .next()
            .and_then(|value| HeaderValue::from_bytes(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let proxies = [
        "10.0.0.0/8".to_owned(),
        "::1".to_owned(),
        "192.168.1.7".to_owned(),
    ];
    let trust = Trust {
        trusted_proxies: &proxies,
        allow_real_ip_fallback: true,
    };
    for peer in [
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(10, 0, 0, 1),
        Ipv4Addr::new(203, 0, 113, 5),
    ] {
        let Ok(who) = Attribution::of(IpAddr::V4(peer), Door::Ordinary, &headers, trust) else {
            continue;
        };
        if peer == Ipv4Addr::new(203, 0, 113, 5) {
            assert!(!who.is_local(), "a remote peer has become local");
        }
        assert!(!(who.forwarded() && address::is_loopback(who.client_ip)));
        let page = BrowserOrigin {
            request_host: who.host.clone(),
            origin: who.origin.clone(),
            is_local: who.is_local(),
        };
        let allowed = ["https://a.example".to_owned()];
        if page.check(&allowed, false).is_ok() {
            assert!(
                page.check(&allowed, true).is_ok(),
                "a fallback takes a right away"
            );
        }
        origin::chrome_extension(who.origin.as_deref());
        origin::hostname(who.origin.as_deref());
        origin::rate_limit_key(who.origin.as_deref().unwrap_or_default());
        scopes::cap(vec!["operator.read".into()], who.scopes_cap.as_deref());
    }
    bearer::bearer_token(&headers);
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    if websocket::is_upgrade(request.headers()) {
        drop(websocket::check(&request));
    }
}

/// The path of a request for a file: it names one below the root, or none.
pub fn path(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return;
    };
    let Some(relative) = control_ui::relative_of(path) else {
        return;
    };
    let mut depth = 0_i32;
    for part in std::path::Path::new(&relative).components() {
        match part {
            std::path::Component::Normal(_) => depth += 1,
            std::path::Component::ParentDir => depth -= 1,
            std::path::Component::CurDir => {}
            other => panic!("{other:?} in a path below the root"),
        }
        assert!(depth >= 0, "a path above the root");
    }
}

/// The signature in a `connect`, whatever it says. It is never right: its challenge is not ours.
pub fn prove(params: &ConnectParams) {
    if let Some(proof) = &params.device {
        let role = params.role.as_deref().unwrap_or("operator");
        let scopes = params.scopes.clone().unwrap_or_default();
        let now_ms = proof.signed_at as u64;
        let proven = device::prove(proof, params, role, &scopes, "a challenge of ours", now_ms);
        assert!(proven.is_err(), "proven without our challenge");
    }
    device::metadata(params.client.device_family.as_deref());
}

/// A session's key: read, and said as it was.
pub fn session_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(key) = SessionKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
}

/// A configuration's text, read and rewritten.
pub fn config(text: &str) {
    files::read_and_rewrite(text);
}
