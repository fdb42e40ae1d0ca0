//! Which requests a web page may make a browser send: none but those of a page that came from here.
//!
//! A name in `Host` may be one that somebody else's DNS points here (rebinding); a page elsewhere can send a request
//! without being able to read its answer (forgery). Both are turned away before anybody asks who makes the request.

use http::{HeaderMap, header};

/// Whether `Host` is an IP address or `localhost`: no name that someone else's DNS decides.
pub(crate) fn names_an_address(headers: &HeaderMap) -> bool {
    host(headers).is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
    })
}

/// The only `Host`, when it is one.
fn host(headers: &HeaderMap) -> Option<http::uri::Authority> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let first = hosts.next().filter(|_| hosts.next().is_none())?;
    first.to_str().ok()?.parse().ok()
}

/// Whether a request was made by a person or a program, or by a page that this address served.
///
/// # Errors
/// What is wrong, in words for whoever sent it.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), &'static str> {
    if !names_an_address(headers) {
        return Err(
            "use this listener by its IP address or as localhost: another name may be anybody's",
        );
    }
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let of_elsewhere = match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) if !matches!(site, "same-origin" | "none") => true,
        (_, Some(origin)) => {
            // This listener has no TLS.
            let own = host(headers).map(|host| format!("http://{host}"));
            !own.is_some_and(|own| own.eq_ignore_ascii_case(origin))
        }
        _ => false,
    };
    if of_elsewhere {
        return Err("a page of another origin may not use this listener");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header"));
        }
        headers
    }

    #[test]
    fn a_host_must_be_an_address_and_the_only_one() {
        for host in ["127.0.0.1:18689", "localhost:18689", "[::1]:1", "10.0.0.7"] {
            assert_eq!(check(&headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:1",
            "localhost.evil.example",
            "",
            "a b",
        ] {
            assert!(check(&headers(&[("host", host)])).is_err(), "{host}");
        }
        assert!(check(&headers(&[])).is_err());
        assert!(check(&headers(&[("host", "127.0.0.1"), ("host", "127.0.0.1")])).is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_turned_away() {
        let host = ("host", "127.0.0.1:18689");
        let own = ("origin", "http://127.0.0.1:18689");
        assert_eq!(check(&headers(&[host, own])), Ok(()));
        assert_eq!(
            check(&headers(&[host, ("sec-fetch-site", "same-origin")])),
            Ok(())
        );
        assert_eq!(check(&headers(&[host, ("sec-fetch-site", "none")])), Ok(()));
        for origin in [
            "null",
            "",
            "https://127.0.0.1:18689",
            "http://127.0.0.1:18789",
            "http://localhost:18689",
            "http://evil.example",
        ] {
            assert!(
                check(&headers(&[host, ("origin", origin)])).is_err(),
                "{origin}"
            );
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(
                check(&headers(&[host, ("sec-fetch-site", site)])).is_err(),
                "{site}"
            );
            assert!(
                check(&headers(&[host, own, ("sec-fetch-site", site)])).is_err(),
                "{site}"
            );
        }
    }
}
