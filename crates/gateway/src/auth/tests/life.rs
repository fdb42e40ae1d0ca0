//! What must survive a crash, a reload and a person at the other end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;
use crate::auth::pairing::{About, Book, PENDING_MAX, Wish};
use crate::auth::*;

fn reopen(world: &World) -> Auth {
    let (auth, damaged) = Auth::open(world.dir.path(), settings(), world.now()).expect("opens");
    assert!(damaged.is_none());
    auth
}

#[test]
fn a_pairing_is_on_disk_before_it_is_answered() {
    let world = World::new();
    let device = Device::new();
    let token = world.pair(&device, &["operator.read"]);
    let path = world.dir.path().join("devices.json");
    assert_eq!(
        fs::metadata(&path).expect("written").permissions().mode() & 0o777,
        0o600
    );
    let text = fs::read_to_string(&path).expect("text");
    assert!(text.contains(&device.id));
    assert!(
        !text.contains(&token),
        "the token itself is nowhere in the file"
    );
    // As after a crash: nothing was flushed.
    let again = World {
        auth: reopen(&world),
        dir: world.dir,
        now_ms: world.now_ms,
        upstream: world.upstream,
    };
    let principal = again.accepted(&Try {
        device: Some(&device),
        auth: json!({"deviceToken": token}),
        ..Try::default()
    });
    assert_eq!(
        principal.hello_auth["deviceToken"], token,
        "and it can be made again"
    );
}

#[test]
fn a_half_written_temporary_file_is_ignored_and_swept() {
    let world = World::new();
    let device = Device::new();
    world.pair(&device, &["operator.read"]);
    let temp = world.dir.path().join(".devices.json.abc.tmp");
    fs::write(&temp, "{\"version\":1,\"pend").expect("written");
    let auth = reopen(&world);
    assert!(auth.made_by(&device.id).is_some());
    assert!(!temp.exists());
}

#[test]
fn a_damaged_book_is_kept_aside_and_named() {
    let world = World::new();
    world.pair(&Device::new(), &["operator.read"]);
    let path = world.dir.path().join("devices.json");
    for damage in [
        "{\"version\":1,\"paired\":",
        "[]",
        "{\"version\":1,\"pending\":3,\"paired\":{}}",
        "",
    ] {
        fs::write(&path, damage).expect("written");
        let (_, damaged) = Auth::open(world.dir.path(), settings(), 77).expect("opens");
        let damaged = damaged.expect("reported");
        assert_eq!(fs::read_to_string(&damaged.kept_at).expect("kept"), damage);
        assert!(
            damaged.to_string().contains("devices.json.damaged-77"),
            "{damaged}"
        );
        assert!(!path.exists());
    }
    fs::write(&path, "{\"version\":2}").expect("written");
    let error = Auth::open(world.dir.path(), settings(), 78)
        .expect_err("of a newer release")
        .to_string();
    assert!(error.contains("newer release") && path.exists(), "{error}");
}

#[test]
fn a_book_that_cannot_be_written_grants_nothing() {
    let world = World::new();
    let device = Device::new();
    world.pair(&device, &["operator.read"]);
    // A directory in the file's place makes every rename fail, for any user.
    let path = world.dir.path().join("devices.json");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("x"), "x").expect("written");
    let other = Device::new();
    let refusal = world.refused(&Try {
        device: Some(&other),
        ..Try::default()
    });
    assert_eq!(
        (refusal.code, refusal.retryable),
        ("UNAVAILABLE", Some(true))
    );
    assert_eq!(world.auth.made_by(&other.id), None);
    let error = world
        .call(
            "device.token.rotate",
            json!({"deviceId": device.id, "role": "operator"}),
            &admin(&["operator.admin"]),
        )
        .expect_err("not rotated");
    assert_eq!(error.code, "UNAVAILABLE");
    assert!(
        fs::read_dir(world.dir.path())
            .expect("dir")
            .flatten()
            .all(|own| { !own.file_name().to_string_lossy().ends_with(".tmp") })
    );
}

#[test]
fn last_seen_is_written_by_flush() {
    let world = World::new();
    let device = Device::new();
    world.pair(&device, &["operator.read"]);
    world.pass(60_000);
    world.accepted(&Try {
        device: Some(&device),
        ..Try::default()
    });
    let seen = || {
        let text = fs::read_to_string(world.dir.path().join("devices.json")).expect("text");
        let book: Value = serde_json::from_str(&text).expect("JSON");
        book["paired"][&device.id]["lastSeenAtMs"].as_u64()
    };
    assert_eq!(seen(), Some(world.now() - 60_000));
    world.auth.flush().expect("written");
    assert_eq!(seen(), Some(world.now()));
}

#[test]
fn requests_are_bounded_and_expire() {
    let mut book = Book::default();
    let wish = |device: usize| Wish {
        device_id: format!("device-{device}"),
        public_key: "key".to_owned(),
        about: About::default(),
        role: "operator".to_owned(),
        scopes: vec!["operator.read".to_owned()],
        remote_ip: None,
        silent: false,
    };
    for device in 0..PENDING_MAX + 5 {
        book.ask(wish(device), device as u64);
    }
    assert_eq!(book.pending.len(), PENDING_MAX);
    assert!(
        book.pending.iter().all(|own| own.device_id != "device-0"),
        "the oldest made room"
    );
    assert!(!book.ask(wish(9), 1_000).created, "asking again refreshes");
    book.drop_expired(300_000 + PENDING_MAX as u64 + 5);
    let left: Vec<&str> = book
        .pending
        .iter()
        .map(|own| own.device_id.as_str())
        .collect();
    assert_eq!(left, ["device-9"]);
}

#[test]
fn older_silent_pairings_of_the_same_program_make_room() {
    let world = World::new();
    let (old, live, new) = (Device::new(), Device::new(), Device::new());
    world.pair(&old, &["operator.read"]);
    world.pair(&live, &["operator.read"]);
    world.pass(60_000);
    let (headers, own) = (
        headers(&[]),
        Try {
            device: Some(&new),
            ..Try::default()
        },
    );
    let (attribution, params) = (world.attribute(LOCAL, &headers), world.params(&own));
    let is_connected = |id: &str| id == live.id;
    let attempt = ConnectAttempt {
        is_connected: &is_connected,
        ..world.attempt(&attribution, &headers, &params)
    };
    let Decision::Accept(principal) = world.auth.connect(&attempt, world.now()) else {
        panic!("accepted")
    };
    let close = DeviceClose {
        device_id: old.id.clone(),
        role: None,
        reason: "device-pair-removed",
    };
    assert_eq!(principal.effects.closes, [close]);
    assert_eq!(world.auth.made_by(&old.id), None);
    assert!(world.auth.made_by(&live.id).is_some());
}

#[test]
fn refusals_are_remembered_with_the_fix_and_without_secrets() {
    let world = World::new();
    for guess in 0..12 {
        let auth = json!({"token": format!("s3cret-guess-{guess}")});
        world.refused(&Try {
            client: ("cli", "cli"),
            auth,
            ..Try::default()
        });
    }
    world.refused(&Try {
        headers: &[("origin", "https://evil.example")],
        ..Try::default()
    });
    let recent = world.auth.recent_refusals();
    assert_eq!(recent.len(), 10);
    let lines: Vec<String> = recent.iter().map(ToString::to_string).collect();
    assert!(
        lines
            .iter()
            .all(|line| !line.contains("s3cret") && !line.contains('\n')),
        "{lines:?}"
    );
    assert_eq!(
        lines[0],
        "connect refused: unauthorized (token_mismatch), client cli/cli 2026.9.6 from 127.0.0.1; fix: give the \
         client the token that `openclaw config get gateway.auth.token` prints on this machine \
         (gateway.remote.token, or OPENCLAW_GATEWAY_TOKEN)"
    );
    assert!(
        lines[9].contains("openclaw config set gateway.controlUi.allowedOrigins"),
        "{}",
        lines[9]
    );
}

#[test]
fn a_wrong_secret_on_loopback_is_held_back_longer_each_time() {
    let world = World::new();
    let wrong = || Try {
        auth: json!({"token": "wrong"}),
        ..Try::default()
    };
    for ms in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
        assert_eq!(
            world.refused(&wrong()).delay,
            Some(Duration::from_millis(ms))
        );
        world.pass(ms);
    }
    assert_eq!(
        world
            .refused(&Try {
                auth: Value::Null,
                ..Try::default()
            })
            .delay,
        None
    );
}

#[test]
fn a_changed_policy_closes_what_it_would_not_let_in() {
    let page = [("origin", "https://ui.example")];
    let open = AuthSettings {
        allowed_origins: vec!["https://ui.example".to_owned()],
        ..settings()
    };
    let world = World::with(open.clone());
    let device = Device::new();
    let own = Try {
        client: ("webchat-ui", "webchat"),
        headers: &page,
        device: Some(&device),
        ..Try::default()
    };
    let principal = world.accepted(&own);
    assert_eq!(world.auth.stale(&principal), None);
    world.auth.reload(settings());
    assert_eq!(
        world.auth.stale(&principal),
        Some((1008, "origin not allowed"))
    );
    world.auth.reload(AuthSettings {
        trusted_proxies: vec!["10.0.0.1".to_owned()],
        ..open
    });
    assert_eq!(
        world.auth.stale(&principal),
        Some((4001, "gateway policy changed"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_waiting_upgrade_wakes_when_a_person_decides() {
    let world = World::new();
    let device = Device::new();
    let principal = world.accepted(&Try {
        device: Some(&device),
        ..Try::default()
    });
    let caller = Caller::of(&principal);
    let ask = |scopes: &[&str]| {
        let asked = world
            .call(
                "device.scopes.requestUpgrade",
                json!({"scopes": scopes}),
                &caller,
            )
            .expect("asked");
        assert_eq!(asked.effects.events[0].event, "device.pair.requested");
        asked.payload
    };
    let now_ms = world.now();
    let started = tokio::time::Instant::now();
    let clock = || now_ms + u64::try_from(started.elapsed().as_millis()).expect("short");

    let approved = ask(&["operator.read", "operator.write"]);
    let decide = async {
        tokio::task::yield_now().await;
        world
            .call(
                "device.pair.approve",
                approved.clone(),
                &admin(&scopes::ALL),
            )
            .expect("approved");
    };
    let (result, ()) = tokio::join!(world.auth.wait_upgrade(&approved, &caller, clock), decide);
    let result = result.expect("an answer");
    assert_eq!(
        (&result["status"], &result["scopes"]),
        (
            &json!("approved"),
            &json!(["operator.read", "operator.write"])
        )
    );
    let token = result["deviceToken"].as_str().expect("token").to_owned();
    let scopes = ["operator.read", "operator.write"];
    let auth = json!({"deviceToken": token});
    world.accepted(&Try {
        device: Some(&device),
        scopes: &scopes,
        auth,
        ..Try::default()
    });

    let rejected = ask(&["operator.read", "operator.approvals"]);
    world
        .call("device.pair.reject", rejected.clone(), &admin(&scopes::ALL))
        .expect("rejected");
    let result = world
        .auth
        .wait_upgrade(&rejected, &caller, clock)
        .await
        .expect("an answer");
    assert_eq!(result["status"], "rejected");

    let ignored = ask(&["operator.read", "operator.talk"]);
    let result = world
        .auth
        .wait_upgrade(&ignored, &caller, clock)
        .await
        .expect("an answer");
    assert_eq!(
        result["status"], "expired",
        "after five minutes of the paused clock"
    );
    let other = Caller {
        device: Some(("x".into(), "y".into())),
        ..caller
    };
    let error = world
        .auth
        .wait_upgrade(&ignored, &other, clock)
        .await
        .expect_err("not its owner");
    assert_eq!(error.message, "scope upgrade expired or not found");
}

proptest! {
    /// Everything an unknown client can send before it is known: no input may panic.
    #[test]
    fn no_header_or_signature_text_panics(
        forwarded in "\\PC{0,40}",
        origin in "[a-zA-Z0-9:/@\\[\\].#?\\\\-]{0,40}",
        host in "[a-zA-Z0-9:\\[\\].]{0,30}",
        key in "\\PC{0,60}",
        bearer in "\\PC{0,30}",
    ) {
        let mut headers = ::http::HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", &forwarded),
            ("origin", &origin),
            ("host", &host),
            ("authorization", &bearer),
            ("x-openclaw-scopes", &forwarded),
        ] {
            if let Ok(value) = ::http::HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(name, value);
            }
        }
        let world = World::with(AuthSettings { trusted_proxies: vec![LOCAL.to_owned()], ..settings() });
        let Ok(attribution) = world.auth.attribute(from(LOCAL), &headers) else { return Ok(()) };
        let mut params = world.params(&Try { device: Some(&Device::new()), ..Try::default() });
        if let Some(device) = &mut params.device {
            device.public_key = key.clone();
            device.signature = key;
        }
        let decision = world.auth.connect(&world.attempt(&attribution, &headers, &params), world.now());
        prop_assert!(matches!(decision, Decision::Refuse(_)));
        let surface = HttpSurface::ControlUiRead { query_token: Some(&bearer) };
        drop(world.auth.bearer(&headers, &attribution, surface, UpstreamTrust::Absent, world.now()));
    }
}
