//! Matrix against a real Synapse.

use crate::support::{Received, in_time, message, wait_for};
use crate::synapse::{Person, Synapse};
use channels::matrix::{Matrix, Timing};
use channels::message::{Attachment, ChatKind, EventKind};
use channels::{Action, Channel, ChannelError, Reconciled, SendError, accounts};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn channel(server: &Synapse, settings: Value) -> Arc<Matrix> {
    let mut section = json!({ "homeserver": server.url, "userId": "@bot:localhost",
        "password": "bot-password", "autoJoin": "always",
        "network": { "dangerouslyAllowPrivateNetwork": true } });
    for (key, value) in settings.as_object().unwrap() {
        section[key] = value.clone();
    }
    let account = accounts::of("matrix", &section).remove(0);
    let timing = Timing {
        poll: Duration::from_secs(5),
    };
    Arc::new(Matrix::with(&account, timing).unwrap())
}

struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ChannelError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        in_time("stop", self.ended).await.unwrap().unwrap();
    }
}

/// Runs it; the first sync is done when this returns.
async fn run(matrix: &Arc<Matrix>, received: &Arc<Received>) -> Running {
    let stop = CancellationToken::new();
    let (matrix, sink, token) = (Arc::clone(matrix), received.sink("matrix"), stop.clone());
    let ended = tokio::spawn(async move { matrix.receive(sink, token).await });
    wait_for("first sync", async || received.cursor_of("since")).await;
    Running { stop, ended }
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nnot really";

#[tokio::test]
async fn rooms_direct_chats_threads_edits_reactions_and_files() {
    let server = Synapse::start().await;
    let (_bot, amy) = (server.register("bot").await, server.register("amy").await);
    let matrix = channel(&server, json!({}));
    let received = Arc::new(Received::default());
    let running = run(&matrix, &received).await;

    let room = amy.room(json!({ "name": "Ops" })).await;
    amy.say(&room, "before the bot").await;
    amy.invite(&room, "@bot:localhost").await;
    amy.say(&room, "while it is invited").await;
    amy.meet(&room, "@bot:localhost").await;
    let hello = amy.say(&room, "hello everybody").await;
    let group = received
        .wait("group", |m| m.text == "hello everybody")
        .await;
    assert_eq!(
        (group.event_id.as_str(), group.chat.kind),
        (hello.as_str(), ChatKind::Group)
    );
    assert_eq!(
        (group.chat.id.as_str(), group.chat.title.as_deref()),
        (room.as_str(), Some("Ops"))
    );
    assert_eq!(group.sender.id, "@amy:localhost");
    assert!(!group.mentions_us && group.sent_at_ms > 1_600_000_000_000);
    assert_eq!(received.texts(), ["while it is invited", "hello everybody"]);
    wait_for("read receipt", async || {
        let receipts = amy.ephemeral(&room, "m.receipt").await?;
        receipts["content"][&hello]["m.read"]
            .get("@bot:localhost")
            .map(|_| ())
    })
    .await;

    let asked = amy
        .event(
            &room,
            "m.room.message",
            json!({ "msgtype": "m.text", "body": "you there?",
            "m.mentions": { "user_ids": ["@bot:localhost"] } }),
        )
        .await;
    assert!(
        received
            .wait("mention", |m| m.event_id == asked)
            .await
            .mentions_us
    );

    talks_back(&matrix, &received, &amy, &room, &asked).await;
    changes(&matrix, &received, &amy, &room).await;
    files(&matrix, &received, &amy, &room).await;
    direct(&matrix, &received, &amy).await;

    let secret = amy
        .room(
            json!({ "invite": ["@bot:localhost"], "initial_state": [{ "type": "m.room.encryption",
            "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] }),
        )
        .await;
    amy.meet(&secret, "@bot:localhost").await;
    for n in 0..2 {
        let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": format!("{n}"),
            "device_id": "PERSON", "sender_key": "k", "session_id": "s" });
        amy.event(&secret, "m.room.encrypted", content).await;
    }
    amy.wait_event(&secret, "notice", |e| {
        e["content"]["body"]
            .as_str()
            .is_some_and(|b| b.contains("encrypted"))
    })
    .await;
    assert_eq!(received.duplicates(), 0);
    assert_eq!(matrix.probe().await.unwrap().id, "@bot:localhost");
    running.stop().await;
}

async fn talks_back(
    matrix: &Arc<Matrix>,
    received: &Received,
    amy: &Person,
    room: &str,
    asked: &str,
) {
    let mut answer = message("delivery-1", room, "**yes**, @amy:localhost");
    answer.reply_to = Some(asked.to_owned());
    assert_eq!(
        matrix.reconcile(&answer).await.unwrap(),
        Reconciled::NotArrived
    );
    let receipt = matrix.send(&answer).await.unwrap();
    let again = matrix.send(&answer).await.unwrap();
    assert_eq!(receipt, again);
    assert_eq!(
        matrix.reconcile(&answer).await.unwrap(),
        Reconciled::Arrived(receipt.clone())
    );
    let history = amy.history(room).await;
    let ours: Vec<&Value> = history
        .iter()
        .filter(|e| e["sender"] == "@bot:localhost" && e["type"] == "m.room.message")
        .collect();
    assert_eq!(ours.len(), 1);
    let content = &ours[0]["content"];
    assert_eq!(content["m.relates_to"]["m.in_reply_to"]["event_id"], asked);
    assert_eq!(content["m.mentions"]["user_ids"], json!(["@amy:localhost"]));
    assert!(
        content["formatted_body"]
            .as_str()
            .unwrap()
            .contains("https://matrix.to/#/@amy:localhost")
    );

    // A reply to us is to us.
    let back = json!({ "msgtype": "m.text", "body": "thanks",
        "m.relates_to": { "m.in_reply_to": { "event_id": receipt.message_id } } });
    amy.event(room, "m.room.message", back).await;
    let reply = received.wait("reply", |m| m.text == "thanks").await;
    assert!(reply.mentions_us);
    assert_eq!(reply.reply_to.as_deref(), Some(receipt.message_id.as_str()));
    assert_eq!(reply.quoted.as_deref(), Some("**yes**, @amy:localhost"));

    let threaded = json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": {
        "rel_type": "m.thread", "event_id": asked, "is_falling_back": true,
        "m.in_reply_to": { "event_id": asked } } });
    amy.event(room, "m.room.message", threaded).await;
    let threaded = received.wait("thread", |m| m.text == "in a thread").await;
    assert_eq!(
        (threaded.chat.thread.as_deref(), threaded.reply_to),
        (Some(asked), None)
    );
    let mut into = message("delivery-2", room, "there too");
    into.thread = Some(asked.to_owned());
    let id = matrix.send(&into).await.unwrap().message_id;
    let relations = amy
        .get(&format!(
            "/_matrix/client/v1/rooms/{room}/relations/{asked}/m.thread"
        ))
        .await;
    let found = relations["chunk"].as_array().unwrap();
    assert!(
        found.iter().any(|e| e["event_id"] == id.as_str()),
        "{relations}"
    );
}

async fn changes(matrix: &Arc<Matrix>, received: &Received, amy: &Person, room: &str) {
    let first = amy.say(room, "frist").await;
    let edit = json!({ "msgtype": "m.text", "body": "* first",
        "m.new_content": { "msgtype": "m.text", "body": "first" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": first } });
    amy.event(room, "m.room.message", edit).await;
    let edited = received.wait("edit", |m| m.kind == EventKind::Edit).await;
    assert_eq!(
        (edited.text.as_str(), edited.edit_of.as_deref()),
        ("first", Some(first.as_str()))
    );

    let target = || room.to_owned();
    let own = matrix
        .send(&message("delivery-3", room, "draft"))
        .await
        .unwrap()
        .message_id;
    matrix
        .act(&Action::Edit {
            target: target(),
            message_id: own.clone(),
            text: "done".into(),
        })
        .await
        .unwrap();
    let shown = amy
        .get(&format!("/_matrix/client/v3/rooms/{room}/event/{own}"))
        .await;
    let replaced = &shown["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(
        replaced["content"]["m.new_content"]["body"], "done",
        "{shown}"
    );

    let like =
        json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": own, "key": "👍" } });
    let liked = amy.event(room, "m.reaction", like).await;
    let reaction = received
        .wait("reaction", |m| m.kind == EventKind::Reaction)
        .await;
    assert_eq!(
        (reaction.text.as_str(), reaction.reply_to.as_deref()),
        ("👍", Some(own.as_str()))
    );
    amy.redact(room, &liked).await;
    let back = received
        .wait("taken back", |m| {
            m.kind == EventKind::Reaction && m.text.is_empty()
        })
        .await;
    assert_eq!(back.reply_to.as_deref(), Some(own.as_str()));

    let reactions = async || {
        let path = format!("/_matrix/client/v1/rooms/{room}/relations/{first}/m.annotation");
        amy.get(&path).await["chunk"].as_array().unwrap().len()
    };
    let react = |emoji: Option<&str>| Action::React {
        target: target(),
        message_id: first.clone(),
        emoji: emoji.map(str::to_owned),
    };
    matrix.act(&react(Some("👀"))).await.unwrap();
    assert_eq!(reactions().await, 1);
    matrix.act(&react(None)).await.unwrap();
    assert_eq!(reactions().await, 0);

    matrix
        .act(&Action::Typing {
            target: target(),
            thread: None,
            on: true,
        })
        .await
        .unwrap();
    wait_for("typing", async || {
        let typing = amy.ephemeral(room, "m.typing").await?;
        (typing["content"]["user_ids"] == json!(["@bot:localhost"])).then_some(())
    })
    .await;
    matrix
        .act(&Action::Delete {
            target: target(),
            message_id: own.clone(),
        })
        .await
        .unwrap();
    let gone = amy
        .get(&format!("/_matrix/client/v3/rooms/{room}/event/{own}"))
        .await;
    assert!(gone["content"].get("body").is_none(), "{gone}");
    let edit = Action::Edit {
        target: target(),
        message_id: own,
        text: "unseen".into(),
    };
    let edited = matrix.act(&edit).await;
    assert!(
        matches!(edited, Err(SendError::Rejected { .. })),
        "{edited:?}"
    );
}

async fn files(matrix: &Arc<Matrix>, received: &Received, amy: &Person, room: &str) {
    let url = amy.upload("a.png", "image/png", PNG).await;
    let content = json!({ "msgtype": "m.image", "body": "look", "filename": "a.png", "url": url,
        "info": { "mimetype": "image/png", "size": PNG.len() } });
    amy.event(room, "m.room.message", content).await;
    let file = received.wait("file", |m| !m.attachments.is_empty()).await;
    let attachment = &file.attachments[0];
    assert_eq!(
        (file.text.as_str(), attachment.name.as_deref()),
        ("look", Some("a.png"))
    );
    assert_eq!(matrix.fetch(&attachment.source, 1000).await.unwrap(), PNG);
    let large = matrix.fetch(&attachment.source, 5).await;
    assert!(
        matches!(large, Err(SendError::Rejected { .. })),
        "{large:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.bin");
    std::fs::write(&path, PNG).unwrap();
    let mut out = message("delivery-4", room, "*mine*");
    out.attachments.push(Attachment {
        source: path.display().to_string(),
        name: Some("b.png".into()),
        mime: None,
        bytes: None,
        voice: false,
        as_file: false,
    });
    let id = matrix.send(&out).await.unwrap().message_id;
    let event = amy
        .get(&format!("/_matrix/client/v3/rooms/{room}/event/{id}"))
        .await;
    let content = &event["content"];
    assert_eq!(
        (content["msgtype"].as_str(), content["body"].as_str()),
        (Some("m.image"), Some("*mine*"))
    );
    assert_eq!(content["info"]["mimetype"], "image/png");
    assert_eq!(amy.download(content["url"].as_str().unwrap()).await, PNG);
}

async fn direct(matrix: &Arc<Matrix>, received: &Received, amy: &Person) {
    let ask = json!({ "is_direct": true, "preset": "trusted_private_chat", "invite": ["@bot:localhost"] });
    let room = amy.room(ask).await;
    amy.say(&room, "psst").await;
    let direct = received.wait("direct", |m| m.text == "psst").await;
    assert_eq!(
        (direct.chat.kind, direct.chat.id.as_str()),
        (ChatKind::Direct, "@amy:localhost")
    );
    // A person as the target is that room.
    let id = matrix
        .send(&message("delivery-5", "@amy:localhost", "here"))
        .await
        .unwrap()
        .message_id;
    amy.wait_event(&room, "answer", |e| e["event_id"] == id.as_str())
        .await;
    // Answers go where the person wrote last.
    let ask = json!({ "is_direct": true, "preset": "trusted_private_chat", "invite": ["@bot:localhost"] });
    let second = amy.room(ask).await;
    amy.say(&second, "over here").await;
    received.wait("second", |m| m.text == "over here").await;
    let id = matrix
        .send(&message("delivery-7", "@amy:localhost", "coming"))
        .await
        .unwrap()
        .message_id;
    amy.wait_event(&second, "answer", |e| e["event_id"] == id.as_str())
        .await;
    for target in ["amy", "#nowhere:localhost", "!none:localhost"] {
        let refused = matrix.send(&message("delivery-6", target, "x")).await;
        assert!(
            matches!(refused, Err(SendError::Rejected { .. })),
            "{target}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn gaps_are_filled_and_credentials_renewed() {
    let server = Synapse::start().await;
    let (bot, amy) = (server.register("bot").await, server.register("amy").await);
    let admin = server.admin().await;
    let room = amy.room(json!({ "invite": ["@bot:localhost"] })).await;
    let matrix = channel(&server, json!({}));
    let received = Arc::new(Received::default());
    // The invitation was there before the first sync.
    let running = run(&matrix, &received).await;
    amy.meet(&room, "@bot:localhost").await;
    amy.say(&room, "one").await;
    received.wait("one", |m| m.text == "one").await;
    let sent = matrix.send(&message("same", &room, "once")).await.unwrap();
    running.stop().await;

    // More than a timeline holds, while nobody listens.
    for n in 0..130 {
        amy.say(&room, &format!("missed {n}")).await;
    }
    let matrix = channel(&server, json!({}));
    let running = run(&matrix, &received).await;
    received.wait("the last", |m| m.text == "missed 129").await;
    let expected: Vec<String> = std::iter::once("one".to_owned())
        .chain((0..130).map(|n| format!("missed {n}")))
        .collect();
    assert_eq!(received.texts(), expected);
    assert_eq!(received.duplicates(), 0);
    // A new login of the same device: still the same transaction.
    assert_eq!(
        matrix.send(&message("same", &room, "once")).await.unwrap(),
        sent
    );

    // What the sink refuses is not passed over.
    received.refuse(true);
    amy.say(&room, "refused at first").await;
    let ended = in_time("end", running.ended).await.unwrap();
    assert!(matches!(ended, Err(ChannelError::Sink(_))), "{ended:?}");
    received.refuse(false);
    let running = run(&matrix, &received).await;
    received
        .wait("later", |m| m.text == "refused at first")
        .await;

    // The token is taken away: a password gets a new one, a token alone is refused.
    let devices = "/_synapse/admin/v2/users/@bot:localhost/devices";
    admin
        .delete(&format!("{devices}/OPENCLAW-GATEWAY-DEFAULT"))
        .await;
    amy.say(&room, "after the logout").await;
    received
        .wait("after the logout", |m| m.text == "after the logout")
        .await;
    running.stop().await;
    let by_token = channel(&server, json!({ "accessToken": bot.token }));
    assert_eq!(by_token.probe().await.unwrap().id, "@bot:localhost");
    admin.delete(&format!("{devices}/PERSON")).await;
    let refused = by_token.send(&message("d", &room, "x")).await;
    assert!(
        matches!(refused, Err(SendError::Unauthorized { .. })),
        "{refused:?}"
    );
    let refused = by_token
        .receive(received.sink("matrix"), CancellationToken::new())
        .await;
    assert!(
        matches!(refused, Err(ChannelError::Unauthorized { .. })),
        "{refused:?}"
    );
    let wrong = channel(&server, json!({ "password": "wrong" }));
    let refused = wrong.probe().await;
    assert!(
        matches!(refused, Err(ChannelError::Unauthorized { .. })),
        "{refused:?}"
    );

    // Too fast: when to come again is the server's word.
    let limit = "/_synapse/admin/v1/users/@bot:localhost/override_ratelimit";
    admin
        .post(limit, json!({ "messages_per_second": 1, "burst_count": 1 }))
        .await;
    let mut limited = None;
    for n in 0..20 {
        let sent = matrix
            .send(&message(&format!("fast {n}"), &room, "x"))
            .await;
        if let Err(error) = sent {
            limited = Some(error);
            break;
        }
    }
    assert!(
        matches!(limited, Some(SendError::Retry { after: Some(_), .. })),
        "{limited:?}"
    );
}

#[tokio::test]
async fn invitations_are_accepted_as_the_settings_say() {
    let server = Synapse::start().await;
    let (_bot, amy) = (server.register("bot").await, server.register("amy").await);
    let listed = amy.room(json!({ "room_alias_name": "support" })).await;
    let other = amy.room(json!({})).await;
    let settings = json!({ "autoJoin": "allowlist", "autoJoinAllowlist": ["#support:localhost"] });
    let matrix = channel(&server, settings);
    let received = Arc::new(Received::default());
    let running = run(&matrix, &received).await;
    amy.invite(&other, "@bot:localhost").await;
    amy.invite(&listed, "@bot:localhost").await;
    amy.meet(&listed, "@bot:localhost").await;
    running.stop().await;
    let path = format!("/_matrix/client/v3/rooms/{other}/members");
    let members = amy.get(&path).await;
    let bot = members["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["state_key"] == "@bot:localhost");
    assert_eq!(bot.unwrap()["content"]["membership"], "invite");
    assert!(received.all().is_empty());
}
