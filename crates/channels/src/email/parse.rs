//! A message as it lies in the mailbox, to ours. Anybody can write anything into a mail: nothing
//! here trusts it, and what was sent by a machine is not answered.

use super::config::Verify;
use crate::InboundMessage;
use crate::message::{Attachment, Chat, ChatKind, EventKind, Sender};
use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders as _, PartType};

/// Longest text that goes to the agent, bytes.
const TEXT_BYTES_MAX: usize = 200_000;
/// Before the sender's address when nothing vouches for it: no allow list can match it.
const UNVERIFIED: &str = "unverified:";

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) validity: u32,
    pub(super) uid: u32,
}

/// What becomes of a mail.
#[derive(Debug)]
pub(super) enum Found {
    Message(Box<Mail>),
    /// Not for an answer, and why.
    Ignored(&'static str),
}

#[derive(Debug)]
pub(super) struct Mail {
    pub(super) message: InboundMessage,
    pub(super) subject: String,
}

pub(super) fn parse(raw: &[u8], place: Place, own: &str, verify: &Verify) -> Found {
    let Some(mail) = MessageParser::default().parse(raw) else {
        return Found::Ignored("it is no mail");
    };
    let from = mail.from().and_then(|from| from.first());
    let Some(address) = from.and_then(|from| from.address()).map(str::to_lowercase) else {
        return Found::Ignored("it has no sender");
    };
    if let Some(reason) = automatic(&mail, &address, own) {
        return Found::Ignored(reason);
    }
    let id = match mail.message_id().map(clean_id).filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => format!("uid-{}-{}", place.validity, place.uid),
    };
    let parent = ids(mail.in_reply_to()).pop();
    let mut chain = ids(mail.references());
    chain.extend(parent.clone());
    let root = chain.first().cloned().unwrap_or_else(|| id.clone());
    let subject = mail.subject().unwrap_or_default().trim().to_owned();
    let body = mail.body_text(0).unwrap_or_default();
    let (mut text, quoted) = without_quote(&body.replace("\r\n", "\n"));
    // The first mail of a conversation often says it in the subject.
    if parent.is_none() && !subject.is_empty() {
        text = format!("{subject}\n\n{text}").trim_end().to_owned();
    }
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    let attachments = attachments(&mail, place);
    if text.trim().is_empty() && attachments.is_empty() {
        return Found::Ignored("it is empty");
    }
    let verified = match verify {
        Verify::Off => true,
        Verify::Results(server) => vouched(&mail, server, &address),
    };
    let sent_at_ms = mail
        .date()
        .map_or(0, |date| date.to_timestamp().saturating_mul(1000));
    let message = InboundMessage {
        event_id: id.clone(),
        message_id: id,
        kind: EventKind::Message,
        chat: Chat {
            kind: ChatKind::Direct,
            // Not Reply-To: the answer goes to whom the checks were about.
            id: address.clone(),
            thread: Some(root),
            parent: None,
            title: Some(subject.clone()).filter(|s| !s.is_empty()),
        },
        sender: Sender {
            id: if verified {
                address.clone()
            } else {
                format!("{UNVERIFIED}{address}")
            },
            // An allow list may go by the user name: it must not hold what nobody vouched for.
            username: verified.then_some(address),
            name: from.and_then(|from| from.name()).map(str::to_owned),
            is_bot: false,
            roles: Vec::new(),
        },
        text,
        reply_to: parent,
        edit_of: None,
        quoted,
        mentions_us: true,
        attachments,
        sent_at_ms,
    };
    Found::Message(Box::new(Mail { message, subject }))
}

/// Why it must not be answered. Source: RFC 3834 sections 2 and 5, RFC 2919.
fn automatic(mail: &Message<'_>, from: &str, own: &str) -> Option<&'static str> {
    let raw = |name: &'static str| mail.header_raw(name).map(|v| v.trim().to_lowercase());
    if from == own {
        return Some("it is from ourselves");
    }
    if raw("X-Loop").is_some_and(|v| v.contains(own)) {
        return Some("it was ours before (X-Loop)");
    }
    if raw("Auto-Submitted").is_some_and(|v| !v.starts_with("no")) {
        return Some("a machine sent it (Auto-Submitted)");
    }
    if raw("Precedence")
        .is_some_and(|v| ["bulk", "junk", "list", "auto_reply"].contains(&v.as_str()))
    {
        return Some("it is bulk mail (Precedence)");
    }
    if ["List-Id", "List-Post", "List-Unsubscribe"]
        .into_iter()
        .any(|name| raw(name).is_some())
    {
        return Some("it is from a mailing list");
    }
    if ["X-Autoreply", "X-Autorespond", "X-Auto-Reply"]
        .into_iter()
        .any(|name| raw(name).is_some())
    {
        return Some("it is an automatic reply");
    }
    if raw("Return-Path").is_some_and(|v| v == "<>")
        || mail.content_type().is_some_and(|t| {
            t.c_type.eq_ignore_ascii_case("multipart")
                && t.c_subtype
                    .as_deref()
                    .is_some_and(|s| s.eq_ignore_ascii_case("report"))
        })
    {
        return Some("it is a delivery report");
    }
    let local = from.split('@').next().unwrap_or(from);
    [
        "mailer-daemon",
        "noreply",
        "no-reply",
        "donotreply",
        "do-not-reply",
    ]
    .contains(&local)
    .then_some("nobody reads its sender's mail")
}

/// Our server found the sender's domain authentic. Only its own header counts, and that is the
/// uppermost one: a server puts its headers above all that came with the mail (RFC 8601 section 5).
fn vouched(mail: &Message<'_>, server: &str, from: &str) -> bool {
    let Some(domain) = from.rsplit('@').next() else {
        return false;
    };
    let Some((_, value)) = mail
        .headers_raw()
        .find(|(name, _)| name.eq_ignore_ascii_case("Authentication-Results"))
    else {
        return false;
    };
    let value = without_comments(&value.to_lowercase());
    let mut parts = value.split(';').map(str::trim);
    let id = parts.next().and_then(|id| id.split_whitespace().next());
    if id != Some(server) {
        return false;
    }
    // Only DMARC is about the address that is shown; SPF and DKIM must be for its domain.
    parts.any(|result| {
        let mut words = result.split_whitespace();
        let Some(verdict) = words.next() else {
            return false;
        };
        let property = |name: &str| {
            let found = result.split_whitespace().find_map(|w| w.strip_prefix(name));
            found.map(|v| {
                v.trim_matches('"')
                    .rsplit('@')
                    .next()
                    .unwrap_or(v)
                    .to_owned()
            })
        };
        let aligned = |of: Option<String>| of.as_deref() == Some(domain);
        match verdict {
            "dmarc=pass" => property("header.from=").is_none_or(|d| d == domain),
            "dkim=pass" => aligned(property("header.d=")) || aligned(property("header.i=")),
            "spf=pass" => aligned(property("smtp.mailfrom=")),
            _ => false,
        }
    })
}

fn without_comments(text: &str) -> String {
    let mut depth = 0_usize;
    text.chars()
        .filter(|c| {
            match c {
                '(' => depth += 1,
                ')' if depth > 0 => {
                    depth -= 1;
                    return false;
                }
                _ => {}
            }
            depth == 0
        })
        .collect()
}

fn ids(value: &HeaderValue<'_>) -> Vec<String> {
    let all = match value {
        HeaderValue::Text(one) => vec![clean_id(one)],
        HeaderValue::TextList(list) => list.iter().map(|id| clean_id(id)).collect(),
        _ => Vec::new(),
    };
    // Longest chains are cut in the middle, root and parent stay.
    all.into_iter().filter(|id| !id.is_empty()).collect()
}

/// A Message-ID without brackets and without anything that could begin another header.
pub(super) fn clean_id(id: &str) -> String {
    let part = |c: &char| !c.is_whitespace() && !c.is_control() && *c != '<' && *c != '>';
    id.chars().filter(part).take(500).collect()
}

fn attachments(mail: &Message<'_>, place: Place) -> Vec<Attachment> {
    let parts = mail.attachments().enumerate();
    parts
        .filter(|(_, part)| !matches!(part.body, PartType::Multipart(_)))
        .map(|(n, part)| Attachment {
            source: format!("{}:{}:{n}", place.validity, place.uid),
            name: part.attachment_name().map(file_name),
            mime: part.content_type().map(|t| {
                let sub = t.c_subtype.as_deref().unwrap_or("octet-stream");
                format!("{}/{sub}", t.c_type).to_lowercase()
            }),
            bytes: Some(part.contents().len() as u64),
            voice: false,
            as_file: false,
        })
        .collect()
}

/// The last part of whatever path the sender wrote.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    last.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The answer, and what it quotes below or above.
fn without_quote(body: &str) -> (String, Option<String>) {
    let lines: Vec<&str> = body.lines().collect();
    let quoted = |line: &str| line.trim_start().starts_with('>');
    let starts = lines.iter().enumerate().position(|(n, line)| {
        let line = line.trim();
        if is_forward_mark(line) {
            return true;
        }
        // "On … wrote:" in whatever language, maybe over two lines, and then a quotation.
        let rest = lines[n..].iter().take(4).map(|l| l.trim());
        let mut rest = rest
            .skip_while(|l| !l.ends_with(':'))
            .skip(1)
            .skip_while(|l| l.is_empty());
        !quoted(line)
            && introduces(line, lines.get(n + 1).copied())
            && rest.next().is_some_and(quoted)
    });
    let (own, rest) = lines.split_at(starts.unwrap_or(lines.len()));
    let mut kept: Vec<&str> = own.to_vec();
    let mut gone: Vec<&str> = rest.to_vec();
    // A quotation at the end without an introduction goes; one in the middle is answered line by line.
    let tail = kept
        .iter()
        .rposition(|l| !quoted(l) && !l.trim().is_empty());
    if tail.is_some() {
        let below = kept.split_off(tail.map_or(0, |at| at + 1));
        if below.iter().any(|l| quoted(l)) {
            gone.splice(0..0, below);
        }
    }
    // The signature: "-- " by itself.
    if let Some(at) = kept.iter().position(|l| *l == "-- " || *l == "--") {
        kept.truncate(at);
    }
    let text = kept.join("\n").trim().to_owned();
    if text.is_empty() && starts.is_some() {
        // All of it is a quotation or forwarded: then that is what is said.
        return (body.trim().to_owned(), None);
    }
    let quote: Vec<&str> = gone
        .iter()
        .filter(|l| quoted(l))
        .map(|l| l.trim_start().trim_start_matches(['>', ' ']))
        .collect();
    (
        text,
        Some(quote.join("\n")).filter(|q| !q.trim().is_empty()),
    )
}

fn introduces(line: &str, next: Option<&str>) -> bool {
    let joined = format!("{line} {}", next.unwrap_or_default());
    let ends = line.ends_with(':') || joined.trim().ends_with(':');
    ends && line.chars().any(|c| c.is_ascii_digit() || c == '@')
}

fn is_forward_mark(line: &str) -> bool {
    let bare = line.trim_matches(['-', '_', ' ']);
    line.starts_with("-----")
        && ["original message", "ursprüngliche nachricht"].contains(&bare.to_lowercase().as_str())
        || line.len() >= 20 && line.bytes().all(|b| b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place {
        validity: 7,
        uid: 9,
    };

    fn read(raw: &str) -> Found {
        let raw = raw.replace('\n', "\r\n");
        parse(
            raw.as_bytes(),
            PLACE,
            "bot@example.org",
            &Verify::Results("mx.example.org".into()),
        )
    }

    fn message(raw: &str) -> InboundMessage {
        match read(raw) {
            Found::Message(mail) => mail.message,
            Found::Ignored(reason) => panic!("ignored: {reason}"),
        }
    }

    #[test]
    fn an_answer_is_read_without_what_it_quotes() {
        let mail = message(
            "From: Amy <Amy@Example.com>\nMessage-ID: <3@x>\nIn-Reply-To: <2@x>\nReferences: <1@x> <2@x>\n\
             Subject: Re: plans\n\nYes, do that.\n\nOn Mon, 1 Jan 2026 at 10:00, Bot wrote:\n> shall I?\n> or not\n",
        );
        assert_eq!(
            (mail.text.as_str(), mail.quoted.as_deref()),
            ("Yes, do that.", Some("shall I?\nor not"))
        );
        assert_eq!(
            (mail.chat.thread.as_deref(), mail.reply_to.as_deref()),
            (Some("1@x"), Some("2@x"))
        );
        assert_eq!(mail.chat.id, "amy@example.com");
        let html = message(
            "From: a@b.c\nSubject: Hi\nContent-Type: text/html\n\n<p>one <b>two</b></p><script>x()</script>",
        );
        assert!(html.text.starts_with("Hi\n\none two"), "{}", html.text);
        assert!(!html.text.contains("x()"), "{}", html.text);
        assert_eq!(html.event_id, "uid-7-9");
    }

    #[test]
    fn line_by_line_answers_stay_whole() {
        let (text, quoted) = without_quote("> one?\nyes\n> two?\nno\n");
        assert_eq!((text.as_str(), quoted), ("> one?\nyes\n> two?\nno", None));
        assert_eq!(without_quote("hello\n-- \nAmy\n").0, "hello");
        assert_eq!(
            without_quote("note: this\nis 1 thing\n").0,
            "note: this\nis 1 thing"
        );
    }

    #[test]
    fn machines_are_not_answered() {
        for header in [
            "Auto-Submitted: auto-replied",
            "Precedence: bulk",
            "List-Id: <x.y>",
            "X-Loop: bot@example.org",
            "X-Autoreply: yes",
            "Return-Path: <>",
            "Content-Type: multipart/report; boundary=x",
        ] {
            let raw = format!("{header}\nFrom: a@b.c\nSubject: s\n\ntext\n");
            assert!(matches!(read(&raw), Found::Ignored(_)), "{header}");
        }
        for from in ["bot@example.org", "MAILER-DAEMON@b.c", "no-reply@b.c"] {
            assert!(
                matches!(read(&format!("From: {from}\n\ntext\n")), Found::Ignored(_)),
                "{from}"
            );
        }
        message("Auto-Submitted: no\nFrom: a@b.c\n\ntext\n");
    }

    #[test]
    fn only_our_servers_word_makes_a_sender_known() {
        let check = |headers: &str, known: bool| {
            let mail = message(&format!("{headers}From: amy@b.c\n\ntext\n"));
            assert_eq!(mail.sender.id == "amy@b.c", known, "{headers}");
            assert_eq!(mail.sender.username.is_some(), known, "{headers}");
        };
        check("", false);
        check(
            "Authentication-Results: mx.example.org; dmarc=pass header.from=b.c\n",
            true,
        );
        check(
            "Authentication-Results: mx.example.org 1; spf=fail (x; dmarc=pass) smtp.mailfrom=b.c\n",
            false,
        );
        check(
            "Authentication-Results: mx.example.org;\n dkim=pass header.d=b.c\n",
            true,
        );
        check(
            "Authentication-Results: mx.example.org; dkim=pass header.d=evil.c\n",
            false,
        );
        check(
            "Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=x@b.c\n",
            true,
        );
        check("Authentication-Results: evil.org; dmarc=pass\n", false);
        check(
            "Authentication-Results: mx.example.org; dmarc=fail header.from=b.c\nAuthentication-Results: mx.example.org; dmarc=pass header.from=b.c\n",
            false,
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse(&raw, PLACE, "bot@example.org", &Verify::Off);
        }

        #[test]
        fn any_mail_is_read_without_panic(
            headers in "(From: a@b\\.c|Subject: .{0,20}|References: [<>a@ ]{0,20}|Authentication-Results: [a-z=;() ]{0,30}|Content-Type: (multipart/mixed; boundary=x|text/html)|\n){0,8}",
            body in "[-> a-z:0-9@\n_é]{0,200}",
        ) {
            let raw = format!("From: a@b.c\n{headers}\n\n{body}");
            if let Found::Message(mail) = parse(raw.as_bytes(), PLACE, "x@y.z", &Verify::Results("m".into())) {
                prop_assert!(!mail.message.text.trim().is_empty() || !mail.message.attachments.is_empty());
            }
            without_quote(&body);
        }

        #[test]
        fn an_id_can_never_begin_a_header(id in any::<String>()) {
            let clean = clean_id(&id);
            prop_assert!(!clean.contains(['\r', '\n', '<', '>', ' ']));
        }
    }
}
