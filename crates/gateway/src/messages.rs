//! Messages of this gateway: what holds them, who carries them, and which accounts are ours.
//!
//! [`Messages`] is built once by `cli::run` and handed to the ingress, the method table and the two loops:
//! [`crate::delivery::run`] (outbox → channel) and [`intake::run`] (spool → agent → outbox).

mod accept;
mod agents;
pub(crate) mod api;
mod burst;
pub(crate) mod crash;
pub(crate) mod draft;
mod halt;
mod intake;
mod loops;
pub(crate) mod methods;
mod orders;
pub(crate) mod owned;
mod pairing;
mod params;
pub(crate) mod request;
mod signs;
mod spool;
mod status;
mod upstream;

pub(crate) use accept::{Route, Said};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use channels::accounts::{Account, DEFAULT_ACCOUNT};
use channels::supervisor::{Patience, Supervisor};
use serde_json::Value;
use store::{Health, Retention, Store, StoreError};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::bridge::UpstreamState;
use crate::bridge::control::Control;
use crate::config::{MessageSettings, OwnSettings, Secrets};
use crate::routing::Routing;
pub(crate) use crash::crash_point;
pub(crate) use owned::Accounts;
pub(crate) use request::SendRequest;
pub(crate) use upstream::Upstream;

/// Channel id of the built-in web chat.
pub(crate) const WEBCHAT: &str = "webchat";

/// Longest wait for the store to tell what is due.
const DUE_WITHIN: Duration = Duration::from_secs(1);

/// Who carries messages of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// We, through a channel of ours.
    Native,
    /// We, into a session's transcript.
    Webchat,
    /// The TypeScript gateway, or a bridge beside it.
    Upstream,
}

/// A message that has come to rest.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) id: Arc<str>,
}

/// How people are treated, by one configuration.
#[derive(Debug)]
struct Habits {
    quiet: burst::Quiet,
    signs: signs::Signs,
}

impl Habits {
    fn read(config: &Value) -> Self {
        Self {
            quiet: burst::Quiet::read(config),
            signs: signs::Signs::read(config),
        }
    }
}

/// The message path. Shared by everyone who accepts, carries or shows messages.
pub(crate) struct Messages {
    pub(crate) store: Store,
    pub(crate) supervisor: Supervisor,
    pub(crate) upstream: Upstream,
    pub(crate) settings: ArcSwap<MessageSettings>,
    pub(crate) accounts: ArcSwap<Accounts>,
    pub(crate) routing: ArcSwap<Routing>,
    habits: ArcSwap<Habits>,
    /// Something was put into the outbox.
    pub(crate) outbox: Notify,
    /// Something was put into the spool.
    pub(crate) inbox: Arc<Notify>,
    /// The same, for turns that wait for more of a message.
    arrived: Notify,
    /// What is not to wait its turn in the spool.
    urgent: Arc<halt::Urgent>,
    working: halt::Working,
    /// Bots that we talk to.
    bots: loops::Pairs,
    pub(crate) finished: broadcast::Sender<Finished>,
    own_dir: PathBuf,
    /// Where fetched media lies until it was sent.
    pub(crate) media_dir: PathBuf,
    /// Pictures are made to fit one at a time.
    pub(crate) fitting: Arc<tokio::sync::Semaphore>,
    /// Folders that an agent's files may come from.
    pub(crate) file_roots: Vec<PathBuf>,
    pub(crate) stop: CancellationToken,
    heard: draft::Heard,
    watched: status::Watched,
    /// Whose agents answer while there is no upstream.
    agents: std::sync::OnceLock<std::sync::Weak<crate::app::App>>,
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Where things are and how they are set.
pub(crate) struct Setup<'a> {
    pub(crate) own_dir: &'a Path,
    pub(crate) own: &'a OwnSettings,
    /// The user's configuration, includes and variables resolved.
    pub(crate) config: &'a Value,
    /// What its references stand for.
    pub(crate) secrets: &'a Secrets,
    pub(crate) file_roots: Vec<PathBuf>,
    pub(crate) control: Control,
    pub(crate) people: Control,
    pub(crate) state: watch::Receiver<UpstreamState>,
    pub(crate) wake: Arc<Notify>,
}

impl Messages {
    /// Opens the store; one that can't be opened is retried and told by readiness.
    ///
    /// # Errors
    /// When no thread can be started, or TLS can't be set up.
    pub(crate) fn open(setup: Setup<'_>) -> anyhow::Result<Arc<Self>> {
        let store = Store::open(
            &setup.own_dir.join("messages.db"),
            store::Options::default(),
        )?;
        let inbox = Arc::new(Notify::new());
        let urgent = Arc::new(halt::Urgent::default());
        let spool = Arc::new(spool::StoreSpool::new(
            store.clone(),
            Arc::clone(&inbox),
            Arc::clone(&urgent),
        ));
        let alone = matches!(*setup.state.borrow(), UpstreamState::Off);
        let mut config = owned::with_own(setup.config, setup.own_dir).unwrap_or_else(|error| {
            tracing::error!(%error, "the channels of this file are not started");
            setup.config.clone()
        });
        setup.secrets.fill(setup.config, &mut config["channels"]);
        Ok(Arc::new(Self {
            supervisor: Supervisor::new(spool, Patience::default(), now_ms),
            upstream: Upstream::new(setup.control, setup.people, setup.state, setup.wake)?,
            settings: ArcSwap::from_pointee(setup.own.messages.clone()),
            accounts: ArcSwap::from_pointee(Accounts::read(
                &config,
                &setup.own.channels_native,
                alone,
            )),
            routing: ArcSwap::from_pointee(Routing::from_config(setup.config)),
            habits: ArcSwap::from_pointee(Habits::read(setup.config)),
            store,
            outbox: Notify::new(),
            inbox,
            arrived: Notify::new(),
            urgent,
            working: halt::Working::default(),
            bots: loops::Pairs::default(),
            finished: broadcast::channel(1024).0,
            media_dir: setup.own_dir.join("outgoing"),
            fitting: Arc::new(tokio::sync::Semaphore::new(1)),
            own_dir: setup.own_dir.to_owned(),
            file_roots: setup.file_roots,
            stop: CancellationToken::new(),
            heard: draft::Heard::default(),
            watched: status::Watched::default(),
            agents: std::sync::OnceLock::new(),
        }))
    }

    /// Starts the loops and our accounts.
    pub(crate) fn start(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let messages = Arc::clone(self);
        tokio::spawn(async move {
            messages.start_accounts().await;
            let delivery = tokio::spawn(crate::delivery::run(Arc::clone(&messages)));
            let intake = tokio::spawn(intake::run(Arc::clone(&messages)));
            let keep = tokio::spawn(maintain(Arc::clone(&messages)));
            messages.stop.cancelled().await;
            // First nothing comes in any more, then what is on its way is waited for.
            messages.supervisor.stop_all().await;
            for (name, task) in [
                ("delivery", delivery),
                ("intake", intake),
                ("maintenance", keep),
            ] {
                if let Err(error) = task.await {
                    tracing::error!(name, %error, "a loop ended badly");
                }
            }
            let store = messages.store.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
                tracing::error!(%error, "the message store did not close");
            }
        })
    }

    /// A new configuration: rules at once, accounts that changed are started anew.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        own: &OwnSettings,
        config: &Value,
        secrets: &Secrets,
    ) {
        self.settings.store(Arc::new(own.messages.clone()));
        self.routing.store(Arc::new(Routing::from_config(config)));
        self.habits.store(Arc::new(Habits::read(config)));
        let alone = self.upstream.is_off();
        let with_own = match owned::with_own(config, &self.own_dir) {
            Ok(mut with_own) => {
                secrets.fill(config, &mut with_own["channels"]);
                with_own
            }
            Err(error) => {
                tracing::error!(%error, "the accounts stay as they were");
                return;
            }
        };
        let new = Accounts::read(&with_own, &own.channels_native, alone);
        let old = self.accounts.swap(Arc::new(new));
        let new = self.accounts.load_full();
        for (key, account) in old.all() {
            if new.get(&key.0, &key.1) != Some(account) {
                self.supervisor.stop(&key.0, &key.1).await;
            }
        }
        for (key, account) in new.all() {
            if old.get(&key.0, &key.1) != Some(account) {
                self.start_account(account).await;
            }
        }
        let names = |accounts: &Accounts| accounts.all().keys().cloned().collect::<BTreeSet<_>>();
        let handed: Vec<_> = names(&old)
            .symmetric_difference(&names(&new))
            .cloned()
            .collect();
        if !handed.is_empty() {
            // What one side could not send, the other may.
            let hurried = self.store.write(move |tx| {
                let now = now_ms();
                let mut all = handed.iter();
                all.try_for_each(|(channel, account)| tx.outbox().hurry(channel, account, now))
            });
            if let Err(error) = hurried.await {
                tracing::warn!(%error, "messages of accounts that changed hands wait for their next try");
            }
        }
        self.outbox.notify_one();
        self.inbox.notify_one();
    }

    /// Accounts that a new configuration gives to this gateway, as `(channel, account)`.
    pub(crate) fn arriving(&self, own: &OwnSettings, config: &Value) -> Vec<(String, String)> {
        let now = self.accounts.load();
        let new = Accounts::read(config, &own.channels_native, self.upstream.is_off());
        let arriving = new.all().keys().filter(|key| !now.all().contains_key(*key));
        arriving.cloned().collect()
    }

    /// The channel of an account, to look at or to change what is there already: the one that runs here or, of an account that
    /// went to the upstream, one of its settings, which receives nothing.
    pub(crate) fn hand(&self, channel: &str, account: &str) -> Option<Arc<dyn channels::Channel>> {
        self.supervisor.get(channel, account).or_else(|| {
            let accounts = self.accounts.load();
            owned::build(accounts.other(channel, account)?).ok()
        })
    }

    async fn start_accounts(&self) {
        let accounts = self.accounts.load_full();
        for account in accounts.all().values() {
            self.start_account(account).await;
        }
    }

    /// Builds and starts one account, or notes why not.
    pub(crate) async fn start_account(&self, account: &Account) {
        if !account.enabled {
            return;
        }
        match owned::build(account) {
            Ok(channel) => {
                tracing::info!(
                    channel = account.channel,
                    account = account.id,
                    "starting a channel account"
                );
                self.supervisor
                    .start(&account.channel, &account.id, channel)
                    .await;
            }
            Err(error) => {
                tracing::error!(channel = account.channel, account = account.id, %error, "a channel account can't be started");
                self.supervisor
                    .refuse(&account.channel, &account.id, &error);
            }
        }
    }

    /// There is no gateway behind that could run channels and agents.
    pub(crate) fn is_alone(&self) -> bool {
        self.upstream.is_off()
    }

    /// Takes an `agent` event of the upstream, for the drafts of answers and the reactions to messages.
    pub(crate) fn hear(&self, payload: &serde_json::value::RawValue) {
        self.heard.take(payload);
        self.watched.take(payload);
    }

    /// A turn of an agent of ours begins with a tool.
    pub(crate) fn tool_begins(&self, run_id: &str, name: &str) {
        self.watched.tool(run_id, name);
    }

    /// Who carries messages of `account` on `channel`.
    pub(crate) fn owner(&self, channel: &str, account: &str) -> Owner {
        if channel == WEBCHAT {
            Owner::Webchat
        } else if self.accounts.load().get(channel, account).is_some() {
            Owner::Native
        } else {
            Owner::Upstream
        }
    }

    /// The account that is meant when none is named; empty: the upstream chooses.
    pub(crate) fn default_account(&self, channel: &str) -> String {
        if channel == WEBCHAT {
            return DEFAULT_ACCOUNT.to_owned();
        }
        self.accounts.load().default_of(channel).unwrap_or_default()
    }

    /// Whether an account of a chat service is ours.
    pub(crate) fn has_accounts(&self) -> bool {
        !self.accounts.load().all().is_empty()
    }

    /// Where a session's answers go: `{channel, account, target, thread}`; `null` where that is not known.
    pub(crate) async fn last_route(&self, session_key: &str) -> serde_json::Value {
        let key = session_key.to_owned();
        let read = self.store.read(move |reader| reader.sessions().get(&key));
        let route = read.await.ok().flatten().and_then(|row| row.last_route);
        route
            .and_then(|route| serde_json::from_str(&route).ok())
            .unwrap_or_default()
    }

    /// The chat whose message a run works on, as [`last_route`](Self::last_route); `null` for any other run.
    pub(crate) async fn chat_of_run(&self, run_id: &str) -> Result<serde_json::Value, StoreError> {
        let id = run_id.to_owned();
        let read = self.store.read(move |reader| reader.inbox().get(&id));
        let row = read.await?;
        Ok(row
            .and_then(|row| intake::chat_of(&row))
            .unwrap_or_default())
    }

    /// Since when the longest due message has not been taken up; `None` without one, and when that can't be read now.
    pub(crate) async fn due_since(&self) -> Option<i64> {
        let now = now_ms();
        let read = self.store.read(move |reader| {
            let outbound = reader.outbox().due_accounts(now)?;
            let heads = reader.inbox().heads(now, 1)?;
            // When it came, or was put back.
            let inbound = heads.first().map(|row| row.updated_ms);
            Ok((outbound, inbound))
        });
        let read = tokio::time::timeout(DUE_WITHIN, read).await;
        let (outbound, inbound) = read.ok().and_then(Result::ok)?;
        let alone = self.is_alone();
        outbound
            .into_iter()
            // What goes through the upstream waits for that, however long it is away.
            .filter(|(channel, account, _)| alone || self.owner(channel, account) == Owner::Native)
            .map(|(_, _, due)| due)
            .chain(inbound)
            .min()
    }

    /// Why the store takes no writes now.
    pub(crate) fn outage(&self) -> Option<StoreError> {
        match &*self.store.health().borrow() {
            Health::Failing(error) => Some(error.clone()),
            Health::Good | Health::Opening => None,
        }
    }
}

pub(crate) fn now_ms() -> i64 {
    i64::try_from(crate::clock::now_ms()).unwrap_or(i64::MAX)
}

/// Forgets what is old, a few hundred rows at a time.
async fn maintain(messages: Arc<Messages>) {
    const PAUSE: Duration = Duration::from_secs(60);
    loop {
        let keep = messages.settings.load().keep;
        let retention = Retention {
            tombstones: keep,
            history: keep,
            dead: keep,
            delivered: keep.min(Retention::default().delivered),
            ..Retention::default()
        };
        let done = messages
            .store
            .write(move |tx| tx.maintain(&retention, now_ms()))
            .await;
        let pause = match done {
            Ok(done) if done.more => Duration::from_secs(1),
            Ok(_) => PAUSE,
            Err(error) => {
                tracing::debug!(%error, "nothing is forgotten now");
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = messages.stop.cancelled() => return,
        }
    }
}

/// A number in 0..1 for jitter.
pub(crate) fn share() -> f64 {
    let mut bytes = [0_u8; 4];
    match ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_unspecified) => 0.5,
    }
}
