//! Unit tests of our own settings file.

use super::*;

fn parse(text: &str) -> Result<OwnSettings, String> {
    OwnSettings::parse(Path::new("/s/own.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn defaults_and_values() {
    let own = OwnSettings::default();
    assert_eq!(own.upstream.mode, UpstreamMode::Auto);
    assert_eq!(own.limits.payload_bytes_max, 25 * 1024 * 1024);
    assert_eq!(own.limits.handshake_timeout, Duration::from_secs(15));
    assert_eq!(
        own.admin_listen,
        AdminListen::At("127.0.0.1:18689".parse().expect("address"))
    );
    assert!(own.upstream.token.is_none() && own.upstream.port.is_none());
    assert!(own.guard.enabled && own.guard.calls_min == 100);
    let own = parse("[rollout.guard]\nqueue_age_s = 0\np99_floor_ms = 40\n").expect("valid");
    assert_eq!(own.guard.queue_age, None);
    assert_eq!(own.guard.p99_floor, Duration::from_millis(40));

    let own = parse(
        "upstream.mode = 'attach'\nupstream.url = 'ws://127.0.0.1:1'\nupstream.token = ' t '\n\
         [native]\ndisable = ['sessions.*', 'health']\n[limits]\npreauth_bytes_max = 0x1_0000\n\
         [admin]\nlisten = 'off'\n[control_ui]\npackage = 'pkg'\n",
    )
    .expect("valid");
    assert_eq!(own.upstream.token.as_ref().map(Secret::expose), Some("t"));
    assert!(own.is_native_disabled("sessions.list") && own.is_native_disabled("health"));
    assert!(!own.is_native_disabled("healthz") && !own.is_native_disabled("session"));
    assert_eq!(own.limits.preauth_bytes_max, 65536);
    assert_eq!(own.admin_listen, AdminListen::Off);
    assert_eq!(own.control_ui_package.as_deref(), Some(Path::new("/s/pkg")));
}

#[test]
fn errors_name_file_line_key_and_fix() {
    let check = |text: &str, want: &str| {
        let got = parse(text).expect_err("invalid");
        assert!(got.starts_with(want), "{got}\nwanted {want}");
    };
    check(
        "[upstream]\nmod = \"auto\"\n",
        "/s/own.toml:2:1: upstream.mod: unknown key; did you mean upstream.mode?",
    );
    check(
        "\n[upstraem]\nmode = 'off'\n",
        "/s/own.toml:2:2: upstraem: unknown key",
    );
    check("zzz = 1", "/s/own.toml:1:1: zzz: unknown key; remove it");
    check(
        "[limits]\n  preauth_bytes_max = '1'",
        "/s/own.toml:2:3: limits.preauth_bytes_max: expected a whole number from 1024 to 16777216, got a string",
    );
    check(
        "[limits]\nhandshake_timeout_s = 0",
        "/s/own.toml:2:1: limits.handshake_timeout_s: expected a whole number from 1 to 300, got 0",
    );
    check(
        "[limits]\nhandshake_timeout_s = -1",
        "/s/own.toml:2:1: limits.handshake_timeout_s: expected",
    );
    check(
        "[log]\nlevel = 'loud'",
        "/s/own.toml:2:1: log.level: expected one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", got \"loud\"",
    );
    check(
        "[upstream]\nmode = 'attach'",
        "/s/own.toml:2:1: upstream.mode: \"attach\" needs upstream.url; add url",
    );
    check(
        "[upstream]\nurl = 'http://x'",
        "/s/own.toml:2:1: upstream.url: is neither ws:// nor wss://",
    );
    check(
        "[upstream]\nmode = 'attach'\nurl = 'ws://10.0.0.9:18789'",
        "/s/own.toml:3:1: upstream.url: 10.0.0.9:18789 is on another machine, where ws:// would send the secret in the clear",
    );
    check(
        "[upstream]\nmode = 'attach'\nurl = 'wss://a'\ntls_fingerprint = 'AB:CD'",
        "/s/own.toml:4:1: upstream.tls_fingerprint: is no SHA-256: 64 hexadecimal digits, colons allowed; copy it",
    );
    check(
        "[admin]\nlisten = 'localhost'",
        "/s/own.toml:2:1: admin.listen: expected \"address:port\"",
    );
    check(
        "[native]\ndisable = ['a*b']",
        "/s/own.toml:2:1: native.disable: \"a*b\" is no pattern",
    );
    check(
        "[rollout]\npercent = 5\n[rollout.guard]\ncalls_min = 3\n",
        "/s/own.toml:4:1: rollout.guard.calls_min: expected a whole number from 10 to 1000000, got 3",
    );
    check(
        "[rollout.guard]\np99_flor_ms = 3\n",
        "/s/own.toml:2:1: rollout.guard.p99_flor_ms: unknown key; did you mean rollout.guard.p99_floor_ms?",
    );
    check("native = 1", "/s/own.toml:1:1: native: is a section");
    check(
        "[upstream]\ntoken_file = 'none'",
        "/s/own.toml:2:1: upstream.token_file: cannot read /s/none",
    );
    check("[upstream\n", "/s/own.toml:1:10:");
    check(
        "[log]\nlevel = 'info'\nlevel = 'warn'",
        "/s/own.toml:3:1: duplicate key",
    );
}

#[test]
fn the_token_may_come_from_a_file() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::write(dir.path().join("token"), "abc\n").expect("write");
    let file = dir.path().join("own.toml");
    std::fs::write(&file, "[upstream]\ntoken_file = 'token'\n").expect("write");
    let own = OwnSettings::load(&file).expect("valid");
    assert_eq!(own.upstream.token.as_ref().map(Secret::expose), Some("abc"));
    assert_eq!(
        OwnSettings::load(&dir.path().join("none")).expect("none"),
        OwnSettings::default()
    );
}

/// Every documented default is what an example file with that line uncommented gives.
#[test]
fn the_example_is_the_defaults() {
    assert_eq!(parse(&example()).expect("valid"), OwnSettings::default());
    let uncommented: String = example()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && !rest.contains('…') && !rest.contains('`') => {
                rest
            }
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(parse(&uncommented).expect("valid"), OwnSettings::default());
}

#[test]
fn the_document_is_that_of_the_code() {
    let made = format!(
        "# Configuration\n\n\
         Two files. `openclaw.json` is yours and OpenClaw's: port, address, authentication, agents, models, channels, as its own\n\
         documents say; it is read, and written only where you ask for it (`config.*`, a first start without one).\n\
         `openclaw-rs/openclaw-gateway.toml`, in the state directory, has what only this gateway has, below. It need not exist.\n\
         Both are watched: a file that can't be used is named with its line and key, and the old settings stay.\n\n\
         ```sh\nopenclaw-gateway config check             # both files, without starting anything\n\
         openclaw-gateway config show --effective  # every value in force, and where it comes from\n```\n\n\
         This table is made from the code: `UPDATE_DOCS=1 cargo test -p gateway own` writes it anew.\n\n{}",
        reference()
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("written");
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|written| written == made),
        "docs/configuration.md is not in step: run UPDATE_DOCS=1 cargo test -p gateway own"
    );
}
