//! When a job is due: once, every so often, or by a cron expression in somebody's time zone.
//!
//! Pure: the time is passed in. Source of the rules: docs/automation/cron-jobs/schedules.md of the installed package at
//! 2026.9.6; expressions are read by croner, as there, whose Rust edition has the same author.

use std::str::FromStr as _;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

/// Hourly jobs are spread over this much of the hour, so that not all of them start on its first second.
const STAGGER_MS: u64 = 5 * 60 * 1000;
/// JavaScript's last millisecond.
const MS_MAX: i64 = 8_640_000_000_000_000;

#[derive(Debug, Clone)]
pub(crate) enum When {
    At {
        ms: i64,
    },
    Every {
        ms: i64,
        anchor_ms: i64,
    },
    Cron {
        cron: Box<Cron>,
        zone: TimeZone,
        stagger_ms: u64,
    },
}

impl When {
    /// Reads a `schedule` whose shape has been checked, and completes it: what clients are shown afterwards.
    ///
    /// # Errors
    /// What is wrong with it, in the original's words where it has any.
    pub(crate) fn read(schedule: &mut Value, now_ms: i64) -> Result<Self, String> {
        match schedule["kind"].as_str().unwrap_or_default() {
            "at" => {
                let text = schedule["at"]
                    .as_str()
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                let ms = instant(&text).ok_or_else(|| {
                    format!("Invalid schedule.at: expected ISO-8601 timestamp (got {text})")
                })?;
                schedule["at"] = json!(iso(ms));
                Ok(Self::At { ms })
            }
            "every" => {
                let ms = whole(&schedule["everyMs"]).unwrap_or(1).clamp(1, MS_MAX);
                if schedule["anchorMs"].is_null() {
                    schedule["anchorMs"] = json!(now_ms);
                }
                let anchor_ms = whole(&schedule["anchorMs"]).unwrap_or(now_ms);
                Ok(Self::Every { ms, anchor_ms })
            }
            "cron" => {
                let expr = schedule["expr"]
                    .as_str()
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                let cron = parse(&expr)?;
                let zone = match schedule["tz"].as_str().map(str::trim).filter(|tz| !tz.is_empty()) {
                    Some(name) => TimeZone::get(name).map_err(|_unknown| {
                        format!("Invalid time zone specified: {name}; use an IANA name such as Europe/Berlin")
                    })?,
                    None => TimeZone::system(),
                };
                if schedule["staggerMs"].is_null() && is_hourly(&expr) {
                    schedule["staggerMs"] = json!(STAGGER_MS);
                }
                let when = Self::Cron {
                    cron: Box::new(cron),
                    zone,
                    stagger_ms: schedule["staggerMs"].as_u64().unwrap_or(0),
                };
                if when.natural(now_ms).is_none() {
                    return Err(format!(
                        "cron expression \"{expr}\" has no upcoming run time and would never fire"
                    ));
                }
                Ok(when)
            }
            other => Err(format!(
                "schedule.kind \"{other}\" is not served by this gateway; use at, every or cron"
            )),
        }
    }

    /// The first time after `after_ms`; `None`: never again. `id` decides a job's place within its stagger.
    pub(crate) fn next(&self, after_ms: i64, id: &str) -> Option<i64> {
        let Self::Cron { stagger_ms, .. } = self else {
            return self.natural(after_ms);
        };
        let offset = offset(id, *stagger_ms);
        // What began before this moment may, put off, still lie after it.
        let mut from = after_ms - offset;
        loop {
            let at = self.natural(from)?;
            if at + offset > after_ms {
                return Some(at + offset);
            }
            from = at;
        }
    }

    fn natural(&self, after_ms: i64) -> Option<i64> {
        match self {
            Self::At { ms } => (*ms > after_ms).then_some(*ms),
            Self::Every { ms, anchor_ms } => {
                if after_ms < *anchor_ms {
                    return Some(*anchor_ms);
                }
                let steps = (after_ms - anchor_ms) / ms + 1;
                anchor_ms
                    .checked_add(steps.checked_mul(*ms)?)
                    .filter(|at| *at <= MS_MAX)
            }
            Self::Cron { cron, zone, .. } => {
                let after = Timestamp::from_millisecond(after_ms).ok()?;
                let found: Zoned = cron
                    .find_next_occurrence(&after.to_zoned(zone.clone()), false)
                    .ok()?;
                Some(found.timestamp().as_millisecond())
            }
        }
    }
}

fn parse(expr: &str) -> Result<Cron, String> {
    let parts = expr.split_whitespace().count();
    if !(5..=7).contains(&parts) && !expr.starts_with('@') {
        return Err(format!(
            "CronPattern: invalid configuration format ('{expr}'), exactly five, six, or seven space separated parts are required."
        ));
    }
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Optional)
        .build()
        .parse(expr)
        .map_err(|error| format!("CronPattern: {error}"))
}

/// Minute 0 of many hours: of those there are many, on the same second.
fn is_hourly(expr: &str) -> bool {
    let parts: Vec<&str> = expr.split_whitespace().collect();
    match parts.as_slice() {
        [minute, hour, _, _, _] => *minute == "0" && hour.contains('*'),
        [second, minute, hour, _, _, _] => *second == "0" && *minute == "0" && hour.contains('*'),
        _ => false,
    }
}

/// The same for a job each time, anywhere within its stagger.
fn offset(id: &str, stagger_ms: u64) -> i64 {
    if stagger_ms <= 1 {
        return 0;
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    let head = digest
        .as_ref()
        .first_chunk::<4>()
        .copied()
        .unwrap_or_default();
    i64::try_from(u64::from(u32::from_be_bytes(head)) % stagger_ms).unwrap_or(0)
}

/// A moment in ISO 8601; without a zone it is UTC's, a date alone is its midnight.
pub(crate) fn instant(text: &str) -> Option<i64> {
    if let Ok(at) = Timestamp::from_str(text) {
        return Some(at.as_millisecond());
    }
    let local = jiff::civil::DateTime::from_str(text).ok()?;
    let at = local.to_zoned(TimeZone::UTC).ok()?;
    Some(at.timestamp().as_millisecond())
}

/// `2031-01-01T00:00:00.000Z`.
pub(crate) fn iso(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_outside| ms.to_string(), |at| format!("{at:.3}"))
}

/// How an agent is told what time it is: its own wall clock and UTC's.
pub(crate) fn told(ms: i64) -> String {
    let Ok(at) = Timestamp::from_millisecond(ms) else {
        return ms.to_string();
    };
    let here = at.to_zoned(TimeZone::system());
    format!(
        "{} ({} UTC)",
        here.strftime("%A, %Y-%m-%d %H:%M %Z"),
        at.strftime("%Y-%m-%d %H:%M")
    )
}

pub(super) fn whole(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        instant(text).expect("a moment")
    }

    fn next(schedule: Value, after: &str) -> Option<String> {
        let mut schedule = schedule;
        let when = When::read(&mut schedule, ms("2026-01-01T00:00:00Z")).expect("a schedule");
        when.next(ms(after), "job").map(iso)
    }

    #[test]
    fn an_interval_counts_from_its_anchor_and_not_from_the_last_run() {
        let every =
            json!({ "kind": "every", "everyMs": 60_000, "anchorMs": ms("2026-01-01T00:00:30Z") });
        assert_eq!(
            next(every.clone(), "2026-01-01T00:00:00Z").as_deref(),
            Some("2026-01-01T00:00:30.000Z")
        );
        assert_eq!(
            next(every.clone(), "2026-01-01T00:00:30Z").as_deref(),
            Some("2026-01-01T00:01:30.000Z")
        );
        assert_eq!(
            next(every, "2026-01-01T05:10:31.5Z").as_deref(),
            Some("2026-01-01T05:11:30.000Z")
        );
    }

    #[test]
    fn a_wall_clock_keeps_its_hour_over_the_change_of_the_clocks() {
        let cron = json!({ "kind": "cron", "expr": "30 8 * * *", "tz": "Europe/Berlin" });
        // Clocks go forward on 29 March 2026 and back on 25 October.
        assert_eq!(
            next(cron.clone(), "2026-03-28T08:00:00Z").as_deref(),
            Some("2026-03-29T06:30:00.000Z")
        );
        assert_eq!(
            next(cron.clone(), "2026-03-27T08:00:00Z").as_deref(),
            Some("2026-03-28T07:30:00.000Z")
        );
        assert_eq!(
            next(cron, "2026-10-25T00:00:00Z").as_deref(),
            Some("2026-10-25T07:30:00.000Z")
        );
        // An hour that is left out, and one that comes twice: once each.
        let night = json!({ "kind": "cron", "expr": "30 2 * * *", "tz": "Europe/Berlin" });
        let first = next(night.clone(), "2026-03-28T12:00:00Z").expect("in the gap's night");
        assert!(first.starts_with("2026-03-29T01:"), "{first}");
        let once = next(night.clone(), "2026-10-24T12:00:00Z").expect("in the long night");
        let then = next(night, &once).expect("after it");
        assert!(then.starts_with("2026-10-26"), "{once} and then {then}");
    }

    #[test]
    fn days_of_month_and_week_are_either_or() {
        let either = json!({ "kind": "cron", "expr": "0 9 15 * 1", "tz": "UTC" });
        assert_eq!(
            next(either.clone(), "2026-06-09T00:00:00Z").as_deref(),
            Some("2026-06-15T09:00:00.000Z")
        );
        assert_eq!(
            next(either, "2026-06-01T00:00:00Z").as_deref(),
            Some("2026-06-01T09:00:00.000Z")
        );
        let both = json!({ "kind": "cron", "expr": "0 9 15 * +1", "tz": "UTC" });
        assert_eq!(
            next(both, "2026-06-01T00:00:00Z").as_deref(),
            Some("2026-06-15T09:00:00.000Z")
        );
    }

    #[test]
    fn hourly_jobs_are_spread_and_keep_their_place() {
        let mut schedule = json!({ "kind": "cron", "expr": "0 * * * *", "tz": "UTC" });
        let when = When::read(&mut schedule, 0).expect("a schedule");
        assert_eq!(schedule["staggerMs"], 300_000);
        let hour = ms("2026-01-01T01:00:00Z");
        let places: Vec<i64> = (0..50)
            .map(|n| when.next(hour - 1, &format!("job-{n}")).expect("due") - hour)
            .collect();
        assert!(places.iter().all(|place| (0..300_000).contains(place)));
        assert!(
            places
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                > 40
        );
        let first = when.next(hour - 1, "job-1").expect("due");
        assert_eq!(when.next(first, "job-1"), Some(first + 3_600_000));
    }

    #[test]
    fn what_can_never_be_is_refused_with_the_reason() {
        let refused = |mut schedule: Value| {
            When::read(&mut schedule, ms("2026-01-01T00:00:00Z")).expect_err("refused")
        };
        assert!(refused(json!({ "kind": "at", "at": "tomorrow" })).contains("got tomorrow"));
        assert!(
            refused(json!({ "kind": "cron", "expr": "hello" })).contains("five, six, or seven")
        );
        assert!(refused(json!({ "kind": "cron", "expr": "61 * * * *" })).contains("CronPattern"));
        assert!(
            refused(json!({ "kind": "cron", "expr": "0 0 * * *", "tz": "Mars/X" }))
                .contains("Mars/X")
        );
        assert!(
            refused(json!({ "kind": "cron", "expr": "0 0 30 2 *", "tz": "UTC" }))
                .contains("never fire")
        );
        assert!(refused(json!({ "kind": "on-exit", "command": "x" })).contains("on-exit"));
    }

    #[test]
    fn moments_without_a_zone_are_utc() {
        assert_eq!(
            instant("2031-05-05").map(iso).as_deref(),
            Some("2031-05-05T00:00:00.000Z")
        );
        assert_eq!(
            instant("2031-05-05T10:00").map(iso).as_deref(),
            Some("2031-05-05T10:00:00.000Z")
        );
        assert_eq!(
            instant("2031-05-05T10:00:00+02:00").map(iso).as_deref(),
            Some("2031-05-05T08:00:00.000Z")
        );
        assert_eq!(instant("20m"), None);
    }
}
