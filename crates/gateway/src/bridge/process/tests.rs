//! The supervisor against a real child: this test binary itself, playing a small gateway.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::bridge::Secret;

const ROLE: &str = "FAKE_OPENCLAW_ROLE";
const PORT: &str = "FAKE_OPENCLAW_PORT";
const PATIENCE: Duration = Duration::from_secs(90);

/// Not a test of its own: the child's side, when started by a test below.
#[tokio::test]
async fn fake_openclaw() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut term =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    match role.as_str() {
        "bad-config" => {
            raw_line("gateway.mode is not set");
            std::process::exit(78);
        }
        "crash" => {
            raw_line("TypeError: x is not a function");
            std::process::exit(1);
        }
        _ => {}
    }
    let listener = TcpListener::bind(("127.0.0.1", std::env::var(PORT).unwrap().parse().unwrap()))
        .await
        .unwrap();
    let mut started = std::time::Instant::now();
    loop {
        let (mut stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            _ = term.recv() => if role == "deaf" { continue } else { std::process::exit(0) },
        };
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let path = request.split(' ').nth(1).unwrap();
        let body = match path {
            "/readyz" => format!(
                r#"{{"ready":true,"failing":[],"uptimeMs":{}}}"#,
                started.elapsed().as_millis()
            ),
            "/startupz" => r#"{"ok":true,"version":"2026.9.6"}"#.to_owned(),
            "/crash" => std::process::exit(3),
            "/restart" => {
                started = std::time::Instant::now();
                String::new()
            }
            "/helper" => {
                #[expect(
                    clippy::zombie_processes,
                    reason = "the helper must outlive this process"
                )]
                let helper = std::process::Command::new("sleep")
                    .arg("600")
                    .spawn()
                    .unwrap();
                helper.id().to_string()
            }
            "/env" => serde_json::to_string(&std::env::vars().collect::<HashMap<_, _>>()).unwrap(),
            other => panic!("unexpected {other}"),
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Writes past the test harness, which keeps what `println!` writes.
fn raw_line(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").unwrap();
}

async fn ask_child(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default()
}

struct Fixture {
    handle: Handle,
    state: watch::Receiver<UpstreamState>,
    shutdown: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
    starts: Arc<AtomicU32>,
    role: Arc<Mutex<&'static str>>,
}

impl Fixture {
    fn start(role: &'static str, change: impl FnOnce(&mut Plan), call: Option<Call>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let starts = Arc::new(AtomicU32::new(0));
        let role = Arc::new(Mutex::new(role));
        let prepare: Prepare = {
            let (starts, role, cwd) = (
                Arc::clone(&starts),
                Arc::clone(&role),
                folder.path().to_path_buf(),
            );
            Arc::new(move |port| {
                starts.fetch_add(1, Ordering::SeqCst);
                let spec = ChildSpec {
                    program: std::env::current_exe().unwrap(),
                    args: [
                        "bridge::process::tests::fake_openclaw",
                        "--exact",
                        "--nocapture",
                    ]
                    .map(Into::into)
                    .to_vec(),
                    env: vec![
                        (ROLE.into(), role.lock().to_owned().into()),
                        (PORT.into(), port.to_string().into()),
                    ],
                    env_remove: Vec::new(),
                    cwd: cwd.clone(),
                    port,
                    token: Secret::new("upstream-token"),
                };
                Box::pin(async move { Ok(spec) })
            })
        };
        let port = free_port();
        let mut plan = Plan {
            prepare,
            state_dir: folder.path().to_path_buf(),
            port: Some(port),
            times: Times {
                stop: Duration::from_secs(10),
                ..Times::default()
            },
            idle_stop: None,
            memory_max: 0,
        };
        change(&mut plan);
        let (sender, state) = watch::channel(UpstreamState::Off);
        let (shutdown, stopping) = watch::channel(false);
        let (handle, task) = Supervisor::start(plan, sender, Arc::default(), call, stopping);
        Self {
            handle,
            state,
            shutdown,
            task,
            folder,
            starts,
            role,
        }
    }

    async fn until(
        &mut self,
        what: &str,
        matches: impl FnMut(&UpstreamState) -> bool,
    ) -> UpstreamState {
        let found = tokio::time::timeout(PATIENCE, self.state.wait_for(matches))
            .await
            .ok()
            .map(|state| state.unwrap().clone());
        found.unwrap_or_else(|| panic!("not {what}: {:?}", self.state.borrow()))
    }

    async fn ready(&mut self, epoch: u64) -> super::super::Ready {
        let state = self
            .until("ready", |state| {
                state.ready().is_some_and(|ready| ready.epoch == epoch)
            })
            .await;
        state.ready().unwrap().clone()
    }

    async fn end(self) {
        self.shutdown.send_replace(true);
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the supervisor ends")
            .unwrap();
    }
}

/// Free now, and not given twice in this process: tests run side by side. Below the range of outgoing connections, one of
/// which could take it before the child does, or between two of its starts.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + step % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn runs(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

async fn gone(pid: u32) {
    let gone = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the process ends");
}

#[tokio::test]
async fn a_child_starts_says_who_it_is_and_ends_with_us() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let ready = fixture.ready(1).await;
    assert_eq!(ready.version.as_deref(), Some("2026.9.6"));
    assert_eq!(ready.token.expose(), "upstream-token");
    let pid = ready.pid.unwrap();
    assert!(runs(pid));
    fixture.end().await;
    assert!(!runs(pid));
}

#[tokio::test]
async fn the_child_gets_the_embedding_variables_and_no_supervisor_hints() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let ready = fixture.ready(1).await;
    let env: HashMap<String, String> =
        serde_json::from_str(&ask_child(ready.address, "/env").await).unwrap();
    for name in [
        "OPENCLAW_NO_RESPAWN",
        "OPENCLAW_DISABLE_BONJOUR",
        "NO_COLOR",
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some("1"), "{name}");
    }
    for name in [
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "OPENCLAW_SUPERVISOR_MODE",
    ] {
        assert!(!env.contains_key(name), "{name}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_crash_is_followed_by_a_new_start_in_a_new_epoch_and_its_helpers_end_with_it() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let first = fixture.ready(1).await;
    let helper: u32 = ask_child(first.address, "/helper").await.parse().unwrap();
    ask_child(first.address, "/crash").await;
    let down = fixture
        .until("down", |state| matches!(state, UpstreamState::Down { .. }))
        .await;
    assert!(
        format!("{down:?}").contains("ended with exit code 3"),
        "{down:?}"
    );
    let second = fixture.ready(2).await;
    assert_ne!(first.pid, second.pid);
    gone(helper).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_kill_9_is_followed_too() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let first = fixture.ready(1).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(first.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    fixture.ready(2).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_restart_inside_the_process_is_noticed_at_a_links_word() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let first = fixture.ready(1).await;
    ask_child(first.address, "/restart").await;
    fixture.handle.report_failure();
    let second = fixture.ready(2).await;
    assert_eq!(first.pid, second.pid);
    fixture.end().await;
}

#[tokio::test]
async fn a_stop_from_outside_is_honoured_until_somebody_starts_it_here() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let first = fixture.ready(1).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(first.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped = fixture
        .until("stopped", |state| {
            matches!(state, UpstreamState::Stopped { .. })
        })
        .await;
    assert!(
        format!("{stopped:?}").contains("openclaw was stopped (exit code 0)"),
        "{stopped:?}"
    );
    fixture.handle.start();
    fixture.ready(2).await;
    assert_eq!(fixture.starts.load(Ordering::SeqCst), 2);
    fixture.end().await;
}

#[tokio::test]
async fn orders_stop_start_and_restart_it() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let first = fixture.ready(1).await;
    fixture.handle.stop().await;
    assert!(!runs(first.pid.unwrap()), "gone when stop() returns");
    assert!(matches!(
        &*fixture.state.borrow(),
        UpstreamState::Stopped { .. }
    ));
    fixture.handle.stop().await;
    fixture.handle.start();
    let second = fixture.ready(2).await;
    fixture.handle.restart();
    let third = fixture.ready(3).await;
    assert_ne!(second.pid, third.pid);
    fixture.end().await;
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_killed_at_the_deadline() {
    let mut fixture = Fixture::start(
        "deaf",
        |plan| plan.times.stop = Duration::from_millis(200),
        None,
    );
    let ready = fixture.ready(1).await;
    let began = Instant::now();
    fixture.end().await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(!runs(ready.pid.unwrap()));
}

#[tokio::test]
async fn a_stopped_process_counts_as_down_and_is_taken_up_again_as_it_was() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let ready = fixture.ready(1).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(ready.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    fixture.handle.report_failure();
    fixture
        .until("down", |state| matches!(state, UpstreamState::Down { .. }))
        .await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let again = fixture.ready(1).await;
    assert_eq!(again.pid, ready.pid);
    fixture.end().await;
}

#[tokio::test]
async fn a_child_that_stays_silent_is_replaced() {
    let mut fixture = Fixture::start(
        "gateway",
        |plan| plan.times.silent = Duration::from_millis(100),
        None,
    );
    let ready = fixture.ready(1).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(ready.pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    fixture.handle.report_failure();
    let second = fixture.ready(2).await;
    assert_ne!(second.pid, ready.pid);
    fixture.end().await;
}

#[tokio::test]
async fn a_bad_configuration_is_not_tried_again_and_says_what_to_do() {
    let mut fixture = Fixture::start("bad-config", |_| {}, None);
    let state = fixture
        .until("stopped", |state| {
            matches!(state, UpstreamState::Stopped { .. })
        })
        .await;
    let text = format!("{state:?}");
    assert!(
        text.contains("openclaw doctor --fix") && text.contains("gateway.mode is not set"),
        "{text}"
    );
    assert_eq!(fixture.starts.load(Ordering::SeqCst), 1);
    *fixture.role.lock() = "gateway";
    fixture.handle.restart();
    fixture.ready(1).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_child_that_crashes_at_once_is_tried_again_with_its_last_words_shown() {
    let mut fixture = Fixture::start("crash", |_| {}, None);
    let state = fixture
        .until("down", |state| matches!(state, UpstreamState::Down { .. }))
        .await;
    let text = format!("{state:?}");
    assert!(
        text.contains("TypeError: x is not a function") && text.contains("next try in 1 s"),
        "{text}"
    );
    *fixture.role.lock() = "gateway";
    fixture.ready(1).await;
    assert!(fixture.starts.load(Ordering::SeqCst) >= 2);
    fixture.end().await;
}

/// Answers as an upstream does that has nothing to do, or that runs a channel.
fn upstream_calls(running_channel: bool) -> (Call, Arc<Mutex<Vec<&'static str>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let call: Call = Arc::new(move |method, _params| {
        log.lock().push(method);
        let answer = match method {
            "channels.status" => {
                serde_json::json!({ "channelAccounts": { "telegram": [{ "accountId": "default", "running": running_channel }] } })
            }
            "cron.status" => serde_json::json!({ "enabled": true, "jobs": 0 }),
            "gateway.suspend.prepare" => {
                serde_json::json!({ "status": "ready", "suspensionId": "s" })
            }
            other => panic!("unexpected {other}"),
        };
        Box::pin(async move { Ok(answer.to_string()) })
    });
    (call, asked)
}

#[tokio::test]
async fn on_demand_sleeps_until_called_and_again_when_idle() {
    let (call, asked) = upstream_calls(false);
    let mut fixture = Fixture::start(
        "gateway",
        |plan| plan.idle_stop = Some(Duration::from_millis(300)),
        Some(call),
    );
    fixture
        .until("asleep", |state| matches!(state, UpstreamState::Asleep))
        .await;
    assert_eq!(
        fixture.starts.load(Ordering::SeqCst),
        0,
        "nothing starts by itself"
    );
    fixture.handle.wake();
    let ready = fixture.ready(1).await;
    fixture
        .until("asleep", |state| matches!(state, UpstreamState::Asleep))
        .await;
    gone(ready.pid.unwrap()).await;
    assert_eq!(
        *asked.lock(),
        ["channels.status", "cron.status", "gateway.suspend.prepare"]
    );
    fixture.handle.wake();
    fixture.ready(2).await;
    fixture.end().await;
}

/// Something reaches its account all the time. Tells when it was asked.
fn never_quiet() -> (Call, Arc<Notify>) {
    let asked = Arc::new(Notify::new());
    let told = Arc::clone(&asked);
    let call: Call = Arc::new(move |method, _params| {
        told.notify_one();
        Box::pin(async move {
            let account =
                serde_json::json!({ "accountId": "a", "lastEventAt": crate::clock::now_ms() });
            let answer = match method {
                "channels.status" => {
                    serde_json::json!({ "channelAccounts": { "telegram": [account] } })
                }
                _ => serde_json::json!({ "status": "ready" }),
            };
            Ok(answer.to_string())
        })
    });
    (call, asked)
}

fn an_account() -> Vec<ChannelAccount> {
    vec![("telegram".to_owned(), "a".to_owned())]
}

#[tokio::test]
async fn an_account_is_let_go_of_when_its_child_ends_in_the_middle() {
    let (call, asked) = never_quiet();
    let mut fixture = Fixture::start("gateway", |_| {}, Some(call));
    let pid = fixture.ready(1).await.pid.unwrap();
    let began = Instant::now();
    let (between, ()) = tokio::join!(fixture.handle.exchange(an_account()), async {
        asked.notified().await;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    assert!(!runs(pid) && began.elapsed() < EXCHANGE_QUIET);
    assert_eq!(fixture.starts.load(Ordering::SeqCst), 1);
    drop(between);
    fixture.ready(2).await;
    fixture.end().await;
}

#[tokio::test]
async fn an_exchange_holds_up_no_stop_of_the_gateway() {
    let (call, asked) = never_quiet();
    let mut fixture = Fixture::start("gateway", |_| {}, Some(call));
    let pid = fixture.ready(1).await.pid.unwrap();
    let began = Instant::now();
    let (_between, ()) = tokio::join!(fixture.handle.exchange(an_account()), async {
        asked.notified().await;
        fixture.shutdown.send_replace(true);
    });
    assert!(!runs(pid), "gone before anything changes hands");
    fixture.end().await;
    assert!(began.elapsed() < EXCHANGE_QUIET);
}

#[tokio::test]
async fn past_its_ceiling_it_is_drained_and_started_anew() {
    let (call, asked) = upstream_calls(false);
    let mut fixture = Fixture::start(
        "gateway",
        |plan| {
            plan.memory_max = 1;
            plan.times.look = Duration::from_millis(20);
        },
        Some(call),
    );
    let first = fixture.ready(1).await;
    let down = fixture
        .until("down", |state| matches!(state, UpstreamState::Down { .. }))
        .await;
    fixture.handle.limit_memory(0);
    let UpstreamState::Down { why } = down else {
        unreachable!("waited for it")
    };
    assert!(why.contains("past upstream.memory_max_mib = 0"), "{why}");
    gone(first.pid.unwrap()).await;
    assert!(asked.lock().contains(&"gateway.suspend.prepare"));
    fixture.ready(2).await;
    let vitals = fixture.handle.vitals();
    assert_eq!((vitals.memory_restarts, vitals.memory_max), (1, 0));
    fixture.end().await;
}

#[tokio::test]
async fn on_demand_does_not_stop_what_runs_a_channel() {
    let (call, asked) = upstream_calls(true);
    let mut fixture = Fixture::start(
        "gateway",
        |plan| plan.idle_stop = Some(Duration::from_millis(1)),
        Some(call),
    );
    fixture.handle.wake();
    fixture.ready(1).await;
    let was_asked = async {
        while asked.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, was_asked)
        .await
        .expect("it is asked");
    assert!(fixture.state.borrow().ready().is_some());
    fixture.handle.stop().await;
    assert!(
        asked.lock().contains(&"gateway.suspend.prepare"),
        "drained before the stop"
    );
    fixture.end().await;
}

#[tokio::test]
async fn what_was_left_behind_is_ended_before_the_next_start() {
    let mut fixture = Fixture::start("gateway", |_| {}, None);
    let ready = fixture.ready(1).await;
    let record = fixture.folder.path().join("upstream-child.json");
    assert!(record.exists());
    let memory = Memory::new(&record);
    // As the next gateway does after we were killed.
    memory.end_orphan().await;
    gone(ready.pid.unwrap()).await;
    fixture.end().await;
    assert!(!record.exists(), "nothing is remembered after a clean end");
}
