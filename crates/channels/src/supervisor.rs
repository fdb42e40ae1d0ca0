//! Keeps accounts receiving: starts, stops, starts again with back-off, and notices a connection that looks alive and
//! is deaf.

use crate::{Accepted, Batch, Channel, ChannelError, InboundSink, SinkError, Spool};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When to start again and when to lose patience.
#[derive(Debug, Clone)]
pub struct Patience {
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// A connection that held this long begins at the first back-off again.
    pub stable_after: Duration,
    pub unauthorized_every: Duration,
    pub conflict_every: Duration,
    /// Longest silence of a service before the account is started anew.
    pub silence_max: Duration,
    /// Longest wait for an account to stop.
    pub stop_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            unauthorized_every: Duration::from_secs(300),
            conflict_every: Duration::from_secs(30),
            silence_max: Duration::from_secs(180),
            stop_max: Duration::from_secs(5),
        }
    }
}

/// What an account does now. Field names as in the original's `channels.status`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    pub account_id: String,
    pub enabled: bool,
    pub configured: bool,
    pub running: bool,
    pub connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub reconnect_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_start_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_stop_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_connected_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_inbound_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_outbound_at: Option<i64>,
}

type Key = (String, String);

struct Running {
    channel: Arc<dyn Channel>,
    spool: Arc<Watched>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The accounts of this process.
pub struct Supervisor {
    accounts: Mutex<BTreeMap<Key, Running>>,
    /// Of accounts that could not be started at all.
    refused: Mutex<BTreeMap<Key, AccountStatus>>,
    spool: Arc<dyn Spool>,
    patience: Patience,
    now_ms: fn() -> i64,
}

impl Supervisor {
    pub fn new(spool: Arc<dyn Spool>, patience: Patience, now_ms: fn() -> i64) -> Self {
        Self {
            accounts: Mutex::new(BTreeMap::new()),
            refused: Mutex::new(BTreeMap::new()),
            spool,
            patience,
            now_ms,
        }
    }

    /// Starts an account; one that runs under the same name is stopped first.
    pub async fn start(&self, channel_id: &str, account: &str, channel: Arc<dyn Channel>) {
        self.stop(channel_id, account).await;
        let key = (channel_id.to_owned(), account.to_owned());
        self.refused.lock().remove(&key);
        let status = AccountStatus {
            account_id: account.to_owned(),
            enabled: true,
            configured: true,
            running: true,
            last_start_at: Some((self.now_ms)()),
            ..AccountStatus::default()
        };
        let spool = Arc::new(Watched {
            inner: Arc::clone(&self.spool),
            status: Mutex::new(status),
            heard: Mutex::new(Instant::now()),
            now_ms: self.now_ms,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_receiving(
            Arc::clone(&channel),
            InboundSink::new(Arc::clone(&spool) as Arc<dyn Spool>, channel_id, account),
            Arc::clone(&spool),
            stop.clone(),
            self.patience.clone(),
        ));
        self.accounts.lock().insert(
            key,
            Running {
                channel,
                spool,
                stop,
                task,
            },
        );
    }

    /// Notes why an account was not started.
    pub fn refuse(&self, channel_id: &str, account: &str, error: &ChannelError) {
        let status = AccountStatus {
            account_id: account.to_owned(),
            enabled: true,
            last_error: Some(error.to_string()),
            ..AccountStatus::default()
        };
        self.refused
            .lock()
            .insert((channel_id.to_owned(), account.to_owned()), status);
    }

    /// Ends receiving and waits for it. `false`: it was not running.
    pub async fn stop(&self, channel_id: &str, account: &str) -> bool {
        let key = (channel_id.to_owned(), account.to_owned());
        self.refused.lock().remove(&key);
        let Some(running) = self.accounts.lock().remove(&key) else {
            return false;
        };
        end(running, self.patience.stop_max).await;
        true
    }

    pub async fn stop_all(&self) {
        let all = std::mem::take(&mut *self.accounts.lock());
        let ends: Vec<_> = all
            .into_values()
            .map(|running| tokio::spawn(end(running, self.patience.stop_max)))
            .collect();
        for ended in ends {
            if let Err(error) = ended.await {
                tracing::error!(%error, "an account's task ended badly");
            }
        }
    }

    /// The running channel of an account.
    pub fn get(&self, channel_id: &str, account: &str) -> Option<Arc<dyn Channel>> {
        let key = (channel_id.to_owned(), account.to_owned());
        self.accounts
            .lock()
            .get(&key)
            .map(|running| Arc::clone(&running.channel))
    }

    /// A sink for what a service posts to us.
    pub fn sink(&self, channel_id: &str, account: &str) -> Option<InboundSink> {
        let key = (channel_id.to_owned(), account.to_owned());
        let accounts = self.accounts.lock();
        let spool = Arc::clone(&accounts.get(&key)?.spool);
        Some(InboundSink::new(spool, channel_id, account))
    }

    /// Notes a delivery in the account's status.
    pub fn sent(&self, channel_id: &str, account: &str) {
        let key = (channel_id.to_owned(), account.to_owned());
        if let Some(running) = self.accounts.lock().get(&key) {
            running.spool.status.lock().last_outbound_at = Some((self.now_ms)());
        }
    }

    /// Status of every account, by channel.
    pub fn status(&self) -> BTreeMap<String, Vec<AccountStatus>> {
        let mut all: BTreeMap<String, Vec<AccountStatus>> = BTreeMap::new();
        for ((channel, _), running) in self.accounts.lock().iter() {
            all.entry(channel.clone())
                .or_default()
                .push(running.spool.status.lock().clone());
        }
        for ((channel, _), status) in self.refused.lock().iter() {
            all.entry(channel.clone()).or_default().push(status.clone());
        }
        all
    }

    /// Names of the running accounts.
    pub fn running(&self) -> Vec<(String, String)> {
        self.accounts.lock().keys().cloned().collect()
    }
}

async fn end(running: Running, stop_max: Duration) {
    running.stop.cancel();
    let mut task = running.task;
    if tokio::time::timeout(stop_max, &mut task).await.is_err() {
        // What it had not committed was not acknowledged: the service sends it again.
        task.abort();
        tracing::warn!("an account did not stop in time and was cut off");
    }
}

/// Passes on to the real spool and notes signs of life.
struct Watched {
    inner: Arc<dyn Spool>,
    status: Mutex<AccountStatus>,
    heard: Mutex<Instant>,
    now_ms: fn() -> i64,
}

impl Watched {
    fn heard(&self) {
        *self.heard.lock() = Instant::now();
        let mut status = self.status.lock();
        if !status.connected {
            status.connected = true;
            status.last_connected_at = Some((self.now_ms)());
            status.last_error = None;
        }
    }
}

#[async_trait]
impl Spool for Watched {
    async fn commit(
        &self,
        channel: &str,
        account: &str,
        batch: Batch,
    ) -> Result<Vec<Accepted>, SinkError> {
        self.heard();
        if !batch.messages.is_empty() {
            self.status.lock().last_inbound_at = Some((self.now_ms)());
        }
        self.inner.commit(channel, account, batch).await
    }

    async fn cursor(
        &self,
        channel: &str,
        account: &str,
        key: &str,
    ) -> Result<Option<String>, SinkError> {
        self.inner.cursor(channel, account, key).await
    }

    fn alive(&self, channel: &str, account: &str) {
        self.heard();
        self.inner.alive(channel, account);
    }
}

async fn keep_receiving(
    channel: Arc<dyn Channel>,
    sink: InboundSink,
    spool: Arc<Watched>,
    stop: CancellationToken,
    patience: Patience,
) {
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let began = Instant::now();
        *spool.heard.lock() = began;
        let ended = tokio::select! {
            ended = channel.receive(sink.clone(), stop.clone()) => ended,
            () = deaf(&spool, patience.silence_max) => Err(ChannelError::Disconnected {
                reason: format!("nothing was heard for {:?}", patience.silence_max),
                after: None,
            }),
        };
        spool.status.lock().connected = false;
        if stop.is_cancelled() {
            break;
        }
        let error = match ended {
            // It may end by itself (a service that only posts to us): then there is nothing to start again.
            Ok(()) => {
                stop.cancelled().await;
                break;
            }
            Err(error) => error,
        };
        failures = if began.elapsed() >= patience.stable_after {
            1
        } else {
            failures.saturating_add(1)
        };
        {
            let mut status = spool.status.lock();
            status.last_error = Some(error.to_string());
            status.reconnect_attempts = failures;
        }
        let pause = match &error {
            ChannelError::Config { .. } => {
                tracing::error!(%error, "the account stays stopped until its settings change");
                stop.cancelled().await;
                break;
            }
            ChannelError::Unauthorized { .. } => patience.unauthorized_every,
            ChannelError::Conflict { .. } => patience.conflict_every,
            ChannelError::Disconnected {
                after: Some(after), ..
            } => *after,
            ChannelError::Disconnected { after: None, .. } | ChannelError::Sink(_) => {
                backoff(&patience, failures)
            }
        };
        tracing::warn!(%error, again_in = ?pause, "receiving ended");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => break,
        }
    }
    let mut status = spool.status.lock();
    status.running = false;
    status.last_stop_at = Some((spool.now_ms)());
}

/// Resolves when nothing was heard for too long.
async fn deaf(spool: &Watched, silence_max: Duration) {
    loop {
        let until = *spool.heard.lock() + silence_max;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

fn backoff(patience: &Patience, failures: u32) -> Duration {
    let full = patience
        .backoff_first
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(patience.backoff_max);
    // Between half and all of it, so that accounts of one service do not come back together.
    let mut random = [0_u8; 4];
    let random =
        if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).is_ok() {
            u32::from_ne_bytes(random)
        } else {
            0
        };
    full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Notify;

    struct NoSpool;

    #[async_trait]
    impl Spool for NoSpool {
        async fn commit(&self, _: &str, _: &str, _: Batch) -> Result<Vec<Accepted>, SinkError> {
            Ok(Vec::new())
        }
        async fn cursor(&self, _: &str, _: &str, _: &str) -> Result<Option<String>, SinkError> {
            Ok(None)
        }
    }

    /// Ends as told, and counts how often it was started.
    struct Scripted {
        starts: AtomicU32,
        started: Notify,
        end: fn(u32) -> Option<ChannelError>,
    }

    #[async_trait]
    impl Channel for Scripted {
        fn capabilities(&self) -> &Capabilities {
            unreachable!("not asked here")
        }
        async fn receive(
            &self,
            sink: InboundSink,
            stop: CancellationToken,
        ) -> Result<(), ChannelError> {
            let n = self.starts.fetch_add(1, Ordering::SeqCst) + 1;
            self.started.notify_one();
            match (self.end)(n) {
                Some(error) => Err(error),
                None => {
                    sink.alive();
                    stop.cancelled().await;
                    Ok(())
                }
            }
        }
        async fn send(&self, _: &OutboundMessage) -> Result<Receipt, SendError> {
            unreachable!("not asked here")
        }
        async fn act(&self, _: &Action) -> Result<(), SendError> {
            Ok(())
        }
        async fn probe(&self) -> Result<Identity, ChannelError> {
            unreachable!("not asked here")
        }
        async fn fetch(&self, _: &str, _: u64) -> Result<Bytes, SendError> {
            unreachable!("not asked here")
        }
    }

    fn scripted(end: fn(u32) -> Option<ChannelError>) -> Arc<Scripted> {
        Arc::new(Scripted {
            starts: AtomicU32::new(0),
            started: Notify::new(),
            end,
        })
    }

    fn supervisor() -> Supervisor {
        Supervisor::new(Arc::new(NoSpool), Patience::default(), || 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_comes_back_and_says_why_it_went() {
        let supervisor = supervisor();
        let channel = scripted(|n| {
            (n < 4).then(|| ChannelError::Disconnected {
                reason: "gone".into(),
                after: None,
            })
        });
        let began = Instant::now();
        supervisor.start("x", "a", channel.clone()).await;
        for _ in 0..4 {
            channel.started.notified().await;
        }
        // 1 s, 2 s and 4 s, each at least half.
        assert!(
            began.elapsed() >= Duration::from_millis(3500),
            "{:?}",
            began.elapsed()
        );
        tokio::task::yield_now().await;
        let status = supervisor.status()["x"][0].clone();
        assert!(status.connected && status.running);
        assert_eq!(status.last_error, None);
        assert!(supervisor.stop("x", "a").await);
        assert!(supervisor.status().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deaf_connection_is_started_anew() {
        let supervisor = supervisor();
        let channel = scripted(|_| None);
        supervisor.start("x", "a", channel.clone()).await;
        channel.started.notified().await;
        let began = Instant::now();
        channel.started.notified().await;
        assert!(began.elapsed() >= Patience::default().silence_max);
        let status = supervisor.status()["x"][0].clone();
        assert_eq!(status.reconnect_attempts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_settings_are_not_tried_again() {
        let supervisor = supervisor();
        let channel = scripted(|_| {
            Some(ChannelError::Config {
                key: "k".into(),
                reason: "bad".into(),
            })
        });
        supervisor.start("x", "a", channel.clone()).await;
        channel.started.notified().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(channel.starts.load(Ordering::SeqCst), 1);
        assert_eq!(
            supervisor.status()["x"][0].last_error.as_deref(),
            Some("k: bad")
        );
        supervisor.stop_all().await;
    }
}
