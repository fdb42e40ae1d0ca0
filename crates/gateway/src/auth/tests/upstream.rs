//! What is relayed, asked, learned and imported when a TypeScript gateway is behind us.

use serde_json::{Value, json};

use super::support::*;
use crate::auth::pairing::MadeBy;
use crate::auth::*;

const THEIRS: &str = "a-token-issued-by-the-upstream-0123456789abc";

fn relayed(decision: Decision) -> RelayReason {
    match decision {
        Decision::Relay { why } => why,
        other => panic!("not relayed: {other:?}"),
    }
}

/// As the upstream's `device.pair.list` shows a device.
fn listed(device: &Device, scopes: &[&str], issued_at_ms: u64) -> Value {
    json!({"deviceId": device.id, "publicKey": device.public_key, "platform": "linux", "clientId": "test",
        "clientMode": "test", "role": "operator", "roles": ["operator"], "scopes": scopes, "approvedVia": "silent",
        "createdAtMs": 1, "approvedAtMs": 2, "connected": false,
        "tokens": [{"role": "operator", "scopes": scopes, "createdAtMs": issued_at_ms}]})
}

fn world(upstream: UpstreamTrust) -> World {
    let world = World::new();
    world.upstream.set(upstream);
    world
}

#[test]
fn what_only_the_upstream_can_do_is_relayed_while_it_is_there() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let own = |auth: Value| Try {
        device: Some(&device),
        auth,
        ..Try::default()
    };
    let shared = || json!({"token": TOKEN});
    assert_eq!(
        relayed(world.connect(&own(shared()))),
        RelayReason::UnknownDevice
    );
    assert_eq!(
        relayed(world.connect(&own(json!({"bootstrapToken": "x"})))),
        RelayReason::Bootstrap
    );
    assert_eq!(
        relayed(world.connect(&own(json!({"deviceToken": "x"})))),
        RelayReason::UnknownDevice
    );
    let node = Try {
        role: "node",
        scopes: &[],
        client: ("node-host", "node"),
        ..own(shared())
    };
    assert_eq!(relayed(world.connect(&node)), RelayReason::Node);
    let agent = json!({"token": TOKEN, "agentRuntimeIdentityToken": "x"});
    let agent = Try {
        client: ("gateway-client", "backend"),
        auth: agent,
        ..Try::default()
    };
    assert_eq!(relayed(world.connect(&agent)), RelayReason::ExactIdentity);
    // What needs no pairing is answered here.
    for client in [("gateway-client", "backend"), ("cli", "cli")] {
        world.accepted(&Try {
            client,
            ..Try::default()
        });
    }
    world.accepted(&Try {
        client: ("gateway-client", "backend"),
        ..own(shared())
    });
    // And what is wrong by any rule of ours never gets there.
    assert_eq!(
        reason(&world.refused(&Try {
            auth: json!({"token": "x"}),
            ..Try::default()
        })),
        "token_mismatch"
    );
    let stale = Try {
        challenge: "another",
        ..own(shared())
    };
    assert_eq!(world.refused(&stale).message, "device nonce mismatch");
}

#[test]
fn while_it_is_down_clients_are_told_to_try_again() {
    let world = world(UpstreamTrust::Unreachable);
    let device = Device::new();
    let node = Try {
        role: "node",
        scopes: &[],
        client: ("node-host", "node"),
        device: Some(&device),
        ..Try::default()
    };
    for own in [
        node,
        Try {
            device: Some(&device),
            auth: json!({"bootstrapToken": "x"}),
            ..Try::default()
        },
    ] {
        let refusal = world.refused(&own);
        assert_eq!(
            (refusal.code, refusal.retryable, refusal.close_code),
            ("UNAVAILABLE", Some(true), 1013)
        );
    }
    // A new local device is paired by us alone, and marked so.
    world.pair(&device, &["operator.read"]);
    assert_eq!(world.auth.made_by(&device.id), Some(MadeBy::Local));
}

#[test]
fn an_imported_device_is_asked_about_once_and_then_known() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let list = json!({"pending": [], "paired": [listed(&device, &["operator.read", "operator.write"], 5)]});
    let report = world
        .auth
        .import_paired(&list, world.now())
        .expect("imported");
    assert_eq!(
        (report.devices, report.lost.len(), report.skipped.len()),
        (1, 0, 0)
    );

    let try_ = Try {
        device: Some(&device),
        auth: json!({"deviceToken": THEIRS}),
        ..Try::default()
    };
    match world.connect(&try_) {
        Decision::AskUpstream { token, device_id } => {
            assert_eq!((token.as_str(), &device_id), (THEIRS, &device.id))
        }
        other => panic!("{other:?}"),
    }
    world
        .auth
        .upstream_token_verdict(&device.id, THEIRS, true, world.now())
        .expect("kept");
    let principal = world.accepted(&try_);
    assert_eq!(principal.scopes, ["operator.read"]);
    assert_eq!(
        principal.hello_auth["deviceToken"], THEIRS,
        "the upstream's token stays the device's token"
    );
    world.upstream.set(UpstreamTrust::Unreachable);
    world.accepted(&try_);
    // With the shared token no other token is handed out: it would not open the upstream.
    let shared = world.accepted(&Try {
        device: Some(&device),
        ..Try::default()
    });
    assert_eq!(shared.hello_auth.get("deviceToken"), None);
    // It may not have more than the list says.
    let more = Try {
        scopes: &["operator.admin"],
        ..try_
    };
    assert_eq!(reason(&world.refused(&more)), "scope_mismatch");
}

#[test]
fn a_token_that_the_upstream_refuses_is_not_asked_about_again_at_once() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let list = json!({"paired": [listed(&device, &["operator.read"], 5)]});
    world
        .auth
        .import_paired(&list, world.now())
        .expect("imported");
    let try_ = || Try {
        device: Some(&device),
        auth: json!({"deviceToken": "wrong"}),
        ..Try::default()
    };
    assert!(matches!(
        world.connect(&try_()),
        Decision::AskUpstream { .. }
    ));
    world
        .auth
        .upstream_token_verdict(&device.id, "wrong", false, world.now())
        .expect("noted");
    assert_eq!(reason(&world.refused(&try_())), "device_token_mismatch");
    world.pass(61_000);
    assert!(matches!(
        world.connect(&try_()),
        Decision::AskUpstream { .. }
    ));
}

#[test]
fn the_token_of_one_device_never_opens_another() {
    let world = world(UpstreamTrust::Reachable);
    let (one, two) = (Device::new(), Device::new());
    let list = json!({"paired": [listed(&one, &["operator.read"], 5), listed(&two, &["operator.read"], 6)]});
    world
        .auth
        .import_paired(&list, world.now())
        .expect("imported");
    world
        .auth
        .upstream_token_verdict(&one.id, THEIRS, true, world.now())
        .expect("kept");
    // The upstream would say 200, for it knows the token: as that of the first device.
    world
        .auth
        .upstream_token_verdict(&two.id, THEIRS, true, world.now())
        .expect("noted");
    let try_ = Try {
        device: Some(&two),
        auth: json!({"deviceToken": THEIRS}),
        ..Try::default()
    };
    assert_eq!(reason(&world.refused(&try_)), "device_token_mismatch");
}

#[test]
fn a_relayed_handshake_is_remembered() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let headers = headers(&[]);
    let attribution = world.attribute(REMOTE, &headers);
    for _ in 0..9 {
        let guess = Try {
            peer: REMOTE,
            device: Some(&device),
            auth: json!({"token": "theirs"}),
            ..Try::default()
        };
        assert_eq!(relayed(world.connect(&guess)), RelayReason::UnknownDevice);
    }
    let params = world.params(&Try {
        device: Some(&device),
        ..Try::default()
    });
    let hello = json!({"type": "hello-ok", "auth": {"method": "token", "role": "operator",
        "scopes": ["operator.read"], "deviceToken": THEIRS, "issuedAtMs": 7}});
    let attempt = world.attempt(&attribution, &headers, &params);
    world
        .auth
        .remember_relayed(&attempt, &hello, world.now())
        .expect("kept");
    assert_eq!(world.auth.made_by(&device.id), Some(MadeBy::Relayed));
    let auth = json!({"deviceToken": THEIRS});
    let principal = world.accepted(&Try {
        peer: REMOTE,
        device: Some(&device),
        auth,
        ..Try::default()
    });
    assert_eq!(
        principal.method,
        Method::DeviceToken,
        "the guesses before were taken back too"
    );
    // An older list does not make us forget it, a newer one does.
    let before = world
        .auth
        .import_paired(&json!({"paired": []}), world.now() - 1)
        .expect("imported");
    assert!(before.lost.is_empty());
    let after = world
        .auth
        .import_paired(&json!({"paired": []}), world.now() + 1)
        .expect("imported");
    assert_eq!(
        lost(&after),
        [(device.id.as_str(), None, "device-pair-removed")]
    );
    assert_eq!(world.auth.made_by(&device.id), None);
    // Nor does a list that was made before that bring it back.
    let late = json!({"paired": [listed(&device, &["operator.read"], 5)]});
    let report = world.auth.import_paired(&late, world.now() + 1);
    assert_eq!(report.expect("imported").devices, 0);
    let report = world.auth.import_paired(&late, world.now() + 2);
    assert_eq!(report.expect("imported").devices, 1, "paired anew");
}

fn lost(report: &upstream::Imported) -> Vec<(&str, Option<&str>, &str)> {
    let rows = report.lost.iter();
    rows.map(|close| {
        (
            close.device_id.as_str(),
            close.role.as_deref(),
            close.reason,
        )
    })
    .collect()
}

#[test]
fn relayed_guesses_are_counted_here_too() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    for guess in 0..10 {
        let auth = json!({"token": format!("g{guess}")});
        let own = Try {
            peer: REMOTE,
            device: Some(&device),
            auth,
            ..Try::default()
        };
        assert_eq!(relayed(world.connect(&own)), RelayReason::UnknownDevice);
    }
    let refusal = world.refused(&Try {
        peer: REMOTE,
        device: Some(&device),
        ..Try::default()
    });
    assert_eq!(reason(&refusal), "rate_limited");
}

#[test]
fn an_import_keeps_hashes_only_while_the_token_is_the_same() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let import = |row: Value| {
        world
            .auth
            .import_paired(&json!({"paired": [row]}), world.now())
            .expect("imported")
    };
    import(listed(&device, &["operator.read"], 5));
    world
        .auth
        .upstream_token_verdict(&device.id, THEIRS, true, world.now())
        .expect("kept");
    let try_ = || Try {
        device: Some(&device),
        auth: json!({"deviceToken": THEIRS}),
        ..Try::default()
    };
    import(listed(&device, &["operator.read"], 5));
    world.accepted(&try_());
    // Rotated there: what we knew is worth nothing.
    let mut rotated = listed(&device, &["operator.read"], 5);
    rotated["tokens"][0]["rotatedAtMs"] = 9.into();
    assert!(
        import(rotated.clone()).lost.is_empty(),
        "it may be an upgrade"
    );
    assert!(matches!(
        world.connect(&try_()),
        Decision::AskUpstream { .. }
    ));
    // Revoked there: not even asked about.
    rotated["tokens"][0]["revokedAtMs"] = 10.into();
    let report = import(rotated.clone());
    assert_eq!(
        lost(&report),
        [(device.id.as_str(), Some("operator"), "device-token-revoked")]
    );
    assert_eq!(reason(&world.refused(&try_())), "device_token_mismatch");
    assert!(import(rotated).lost.is_empty(), "it is lost once");
    // A row that cannot be read is named and removes nothing.
    let broken = json!({"paired": [{"deviceId": "x", "publicKey": ""}]});
    let report = world
        .auth
        .import_paired(&broken, world.now() + 1)
        .expect("imported");
    assert_eq!((report.skipped.len(), report.lost.len()), (1, 0));
}

#[test]
fn upgrades_of_the_upstreams_devices_are_made_there() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let list = json!({"paired": [listed(&device, &["operator.read"], 5)]});
    world
        .auth
        .import_paired(&list, world.now())
        .expect("imported");
    let more = || Try {
        device: Some(&device),
        scopes: &["operator.write"],
        ..Try::default()
    };
    let why = relayed(world.connect(&more()));
    assert_eq!(why, RelayReason::Upgrade(PairingReason::ScopeUpgrade));
    world.upstream.set(UpstreamTrust::Unreachable);
    assert_eq!(world.refused(&more()).code, "UNAVAILABLE");
    // Once there is no upstream at all, the device is ours to upgrade.
    world.upstream.set(UpstreamTrust::Absent);
    let principal = world.accepted(&more());
    assert!(principal.hello_auth["deviceToken"].is_string());
    assert_eq!(world.auth.made_by(&device.id), Some(MadeBy::Local));
}

#[test]
fn the_control_ui_may_read_with_a_device_token() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let read = HttpSurface::ControlUiRead { query_token: None };
    world.upstream.set(UpstreamTrust::Absent);
    let token = world.pair(&device, &["operator.read"]);
    world.upstream.set(UpstreamTrust::Reachable);
    let scopes = |auth: HttpAuth| match auth {
        HttpAuth::Allowed(own) => (own.method, own.scopes),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        scopes(world.bearer(REMOTE, Some(&token), read)),
        (Method::DeviceToken, vec!["operator.read".into()])
    );
    assert_eq!(scopes(world.bearer(REMOTE, Some(TOKEN), read)).1.len(), 7);
    assert!(
        matches!(world.bearer(REMOTE, Some(&token), HttpSurface::Api), HttpAuth::Refused(own) if own.status == 401)
    );
    assert!(
        matches!(world.bearer(REMOTE, Some("x"), read), HttpAuth::Refused(own) if own.status == 401)
    );
    let in_query = HttpSurface::ControlUiRead {
        query_token: Some(TOKEN),
    };
    assert_eq!(
        scopes(world.bearer(REMOTE, None, in_query)).0,
        Method::Token
    );
    // A token of a device whose token we do not know yet is the upstream's to judge.
    let imported = Device::new();
    let list = json!({"paired": [listed(&imported, &["operator.read"], 5)]});
    world.auth.import_paired(&list, 0).expect("imported");
    assert_eq!(
        world.bearer(REMOTE, Some(THEIRS), read),
        HttpAuth::AskUpstream {
            token: THEIRS.to_owned()
        }
    );
    let attribution = world.attribute(REMOTE, &headers(&[]));
    world
        .auth
        .upstream_bearer_verdict(&attribution, THEIRS, true, world.now());
    assert_eq!(
        scopes(world.bearer(REMOTE, Some(THEIRS), read)).0,
        Method::DeviceToken
    );
}

#[test]
fn what_the_upstreams_http_side_cannot_judge_is_relayed() {
    let world = world(UpstreamTrust::Reachable);
    let device = Device::new();
    let list = json!({"paired": [listed(&device, &["operator.pairing"], 5)]});
    world
        .auth
        .import_paired(&list, world.now())
        .expect("imported");
    let own = |scopes| Try {
        device: Some(&device),
        scopes,
        auth: json!({"deviceToken": THEIRS}),
        ..Try::default()
    };
    assert_eq!(
        relayed(world.connect(&own(&["operator.pairing"]))),
        RelayReason::ExactIdentity
    );
    world
        .auth
        .upstream_token_verdict(&device.id, THEIRS, true, world.now())
        .expect("kept");
    world.accepted(&own(&["operator.pairing"]));
    // It may have been approved for more since the list was made.
    let why = relayed(world.connect(&own(&["operator.pairing", "operator.read"])));
    assert_eq!(why, RelayReason::Upgrade(PairingReason::ScopeUpgrade));
}

#[test]
fn roles_of_users_are_the_upstreams_to_judge() {
    let proxied = [("x-forwarded-for", "203.0.113.9"), ("x-user", "ann")];
    let world = World::with(AuthSettings {
        mode: Mode::TrustedProxy,
        token: None,
        trusted_proxies: vec![LOCAL.to_owned()],
        trusted_proxy: Some(TrustedProxy {
            user_header: "x-user".to_owned(),
            allow_loopback: true,
            ..TrustedProxy::default()
        }),
        roles_configured: true,
        ..settings()
    });
    let own = || Try {
        client: ("cli", "cli"),
        headers: &proxied,
        auth: Value::Null,
        ..Try::default()
    };
    world.upstream.set(UpstreamTrust::Reachable);
    assert_eq!(relayed(world.connect(&own())), RelayReason::UserProfile);
    world.upstream.set(UpstreamTrust::Absent);
    let refusal = world.refused(&own());
    assert_eq!(
        refusal.details.expect("details")["code"],
        "AUTHENTICATED_PROFILE_UNAVAILABLE"
    );
    assert_eq!(
        (refusal.close_code, refusal.retry_after_ms),
        (1013, Some(1_000))
    );
}
