//! Webhooks both ways, judged by the package `standardwebhooks`.

use crate::node::{Peers, account};
use crate::support::{Received, message};
use bytes::Bytes;
use channels::webhook::Webhook;
use channels::{Channel as _, OutboundMessage, SendError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

async fn hook(peers: &Peers, more: Value) -> Webhook {
    let at = peers.eval("({ secret, url: receiver.url })").await;
    let mut settings =
        json!({ "secret": at["secret"], "url": at["url"], "allowPrivateNetwork": true });
    settings
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Webhook::new(&account("webhook", &settings)).unwrap()
}

async fn post(
    hook: &Webhook,
    received: &Arc<Received>,
    headers: &Value,
    body: &str,
) -> (u16, Value) {
    let mut request = http::Request::post("/");
    for (name, value) in headers.as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    let request = request.body(Bytes::from(body.to_owned())).unwrap();
    let answer = hook.handle_http(request, received.sink("webhook")).await;
    let body = serde_json::from_slice(answer.body()).unwrap();
    (answer.status().as_u16(), body)
}

#[tokio::test]
async fn what_an_independent_library_signs_is_taken_once_and_nothing_else() {
    let peers = Peers::start().await;
    let hook = hook(&peers, json!({})).await;
    let received = Arc::new(Received::default());
    let body = json!({ "text": "hi 👋", "from": { "id": "ann", "name": "Ann" }, "chat": "room", "group": true }).to_string();
    let sign = async |id: &str, age: i64, more: &str| {
        peers
            .eval(&format!("sign('{id}', {}, {age}{more})", json!(body)))
            .await
    };
    let headers = sign("msg_1", 0, "").await;
    assert_eq!(post(&hook, &received, &headers, &body).await.0, 202);
    let (status, again) = post(&hook, &received, &headers, &body).await;
    assert_eq!((status, &again["duplicate"]), (202, &json!(true)));
    for (headers, body) in [
        (headers.clone(), body.replace("hi", "ho")),
        (sign("msg_2", 400, "").await, body.clone()),
        (sign("msg_3", -400, "").await, body.clone()),
        (
            sign(
                "msg_4",
                0,
                ", 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='",
            )
            .await,
            body.clone(),
        ),
    ] {
        assert_eq!(post(&hook, &received, &headers, &body).await.0, 401);
    }
    // A secret that is being changed: two signatures, one of them ours.
    let mut both = sign("msg_5", 0, "").await;
    both["webhook-signature"] =
        format!("v1,AAAA {}", both["webhook-signature"].as_str().unwrap()).into();
    assert_eq!(post(&hook, &received, &both, &body).await.0, 202);
    received.refuse(true);
    let headers = sign("msg_6", 0, "").await;
    assert_eq!(post(&hook, &received, &headers, &body).await.0, 503);
    assert_eq!(received.texts(), ["hi 👋", "hi 👋"]);
    assert_eq!(received.all()[0].chat.id, "room");
}

#[tokio::test]
async fn fields_of_another_system_are_found_by_their_pointers() {
    let peers = Peers::start().await;
    let fields =
        json!({ "text": "/event/body/plain", "from": "/event/user", "chat": "/event/channel" });
    let hook = hook(
        &peers,
        json!({ "inboundFields": fields, "outboundFields": { "text": "content" } }),
    )
    .await;
    let received = Arc::new(Received::default());
    let body = json!({ "event": { "body": { "plain": "mapped" }, "user": { "id": 17, "name": "Ann" }, "channel": 5 } }).to_string();
    let headers = peers.eval(&format!("sign('m', {})", json!(body))).await;
    let (status, answer) = post(&hook, &received, &headers, &body).await;
    assert_eq!(status, 202, "{answer}");
    let got = &received.all()[0];
    assert_eq!(
        (
            got.text.as_str(),
            got.sender.id.as_str(),
            got.chat.id.as_str()
        ),
        ("mapped", "17", "5")
    );
    hook.send(&message("d1", "7", "out")).await.unwrap();
    let payload = peers.eval("receiver.taken[0].payload").await;
    assert_eq!(
        (&payload["content"], payload.get("text")),
        (&json!("out"), None)
    );
}

#[tokio::test]
async fn an_independent_library_accepts_what_we_send_and_repeats_keep_their_id() {
    let peers = Peers::start().await;
    let hook = hook(&peers, json!({})).await;
    let one = OutboundMessage {
        reply_to: Some("m9".into()),
        ..message("d1", "room", "**hi** 👋")
    };
    peers
        .eval("receiver.answers.push({ status: 503, headers: { 'retry-after': '7' } }, { destroy: true }, { body: { id: 'theirs' } })")
        .await;
    let busy = hook.send(&one).await;
    assert!(
        matches!(busy, Err(SendError::Retry { after: Some(after), .. }) if after == Duration::from_secs(7)),
        "{busy:?}"
    );
    // Taken, but the answer is lost: the same id may go again.
    let lost = hook.send(&one).await;
    assert!(matches!(lost, Err(SendError::Retry { .. })), "{lost:?}");
    assert_eq!(hook.send(&one).await.unwrap().message_id, "theirs");
    let taken = peers.eval("receiver").await;
    assert_eq!(taken["refused"], json!([]));
    assert_eq!(
        (&taken["taken"][0]["id"], &taken["taken"][1]["id"]),
        (&json!("d1"), &json!("d1"))
    );
    let payload = &taken["taken"][1]["payload"];
    assert_eq!(
        (&payload["text"], &payload["replyTo"]),
        (&json!("**hi** 👋"), &json!("m9"))
    );
    for (status, is_gone) in [(410, true), (400, true), (429, false)] {
        peers
            .eval(&format!("receiver.answers.push({{ status: {status} }})"))
            .await;
        let refused = hook.send(&one).await;
        assert_eq!(
            matches!(refused, Err(SendError::Rejected { .. })),
            is_gone,
            "{status}: {refused:?}"
        );
    }

    let guarded = crate::webhook::hook(&peers, json!({ "allowPrivateNetwork": false })).await;
    let kept = guarded.send(&one).await;
    assert!(matches!(kept, Err(SendError::Rejected { .. })), "{kept:?}");
}
