//! Servers over HTTP that break off, forget, refuse and flood: written out here, byte by byte.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};

use super::*;
use crate::{Connection, Error};

const SOON: Duration = Duration::from_secs(60);

struct Asked {
    method: String,
    session: Option<String>,
    /// Null without one.
    message: Value,
}

impl Asked {
    fn is(&self, method: &str) -> bool {
        self.message["method"] == method
    }
}

enum Reply {
    /// An empty body.
    Status(u16),
    Json(u16, Value),
    /// The answer to `initialize` that begins this session.
    Session(&'static str, Value),
    /// Events, and then what is said of the stream.
    Events(Vec<u8>, Then),
    Hang,
}

enum Then {
    End,
    BreakOff,
    /// It goes on with what the test pushes.
    GoOn,
}

type Pushes = mpsc::Sender<Vec<u8>>;

/// A server that does what `script` says of each request; its address.
async fn server(script: impl Fn(&Asked, &Pushes) -> Reply + Send + Sync + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let script = Arc::new(script);
    let (pushes, pushed) = mpsc::channel(16);
    let pushed = Arc::new(Mutex::new(pushed));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (script, pushes, pushed) =
                (Arc::clone(&script), pushes.clone(), Arc::clone(&pushed));
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let Some(asked) = read(&mut stream).await else {
                    return;
                };
                let reply = script(&asked, &pushes);
                // A client that has gone does not want the rest.
                write(stream.into_inner(), reply, &pushed).await.ok();
            });
        }
    });
    Url::parse(&format!("http://{address}/mcp")).expect("an address")
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let field = |name: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(": "));
        fields.find_map(|(field, value)| (field == name).then(|| value.to_owned()))
    };
    let mut body =
        vec![0; field("content-length").map_or(0, |bytes| bytes.parse().expect("a count"))];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        method: lines.first()?.split(' ').next()?.to_owned(),
        session: field("mcp-session-id"),
        message: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

async fn write(
    mut stream: TcpStream,
    reply: Reply,
    pushed: &Mutex<mpsc::Receiver<Vec<u8>>>,
) -> std::io::Result<()> {
    let (status, more, body) = match reply {
        Reply::Hang => return std::future::pending().await,
        Reply::Events(events, then) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            chunk(&mut stream, &events).await?;
            match then {
                Then::End => stream.write_all(b"0\r\n\r\n").await?,
                Then::BreakOff => {}
                Then::GoOn => {
                    let mut pushed = pushed.lock().await;
                    while let Some(events) = pushed.recv().await {
                        chunk(&mut stream, &events).await?;
                    }
                }
            }
            return Ok(());
        }
        Reply::Status(status) => (status, String::new(), String::new()),
        Reply::Json(status, body) => (
            status,
            "content-type: application/json\r\n".to_owned(),
            body.to_string(),
        ),
        Reply::Session(session, body) => (
            200,
            format!("content-type: application/json\r\nmcp-session-id: {session}\r\n"),
            body.to_string(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await
}

async fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream
        .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
        .await?;
    stream.write_all(bytes).await?;
    stream.write_all(b"\r\n").await
}

fn answer(asked: &Asked, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": asked.message["id"], "result": result })
}

fn greeting(asked: &Asked) -> Value {
    let server = json!({ "name": "hostile", "version": "1" });
    answer(
        asked,
        json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": server }),
    )
}

/// A refusal with the id of no request.
fn refusal(message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "error": { "code": -32000, "message": message } })
}

/// What every server does that is met over streamable HTTP; `None`: it is this one's to say.
fn usual(asked: &Asked) -> Option<Reply> {
    match asked.method.as_str() {
        "GET" => Some(Reply::Status(405)),
        "DELETE" => Some(Reply::Status(200)),
        _ if asked.is("initialize") => Some(Reply::Json(200, greeting(asked))),
        _ if asked.message.get("id").is_none() => Some(Reply::Status(202)),
        _ => None,
    }
}

fn endpoint(url: Url) -> Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .no_proxy();
    Endpoint {
        client: client.build().expect("a client"),
        url,
        headers: HeaderMap::new(),
    }
}

async fn over_http(url: Url) -> Connection {
    let begun = Connection::over_http(endpoint(url), SOON, Arc::new(|| {})).await;
    begun.expect("greeted")
}

async fn call(connection: &Connection, tool: &str) -> Result<Value, Error> {
    connection.call(tool, Map::new(), SOON).await
}

#[tokio::test]
async fn a_refusal_of_no_request_ends_the_call_that_was_refused() {
    let url = server(|asked, _| {
        usual(asked).unwrap_or_else(|| match asked.message["params"]["name"].as_str() {
            Some("busy") => Reply::Json(503, refusal("come back later")),
            Some("bad") => Reply::Json(400, refusal("nonsense")),
            Some("silent") => Reply::Status(502),
            Some("odd") => Reply::Json(500, answer(asked, json!({ "content": [] }))),
            Some("open") => Reply::Json(200, refusal("what was that")),
            _ => Reply::Json(400, json!({ "jsonrpc": "2.0", "id": asked.message["id"], "error": { "code": -32602, "message": "no such tool" } })),
        })
    })
    .await;
    let connection = over_http(url).await;
    for (tool, expected) in [
        ("busy", "HTTP 503 Service Unavailable: come back later"),
        ("bad", "HTTP 400 Bad Request: nonsense"),
        ("silent", "HTTP 502 Bad Gateway"),
        ("odd", "HTTP 500 Internal Server Error"),
        ("open", "HTTP 200 OK: what was that"),
    ] {
        let failed = call(&connection, tool).await;
        assert_eq!(failed, Err(Error::Untaken(expected.to_owned())), "{tool}");
    }
    let refused = call(&connection, "other").await.expect_err("refused");
    assert_eq!(refused.to_string(), "MCP error -32602: no such tool");
    assert_eq!(connection.closed(), None);
}

#[tokio::test]
async fn a_session_that_the_server_has_forgotten_is_begun_anew() {
    let (known, calls) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let url = server(move |asked, _| {
        const SESSIONS: [&str; 3] = ["first", "second", "third"];
        let of_now = SESSIONS[known.load(Ordering::Relaxed)];
        if asked.is("initialize") {
            assert_eq!(asked.session, None);
            return Reply::Session(of_now, greeting(asked));
        }
        if asked.session.as_deref() != Some(of_now) {
            return Reply::Json(400, refusal("Bad Request: No valid session ID provided"));
        }
        usual(asked).unwrap_or_else(|| {
            counted.fetch_add(1, Ordering::Relaxed);
            // As after a restart.
            known.fetch_add(1, Ordering::Relaxed);
            Reply::Json(200, answer(asked, json!({ "content": [of_now] })))
        })
    })
    .await;
    let connection = over_http(url).await;
    for session in ["first", "second"] {
        let answer = call(&connection, "x").await.expect("answered");
        assert_eq!(answer["content"][0], session);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2, "each once");
}

/// One event of so many bytes, in lines with this end.
fn long_event(bytes: usize, end: &str) -> Vec<u8> {
    let line = format!("data: {}{end}", "x".repeat(1000));
    line.repeat(bytes / 1000 + 1).into_bytes()
}

#[tokio::test]
async fn an_answer_without_an_end_ends_the_connection() {
    let url = server(|asked, _| {
        usual(asked)
            .unwrap_or_else(|| Reply::Events(long_event(MESSAGE_BYTES_MAX, "\r\n"), Then::GoOn))
    })
    .await;
    let connection = over_http(url).await;
    let failed = call(&connection, "x").await.expect_err("no answer");
    assert_eq!(
        failed.to_string(),
        "MCP error -32000: Connection closed: the server sent an event of more than 10485760 bytes"
    );
    timeout(SOON, connection.ended()).await.expect("it ends");
    let url = server(|asked, _| {
        usual(asked).unwrap_or_else(|| {
            let long = "x".repeat(MESSAGE_BYTES_MAX);
            Reply::Json(200, answer(asked, json!(long)))
        })
    })
    .await;
    let connection = over_http(url).await;
    let failed = call(&connection, "x").await.expect_err("no answer");
    assert!(
        failed
            .to_string()
            .contains("an answer of more than 10485760 bytes"),
        "{failed}"
    );
    timeout(SOON, connection.ended()).await.expect("it ends");
}

#[tokio::test]
async fn an_answer_in_events_is_found_among_what_means_nothing() {
    let url = server(|asked, _| {
        usual(asked).unwrap_or_else(|| {
            let answer = answer(asked, json!({ "content": ["here"] }));
            let events = format!(": hi\r\nno field\r\nx: y\r\n\r\ndata: no JSON\r\n\r\nevent: message\r\nevent: message\r\ndata: {answer}\r\n\r\n");
            Reply::Events(events.into_bytes(), Then::End)
        })
    })
    .await;
    let connection = over_http(url).await;
    let answer = call(&connection, "x").await.expect("answered");
    assert_eq!(answer["content"][0], "here");
}

#[tokio::test]
async fn a_stream_that_breaks_is_not_asked_for_at_once() {
    let (told, mut asked_for) = mpsc::channel(64);
    let url = server(move |asked, _| match asked.method.as_str() {
        "GET" => {
            told.try_send(Instant::now()).ok();
            let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
            let events = format!("retry: 0\nid: 1\nno field\ndata: {changed}\n\n");
            Reply::Events(events.into_bytes(), Then::BreakOff)
        }
        _ if asked.is("initialize") => Reply::Session("one", greeting(asked)),
        _ => usual(asked).unwrap_or(Reply::Hang),
    })
    .await;
    let (tell, mut changed) = mpsc::channel(64);
    let tell = Arc::new(move || {
        tell.try_send(()).ok();
    });
    let begun = Connection::over_http(endpoint(url), SOON, tell).await;
    let _connection = begun.expect("greeted");
    let mut next = async || {
        timeout(SOON, asked_for.recv())
            .await
            .expect("in time")
            .expect("asked")
    };
    let (first, second) = (next().await, next().await);
    assert!(
        second - first >= Duration::from_millis(900),
        "{:?}",
        second - first
    );
    timeout(SOON, changed.recv())
        .await
        .expect("in time")
        .expect("told");
}

/// A server of 2024 that answers over its stream, apart from what `script` says.
async fn over_events(
    script: impl Fn(&Asked, &Pushes) -> Option<Reply> + Send + Sync + 'static,
) -> Connection {
    let url = server(move |asked, pushes| {
        if asked.method == "GET" {
            let first = b": hi\r\nx: y\r\nevent: endpoint\r\ndata: /inbox?id=1\r\n\r\n".to_vec();
            return Reply::Events(first, Then::GoOn);
        }
        script(asked, pushes).unwrap_or_else(|| {
            let said = match asked.message["method"].as_str() {
                Some("initialize") => Some(greeting(asked)),
                Some("tools/call") => Some(answer(asked, json!({ "content": ["here"] }))),
                _ => None,
            };
            if let Some(said) = said {
                let event = format!("event: message\r\ndata: {said}\r\n\r\n");
                pushes.try_send(event.into_bytes()).expect("room");
            }
            Reply::Status(202)
        })
    })
    .await;
    let begun = Connection::over_events(endpoint(url), SOON, Arc::new(|| {})).await;
    begun.expect("greeted")
}

#[tokio::test]
async fn a_server_of_2024_is_asked_over_its_stream() {
    let connection = over_events(|_, _| None).await;
    let answer = call(&connection, "x").await.expect("answered");
    assert_eq!(answer["content"][0], "here");
    let connection = over_events(|asked, pushes| {
        asked.is("tools/call").then(|| {
            pushes
                .try_send(long_event(MESSAGE_BYTES_MAX, "\r\n"))
                .expect("room");
            Reply::Status(202)
        })
    })
    .await;
    let failed = call(&connection, "x").await.expect_err("no answer");
    assert!(
        failed
            .to_string()
            .contains("an event of more than 10485760 bytes"),
        "{failed}"
    );
    timeout(SOON, connection.ended()).await.expect("it ends");
}

#[tokio::test]
async fn a_server_that_only_asks_is_not_listened_to_for_ever() {
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let connection = over_events(move |asked, pushes| {
        if asked.message.get("result").is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
            return Some(Reply::Hang);
        }
        asked.is("tools/call").then(|| {
            let pings = (0..20_000).map(|id| {
                format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}\n\n")
            });
            pushes
                .try_send(pings.collect::<String>().into_bytes())
                .expect("room");
            Reply::Status(202)
        })
    })
    .await;
    let within = Duration::from_secs(1);
    let late = connection.call("x", Map::new(), within).await;
    assert_eq!(late, Err(Error::TimedOut { after: within }));
    let under_way = answers.load(Ordering::Relaxed);
    assert!((1..=64).contains(&under_way), "{under_way}");
}
