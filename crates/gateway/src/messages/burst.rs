//! Texts that a person writes right after each other are one message. Each is on disk before it waits for the next, and
//! what belongs together follows from when they were taken, so that a crash changes nothing.
//!
//! Source: src/auto-reply/inbound-debounce.ts and extensions/telegram/src/bot-handlers.inbound-buffer.ts at 2026.9.6.

use std::collections::HashMap;
use std::time::Duration;

use channels::InboundMessage;
use channels::message::EventKind;
use serde_json::Value;
use store::{InboxRow, StoreError};

use super::intake::Inbound;
use super::{Messages, crash_point, now_ms};
use crate::routing::commands;

const TELEGRAM: &str = "telegram";
const TELEGRAM_QUIET_MS: i64 = 300;
/// A text that long was probably cut by the app it was pasted into, and its rest comes more slowly.
const CUT_UNITS: usize = 4000;
const REST_MS: i64 = 1500;
/// Longest wait from the first on: on Telegram, and elsewhere as a multiple of the quiet time.
const TELEGRAM_WAIT_MS_MAX: i64 = 5 * REST_MS;
const WAIT_FACTOR: i64 = 5;
const QUIET_MS_MAX: i64 = 10 * 60 * 1000;
const TEXTS_MAX: usize = 12;
const UNITS_MAX: usize = 50_000;
/// How far back in a conversation is looked, past what others wrote.
const LOOK_MAX: usize = 64;

/// `messages.inbound`: how long a conversation must be quiet before its texts are taken up.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    every: Option<i64>,
    by_channel: HashMap<String, i64>,
}

impl Quiet {
    pub(super) fn read(config: &Value) -> Self {
        let inbound = &config["messages"]["inbound"];
        let ms = |value: &Value| {
            let ms = value.as_i64().filter(|ms| *ms >= 0)?;
            Some(ms.min(QUIET_MS_MAX))
        };
        let named = inbound["byChannel"].as_object().into_iter().flatten();
        Self {
            every: ms(&inbound["debounceMs"]),
            by_channel: named
                .filter_map(|(channel, value)| Some((channel.clone(), ms(value)?)))
                .collect(),
        }
    }

    fn ms(&self, channel: &str) -> i64 {
        let own = self.by_channel.get(channel).copied().or(self.every);
        own.unwrap_or(match channel {
            TELEGRAM => TELEGRAM_QUIET_MS,
            _ => 0,
        })
    }

    /// After a text of so many units, behind one that was cut or not.
    fn after(&self, channel: &str, units: usize, cut_before: bool) -> i64 {
        let ms = self.ms(channel);
        let is_cut = units >= CUT_UNITS || (ms == 0 && cut_before);
        match channel == TELEGRAM && is_cut {
            true => ms.max(REST_MS),
            false => ms,
        }
    }
}

/// A message with the moment at which it was taken.
type Taken = (InboundMessage, i64);

#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// More may come that belongs to it, until then.
    Wait(i64),
    /// These of what waits behind it belong to it.
    Take(Vec<usize>),
    /// The sender said stop before it was taken up.
    TakenBack,
}

/// What is to be done with the head of a conversation. Pure.
fn next(quiet: &Quiet, channel: &str, head: &Taken, behind: &[Taken], now: i64) -> Next {
    let (first, taken) = head;
    let mut units = length(first);
    let mut cut = units >= CUT_UNITS;
    let pause = quiet.after(channel, units, false);
    // A clock that was put back would hold it for hours.
    if pause == 0 || kind(first) != Kind::Text || now < *taken {
        return Next::Take(Vec::new());
    }
    let is_taken_back = behind
        .iter()
        .any(|(message, _)| message.sender.id == first.sender.id && kind(message) == Kind::Stop);
    if is_taken_back {
        return Next::TakenBack;
    }
    let wait_max = match channel {
        TELEGRAM => TELEGRAM_WAIT_MS_MAX,
        _ => pause * WAIT_FACTOR,
    };
    let last = taken + pause.max(wait_max);
    let mut until = (taken + pause).min(last);
    let mut parts = Vec::new();
    for (n, (message, taken)) in behind.iter().enumerate() {
        let is_senders = message.sender.id == first.sender.id;
        match kind(message) {
            Kind::Nothing => continue,
            Kind::Text if !is_senders => continue,
            Kind::Text if *taken > until => return Next::Take(parts),
            Kind::Text => {}
            // It is not delayed, whoever it is of, and what was written before it goes before it.
            Kind::Apart | Kind::Stop => return Next::Take(parts),
        }
        let more = length(message);
        units += more;
        if parts.len() + 1 == TEXTS_MAX || units > UNITS_MAX {
            return Next::Take(parts);
        }
        parts.push(n);
        until = (taken + quiet.after(channel, more, cut)).min(last);
        cut |= more >= CUT_UNITS;
    }
    if now < until {
        Next::Wait(until)
    } else {
        Next::Take(parts)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Stands alone: a command, a file, a button.
    Apart,
    Stop,
    /// Nobody answers it: an edit, a reaction.
    Nothing,
}

fn kind(message: &InboundMessage) -> Kind {
    let text = message.text.trim();
    match message.kind {
        EventKind::Edit | EventKind::Reaction => Kind::Nothing,
        EventKind::Message if is_stop(message) => Kind::Stop,
        EventKind::Message
            if message.attachments.is_empty()
                && !text.is_empty()
                && !is_command(text)
                && commands::read(message).is_none() =>
        {
            Kind::Text
        }
        EventKind::Message | EventKind::Button => Kind::Apart,
    }
}

fn is_command(text: &str) -> bool {
    let name = text.strip_prefix('/').unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

fn is_stop(message: &InboundMessage) -> bool {
    let order = commands::read(message).map(|order| order.kind);
    matches!(order, Some(commands::Kind::Stop | commands::Kind::StopWord))
}

fn length(message: &InboundMessage) -> usize {
    message.text.encode_utf16().count()
}

/// One message of several: the first, with all texts, answered below the last.
fn joined(channel: &str, first: &InboundMessage, others: &[&InboundMessage]) -> InboundMessage {
    let mut whole = first.clone();
    let mut before = first;
    for next in others {
        // What was cut has its own line breaks.
        if channel != TELEGRAM || length(before) < CUT_UNITS {
            whole.text.push('\n');
        }
        if let Some(quoted) = next.quoted.as_ref().filter(|_| next.quoted != first.quoted) {
            let quoted = channels::web::head(quoted);
            whole.text.push_str(&format!("[replying to: {quoted}]\n"));
        }
        whole.text.push_str(&next.text);
        whole.mentions_us |= next.mentions_us;
        before = next;
    }
    whole.message_id.clone_from(&before.message_id);
    whole.sent_at_ms = before.sent_at_ms;
    whole
}

/// Waits until nothing more belongs to the message at its conversation's head, and makes one of what does. `None`: it is
/// not to be worked on now.
pub(super) async fn gather(
    messages: &Messages,
    row: &InboxRow,
    first: Box<InboundMessage>,
) -> Result<Option<Box<InboundMessage>>, StoreError> {
    let channel = row.channel.as_str();
    let waits = |quiet: &Quiet| quiet.after(channel, length(&first), false) > 0;
    // A turn that was begun is asked for again with the same words.
    if row.run_id.is_some() || kind(&first) != Kind::Text || !waits(&messages.habits.load().quiet) {
        return Ok(Some(first));
    }
    let head = (*first, row.received_ms);
    loop {
        let more = messages.arrived.notified();
        tokio::pin!(more);
        // From here on, so that nothing is missed that comes while the store is read.
        more.as_mut().enable();
        let (ids, behind) = behind(messages, row).await?;
        let now = now_ms();
        let step = next(&messages.habits.load().quiet, channel, &head, &behind, now);
        match step {
            Next::Take(parts) if parts.is_empty() => return Ok(Some(Box::new(head.0))),
            Next::Take(parts) => {
                let texts: Vec<_> = parts.iter().map(|n| &behind[*n].0).collect();
                let whole = Box::new(joined(channel, &head.0, &texts));
                let others = parts.iter().map(|n| ids[*n].clone()).collect();
                join(messages, row, &whole, others).await?;
                return Ok(Some(whole));
            }
            Next::TakenBack => {
                super::intake::done(messages, row, "taken back: the sender said stop").await?;
                return Ok(None);
            }
            Next::Wait(until) => {
                let pause = Duration::from_millis(u64::try_from(until - now).unwrap_or(0));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = more => {}
                    () = messages.stop.cancelled() => return Ok(None),
                }
            }
        }
    }
}

/// What waits behind a message in its conversation, with its ids.
async fn behind(
    messages: &Messages,
    row: &InboxRow,
) -> Result<(Vec<String>, Vec<Taken>), StoreError> {
    let (lane, id) = (row.lane.clone(), row.id.clone());
    let rows = messages
        .store
        .read(move |reader| reader.inbox().behind(&lane, &id, LOOK_MAX))
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match serde_json::from_str(&row.payload) {
            Ok(Inbound::Channel(message)) => Some((row.id, (*message, row.received_ms))),
            // What can't be read is told when its turn comes.
            Ok(Inbound::Api(_)) | Err(_) => None,
        })
        .unzip())
}

async fn join(
    messages: &Messages,
    row: &InboxRow,
    whole: &InboundMessage,
    others: Vec<String>,
) -> Result<(), StoreError> {
    let (id, whole) = (row.id.clone(), Inbound::Channel(Box::new(whole.clone())));
    crash_point!("intake.before_join");
    messages
        .store
        .write(move |tx| {
            let payload = serde_json::to_string(&whole)?;
            tx.inbox().join(&id, &payload, &others, now_ms())
        })
        .await?;
    crash_point!("intake.after_join");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(id: i64, by: &str, text: &str) -> InboundMessage {
        let message = json!({
            "eventId": id.to_string(), "messageId": id.to_string(), "chat": { "kind": "group", "id": "-1" },
            "sender": { "id": by }, "text": text, "sentAtMs": id,
        });
        serde_json::from_value(message).expect("a message")
    }

    fn set(inbound: Value) -> Quiet {
        Quiet::read(&json!({ "messages": { "inbound": inbound } }))
    }

    fn file(mut message: InboundMessage) -> InboundMessage {
        let file = json!({ "source": "f" });
        message.attachments = vec![serde_json::from_value(file).expect("a file")];
        message
    }

    #[test]
    fn the_quiet_time_is_the_channels_then_every_ones_then_telegrams_own() {
        let check = |inbound: Value, telegram: i64, matrix: i64| {
            let quiet = set(inbound);
            assert_eq!(
                (quiet.ms("telegram"), quiet.ms("matrix")),
                (telegram, matrix)
            );
        };
        check(json!({}), 300, 0);
        check(json!({ "debounceMs": 2000 }), 2000, 2000);
        check(json!({ "debounceMs": 0 }), 0, 0);
        check(json!({ "byChannel": { "matrix": 50 } }), 300, 50);
        check(
            json!({ "debounceMs": 5, "byChannel": { "telegram": 0 } }),
            0,
            5,
        );
        check(json!({ "debounceMs": -5 }), 300, 0);
    }

    #[test]
    fn texts_of_one_sender_are_taken_together_once_it_is_quiet() {
        let quiet = set(json!({}));
        let head = (said(1, "ann", "one"), 1000);
        let next = |behind: &[Taken], now| next(&quiet, "telegram", &head, behind, now);
        assert_eq!(next(&[], 1100), Next::Wait(1300));
        assert_eq!(next(&[], 1300), Next::Take(vec![]));
        let two = (said(2, "ann", "two"), 1250);
        assert_eq!(next(std::slice::from_ref(&two), 1300), Next::Wait(1550));
        assert_eq!(next(std::slice::from_ref(&two), 1550), Next::Take(vec![0]));
        // Much later, as after a crash: what belongs together is the same.
        let late = (said(3, "ann", "three"), 1600);
        let bob = (said(4, "bob", "me too"), 1260);
        let third = (said(5, "ann", "of three"), 1500);
        assert_eq!(
            next(&[two.clone(), bob, third, late.clone()], 99_000),
            Next::Take(vec![0, 2, 3])
        );
        assert_eq!(next(&[two, late], 99_000), Next::Take(vec![0]));
        // A clock that was put back holds nothing.
        assert_eq!(next(&[], 900), Next::Take(vec![]));
    }

    #[test]
    fn what_stands_alone_is_not_delayed_and_stop_takes_back() {
        let quiet = set(json!({ "debounceMs": 60_000 }));
        let check = |head: InboundMessage, behind: InboundMessage, expected: Next| {
            let behind = [(behind, 20)];
            assert_eq!(next(&quiet, "irc", &(head, 10), &behind, 30), expected);
        };
        let one = || said(1, "ann", "one");
        let take = || Next::Take(vec![]);
        check(one(), said(2, "ann", "/status"), take());
        check(one(), file(said(2, "ann", "look")), take());
        check(said(1, "ann", "/new please"), said(2, "ann", "two"), take());
        check(file(one()), said(2, "ann", "two"), take());
        check(said(1, "ann", "stop"), said(2, "ann", "two"), take());
        // Nobody else's is delayed either, and their texts hold and end nothing.
        check(one(), said(2, "bob", "stop"), take());
        check(one(), said(2, "bob", "/status"), take());
        check(one(), file(said(2, "bob", "look")), take());
        check(one(), said(2, "bob", "me too"), Next::Wait(60_010));
        for word in [
            "Stop!",
            "please  STOP",
            "/stop",
            "стоп.",
            "stop don’t do anything",
        ] {
            check(one(), said(2, "ann", word), Next::TakenBack);
        }
        check(one(), said(2, "ann", "/stop@other"), take());
        check(one(), said(2, "ann", "stop the car"), Next::Wait(60_020));
        let mut reaction = said(2, "ann", "👍");
        reaction.kind = EventKind::Reaction;
        check(one(), reaction, Next::Wait(60_010));
    }

    #[test]
    fn a_burst_has_an_end() {
        let quiet = set(json!({}));
        let behind: Vec<Taken> = (1..40)
            .map(|n| (said(n + 1, "ann", "x"), n * 100))
            .collect();
        let head = (said(1, "ann", "x"), 0);
        let all = next(&quiet, "telegram", &head, &behind, 200);
        assert_eq!(all, Next::Take((0..TEXTS_MAX - 1).collect()));
        let long = "x".repeat(3900);
        let behind: Vec<Taken> = (1..12)
            .map(|n| (said(n + 1, "ann", &long), n * 250))
            .collect();
        let head = (said(1, "ann", &"x".repeat(20_000)), 0);
        let all = next(&quiet, "telegram", &head, &behind, 200);
        assert_eq!(all, Next::Take((0..7).collect()));
        let slow = set(json!({ "debounceMs": 1000 }));
        let behind: Vec<Taken> = (1..9).map(|n| (said(n + 1, "ann", "x"), n * 900)).collect();
        let head = (said(1, "ann", "x"), 0);
        let all = next(&slow, "matrix", &head, &behind, 7300);
        assert_eq!(all, Next::Take((0..5).collect()), "5 s from the first");
    }

    #[test]
    fn a_long_paste_waits_for_its_rest_and_is_put_together_as_it_was() {
        let cut = said(1, "ann", &"x".repeat(4000));
        let rest = said(2, "ann", "rest");
        let last = said(3, "ann", "and more");
        for inbound in [json!({}), json!({ "debounceMs": 0 })] {
            let quiet = set(inbound);
            let head = (cut.clone(), 0);
            assert_eq!(next(&quiet, "telegram", &head, &[], 1), Next::Wait(1500));
            let behind = [(rest.clone(), 1400)];
            assert_eq!(
                next(&quiet, "telegram", &head, &behind, 3000),
                Next::Take(vec![0])
            );
        }
        let off = set(json!({ "debounceMs": 0 }));
        assert_eq!(
            next(&off, "matrix", &(cut.clone(), 0), &[], 1),
            Next::Take(vec![])
        );
        let whole = joined("telegram", &cut, &[&rest, &last]);
        assert_eq!(whole.text, format!("{}rest\nand more", "x".repeat(4000)));
    }

    #[test]
    fn the_whole_is_answered_below_the_last_and_loses_no_quotation() {
        let (mut first, mut second) = (said(1, "ann", "this"), said(2, "ann", "and that"));
        first.quoted = Some("a".to_owned());
        second.quoted = Some("b".to_owned());
        second.mentions_us = true;
        let whole = joined("telegram", &first, &[&second]);
        assert_eq!(whole.text, "this\n[replying to: b]\nand that");
        assert_eq!(
            (whole.event_id.as_str(), whole.message_id.as_str()),
            ("1", "2")
        );
        assert_eq!(whole.quoted.as_deref(), Some("a"));
        assert!(whole.mentions_us);
    }
}
