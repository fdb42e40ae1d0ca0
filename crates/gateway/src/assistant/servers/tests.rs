use std::path::PathBuf;

use super::*;

/// A server that is a shell script, given so long to greet.
fn server(script: &str, within: Duration) -> Arc<Server> {
    of(
        json!({ "command": "/bin/sh", "args": ["-c", script], "connectionTimeoutMs": within.as_millis() as u64 }),
    )
}

/// A server that is a shell script, given so long for each answer.
fn patient(script: &str, within: Duration) -> Arc<Server> {
    of(
        json!({ "command": "/bin/sh", "args": ["-c", script], "requestTimeoutMs": within.as_millis() as u64 }),
    )
}

fn of(entry: Value) -> Arc<Server> {
    let config = json!({ "mcp": { "servers": { "hostile": entry } } });
    let variable = |name: &str| (name == "PATH").then(|| "/usr/bin:/bin".to_owned());
    let named = settings::read(&config, &variable).remove(0);
    Server::new(
        named.spec.expect("a server"),
        reqwest_client(),
        Arc::default(),
    )
}

fn reqwest_client() -> reqwest::Client {
    Servers::default().client().expect("a client")
}

async fn why(script: &str, within: Duration) -> String {
    let server = server(script, within);
    let why = server.catalog().await.expect_err("it offers nothing");
    let Health::Failed(told) = server.health() else {
        panic!("it failed")
    };
    assert!(why.starts_with(told.trim_end_matches(')')), "{why}: {told}");
    assert!(
        !told.contains("words"),
        "what it wrote is not for everybody: {told}"
    );
    why
}

/// Against hanging alone.
const SOON: Duration = Duration::from_secs(60);
/// For a shell to have begun, also beside a build; waited for by those whose server says nothing.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_program_that_ends_says_why() {
    let said = why("echo first >&2; echo the last words >&2; exit 3", SOON).await;
    assert!(said.contains("(exit code 3: the last words)"), "{said}");
    let said = why("kill -9 $$", SOON).await;
    assert!(said.contains("(signal 9)"), "{said}");
    let config = json!({ "mcp": { "servers": {
        "none": { "command": "no-such-program" }, "away": { "command": "sh", "cwd": "/no/such/folder" },
    } } });
    let variable = |name: &str| (name == "PATH").then(|| "/usr/bin:/bin".to_owned());
    let found = findings(&config, &variable);
    let words: Vec<&String> = found
        .iter()
        .filter_map(|(_, found)| found.as_ref().err())
        .collect();
    assert_eq!(
        words,
        [
            "no-such-program is in no folder of PATH",
            "its cwd /no/such/folder is no folder"
        ]
    );
    for named in settings::read(&config, &variable) {
        let server = Server::new(
            named.spec.expect("a server"),
            reqwest_client(),
            Arc::default(),
        );
        let said = server.catalog().await.expect_err("it cannot be started");
        assert!(
            said.contains("cannot be started") || said.contains("is no folder"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_floods_is_bounded_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let note: PathBuf = dir.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! $$ > {}; yes flood >&2 & wait",
        note.display()
    );
    let said = why(&script, LONG_ENOUGH).await;
    assert!(
        said.contains("did not complete initialize within 2s"),
        "{said}"
    );
    let pids = std::fs::read_to_string(&note).expect("it ran");
    for pid in pids.split_whitespace() {
        let stat = format!("/proc/{pid}/stat");
        // Gone, or dead and not yet taken away by whoever inherited it.
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let dies = async {
            while lives() {
                tokio::task::yield_now().await;
            }
        };
        assert!(
            tokio::time::timeout(SOON, dies).await.is_ok(),
            "{pid} lives"
        );
    }
}

#[tokio::test]
async fn what_failed_a_moment_ago_is_not_waited_for() {
    let (script, noted) = noting("echo started >> $note; exit 1");
    let server = server(&script, SOON);
    let first = server.catalog().await.expect_err("it offers nothing");
    for _ in 0..100 {
        assert_eq!(
            server.catalog().await.as_ref().expect_err("not yet"),
            &first
        );
    }
    assert_eq!(noted(), ["started"], "it was not started again");
    server.retire().await;
    let said = server.catalog().await.expect_err("it was ended");
    assert!(said.contains("was ended"), "{said}");
}

#[tokio::test]
async fn what_hangs_for_one_session_is_not_waited_for_by_the_next() {
    let (script, noted) = noting("echo started >> $note; sleep 1000");
    let first = server(&script, LONG_ENOUGH);
    let faults = Arc::new(Faults::default());
    let begin = |spec: &Spec| Server::new(spec.clone(), reqwest_client(), Arc::clone(&faults));
    let (one, two) = (begin(&first.spec), begin(&first.spec));
    let said = one.catalog().await.expect_err("it hangs");
    assert_eq!(two.catalog().await.expect_err("it is known"), said);
    assert_eq!(noted(), ["started"], "it was tried again");
    // Another entry of the file is another server.
    let other = server("exit 1", SOON);
    let said = begin(&other.spec).catalog().await.expect_err("it ends");
    assert!(said.contains("exit code 1"), "{said}");
}

/// Answers `initialize` and `tools/list`, then ends at the first call.
const DIES: &str = r#"
read -r line; echo '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"n","version":"1"}}}'
read -r line; read -r line; echo '{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}}'
read -r line; echo '{"jsonrpc":"2.0","id":'; exit 7
"#;

#[tokio::test]
async fn a_server_that_dies_in_a_call_is_begun_again_and_then_left_for_a_while() {
    let server = server(DIES, SOON);
    let call = async || {
        server
            .call("t", serde_json::Map::new())
            .await
            .expect_err("it dies")
    };
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(call().await);
        // The end has been noted.
        while matches!(server.health(), Health::Ready(_)) {
            tokio::task::yield_now().await;
        }
    }
    assert!(said[0].contains("Connection closed"), "{said:?}");
    assert!(
        said[1].contains("Connection closed"),
        "it was begun again at once: {said:?}"
    );
    assert!(
        said[2].contains("is not connected: ") && said[2].contains("exit code 7"),
        "{said:?}"
    );
}

/// Answers as a server does, with one tool and no arguments; each start and each list is a line of `$1`. A second list is not
/// given, the tool `bad` is refused, and any other call says first that the list is another one now.
const ANSWERS: &str = r#"
echo started >> "$note"
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  say() { echo "{\"jsonrpc\":\"2.0\",\"id\":$id,$1}"; }
  case "$line" in
    *'"initialize"'*) say '"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"n","version":"1"}}';;
    *'"tools/list"'*) echo listed >> "$note"; [ -n "$listed" ] || say '"result":{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}'; listed=1;;
    *'"bad"'*) say '"error":{"code":-32602,"message":"no such thing"}';;
    *'"tools/call"'*) echo '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; say '"result":{"content":[]}';;
  esac
done
"#;

/// A script that writes its notes into this folder, and what it has noted.
fn noting(script: &str) -> (String, impl Fn() -> Vec<String> + use<>) {
    let dir = tempfile::tempdir().expect("a directory");
    let note = dir.path().join("note");
    let script = format!("note={}\n{script}", note.display());
    let read = move || {
        let _dir = &dir;
        let noted = std::fs::read_to_string(&note).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    };
    (script, read)
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_new_list_is_used_with_the_old_one() {
    let (script, noted) = noting(ANSWERS);
    let server = patient(&script, LONG_ENOUGH);
    let call = async || server.call("t", serde_json::Map::new()).await;
    let first = server.catalog().await.expect("listed");
    call().await.expect("answered");
    // The new list was asked for, in vain.
    while noted() != ["started", "listed", "listed"] {
        let catalog = server.catalog().await.expect("the old one");
        assert!(Arc::ptr_eq(&catalog, &first));
    }
    call().await.expect("answered by the same process");
    let catalog = server.catalog().await.expect("the old one");
    assert!(Arc::ptr_eq(&catalog, &first));
    assert_eq!(
        noted(),
        ["started", "listed", "listed"],
        "not asked again at once"
    );
    assert_eq!(server.health(), Health::Ready(1));
}

#[tokio::test]
async fn a_refusal_is_no_failure_of_the_server() {
    let (script, noted) = noting(ANSWERS);
    let server = patient(&script, SOON);
    for _ in 0..5 {
        let said = server.call("bad", serde_json::Map::new()).await;
        assert_eq!(
            said.expect_err("refused"),
            "MCP error -32602: no such thing"
        );
    }
    assert_eq!(noted(), ["started", "listed"]);
}

#[tokio::test]
async fn those_that_wait_for_a_start_do_not_start_it_again() {
    let (script, noted) = noting("echo started >> $note; sleep 1000");
    let hanging = server(&script, LONG_ENOUGH);
    let (one, two, three) = tokio::join!(hanging.catalog(), hanging.catalog(), hanging.catalog());
    let said = one.expect_err("it hangs");
    assert_eq!(
        (two.expect_err("known"), three.expect_err("known")),
        (said.clone(), said)
    );
    assert_eq!(noted(), ["started"]);
    let (script, noted) = noting("echo started >> $note; sleep 1000");
    let hanging = server(&script, LONG_ENOUGH);
    let ended = async {
        while noted().is_empty() {
            tokio::task::yield_now().await;
        }
        hanging.retire().await;
    };
    let (one, two, ()) = tokio::join!(hanging.catalog(), hanging.catalog(), ended);
    one.expect_err("it hangs");
    let said = two.expect_err("it was ended");
    assert!(said.contains("was ended"), "{said}");
    assert_eq!(noted(), ["started"]);
}

#[tokio::test]
async fn a_server_that_is_being_ended_can_be_killed() {
    let (script, _noted) = noting(&format!(
        "trap '' TERM\n{ANSWERS}\nwhile :; do sleep 1; done"
    ));
    let server = patient(&script, SOON);
    server.catalog().await.expect("listed");
    let begun = Instant::now();
    tokio::join!(server.retire(), async { server.kill() });
    assert!(
        begun.elapsed() < Duration::from_millis(1900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_program_that_only_asks_is_not_listened_to_for_ever() {
    let flood = r#"exec seq -f '{"jsonrpc":"2.0","id":%.0f,"method":"ping"}' 1000000000"#;
    let script = DIES.rsplit_once("read -r line;").expect("a call").0;
    let (script, noted) = noting(&format!("{script}\nread -r line; echo $$ > $note\n{flood}"));
    let server = patient(&script, LONG_ENOUGH);
    let said = server.call("t", serde_json::Map::new()).await;
    assert_eq!(
        said.expect_err("no answer"),
        "MCP error -32001: Request timed out"
    );
    let io = std::fs::read_to_string(format!("/proc/{}/io", noted()[0])).expect("it runs");
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    let written: u64 = written
        .and_then(|bytes| bytes.parse().ok())
        .expect("a count");
    // What pipes and buffers hold.
    assert!((1..2_000_000).contains(&written), "{written}");
}

/// A server over HTTP that takes no calls; it counts how often it is greeted.
async fn broken_over_http(greetings: Arc<AtomicUsize>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            // A message is one object, and the head has none.
            let body = loop {
                if stream.read_buf(&mut read).await.unwrap_or_default() == 0 {
                    break Value::Null;
                }
                let head = read.windows(4).position(|end| end == b"\r\n\r\n");
                if let Some(Ok(body)) = head.map(|end| serde_json::from_slice(&read[end + 4..])) {
                    break body;
                }
            };
            let (status, result) = match body["method"].as_str() {
                Some("initialize") => {
                    greetings.fetch_add(1, Ordering::Relaxed);
                    (
                        200,
                        json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": { "name": "n", "version": "1" } }),
                    )
                }
                Some("tools/list") => (
                    200,
                    json!({ "tools": [{ "name": "t", "inputSchema": { "type": "object" } }] }),
                ),
                Some("tools/call") => (500, Value::Null),
                _ => (202, Value::Null),
            };
            let said = json!({ "jsonrpc": "2.0", "id": body["id"], "result": result }).to_string();
            let answer = format!(
                "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
                said.len()
            );
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    format!("http://{address}/mcp")
}

#[tokio::test]
async fn a_server_over_http_that_fails_again_and_again_is_begun_anew() {
    let greetings = Arc::new(AtomicUsize::new(0));
    let url = broken_over_http(Arc::clone(&greetings)).await;
    let server =
        of(json!({ "url": url, "transport": "streamable-http", "requestTimeoutMs": 10_000 }));
    for _ in 0..3 {
        let said = server
            .call("t", serde_json::Map::new())
            .await
            .expect_err("it fails");
        assert!(said.contains("HTTP 500"), "{said}");
    }
    let said = server
        .call("t", serde_json::Map::new())
        .await
        .expect_err("left alone");
    assert!(
        said.contains("is paused after repeated tool failures"),
        "{said}"
    );
    assert_eq!(greetings.load(Ordering::Relaxed), 1);
    server.catalog().await.expect("listed");
    assert_eq!(greetings.load(Ordering::Relaxed), 2);
}
