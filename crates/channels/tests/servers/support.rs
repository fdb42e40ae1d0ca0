//! Real servers in folders of their own, and the spool that receives.

use async_trait::async_trait;
use channels::{Accepted, Batch, InboundMessage, InboundSink, SinkError, Spool};
use parking_lot::{Mutex, MutexGuard};
use rustls::ClientConfig;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(120);

/// A port that was free a moment ago: below those that the kernel gives to clients, and never
/// twice in this process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + step % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `look` finds something; panics with `what` when it does not in time.
pub async fn wait_for<T, F>(what: &str, mut look: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A server process; ends with the value.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        use std::os::unix::process::CommandExt as _;
        let out = std::fs::File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            // Its own group: what it starts ends with it.
            .process_group(0);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{}: {error}: run `cargo xtask setup`",
                command.get_program().to_string_lossy()
            )
        });
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Waits until somebody listens on the port.
    pub async fn listens(&mut self, port: u16) {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the server ended ({status}):\n{}", self.said());
            }
            assert!(
                Instant::now() < deadline,
                "nobody listens on {port}:\n{}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    pub fn said(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(&self.log) {
            let _unreadable = file.read_to_string(&mut text);
        }
        text
    }

    pub fn stop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ended = Command::new("kill").args(["-KILL", "--", &group]).output();
        let _status = self.child.wait();
    }

    /// Stops it without ending it: alive to the kernel, deaf to us.
    pub fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let done = Command::new("kill").args([name, "--", &group]).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A certificate for localhost that signs itself.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub pem: String,
}

impl Certificate {
    pub fn write(folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert, &pem).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { cert, key, pem }
    }

    /// Trusts this certificate and no other.
    pub fn trust(&self) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        channels::web::add_pem(&mut roots, self.pem.as_bytes());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )
    }
}

/// The receiving side in memory, with the real one's rules: an event id is taken once, a batch
/// whole or not at all.
#[derive(Default)]
pub struct Received {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: Vec<InboundMessage>,
    duplicates: usize,
    cursors: BTreeMap<String, String>,
    refusing: bool,
    alive: usize,
}

impl Received {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn all(&self) -> Vec<InboundMessage> {
        self.state().messages.clone()
    }

    pub fn texts(&self) -> Vec<String> {
        self.all().into_iter().map(|m| m.text).collect()
    }

    pub fn duplicates(&self) -> usize {
        self.state().duplicates
    }

    pub fn cursor_of(&self, key: &str) -> Option<String> {
        self.state().cursors.get(key).cloned()
    }

    pub fn refuse(&self, refusing: bool) {
        self.state().refusing = refusing;
    }

    pub fn sink(self: &Arc<Self>, channel: &str) -> InboundSink {
        InboundSink::new(Arc::clone(self) as Arc<dyn Spool>, channel, "default")
    }

    pub async fn wait(
        &self,
        what: &str,
        is_it: impl Fn(&InboundMessage) -> bool,
    ) -> InboundMessage {
        wait_for(what, async || self.all().into_iter().find(&is_it)).await
    }
}

#[async_trait]
impl Spool for Received {
    async fn commit(
        &self,
        _channel: &str,
        _account: &str,
        batch: Batch,
    ) -> Result<Vec<Accepted>, SinkError> {
        let mut state = self.state();
        if state.refusing {
            return Err(SinkError {
                reason: "the test refuses".into(),
            });
        }
        let mut answers = Vec::new();
        for message in batch.messages {
            if state
                .messages
                .iter()
                .any(|m| m.event_id == message.event_id)
            {
                state.duplicates += 1;
                answers.push(Accepted::Duplicate);
            } else {
                answers.push(Accepted::New {
                    id: message.event_id.clone(),
                });
                state.messages.push(message);
            }
        }
        if let Some(cursor) = batch.cursor {
            state.cursors.insert(cursor.key, cursor.value);
        }
        Ok(answers)
    }

    async fn cursor(
        &self,
        _channel: &str,
        _account: &str,
        key: &str,
    ) -> Result<Option<String>, SinkError> {
        Ok(self.state().cursors.get(key).cloned())
    }

    fn alive(&self, _channel: &str, _account: &str) {
        self.state().alive += 1;
    }
}

/// Fails the test when the future takes longer than anything here should.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_elapsed| panic!("not in time: {what}"))
}

pub fn message(id: &str, target: &str, text: &str) -> channels::OutboundMessage {
    channels::OutboundMessage {
        delivery_id: id.into(),
        target: target.into(),
        thread: None,
        reply_to: None,
        text: text.into(),
        attachments: Vec::new(),
        buttons: Vec::new(),
        silent: false,
        subject: None,
    }
}
