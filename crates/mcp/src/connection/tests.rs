use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf};
use tokio::sync::mpsc;

use super::*;

const SOON: Duration = Duration::from_secs(60);

/// What a server does about a message.
enum Act {
    Say(Value),
    /// Bytes as they are.
    Write(Vec<u8>),
    /// Gone.
    Die,
}

fn answer(message: &Value, result: Value) -> Act {
    Act::Say(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
}

fn greeting(message: &Value) -> Act {
    let capabilities = json!({ "tools": { "listChanged": true } });
    let server = json!({ "name": "hostile", "version": "1" });
    answer(
        message,
        json!({ "protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": server }),
    )
}

/// A server that does what `acts` says of each message, and what it was told.
fn server(
    acts: impl Fn(&Value) -> Vec<Act> + Send + 'static,
) -> (DuplexStream, mpsc::Receiver<Value>) {
    let (theirs, ours) = tokio::io::duplex(64 * 1024);
    let (told, heard) = mpsc::channel(1024);
    tokio::spawn(async move {
        let (reader, mut writer): (ReadHalf<_>, _) = tokio::io::split(ours);
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let message: Value = serde_json::from_str(&line).expect("the client writes JSON");
            told.try_send(message.clone()).ok();
            for act in acts(&message) {
                let bytes = match act {
                    Act::Say(message) => format!("{message}\n").into_bytes(),
                    Act::Write(bytes) => bytes,
                    Act::Die => return,
                };
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    });
    (theirs, heard)
}

async fn connect(pipes: DuplexStream, within: Duration) -> Result<Connection, Error> {
    let (reader, writer) = tokio::io::split(pipes);
    Connection::over_pipes(reader, writer, within, Arc::new(|| {})).await
}

/// A server that greets, and then does this.
async fn greeted(
    acts: impl Fn(&Value) -> Vec<Act> + Send + 'static,
) -> (Connection, mpsc::Receiver<Value>) {
    let (pipes, heard) = server(move |message| match message["method"].as_str() {
        Some("initialize") => vec![greeting(message)],
        _ => acts(message),
    });
    (connect(pipes, SOON).await.expect("greeted"), heard)
}

#[tokio::test]
async fn banners_and_broken_lines_are_no_messages() {
    let (pipes, mut heard) = server(|message| match message["method"].as_str() {
        Some("initialize") => vec![
            Act::Write(b"Listening on stdio...\n{\"half\": \n\xff\xfe\n\n[]\n".to_vec()),
            greeting(message),
        ],
        Some("tools/list") => vec![answer(message, json!({ "tools": [] }))],
        _ => vec![],
    });
    let connection = connect(pipes, SOON).await.expect("greeted");
    assert_eq!(connection.tools(SOON).await, Ok(vec![]));
    let greeting = heard.recv().await.expect("told");
    assert_eq!(
        (
            &greeting["params"]["protocolVersion"],
            &greeting["params"]["capabilities"]
        ),
        (&json!("2025-11-25"), &json!({}))
    );
}

#[tokio::test]
async fn a_line_without_an_end_is_given_up() {
    let (connection, _heard) = greeted(|message| match message["method"].as_str() {
        Some("tools/list") => (0..100).map(|_| Act::Write(vec![b'x'; 1 << 20])).collect(),
        _ => vec![],
    })
    .await;
    let error = connection.tools(SOON).await.expect_err("no answer");
    assert!(
        error
            .to_string()
            .contains("a line of more than 10485760 bytes"),
        "{error}"
    );
    assert!(connection.closed().is_some());
}

#[tokio::test]
async fn noise_alone_is_given_up() {
    let (connection, _heard) = greeted(|message| match message["method"].as_str() {
        Some("tools/list") => (0..40)
            .map(|_| {
                let mut line = vec![b'x'; 1 << 19];
                line.push(b'\n');
                Act::Write(line)
            })
            .collect(),
        _ => vec![],
    })
    .await;
    let error = connection.tools(SOON).await.expect_err("no answer");
    assert!(
        error.to_string().contains("bytes that are no messages"),
        "{error}"
    );
}

#[tokio::test]
async fn silence_at_the_beginning_is_bounded() {
    let (pipes, _heard) = server(|_| vec![]);
    let error = connect(pipes, Duration::from_millis(20))
        .await
        .expect_err("not greeted");
    assert_eq!(
        error.to_string(),
        "timed out: did not complete initialize within 0.02s"
    );
    let (pipes, _heard) = server(|_| vec![Act::Die]);
    let error = connect(pipes, SOON).await.expect_err("not greeted");
    assert_eq!(error.to_string(), "the server closed its output");
}

#[tokio::test]
async fn a_death_in_the_middle_of_a_call_ends_the_call() {
    let (connection, _heard) = greeted(|message| match message["method"].as_str() {
        Some("tools/call") => vec![
            Act::Write(b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec()),
            Act::Die,
        ],
        _ => vec![],
    })
    .await;
    let error = connection
        .call("x", Map::new(), SOON)
        .await
        .expect_err("it died");
    assert_eq!(
        error.to_string(),
        "MCP error -32000: Connection closed: the server closed its output"
    );
    connection.ended().await;
    let again = connection
        .call("x", Map::new(), SOON)
        .await
        .expect_err("it is dead");
    assert!(matches!(again, Error::Closed(_)));
}

#[tokio::test]
async fn a_call_that_is_not_waited_for_is_called_off() {
    let (connection, mut heard) = greeted(|_| vec![]).await;
    let late = connection
        .call("x", Map::new(), Duration::from_millis(20))
        .await;
    assert_eq!(
        late,
        Err(Error::TimedOut {
            after: Duration::from_millis(20)
        })
    );
    let dropped = timeout(
        Duration::from_millis(20),
        connection.call("y", Map::new(), SOON),
    )
    .await;
    assert!(dropped.is_err());
    let (mut called, mut off) = (Vec::new(), Vec::new());
    while off.len() < 2 {
        let told = timeout(SOON, heard.recv()).await.expect("in time");
        let message = told.expect("told");
        match message["method"].as_str() {
            Some("tools/call") => called.push(message["id"].clone()),
            Some("notifications/cancelled") => off.push(message["params"]["requestId"].clone()),
            _ => {}
        }
    }
    assert_eq!(called, off);
}

#[tokio::test]
async fn tools_that_are_none_are_left_out() {
    let (connection, _heard) = greeted(|message| {
        let schema = json!({ "type": "object" });
        let page = match message["params"]["cursor"].as_str() {
            None => json!({ "nextCursor": "2", "tools": [
                { "name": " spaced ", "title": "T", "inputSchema": schema },
                { "name": "twice", "inputSchema": schema },
                { "name": "no schema" }, { "name": "  ", "inputSchema": schema }, { "inputSchema": schema }, 7,
                { "name": "task", "inputSchema": schema, "execution": { "taskSupport": "required" } },
            ] }),
            Some("2") => json!({ "tools": [
                { "name": "twice", "inputSchema": schema },
                { "name": "日本 🦀/x", "description": 5, "inputSchema": { "type": "object", "z": 1, "a": 2 } },
            ] }),
            Some(_) => json!({}),
        };
        vec![answer(message, page)]
    })
    .await;
    let tools = connection.tools(SOON).await.expect("listed");
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["spaced", "日本 🦀/x"]);
    assert_eq!(
        tools[1].schema.to_string(),
        r#"{"type":"object","z":1,"a":2}"#
    );
}

#[tokio::test]
async fn endless_lists_end() {
    let (connection, _heard) = greeted(|message| {
        vec![answer(
            message,
            json!({ "tools": [], "nextCursor": "again" }),
        )]
    })
    .await;
    let error = connection.tools(SOON).await.expect_err("endless");
    assert_eq!(
        error.to_string(),
        "tools/list returned a repeated pagination cursor"
    );
    let count = AtomicUsize::new(0);
    let (connection, _heard) = greeted(move |message| {
        let next = count.fetch_add(1, Ordering::Relaxed).to_string();
        vec![answer(message, json!({ "tools": [], "nextCursor": next }))]
    })
    .await;
    let error = connection.tools(SOON).await.expect_err("endless");
    assert_eq!(error.to_string(), "tools/list exceeded 128 pages");
}

#[tokio::test]
async fn odd_answers_are_handed_on_as_they_are() {
    let (connection, _heard) = greeted(|message| match message["params"]["name"].as_str() {
        Some("odd") => vec![answer(message, json!({ "content": [{ "type": "hologram", "x": 1 }], "isError": true }))],
        Some("none") => vec![answer(message, json!({}))],
        Some("list") => vec![answer(message, json!([1]))],
        _ => vec![Act::Say(json!({ "jsonrpc": "2.0", "id": message["id"], "error": { "code": -32602, "message": "no such tool" } }))],
    })
    .await;
    let call = async |name: &str| connection.call(name, Map::new(), SOON).await;
    let odd = call("odd").await.expect("answered");
    assert_eq!(
        (&odd["content"][0]["type"], &odd["isError"]),
        (&json!("hologram"), &json!(true))
    );
    assert!(
        call("none").await.expect("answered")["content"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    assert!(call("list").await.is_ok());
    assert_eq!(
        call("other").await.expect_err("refused").to_string(),
        "MCP error -32602: no such tool"
    );
}

#[tokio::test]
async fn a_changed_list_is_told() {
    let (pipes, _heard) = server(|message| match message["method"].as_str() {
        Some("initialize") => vec![greeting(message)],
        Some("notifications/initialized") => vec![Act::Say(
            json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }),
        )],
        _ => vec![],
    });
    let (told, mut changed) = mpsc::channel(1);
    let (reader, writer) = tokio::io::split(pipes);
    let tell = Arc::new(move || {
        told.try_send(()).ok();
    });
    let connection = Connection::over_pipes(reader, writer, SOON, tell)
        .await
        .expect("greeted");
    timeout(SOON, changed.recv())
        .await
        .expect("in time")
        .expect("told");
    connection.close().await;
    assert!(connection.closed().is_some());
}
