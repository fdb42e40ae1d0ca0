//! Against a server that says exactly what a test wants, over a real socket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server that answers every request with these bytes and then closes.
async fn server(answer: impl Into<Vec<u8>>) -> String {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                let mut seen = Vec::new();
                while let Ok(count) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..count]);
                    if count == 0 || seen.windows(4).any(|four| four == b"\r\n\r\n") {
                        break;
                    }
                }
                drop(stream.write_all(&answer).await);
                drop(stream.shutdown().await);
            });
        }
    });
    format!("http://{address}/v1")
}

fn stream(lines: &[&str]) -> Vec<u8> {
    let mut out = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        .to_owned();
    for line in lines {
        out.push_str(line);
        out.push_str("\n\n");
    }
    out.into_bytes()
}

fn config(url: &str) -> Value {
    json!({ "models": { "providers": { "p": { "baseUrl": format!("{url}/"), "apiKey": "k", "api": "openai-completions", "models": [{ "id": "m", "contextWindow": 1000, "maxTokens": 100 }] } } } })
}

async fn ask(url: &str, limits: Limits) -> (Result<Completion, CallError>, Vec<Piece>) {
    let model = Model::resolve(&config(url), "main", None, &|_| None).expect("a model");
    let prompt = Prompt {
        messages: vec![Message::text("user", "hi")],
        ..Prompt::default()
    };
    let mut pieces = Vec::new();
    // The second test to come here finds it installed.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let outcome = complete(&client, &model, &prompt, &limits, |piece| {
        pieces.push(piece)
    })
    .await;
    (outcome, pieces)
}

#[tokio::test]
async fn a_streamed_answer_comes_in_pieces_and_as_a_whole() {
    let url = server(stream(&[
        ": keep-alive",
        r#"data: {"id":"r1","model":"m-1","choices":[{"delta":{"role":"assistant","reasoning_content":"hm"}}]}"#,
        r#"data: {"choices":[{"delta":{"content":"Hel"}}]}"#,
        r#"data:{"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        "data: [DONE]",
    ]))
    .await;
    let (outcome, pieces) = ask(&url, Limits::default()).await;
    let outcome = outcome.expect("an answer");
    assert_eq!(
        (outcome.text.as_str(), outcome.thoughts[0].text.as_str()),
        ("Hello", "hm")
    );
    assert_eq!(outcome.usage.total(), 15);
    assert_eq!((outcome.usage.input, outcome.usage.cache_read), (6, 4));
    assert_eq!(outcome.response_model.as_deref(), Some("m-1"));
    assert_eq!(outcome.response_id.as_deref(), Some("r1"));
    assert_eq!(pieces.len(), 3);
}

#[tokio::test]
async fn a_whole_body_where_a_stream_was_asked_for_will_do() {
    let body = r#"{"id":"x","choices":[{"message":{"content":"Whole"},"finish_reason":"stop"}]}"#;
    let url = server(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())).await;
    assert_eq!(
        ask(&url, Limits::default())
            .await
            .0
            .expect("an answer")
            .text,
        "Whole"
    );
}

#[tokio::test]
async fn a_refusal_is_told_in_the_provider_s_words() {
    let body = r#"{"error":{"message":"slow down"}}"#;
    let url = server(format!("HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())).await;
    let error = ask(&url, Limits::default()).await.0.expect_err("refused");
    assert_eq!(error.to_string(), "p refused (429): slow down");
    assert!(error.is_retryable());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn garbage_is_bounded_and_named() {
    let limits = Limits {
        line_bytes_max: 1000,
        text_bytes_max: 50,
        ..Limits::default()
    };
    let check = async |answer: Vec<u8>, expected: &str| {
        let url = server(answer).await;
        let error = ask(&url, limits).await.0.expect_err("an error").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(stream(&["data: {nope"]), "not JSON").await;
    check(
        stream(&[&format!("data: {}", "x".repeat(5000))]),
        "not JSON",
    )
    .await;
    let endless = [stream(&[]), b"data: ".to_vec(), vec![b'x'; 5000]].concat();
    check(endless, "a line of more than 1000 bytes").await;
    let long = format!(
        r#"data: {{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#,
        "x".repeat(60)
    );
    check(stream(&[&long]), "more than 50 bytes").await;
    check(stream(&["data: [DONE]"]), "without content").await;
    check(
        stream(&[r#"data: {"choices":[{"delta":{"content":"Hal"}}]}"#]),
        "ended before the answer did",
    )
    .await;
    check(
        stream(&[r#"data: {"error":{"message":"overloaded"}}"#]),
        "broke off: overloaded",
    )
    .await;
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let error = ask("http://127.0.0.1:9/v1", Limits::default())
        .await
        .0
        .expect_err("nobody");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(!error.to_string().contains("http://"), "{error}");
}

#[tokio::test]
async fn silence_ends_at_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let limits = Limits {
        first_byte: Duration::from_millis(50),
        ..Limits::default()
    };
    let error = ask(&url, limits).await.0.expect_err("silence");
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}

#[test]
fn a_model_is_what_the_configuration_names() {
    let provider = |models: Value| json!({ "baseUrl": "http://h/v1/", "api": "openai-completions", "models": models });
    let config = json!({
        "models": { "providers": {
            "a": provider(json!([{ "id": "one" }, { "id": "two" }])),
            "b": provider(json!([])),
            "c": { "baseUrl": "http://h", "api": "bedrock-converse-stream", "models": [{ "id": "x" }] },
            "google": { "models": [] },
            "d": { "models": [{ "id": "x" }] },
            "e": { "baseUrl": "http://h", "apiKey": { "source": "env", "id": "KEY" }, "models": [] },
            "f": { "baseUrl": "http://h", "apiKey": { "source": "env", "id": "X" }, "models": [] },
            "g": { "baseUrl": "http://h", "headers": { "X-Key": { "source": "env", "id": "X" } }, "models": [] },
        } },
        "agents": { "defaults": { "model": { "primary": "a/two" } }, "entries": { "ops": { "model": "a/one" } } },
    });
    let get = |agent: &str, chosen: Option<&str>| {
        Model::resolve(&config, agent, chosen, &|value| {
            let id = value.get("id")?.as_str()?;
            Some(match id {
                "KEY" => Ok("v".to_owned()),
                _ => Err(format!("{id} is unknown")),
            })
        })
        .map(|model| format!("{}/{}", model.provider, model.id))
        .map_err(|error| error.to_string())
    };
    assert_eq!(get("main", None).as_deref(), Ok("a/two"));
    assert_eq!(get("ops", None).as_deref(), Ok("a/one"));
    assert_eq!(get("ops", Some("b/any")).as_deref(), Ok("b/any"));
    assert_eq!(get("main", Some("e/x")).as_deref(), Ok("e/x"));
    for (chosen, expected) in [
        ("a/three", "not among models.providers"),
        ("nope", "not among models.providers"),
        ("c/x", "does not speak yet"),
        ("d/x", "baseUrl is missing"),
        ("f/x", "models.providers.f.apiKey: X is unknown"),
        ("g/x", "models.providers.g.headers.X-Key: X is unknown"),
    ] {
        let error = get("main", Some(chosen)).expect_err(chosen);
        assert!(error.contains(expected), "{error}");
    }
    let google = Model::resolve(&config, "main", Some("google/g"), &|_| None).expect("a model");
    assert_eq!(google.api.name(), "google-generative-ai");
    assert_eq!(
        google.base_url,
        "https://generativelanguage.googleapis.com/v1beta"
    );
    let error = Model::resolve(&json!({}), "main", None, &|_| None).expect_err("none");
    assert_eq!(error, ModelError::None);
    let model = Model::resolve(&config, "main", Some("a/one"), &|_| None).expect("a model");
    assert_eq!(model.base_url, "http://h/v1");
    assert!(!format!("{model:?}").contains("api_key"));
}

#[test]
fn what_is_asked_next_follows_who_chose_the_model() {
    let config = json!({ "agents": {
        "defaults": { "model": { "primary": "a/1", "fallbacks": ["a/2", "a/3"] } },
        "entries": {
            "strict": { "model": "a/9" },
            "own": { "model": { "primary": "a/9", "fallbacks": ["a/8"] } },
            "chain": { "model": { "fallbacks": ["a/7"] } },
            "none": { "model": { "primary": "a/9", "fallbacks": [] } },
        },
    } });
    let next =
        |agent: &str, chosen: Option<&str>| Model::fallbacks(&config, agent, chosen).join(" ");
    assert_eq!(next("main", None), "a/2 a/3");
    assert_eq!(next("main", Some("a/1")), "");
    assert_eq!(next("strict", None), "");
    assert_eq!(next("own", None), "a/8");
    assert_eq!(next("chain", None), "a/7");
    assert_eq!(next("none", None), "");
}

/// What each protocol makes of these lines.
async fn asked(api: &str, lines: &[&str]) -> Result<Completion, String> {
    let events = api != "ollama";
    let answer = match events {
        true => stream(lines),
        false => [
            b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec(),
            lines.join("\n").into_bytes(),
        ]
        .concat(),
    };
    let url = server(answer).await;
    let config = json!({ "models": { "providers": { "p": { "baseUrl": url, "apiKey": "k", "api": api, "models": [{ "id": "m" }] } } } });
    let model = Model::resolve(&config, "main", None, &|_| None).expect("a model");
    let prompt = Prompt {
        messages: vec![Message::text("user", "hi")],
        ..Prompt::default()
    };
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let limits = Limits {
        text_bytes_max: 500,
        ..Limits::default()
    };
    complete(&client, &model, &prompt, &limits, |_| {})
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn thoughts_without_words_are_one_and_those_with_some_have_an_end() {
    let begins = r#"data: {"type":"response.output_item.added","item":{"type":"reasoning"}}"#;
    let thinks = r#"data: {"type":"response.reasoning_text.delta","delta":"x"}"#;
    let says = r#"data: {"type":"response.output_text.delta","delta":"hi"}"#;
    let ends = r#"data: {"type":"response.completed","response":{}}"#;
    let empty = [&[begins; 100][..], &[thinks, says, ends][..]].concat();
    let answer = asked("openai-responses", &empty).await.expect("an answer");
    let thoughts: Vec<&str> = answer
        .thoughts
        .iter()
        .map(|thought| &*thought.text)
        .collect();
    assert_eq!((thoughts, &*answer.text), (vec!["x"], "hi"));
    let many = [&[begins, thinks].repeat(100)[..], &[says, ends][..]].concat();
    let error = asked("openai-responses", &many)
        .await
        .expect_err("too much");
    assert!(
        error.contains("an answer of more than 500 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn calls_come_in_pieces_and_broken_answers_are_named_in_every_protocol() {
    let completions = asked("openai-completions", &[
        r#"data: {"id":"r","choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"ls"}}]}}]}"#,
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"read","arguments":"{\"pa"}}]}}]}"#,
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"th\":1}"}}]},"finish_reason":"tool_calls"}]}"#,
        "data: [DONE]",
    ]).await.expect("an answer");
    let calls: Vec<_> = completions
        .calls
        .iter()
        .map(|call| {
            (
                call.id.as_str(),
                call.name.as_str(),
                call.arguments.as_str(),
            )
        })
        .collect();
    assert_eq!(
        calls,
        [("call_r_1", "read", r#"{"path":1}"#), ("b", "ls", "")]
    );
    assert_eq!(completions.stop_reason, TOOL_USE);

    let cut = asked("anthropic-messages", &[
        r#"data: {"type":"message_start","message":{"id":"a","usage":{"input_tokens":3}}}"#,
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"read","input":{}}}"#,
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"pa"}}"#,
        r#"data: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":9}}"#,
        r#"data: {"type":"message_stop"}"#,
    ]).await.expect("an answer");
    assert_eq!(
        (cut.stop_reason.as_str(), cut.calls.len(), cut.usage.total()),
        ("length", 0, 12),
        "half a call is none"
    );

    let long = "x".repeat(600);
    for (api, begun, error, long) in [
        (
            "anthropic-messages",
            r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hal"}}"#,
            r#"data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            format!(r#"data: {{"type":"content_block_delta","delta":{{"text":"{long}"}}}}"#),
        ),
        (
            "google-generative-ai",
            r#"data: {"candidates":[{"content":{"parts":[{"text":"Hal"}]}}]}"#,
            r#"data: {"error":{"code":503,"message":"Overloaded"}}"#,
            format!(r#"data: {{"candidates":[{{"content":{{"parts":[{{"text":"{long}"}}]}}}}]}}"#),
        ),
        (
            "ollama",
            r#"{"message":{"content":"Hal"},"done":false}"#,
            r#"{"error":"Overloaded"}"#,
            format!(r#"{{"message":{{"content":"{long}"}}}}"#),
        ),
        (
            "openai-responses",
            r#"data: {"type":"response.output_text.delta","delta":"Hal"}"#,
            r#"data: {"type":"error","message":"Overloaded","code":"server_error"}"#,
            format!(r#"data: {{"type":"response.output_text.delta","delta":"{long}"}}"#),
        ),
    ] {
        let check = async |lines: &[&str], expected: &str| {
            let error = asked(api, lines).await.expect_err(api);
            assert!(error.contains(expected), "{api}: {error}");
        };
        check(&[begun], "ended before the answer did").await;
        check(&[begun, error], "broke off: Overloaded").await;
        check(&[error], "Overloaded").await;
        check(&[&begun.replace('}', "")], "not JSON").await;
        check(&[&long], "more than 500 bytes").await;
        check(&[], "without content").await;
    }
}
