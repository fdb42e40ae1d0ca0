//! Telegram against `telegram-test-api`, and against the scripted server that grammy accepts.

use crate::node::{Peers, account};
use crate::support::{Received, in_time, message, wait_for};
use bytes::Bytes;
use channels::message::{Attachment, Button, ChatKind, EventKind};
use channels::telegram::Telegram;
use channels::{Action, Channel as _, ChannelError, OutboundMessage, SendError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

async fn bot(peers: &Peers, server: &str, more: Value) -> Arc<Telegram> {
    let at = peers
        .eval(&format!("({{ token: {server}.token, url: {server}.url }})"))
        .await;
    let mut settings = json!({ "botToken": at["token"], "apiRoot": at["url"] });
    settings
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Arc::new(Telegram::new(&account("telegram", &settings)).unwrap())
}

struct Receiving {
    received: Arc<Received>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ChannelError>>,
}

fn receive(bot: &Arc<Telegram>, received: &Arc<Received>) -> Receiving {
    let stop = CancellationToken::new();
    let (bot, sink, inner) = (Arc::clone(bot), received.sink("telegram"), stop.clone());
    Receiving {
        received: Arc::clone(received),
        stop,
        task: tokio::spawn(async move { bot.receive(sink, inner).await }),
    }
}

impl Receiving {
    async fn end(self) -> Result<(), ChannelError> {
        self.stop.cancel();
        in_time("the end of receiving", self.task).await.unwrap()
    }
}

/// One pixel, as PNG: what is shown must be a picture.
const PIXEL: &[u8] =
    b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x01\x00\x00\
    \x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\x0d\x49\x44\x41\x54\x78\xda\x63\
    \x64\xf8\xcf\x50\x0f\x00\x03\x86\x01\x80\x5a\x34\x7d\x6b\x00\x00\x00\x00\x49\x45\x4e\x44\
    \xae\x42\x60\x82";

fn file(folder: &std::path::Path, name: &str, mime: &str) -> Attachment {
    let path = folder.join(name);
    let content = match mime.starts_with("image/") {
        true => PIXEL,
        false => name.as_bytes(),
    };
    std::fs::write(&path, content).unwrap();
    Attachment {
        source: path.to_string_lossy().into_owned(),
        name: None,
        mime: Some(mime.into()),
        bytes: Some(name.len() as u64),
        voice: mime == "audio/ogg",
        as_file: false,
    }
}

#[tokio::test]
async fn the_emulator_of_somebody_else_takes_and_gives() {
    let peers = Peers::start().await;
    let bot = bot(&peers, "emulator", json!({})).await;
    assert!(bot.probe().await.unwrap().name.is_some());
    let receipt = bot
        .send(&message("d1", "42", "hello *there*"))
        .await
        .unwrap();
    assert!(!receipt.message_id.is_empty());
    let got = peers
        .eval("(await emulator.client.getUpdates()).result")
        .await;
    assert_eq!(got[0]["message"]["text"], "hello <i>there</i>");
    let received = Arc::new(Received::default());
    let receiving = receive(&bot, &received);
    for text in ["one", "two"] {
        peers
            .eval(&format!(
                "emulator.client.sendMessage(emulator.client.makeMessage('{text}'))"
            ))
            .await;
    }
    let one = received
        .wait("what a person says", |m| m.text == "one")
        .await;
    assert_eq!((one.chat.id.as_str(), one.sender.id.as_str()), ("42", "42"));
    received.wait("the second", |m| m.text == "two").await;
    receiving.end().await.unwrap();
    assert_eq!(received.duplicates(), 0);
}

#[tokio::test]
async fn everything_people_do_arrives_in_order_and_is_confirmed_after_the_commit() {
    let peers = Peers::start().await;
    let bot = bot(
        &peers,
        "scripted",
        json!({ "customCommands": [{ "command": "/hi", "description": "Say hi" }] }),
    )
    .await;
    let received = Arc::new(Received::default());
    peers
        .eval("(scripted.group(-100, { forum: true }), scripted.say(scripted.direct(7), 7, 'one'))")
        .await;
    received.refuse(true);
    let refused = receive(&bot, &received);
    let ended = in_time("the refusal", refused.task).await.unwrap();
    assert!(matches!(ended, Err(ChannelError::Sink(_))), "{ended:?}");
    // Nothing was confirmed by that.
    assert_eq!(peers.eval("scripted.updates.length").await, 1);
    received.refuse(false);
    let receiving = receive(&bot, &received);
    received.wait("the first again", |m| m.text == "one").await;
    let sent = bot
        .send(&OutboundMessage {
            buttons: vec![vec![Button {
                text: "Yes".into(),
                data: "yes".into(),
            }]],
            ..message("d1", "7", "really?")
        })
        .await
        .unwrap();
    peers
        .eval(&format!(
            "(() => {{ const d = scripted.direct(7), g = scripted.group(-100), id = {id}; \
             scripted.edit(d, 1, 'one, again'); scripted.press(d, id, 7, 'yes'); scripted.react(d, id, 7, '👍'); \
             scripted.say(g, 7, 'in a topic', {{ message_thread_id: 5, is_topic_message: true }}); \
             scripted.say(g, 7, 'hey @' + scripted.username); \
             scripted.say(d, 7, 'answer', {{ reply_to_message: scripted.messages.get('7/' + id), quote: {{ text: 'really', position: 0 }} }}); \
             scripted.sendFile(d, 7, 'photo', Buffer.from('p1'), {{ caption: 'look', media_group_id: 'g' }}); \
             scripted.sendFile(d, 7, 'photo', Buffer.from('p2'), {{ media_group_id: 'g' }}); \
             scripted.sendFile(d, 7, 'voice', Buffer.from('v'), {{ type: 'audio/ogg' }}); }})()",
            id = sent.message_id
        ))
        .await;
    let voice = received
        .wait("the last", |m| m.attachments.iter().any(|a| a.voice))
        .await;
    let all = received.all();
    let got: Vec<_> = all.iter().map(|m| (m.kind, m.text.as_str())).collect();
    assert_eq!(
        got,
        [
            (EventKind::Message, "one"),
            (EventKind::Edit, "one, again"),
            (EventKind::Button, "yes"),
            (EventKind::Reaction, "👍"),
            (EventKind::Message, "in a topic"),
            (
                EventKind::Message,
                format!("hey @{}", "scripted_bot").as_str()
            ),
            (EventKind::Message, "answer"),
            (EventKind::Message, "look"),
            (EventKind::Message, ""),
        ]
    );
    assert_eq!(all[1].edit_of.as_deref(), Some("1"));
    assert_eq!(all[2].reply_to.as_deref(), Some(sent.message_id.as_str()));
    assert_eq!(
        (all[4].chat.kind, all[4].chat.thread.as_deref()),
        (ChatKind::Group, Some("5"))
    );
    assert_eq!(
        (all[5].mentions_us, all[5].chat.thread.as_deref()),
        (true, Some("1"))
    );
    assert_eq!(
        (all[6].quoted.as_deref(), all[6].mentions_us),
        (Some("really"), true)
    );
    assert_eq!(all[7].attachments.len(), 2, "an album is one message");
    let bytes = bot.fetch(&all[7].attachments[1].source, 100).await.unwrap();
    assert_eq!(bytes, "p2");
    let large = bot.fetch(&voice.attachments[0].source, 0).await;
    assert!(
        matches!(large, Err(SendError::Rejected { .. })),
        "{large:?}"
    );
    wait_for("the confirmation", async || {
        (peers.eval("scripted.updates.length").await == 0).then_some(())
    })
    .await;
    let called = peers
        .eval("scripted.calls.map((c) => c.method)")
        .await
        .to_string();
    assert!(
        called.contains("answerCallbackQuery") && called.contains("setMyCommands"),
        "{called}"
    );
    receiving.end().await.unwrap();
    assert_eq!(received.duplicates(), 0);

    // A new start goes on where the cursor stands.
    peers
        .eval("scripted.say(scripted.direct(7), 7, 'later')")
        .await;
    let receiving = receive(&bot, &received);
    receiving
        .received
        .wait("the next", |m| m.text == "later")
        .await;
    receiving.end().await.unwrap();
    assert_eq!(received.all().len(), 10);
}

#[tokio::test]
async fn what_we_send_and_change_is_as_telegram_takes_it() {
    let peers = Peers::start().await;
    let bot = bot(&peers, "scripted", json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    peers
        .eval("(scripted.direct(7), scripted.group(-100, { forum: true }), 0)")
        .await;
    let first = bot
        .send(&message(
            "d1",
            "7",
            "**bold** [link](https://example.org) a < b",
        ))
        .await
        .unwrap();
    // General cannot be named, and a reply to what is gone is sent all the same.
    let general = OutboundMessage {
        thread: Some("1".into()),
        reply_to: Some("999".into()),
        silent: true,
        ..message("d2", "-100", "general")
    };
    bot.send(&general).await.unwrap();
    bot.send(&OutboundMessage {
        thread: Some("5".into()),
        ..general
    })
    .await
    .unwrap();
    // Rendered it is too long, as Markdown it is not.
    let mut wide = format!("| a | b |\n|---|---|\n| {} | x |\n", "w".repeat(400));
    wide.push_str(&"| 1 | 2 |\n".repeat(20));
    bot.send(&message("d3", "7", &wide)).await.unwrap();
    let album = bot
        .send(&OutboundMessage {
            attachments: vec![
                file(folder.path(), "a.png", "image/png"),
                file(folder.path(), "b.jpg", "image/jpeg"),
            ],
            ..message("d4", "7", "*two*")
        })
        .await
        .unwrap();
    assert_eq!(album.more_ids.len(), 1);
    for (name, mime) in [
        ("c.png", "image/png"),
        ("d.ogg", "audio/ogg"),
        ("e.mp3", "audio/mpeg"),
        ("f.mp4", "video/mp4"),
        ("g.gif", "image/gif"),
        ("h.pdf", "application/pdf"),
    ] {
        let one = OutboundMessage {
            attachments: vec![file(folder.path(), name, mime)],
            ..message("d5", "7", "_look_")
        };
        bot.send(&one).await.unwrap();
    }
    let mixed = OutboundMessage {
        attachments: vec![
            file(folder.path(), "i.png", "image/png"),
            file(folder.path(), "j.pdf", "application/pdf"),
        ],
        ..message("d6", "7", "")
    };
    bot.send(&mixed).await.unwrap();
    let sent = peers
        .eval("scripted.sent.map(({ method, text, message, params }) => ({ method, text, thread: message.message_thread_id ?? null, mode: params.parse_mode ?? null }))")
        .await;
    let methods: Vec<_> = sent
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["method"].as_str().unwrap())
        .collect();
    assert_eq!(
        methods,
        [
            "sendMessage",
            "sendMessage",
            "sendMessage",
            "sendMessage",
            "sendMediaGroup",
            "sendMediaGroup",
            "sendPhoto",
            "sendVoice",
            "sendAudio",
            "sendVideo",
            "sendAnimation",
            "sendDocument",
            "sendMediaGroup",
            "sendMediaGroup",
        ]
    );
    assert_eq!(sent[0]["text"], "bold link a < b");
    assert_eq!(
        (&sent[1]["thread"], &sent[2]["thread"]),
        (&Value::Null, &json!(5))
    );
    assert_eq!(
        (&sent[3]["mode"], sent[3]["text"].as_str()),
        (&Value::Null, Some(wide.as_str()))
    );
    assert_eq!(
        (&sent[4]["text"], &sent[6]["text"]),
        (&json!("two"), &json!("look"))
    );
    assert_eq!(
        peers
            .eval("'document' in scripted.sent.at(-2).message")
            .await,
        true
    );

    let (target, message_id) = ("7".to_owned(), first.message_id.clone());
    for action in [
        Action::Typing {
            target: target.clone(),
            thread: None,
            on: true,
        },
        Action::React {
            target: target.clone(),
            message_id: message_id.clone(),
            emoji: Some("👀".into()),
        },
        Action::Edit {
            target: target.clone(),
            message_id: message_id.clone(),
            text: "**new**".into(),
        },
        // The same once more changes nothing, and that is no error.
        Action::Edit {
            target: target.clone(),
            message_id: message_id.clone(),
            text: "**new**".into(),
        },
    ] {
        bot.act(&action).await.unwrap();
    }
    let held = peers
        .eval(&format!("scripted.messages.get('7/{message_id}')"))
        .await;
    assert_eq!(
        (&held["text"], &held["reactions"][0]["emoji"]),
        (&json!("new"), &json!("👀"))
    );
    bot.act(&Action::Delete {
        target: target.clone(),
        message_id: message_id.clone(),
    })
    .await
    .unwrap();
    let again = bot.act(&Action::Delete { target, message_id }).await;
    assert!(
        matches!(again, Err(SendError::Rejected { .. })),
        "{again:?}"
    );
}

#[tokio::test]
async fn every_failure_says_what_to_do_next() {
    let peers = Peers::start().await;
    let bot = bot(&peers, "scripted", json!({})).await;
    peers
        .eval("(scripted.direct(7), scripted.direct(8).blocked = true, scripted.group(-1).migratedTo = -1001, scripted.group(-1001), 0)")
        .await;
    let fault = async |kind: &str| {
        peers
            .eval(&format!(
                "scripted.faults.push({{ method: 'sendMessage', times: 1, {kind} }})"
            ))
            .await;
        bot.send(&message("d", "7", "x")).await
    };
    let flood = fault("kind: 'flood', retryAfter: 3").await;
    assert!(
        matches!(flood, Err(SendError::Retry { after: Some(after), .. }) if after == Duration::from_secs(3)),
        "{flood:?}"
    );
    let broken = fault("kind: 'error'").await;
    assert!(matches!(broken, Err(SendError::Retry { .. })), "{broken:?}");
    for kind in ["bad-gateway", "lost-answer", "half-answer"] {
        let unknown = fault(&format!("kind: '{kind}'")).await;
        assert!(
            matches!(unknown, Err(SendError::Unknown { .. })),
            "{kind}: {unknown:?}"
        );
    }
    // Both that were done are there, and nothing that was refused.
    assert_eq!(peers.eval("scripted.sent.length").await, 2);
    for target in ["8", "9"] {
        let refused = bot.send(&message("d", target, "x")).await;
        assert!(
            matches!(refused, Err(SendError::Rejected { .. })),
            "{target}: {refused:?}"
        );
    }
    bot.send(&message("d", "-1", "moved")).await.unwrap();
    assert_eq!(peers.eval("scripted.sent.at(-1).chat").await, "-1001");

    let wrong = json!({ "botToken": "1:wrong" });
    let stranger = crate::telegram::bot(&peers, "scripted", wrong).await;
    let refused = stranger.probe().await;
    assert!(
        matches!(refused, Err(ChannelError::Unauthorized { .. })),
        "{refused:?}"
    );
    let refused = stranger.send(&message("d", "7", "x")).await;
    assert!(
        matches!(refused, Err(SendError::Unauthorized { .. })),
        "{refused:?}"
    );

    let received = Arc::new(Received::default());
    let receiving = receive(&bot, &received);
    wait_for("the long poll", async || {
        let polls = "scripted.calls.filter((c) => c.method === 'getUpdates' && c.params.timeout > 0).length";
        (peers.eval(polls).await == 1).then_some(())
    })
    .await;
    peers
        .eval("fetch(`${scripted.url}/bot${scripted.token}/getUpdates`).then((r) => r.status)")
        .await;
    let ended = in_time("the conflict", receiving.task).await.unwrap();
    assert!(
        matches!(ended, Err(ChannelError::Conflict { .. })),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_webhook_takes_only_what_carries_the_secret() {
    let peers = Peers::start().await;
    let hook = "http://127.0.0.1:9/telegram";
    let bot = bot(
        &peers,
        "scripted",
        json!({ "webhookUrl": hook, "webhookSecret": "s3cret" }),
    )
    .await;
    let received = Arc::new(Received::default());
    let receiving = receive(&bot, &received);
    wait_for("the webhook", async || {
        (peers.eval("scripted.webhook()").await["secret"] == "s3cret").then_some(())
    })
    .await;
    let post = async |secret: Option<&str>, body: &str| {
        let mut request = http::Request::post("/");
        if let Some(secret) = secret {
            request = request.header("x-telegram-bot-api-secret-token", secret);
        }
        let request = request.body(Bytes::from(body.to_owned())).unwrap();
        bot.handle_http(request, received.sink("telegram"))
            .await
            .status()
            .as_u16()
    };
    let update =
        json!({ "update_id": 5, "message": { "message_id": 1, "date": 1, "text": "by post",
        "chat": { "id": 7, "type": "private" }, "from": { "id": 7, "first_name": "Ann" } } })
        .to_string();
    assert_eq!(post(None, &update).await, 401);
    assert_eq!(post(Some("s3cre"), &update).await, 401);
    assert_eq!(post(Some("s3cret"), "{").await, 400);
    received.refuse(true);
    assert_eq!(post(Some("s3cret"), &update).await, 503);
    assert!(received.all().is_empty());
    received.refuse(false);
    assert_eq!(post(Some("s3cret"), &update).await, 200);
    assert_eq!(post(Some("s3cret"), &update).await, 200);
    assert_eq!(
        (received.texts(), received.duplicates()),
        (vec!["by post".to_owned()], 1)
    );
    receiving.end().await.unwrap();
}
