//! The proxy between real sockets: a client that writes bytes, our server, and an upstream that answers by script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::bridge::Secret;

const PATIENCE: Duration = Duration::from_secs(90);

/// Serves the proxy on a port of its own. The sender keeps the upstream's state.
async fn front(
    address: SocketAddr,
) -> (
    SocketAddr,
    watch::Sender<UpstreamState>,
    watch::Sender<bool>,
) {
    let ready = Ready::new(address, Secret::new("t"), None, None, 1);
    let state = watch::Sender::new(UpstreamState::Ready(ready));
    let stopping = watch::Sender::new(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let (upstream, stop) = (state.subscribe(), stopping.subscribe());
    let proxy = Arc::new(Proxy::default());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (proxy, upstream, stop) = (Arc::clone(&proxy), upstream.clone(), stop.clone());
            let service = service_fn(move |request| {
                let (proxy, upstream, stopping) =
                    (Arc::clone(&proxy), upstream.clone(), stop.clone());
                async move {
                    let client = Client::unknown();
                    let around = Around {
                        upstream,
                        supervisor: None,
                        stopping,
                    };
                    Ok::<_, std::convert::Infallible>(proxy.forward(request, client, around).await)
                }
            });
            let served = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::spawn(served);
        }
    });
    (own, state, stopping)
}

/// Accepts connections one after the other and hands each to `script`.
async fn upstream<F, S>(script: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(script(stream));
        }
    });
    (address, accepted)
}

/// Reads until `end` has been seen; answers all that was read.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(end) {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).await.unwrap();
            assert!(
                count > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&read)
            );
            read.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap_or_else(|_| panic!("no {end:?}"));
    String::from_utf8(read).unwrap()
}

async fn open(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = open(address, request).await;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    answer
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_is_made() {
    let (more, wait) = tokio::sync::mpsc::channel::<()>(1);
    let wait = Arc::new(tokio::sync::Mutex::new(wait));
    let (address, _) = upstream(move |mut stream| {
        let wait = Arc::clone(&wait);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await
                .unwrap();
            for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
                // Only goes on when the client has it: a buffer on the way would stop here.
                wait.lock().await.recv().await.unwrap();
            }
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = open(
        own,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
    )
    .await;
    for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        read_until(&mut client, event).await;
        more.send(()).await.unwrap();
    }
    read_until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn an_upload_streams_and_a_100_continue_is_given_before_it() {
    let (address, _) = upstream(|mut stream| async move {
        let head = read_until(&mut stream, "first").await;
        assert!(!head.to_ascii_lowercase().contains("expect"), "{head}");
        // The rest has not been sent yet: nothing waits for the whole body.
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ngot\r\n")
            .await
            .unwrap();
        read_until(&mut stream, "second").await;
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = open(
        own,
        "PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    read_until(&mut client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"first").await.unwrap();
    read_until(&mut client, "got").await;
    client.write_all(b"second").await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn headers_pass_except_those_of_one_hop_and_host_is_kept() {
    let (address, _) = upstream(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("GET /path?q=1 HTTP/1.1\r\n"), "{head}");
        let lower = head.to_ascii_lowercase();
        for kept in ["host: public.example:1\r\n", "range: bytes=0-1\r\n", "cookie: a=b\r\n", "x-forwarded-for: 127.0.0.1\r\n"] {
            assert!(lower.contains(kept), "{kept} is missing in {head}");
        }
        for dropped in ["keep-alive", "x-hop", "proxy-authorization", "8.8.8.8", "te: "] {
            assert!(!lower.contains(dropped), "{dropped} is in {head}");
        }
        let answer = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nX-OpenClaw-Odd: 1\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nhi";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let answer = exchange(
        own,
        "GET http://public.example:1/path?q=1 HTTP/1.1\r\nHost: public.example:1\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nTE: gzip\r\nProxy-Authorization: Basic x\r\nRange: bytes=0-1\r\nCookie: a=b\r\nX-Forwarded-For: 8.8.8.8\r\nX-Real-IP: 8.8.8.8\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 206 Partial Content\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("X-OpenClaw-Odd: 1\r\n"),
        "written as the upstream wrote it: {answer}"
    );
    assert!(
        answer.contains("a=1\r\n") && answer.contains("b=2\r\n"),
        "{answer}"
    );
    assert!(
        !answer.contains("X-Mine") && !answer.to_ascii_lowercase().contains("keep-alive"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length_and_has_no_body() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let answer = exchange(
        own,
        "HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("content-length: 1234\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_pass() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = open(own, "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n").await;
    let answer = read_until(&mut client, "0\r\n").await;
    let answer = if answer.ends_with("\r\n\r\n") {
        answer
    } else {
        answer + &read_until(&mut client, "\r\n\r\n").await
    };
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("0\r\nx-sum: 7\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn connections_are_used_again_and_one_closed_meanwhile_is_replaced_unseen() {
    let (address, accepted) = upstream(|mut stream| async move {
        // Two answers to a connection, then it closes without a word.
        for _ in 0..2 {
            read_until(&mut stream, "\r\n\r\n").await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
        read_until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = TcpStream::connect(own).await.unwrap();
    for _ in 0..6 {
        client
            .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        let answer = read_until(&mut client, "\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let connections = accepted.load(Ordering::SeqCst);
    assert!(
        (3..=5).contains(&connections),
        "six answers took {connections} connections"
    );
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_twice() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = TcpStream::connect(own).await.unwrap();
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, "\r\n\r\nok").await;
    // Give the connection back first: the POST must meet the one that is about to close.
    let answers: Vec<String> = {
        let mut answers = Vec::new();
        for _ in 0..2 {
            client
                .write_all(b"POST /hooks/agent HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            answers.push(read_until(&mut client, "\r\n\r\n").await);
        }
        answers
    };
    assert!(
        answers
            .iter()
            .any(|answer| answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")),
        "{answers:?}"
    );
}

#[tokio::test]
async fn an_upstream_that_ends_before_answering_is_a_502_and_one_that_is_not_there_a_503() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let (own, state, _) = front(address).await;
    let answer = exchange(
        own,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{answer}"
    );

    for away in [
        UpstreamState::Starting,
        UpstreamState::Down {
            why: "x".to_owned(),
        },
    ] {
        state.send_replace(away);
        let answer = exchange(
            own,
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("retry-after: 1\r\n") && answer.contains("cache-control: no-store\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with(UNAVAILABLE), "{answer}");
    }
    state.send_replace(UpstreamState::Stopped {
        why: "x".to_owned(),
    });
    let answer = exchange(
        own,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("gateway_stopped"), "{answer}");

    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    state.send_replace(UpstreamState::Ready(Ready::new(
        closed,
        Secret::new("t"),
        None,
        None,
        2,
    )));
    let answer = exchange(
        own,
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_answer_cut_short_is_cut_short_for_the_client_too() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await
            .unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let answer = exchange(own, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(
        answer.ends_with("\r\n\r\nhalf"),
        "closed after what came: {answer}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_upstream() {
    let (seen, mut closed) = tokio::sync::mpsc::channel(1);
    let (address, _) = upstream(move |mut stream| {
        let seen = seen.clone();
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
                .await
                .unwrap();
            let mut rest = [0; 16];
            // Closed in order or reset: either way the upstream knows.
            let ended = matches!(stream.read(&mut rest).await, Ok(0) | Err(_));
            seen.send(ended).await.unwrap();
        }
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = open(own, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    read_until(&mut client, "hi").await;
    drop(client);
    assert_eq!(
        tokio::time::timeout(PATIENCE, closed.recv()).await.unwrap(),
        Some(true)
    );
}

#[tokio::test]
async fn an_upgrade_is_a_tunnel_until_the_gateway_stops() {
    let (address, _) = upstream(|mut stream| async move {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("upgrade: websocket\r\n") && lower.contains("connection: upgrade\r\n"), "{head}");
        assert!(lower.contains("sec-websocket-key: k\r\n"), "{head}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\nhello")
            .await
            .unwrap();
        let mut echo = [0; 5];
        while stream.read_exact(&mut echo).await.is_ok() {
            stream.write_all(&echo).await.unwrap();
        }
    })
    .await;
    let (own, _state, stopping) = front(address).await;
    let mut client = open(
        own,
        "GET /browser/screencast HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    .await;
    let answer = read_until(&mut client, "hello").await.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 101 switching protocols\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("upgrade: websocket\r\n") && answer.contains("sec-websocket-accept: a\r\n"),
        "{answer}"
    );
    client.write_all(b"12345").await.unwrap();
    read_until(&mut client, "12345").await;
    stopping.send_replace(true);
    let mut rest = [0; 1];
    assert_eq!(
        tokio::time::timeout(PATIENCE, client.read(&mut rest))
            .await
            .unwrap()
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let (address, _) = upstream(|mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
            )
            .await
            .unwrap();
    })
    .await;
    let (own, ..) = front(address).await;
    let mut client = open(
        own,
        "GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    )
    .await;
    let answer = read_until(&mut client, "\r\n\r\nno").await;
    assert!(
        answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn more_requests_than_allowed_at_once_are_refused_and_places_come_back() {
    let proxy = Proxy::default();
    let all = Arc::clone(&proxy.permits)
        .try_acquire_many_owned(u32::try_from(UNDER_WAY_MAX).unwrap())
        .unwrap();
    assert!(proxy.permits.try_acquire().is_err());
    drop(all);
    assert_eq!(proxy.permits.available_permits(), UNDER_WAY_MAX);
}
