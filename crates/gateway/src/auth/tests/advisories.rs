//! One named test per published advisory that concerns this surface.

use proptest::prelude::*;
use serde_json::json;

use super::support::*;
use crate::auth::*;

/// GHSA-rqpp-rjj8-7wv8: clients with only the shared secret kept self-declared scopes.
#[test]
fn ghsa_rqpp_shared_secret_scopes_come_from_the_server_record() {
    let world = World::new();
    let everything = scopes::ALL;
    for (peer, client, headers) in [
        (REMOTE, ("gateway-client", "backend"), &[][..]),
        (REMOTE, ("cli", "cli"), &[][..]),
        (LOCAL, ("gateway-client", "ui"), &[][..]),
        (LOCAL, ("test", "test"), &[][..]),
        (
            LOCAL,
            ("gateway-client", "backend"),
            &[("origin", "http://127.0.0.1:18789")][..],
        ),
    ] {
        let principal = world.accepted(&Try {
            peer,
            client,
            headers,
            scopes: &everything,
            ..Try::default()
        });
        assert_eq!(principal.scopes, [""; 0], "{peer} {client:?}");
    }
    let device = Device::new();
    world.pair(&device, &["operator.read"]);
    world.auth.reload(AuthSettings {
        auto_approve_local: false,
        ..settings()
    });
    let refusal = world.refused(&Try {
        device: Some(&device),
        scopes: &everything,
        ..Try::default()
    });
    assert_eq!(refusal.details.expect("details")["reason"], "scope-upgrade");
}

/// GHSA-4jpw-hj22-2xmc: token rotation minted more scope than the caller had.
#[test]
fn ghsa_4jpw_rotation_mints_no_more_than_caller_and_device_have() {
    let world = World::new();
    let device = Device::new();
    world.pair(
        &device,
        &["operator.read", "operator.write", "operator.pairing"],
    );
    let rotate = |scopes: &[&str], caller: &[&str]| {
        let params = json!({"deviceId": device.id, "role": "operator", "scopes": scopes});
        world.call("device.token.rotate", params, &admin(caller))
    };
    assert!(
        rotate(&["operator.admin"], &["operator.admin"]).is_err(),
        "beyond the device"
    );
    assert!(
        rotate(&["operator.write"], &["operator.read", "operator.pairing"]).is_err(),
        "beyond the caller"
    );
    let minted =
        rotate(&["operator.read"], &["operator.pairing", "operator.read"]).expect("within both");
    assert_eq!(minted.payload["scopes"], json!(["operator.read"]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn ghsa_4jpw_minted_scopes_are_a_subset_of_caller_and_device(
        held in proptest::sample::subsequence(scopes::ALL.to_vec(), 0..=10),
        caller in proptest::sample::subsequence(scopes::ALL.to_vec(), 0..=10),
        asked in proptest::option::of(proptest::sample::subsequence(scopes::ALL.to_vec(), 1..=10)),
    ) {
        let world = World::new();
        let device = Device::new();
        world.pair(&device, &held);
        let mut params = json!({"deviceId": device.id, "role": "operator"});
        if let Some(asked) = &asked {
            params["scopes"] = json!(asked);
        }
        if let Ok(minted) = world.call("device.token.rotate", params, &admin(&caller)) {
            let minted: Vec<String> = serde_json::from_value(minted.payload["scopes"].clone()).expect("scopes");
            prop_assert!(scopes::allow("operator", &minted, &caller), "{minted:?} by {caller:?}");
            prop_assert!(scopes::allow("operator", &minted, &held), "{minted:?} of {held:?}");
        }
    }
}

/// GHSA-m8wm-r5vq-qjpg, GHSA-xmxx-7p24-h892: a rotated bearer went on working.
#[test]
fn ghsa_m8wm_a_rotated_secret_counts_from_the_next_request() {
    let world = World::new();
    let live = world.accepted(&Try {
        client: ("gateway-client", "backend"),
        ..Try::default()
    });
    let device = Device::new();
    let page = [("origin", "http://127.0.0.1:18789")];
    let browser = Try {
        client: ("webchat-ui", "webchat"),
        headers: &page,
        device: Some(&device),
        ..Try::default()
    };
    let paired = world.accepted(&browser);
    let token = paired.hello_auth["deviceToken"]
        .as_str()
        .expect("token")
        .to_owned();
    assert_eq!(world.auth.stale(&live), None);

    world.auth.reload(AuthSettings {
        token: Some("rotated".to_owned()),
        ..settings()
    });
    assert_eq!(
        world.auth.stale(&live),
        Some((4001, "gateway auth changed"))
    );
    assert_eq!(
        world.auth.stale(&paired),
        Some((4001, "gateway auth changed"))
    );
    assert!(
        matches!(world.bearer(REMOTE, Some(TOKEN), HttpSurface::Api), HttpAuth::Refused(own) if own.status == 401)
    );
    assert!(matches!(
        world.bearer(REMOTE, Some("rotated"), HttpSurface::Api),
        HttpAuth::Allowed(_)
    ));
    assert_eq!(reason(&world.refused(&Try::default())), "token_mismatch");
    // A browser's device token was issued under the old secret and goes with it.
    let refusal = world.refused(&Try {
        auth: json!({"deviceToken": token}),
        ..browser
    });
    assert_eq!(reason(&refusal), "device_token_mismatch");
}

/// PR 57647: adding any `deviceToken` switched the rate limiter off.
#[test]
fn pr_57647_a_device_token_does_not_switch_the_limiter_off() {
    let world = World::new();
    let device = Device::new();
    for guess in 0..10 {
        let auth = json!({"token": format!("guess{guess}"), "deviceToken": "x"});
        let refusal = world.refused(&Try {
            peer: REMOTE,
            device: Some(&device),
            auth,
            ..Try::default()
        });
        assert_eq!(reason(&refusal), "device_token_mismatch");
    }
    let shared = world.refused(&Try {
        peer: REMOTE,
        ..Try::default()
    });
    assert_eq!(
        reason(&shared),
        "rate_limited",
        "the right token must wait too"
    );
    assert!(shared.retry_after_ms.is_some_and(|ms| ms > 290_000));
    let auth = json!({"deviceToken": "x"});
    let by_device = world.refused(&Try {
        peer: REMOTE,
        device: Some(&device),
        auth,
        ..Try::default()
    });
    assert_eq!(reason(&by_device), "rate_limited");
    assert!(
        matches!(world.bearer(REMOTE, Some(TOKEN), HttpSurface::Api), HttpAuth::Refused(own)
        if own.status == 429 && own.headers.iter().any(|(name, value)| *name == "Retry-After" && value == "300"))
    );
}

/// GHSA-5847-rm3g-23mw: `1.2.3.4` and `::ffff:1.2.3.4` were counted apart.
#[test]
fn ghsa_5847_a_mapped_address_shares_the_count() {
    let world = World::new();
    for turn in 0..10 {
        let peer = if turn % 2 == 0 {
            "1.2.3.4"
        } else {
            "::ffff:1.2.3.4"
        };
        world.refused(&Try {
            peer,
            auth: json!({"token": "wrong"}),
            ..Try::default()
        });
    }
    for peer in ["1.2.3.4", "::ffff:1.2.3.4"] {
        assert_eq!(
            reason(&world.refused(&Try {
                peer,
                ..Try::default()
            })),
            "rate_limited",
            "{peer}"
        );
    }
}

/// The chain of February 2026: any web page could reach the loopback socket, guess without limit and pair silently.
#[test]
fn oasis_chain_a_web_page_on_loopback_is_limited_and_never_paired_silently() {
    let world = World::new();
    let device = Device::new();
    let evil = [("origin", "https://evil.example")];
    let refusal = world.refused(&Try {
        headers: &evil,
        ..Try::default()
    });
    assert_eq!(
        refusal.details.expect("details")["code"],
        "CONTROL_UI_ORIGIN_NOT_ALLOWED"
    );

    let page = [("origin", "http://localhost:5173")];
    for _ in 0..10 {
        let auth = json!({"token": "wrong"});
        assert_eq!(
            reason(&world.refused(&Try {
                headers: &page,
                auth,
                ..Try::default()
            })),
            "token_mismatch"
        );
    }
    assert_eq!(
        reason(&world.refused(&Try {
            headers: &page,
            ..Try::default()
        })),
        "rate_limited"
    );

    let other = [("origin", "http://localhost:5174")];
    let refusal = world.refused(&Try {
        headers: &other,
        device: Some(&device),
        ..Try::default()
    });
    let details = refusal.details.expect("details");
    assert_eq!(details["code"], "PAIRING_REQUIRED");
    assert_eq!(
        refusal.events[0].event, "device.pair.requested",
        "a person decides"
    );
}

/// CVE-2026-25593: an unauthenticated local client could call write methods.
#[test]
fn cve_2026_25593_loopback_alone_is_no_identity() {
    let world = World::new();
    for client in [
        ("cli", "cli"),
        ("gateway-client", "backend"),
        ("test", "test"),
    ] {
        let refusal = world.refused(&Try {
            client,
            auth: serde_json::Value::Null,
            ..Try::default()
        });
        assert_eq!(refusal.code, "NOT_PAIRED", "{client:?}");
    }
    let device = Device::new();
    let auth = serde_json::Value::Null;
    let refusal = world.refused(&Try {
        device: Some(&device),
        auth,
        ..Try::default()
    });
    assert_eq!(reason(&refusal), "token_missing");
    assert!(
        matches!(world.bearer(LOCAL, None, HttpSurface::Api), HttpAuth::Refused(own) if own.status == 401)
    );
}

/// GHSA-xh72-v6v9-mwhc's rule, here: a missing or blank secret lets nobody in.
#[test]
fn ghsa_xh72_a_missing_or_blank_secret_opens_nothing() {
    for token in [None, Some(""), Some("  "), Some("undefined"), Some("null")] {
        let world = World::with(AuthSettings {
            token: token.map(str::to_owned),
            ..settings()
        });
        for sent in ["", "  ", "undefined", "null", "x"] {
            let try_ = Try {
                client: ("gateway-client", "backend"),
                auth: json!({"token": sent}),
                ..Try::default()
            };
            assert!(
                matches!(world.connect(&try_), Decision::Refuse(_)),
                "{token:?} opened by {sent:?}"
            );
            assert!(matches!(
                world.bearer(LOCAL, Some(sent), HttpSurface::Api),
                HttpAuth::Refused(_)
            ));
        }
    }
    let world = World::with(AuthSettings {
        token: Some("***".to_owned()),
        ..settings()
    });
    let refusal = world.refused(&Try {
        auth: json!({"token": "***"}),
        ..Try::default()
    });
    assert_eq!(
        reason(&refusal),
        "token_redacted_config",
        "a display marker is no secret"
    );
}

/// GHSA-2gvc-4f3c-2855's rule, here: a device's authority ends at its own device and scopes.
#[test]
fn ghsa_2gvc_a_device_manages_only_itself() {
    let world = World::new();
    let (mine, other) = (Device::new(), Device::new());
    let token = world.pair(&mine, &["operator.read", "operator.pairing"]);
    world.pair(&other, &["operator.read"]);
    let scopes = ["operator.read", "operator.pairing"];
    let principal = world.accepted(&Try {
        device: Some(&mine),
        scopes: &scopes,
        auth: json!({"deviceToken": token}),
        ..Try::default()
    });
    let caller = Caller::of(&principal);
    for (method, params) in [
        (
            "device.token.rotate",
            json!({"deviceId": other.id, "role": "operator"}),
        ),
        (
            "device.token.revoke",
            json!({"deviceId": other.id, "role": "operator"}),
        ),
        ("device.pair.remove", json!({"deviceId": other.id})),
        (
            "device.pair.rename",
            json!({"deviceId": other.id, "label": "x"}),
        ),
    ] {
        let error = world.call(method, params, &caller).expect_err(method);
        assert!(error.message.ends_with(" denied"), "{method}: {error:?}");
    }
    let list = world
        .call("device.pair.list", json!({}), &caller)
        .expect("list")
        .payload;
    assert_eq!(list["paired"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["paired"][0]["deviceId"], mine.id);
}
