//! The limiter against a hand-moved clock.

use proptest::prelude::*;

use super::*;

const CLIENT: &str = "203.0.113.7";
const CLASS: Class = Class::SharedSecret;

#[test]
fn ten_failures_in_a_minute_lock_for_five() {
    let limiter = Limiter::new(Policy::default());
    for at in 0..9 {
        limiter.record_failure(CLIENT, CLASS, at * 1_000);
        assert_eq!(limiter.check(CLIENT, CLASS, at * 1_000), Verdict::Allowed);
    }
    assert_eq!(
        limiter.record_failure_and_delay(CLIENT, CLASS, 9_000),
        Duration::ZERO
    );
    assert_eq!(
        limiter.check(CLIENT, CLASS, 9_000),
        Verdict::Locked {
            retry_after_ms: 300_000
        }
    );
    assert_eq!(
        limiter.check(CLIENT, CLASS, 308_999),
        Verdict::Locked { retry_after_ms: 1 }
    );
    assert_eq!(limiter.check(CLIENT, CLASS, 309_000), Verdict::Allowed);
    assert_eq!(limiter.check("203.0.113.8", CLASS, 9_000), Verdict::Allowed);
    assert_eq!(
        limiter.check(CLIENT, Class::DeviceToken, 9_000),
        Verdict::Allowed
    );
}

#[test]
fn the_window_slides_and_success_resets() {
    let limiter = Limiter::new(Policy::default());
    for at in 0..30 {
        limiter.record_failure(CLIENT, CLASS, at * 7_000);
        assert_eq!(
            limiter.check(CLIENT, CLASS, at * 7_000),
            Verdict::Allowed,
            "nine per minute are fine"
        );
    }
    for _ in 0..9 {
        limiter.record_failure(CLIENT, CLASS, 1_000_000);
    }
    limiter.reset(CLIENT, CLASS);
    limiter.record_failure(CLIENT, CLASS, 1_000_000);
    assert_eq!(limiter.check(CLIENT, CLASS, 1_000_000), Verdict::Allowed);
}

#[test]
fn loopback_is_delayed_and_never_locked() {
    let limiter = Limiter::new(Policy::default());
    let mut now = 0;
    for expected in [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000] {
        let delay = limiter.record_failure_and_delay("127.0.0.1", CLASS, now);
        assert_eq!(delay, Duration::from_millis(expected));
        now += expected;
        assert_eq!(limiter.check("127.0.0.1", CLASS, now), Verdict::Allowed);
    }
}

#[test]
fn parallel_guesses_from_loopback_wait_for_the_longest_delay() {
    let limiter = Limiter::new(Policy::default());
    let mut last = Duration::ZERO;
    for _ in 0..8 {
        last = limiter.record_failure_and_delay("::1", CLASS, 1_000);
    }
    assert_eq!(last, Duration::from_millis(5_000));
}

#[test]
fn ghsa_5847_both_spellings_of_an_address_share_one_count() {
    let limiter = Limiter::new(Policy::default());
    for turn in 0..10 {
        let client = if turn % 2 == 0 {
            "1.2.3.4"
        } else {
            "::ffff:1.2.3.4"
        };
        limiter.record_failure(client, CLASS, 0);
    }
    assert!(matches!(
        limiter.check("1.2.3.4", CLASS, 0),
        Verdict::Locked { .. }
    ));
    assert!(matches!(
        limiter.check("::ffff:1.2.3.4", CLASS, 0),
        Verdict::Locked { .. }
    ));
}

#[test]
fn browser_pages_on_loopback_are_locked_like_anyone() {
    let limiter = Limiter::new(Policy {
        exempt_loopback: false,
        ..Policy::default()
    });
    let page = "browser-origin:http://evil.example";
    for _ in 0..10 {
        assert_eq!(
            limiter.record_failure_and_delay(page, CLASS, 0),
            Duration::ZERO
        );
    }
    assert!(matches!(
        limiter.check(page, CLASS, 0),
        Verdict::Locked { .. }
    ));
    assert_eq!(
        limiter.check("browser-origin:http://ui.example", CLASS, 0),
        Verdict::Allowed
    );
}

#[test]
fn a_flood_of_locked_clients_locks_out_the_unknown_and_stays_bounded() {
    let limiter = Limiter::new(Policy {
        attempts_max: 1,
        ..Policy::default()
    });
    for client in 0..ENTRIES_MAX + 50 {
        limiter.record_failure(&format!("client-{client}"), CLASS, 0);
    }
    assert_eq!(limiter.tracked(), ENTRIES_MAX);
    assert_eq!(
        limiter.check(CLIENT, CLASS, 1),
        Verdict::Locked {
            retry_after_ms: 299_999
        }
    );
    assert_eq!(limiter.check(CLIENT, CLASS, 300_000), Verdict::Allowed);
    limiter.record_failure(CLIENT, CLASS, 400_000);
    assert!(limiter.tracked() <= 2, "expired entries leave");
}

proptest! {
    #[test]
    fn never_more_than_the_allowed_failures_in_a_window(gaps in prop::collection::vec(0u64..20_000, 1..80)) {
        let limiter = Limiter::new(Policy::default());
        let mut now = 0;
        let mut failures: Vec<u64> = Vec::new();
        for gap in gaps {
            now += gap;
            if limiter.check(CLIENT, CLASS, now) == Verdict::Allowed {
                limiter.record_failure(CLIENT, CLASS, now);
                failures.push(now);
            }
            let recent = failures.iter().filter(|at| **at + 60_000 > now).count();
            prop_assert!(recent <= 10);
        }
    }
}
