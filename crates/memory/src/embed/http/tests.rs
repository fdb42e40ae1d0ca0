use super::*;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

/// Answers one request after the other, a connection each, and hands over what was asked: head and body.
fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<(String, Value)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")
                        .map(str::to_owned)
                })
                .unwrap();
            let mut body = vec![0; length.trim().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            asked.push((head, serde_json::from_slice(&body).unwrap()));
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (at, served)
}

fn answer(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn service(provider: &str, at: &str, key_variable: Option<&str>) -> Result<Service, EmbedError> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let settings = EmbedderSettings {
        model: Model {
            provider: provider.to_owned(),
            name: "m".to_owned(),
            dimensions: Some(2),
        },
        at: at.to_owned(),
        key_variable: key_variable.map(str::to_owned),
    };
    Service::new(&settings, reqwest::Client::new(), settings.key()?)
}

fn openai(vectors: &[(usize, Value)]) -> Value {
    let data: Vec<Value> = vectors
        .iter()
        .map(
            |(index, vector)| json!({ "object": "embedding", "index": index, "embedding": vector }),
        )
        .collect();
    json!({ "object": "list", "data": data, "model": "m", "usage": { "prompt_tokens": 2, "total_tokens": 2 } })
}

/// Shapes as OpenAI's API reference and Ollama's docs/api.md have them.
#[test]
fn both_dialects_give_vectors_in_the_order_of_the_texts() {
    let (at, served) = serve(vec![answer(
        "200 OK",
        "",
        &openai(&[(1, json!([3, 4])), (0, json!([1.5, -2]))]),
    )]);
    // A variable that every process has, in place of a key.
    let found = service("openai", &format!("{at}/v1/"), Some("PATH")).unwrap();
    let vectors = found.embed(Purpose::Document, &["a", "b"], None).unwrap();
    assert_eq!(vectors, [[1.5, -2.0], [3.0, 4.0]]);
    let (head, body) = served.join().unwrap().remove(0);
    assert!(
        head.starts_with("POST /v1/embeddings HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Bearer {}", std::env::var("PATH").unwrap())),
        "{head}"
    );
    assert_eq!(
        body,
        json!({ "model": "m", "input": ["a", "b"], "dimensions": 2 })
    );

    let ours = json!({ "model": "m", "embeddings": [[1, 2]], "total_duration": 14, "prompt_eval_count": 1 });
    let (at, served) = serve(vec![answer("200 OK", "", &ours)]);
    let vectors = service("ollama", &at, None)
        .unwrap()
        .embed(Purpose::Query, &["a"], None)
        .unwrap();
    assert_eq!(vectors, [[1.0, 2.0]]);
    let (head, _) = served.join().unwrap().remove(0);
    assert!(
        head.starts_with("POST /api/embed HTTP/1.1\r\n") && !head.contains("uthorization"),
        "{head}"
    );
}

/// As OpenClaw asks: extensions/google/embedding-provider.ts and extensions/voyage/embedding-provider.ts.
#[test]
fn gemini_and_voyage_are_told_what_a_text_is_for() {
    let ask = |provider, name: &str, dimensions, purpose, answers: &[Value]| {
        let answers = answers.iter().map(|body| answer("200 OK", "", body));
        let (at, served) = serve(answers.collect());
        let mut found = service(provider, &format!("{at}/v1beta"), Some("PATH")).unwrap();
        found.model.name = name.to_owned();
        found.model.dimensions = dimensions;
        let vectors = found.embed(purpose, &["a", "b"], None).unwrap();
        assert_eq!(vectors, [[1.0, 2.0], [3.0, 4.0]]);
        (served.join().unwrap(), found.usage())
    };
    let one = |x: u8, y: u8| json!({ "values": [x, y] });
    let both = json!({ "embeddings": [one(1, 2), one(3, 4)] });
    let (asked, usage) = ask(
        "gemini",
        "gemini-embedding-001",
        None,
        Purpose::Document,
        std::slice::from_ref(&both),
    );
    let (head, body) = &asked[0];
    let line = "POST /v1beta/models/gemini-embedding-001:batchEmbedContents HTTP/1.1\r\n";
    assert!(head.starts_with(line), "{head}");
    let key = std::env::var("PATH").unwrap();
    assert!(head.contains(&format!("x-goog-api-key: {key}")) && !head.contains("uthorization"));
    let part = |text: &str| json!({ "parts": [{ "text": text }] });
    let request = |text: &str| json!({ "model": "models/gemini-embedding-001", "content": part(text), "taskType": "RETRIEVAL_DOCUMENT" });
    assert_eq!(*body, json!({ "requests": [request("a"), request("b")] }));
    assert_eq!((usage.requests, usage.texts, usage.tokens), (1, 2, 0));

    let single =
        |values: Value| json!({ "embedding": values, "usageMetadata": { "promptTokenCount": 3 } });
    let answers = [single(one(1, 2)), single(one(3, 4))];
    let (asked, usage) = ask(
        "gemini",
        "models/gemini-embedding-001",
        Some(768),
        Purpose::Query,
        &answers,
    );
    assert!(
        asked[1]
            .0
            .starts_with("POST /v1beta/models/gemini-embedding-001:embedContent HTTP/1.1\r\n")
    );
    assert_eq!(
        asked[1].1,
        json!({ "content": part("b"), "taskType": "RETRIEVAL_QUERY", "outputDimensionality": 768 })
    );
    assert_eq!((usage.requests, usage.tokens), (2, 6));
    let (asked, _) = ask(
        "gemini",
        "google/gemini-embedding-2",
        None,
        Purpose::Document,
        &[both],
    );
    assert_eq!(
        asked[0].1["requests"][0],
        json!({ "model": "models/gemini-embedding-2", "content": part("title: none | text: a"), "outputDimensionality": 3072 })
    );

    let answers = [openai(&[(0, json!([1, 2])), (1, json!([3, 4]))])];
    let (asked, usage) = ask("voyage", "voyage-4-large", None, Purpose::Query, &answers);
    assert!(
        asked[0]
            .0
            .starts_with("POST /v1beta/embeddings HTTP/1.1\r\n")
    );
    assert_eq!(
        asked[0].1,
        json!({ "model": "voyage-4-large", "input": ["a", "b"], "input_type": "query" })
    );
    assert_eq!(usage.tokens, 2);
    let (asked, _) = ask(
        "voyage",
        "voyage-4-large",
        Some(512),
        Purpose::Document,
        &answers,
    );
    assert_eq!(asked[0].1["input_type"], "document");
    assert_eq!(asked[0].1["output_dimension"], 512);
}

#[test]
fn gemini_is_asked_only_for_lengths_that_its_model_has() {
    let model = |name: &str, dimensions| Model {
        provider: "gemini".to_owned(),
        name: name.to_owned(),
        dimensions: Some(dimensions),
    };
    for (name, dimensions, expected) in [
        ("gemini-embedding-001", 127, false),
        ("gemini-embedding-001", 128, true),
        ("models/gemini-embedding-2-preview", 3072, true),
        ("google/gemini-embedding-2", 3073, false),
        ("text-embedding-004", 64, true),
    ] {
        let is_fine = model(name, dimensions).check().is_ok();
        assert_eq!(is_fine, expected, "{name} {dimensions}");
    }
    let body = |name: &str| Dialect::Gemini.body(&model(name, 256), Purpose::Query, &["a"]);
    let sized = body("gemini-embedding-2-preview");
    assert_eq!(sized["outputDimensionality"], 256);
    assert!(body("text-embedding-004")["outputDimensionality"].is_null());
}

#[test]
fn an_address_beside_the_provider_is_no_part_of_its_kind() {
    let kind = Dialect::of("openai@http://127.0.0.1:1/v1");
    assert_eq!(kind, Some(Dialect::OpenAi));
}

#[test]
fn gemini_says_in_the_error_how_long_to_wait() {
    let details = json!([
        { "@type": "type.googleapis.com/google.rpc.QuotaFailure" },
        { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.25s" },
        { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "120s" },
    ]);
    let busy = json!({ "error": { "code": 429, "message": "quota", "details": details } });
    assert_eq!(
        retry_info(busy.to_string().as_bytes()),
        Some(Duration::from_secs(120))
    );
    assert_eq!(retry_info(b"{}"), None);
    // Longer than anybody waits: told at once, whatever the header says.
    let (at, served) = serve(vec![answer(
        "429 Too Many Requests",
        "retry-after: 0\r\n",
        &busy,
    )]);
    let found = service("gemini", &at, None).unwrap();
    let error = found
        .embed(Purpose::Document, &["a"], None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("429") && error.contains("quota"), "{error}");
    assert_eq!(served.join().unwrap().len(), 1);
    assert_eq!((found.usage().requests, found.usage().texts), (1, 0));
}

#[test]
fn a_busy_service_is_asked_again_when_it_says_and_a_question_is_not() {
    let busy = || {
        answer(
            "429 Too Many Requests",
            "retry-after: 0\r\n",
            &json!({ "error": { "message": "slow down" } }),
        )
    };
    let fine = answer("200 OK", "", &openai(&[(0, json!([1, 0]))]));
    let (at, served) = serve(vec![busy(), busy(), fine, busy()]);
    let found = service("openai", &at, None).unwrap();
    assert!(found.embed(Purpose::Document, &["a"], None).is_ok());
    let error = found
        .embed(Purpose::Query, &["a"], None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("429") && error.contains("slow down"),
        "{error}"
    );
    assert_eq!(served.join().unwrap().len(), 4);
    let usage = found.usage();
    assert_eq!((usage.requests, usage.repeats, usage.texts), (4, 2, 1));
    let late = found.embed(Purpose::Document, &["a"], Some(Instant::now()));
    assert!(matches!(
        late,
        Err(EmbedError::TimedOut { .. } | EmbedError::Unreachable { .. })
    ));
}

#[test]
fn a_refusal_is_final_and_never_says_the_key() {
    let key = std::env::var("PATH").unwrap();
    let refused = json!({ "error": { "message": format!("Incorrect API key provided: {key}.") } });
    let (at, served) = serve(vec![answer("401 Unauthorized", "", &refused)]);
    let found = service("openai", &at, Some("PATH")).unwrap();
    let error = found
        .embed(Purpose::Document, &["a"], None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("401") && error.contains("Incorrect API key provided: (the key)"),
        "{error}"
    );
    assert_eq!(served.join().unwrap().len(), 1);
    for (provider, at, key) in [
        ("other", "http://x", None),
        ("openai", "ftp://x", None),
        ("openai", "http://x", Some("NO_SUCH_KEY")),
    ] {
        assert!(matches!(
            service(provider, at, key),
            Err(EmbedError::Settings(_))
        ));
    }
}

#[test]
fn what_is_no_vector_for_each_text_is_refused() {
    for body in [
        json!({}),
        json!([]),
        openai(&[]),
        openai(&[(0, json!([]))]),
        openai(&[(1, json!([1, 2]))]),
        openai(&[(0, json!([1, 2])), (1, json!([1, 2]))]),
        openai(&[(0, json!(["x"]))]),
        openai(&[(0, json!([1e300, 2]))]),
    ] {
        let (at, served) = serve(vec![answer("200 OK", "", &body)]);
        let error = service("openai", &at, None)
            .unwrap()
            .embed(Purpose::Document, &["a"], None)
            .unwrap_err();
        assert!(
            matches!(error, EmbedError::Garbage { .. }),
            "{body}: {error}"
        );
        served.join().unwrap();
    }
}

#[test]
fn waits_are_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
    assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
    assert_eq!(
        retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
        Some(Duration::from_secs(7))
    );
    assert_eq!(retry_after("soon", now), None);
}
