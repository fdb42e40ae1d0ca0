//! The TypeScript gateway as our child: found, started, watched, restarted after a crash, stopped cleanly.
//!
//! [`Supervisor::start`] runs it; [`Handle`] gives orders; what is true of it now is in the watch of
//! [`UpstreamState`](super::UpstreamState).

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use self::backoff::Backoff;
use self::child::{Child, Exit};
use self::life::Life;
use self::night::{Morning, Night};
use self::orphan::Memory;
use self::output::Output;
use super::UpstreamState;
use crate::procfs;

mod backoff;
mod child;
pub mod find;
pub(crate) mod life;
mod night;
mod orphan;
pub(crate) mod output;
pub mod plan;
pub mod ports;
pub(crate) mod probe;
pub mod rest;
#[cfg(test)]
mod tests;

pub use child::ChildSpec;
pub(crate) use child::{die_with_parent, service_variables};

pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Makes a call to the upstream as ourselves: method and params in, payload or error as JSON text out.
pub type Call =
    Arc<dyn Fn(&'static str, serde_json::Value) -> BoxFuture<Result<String, String>> + Send + Sync>;

/// Makes what is to be started, given the port: finds the package, writes the overlay configuration. Called before each
/// start, so that an installation or a configuration that changed counts.
pub type Prepare = Arc<dyn Fn(u16) -> BoxFuture<Result<ChildSpec, String>> + Send + Sync>;

/// Orders wait here; more than this many are refused.
const ORDERS_WAITING_MAX: usize = 16;
/// Pause between asking an idle child whether it may sleep: its idle time, within these.
const SLEEP_QUESTION_EVERY: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(60));
/// OpenClaw's exit code for a configuration it can't run with. Source: docs/gateway/embedding.md at 2026.9.6.
const EXIT_CONFIG: i32 = 78;

/// How to run the child.
pub struct Plan {
    pub prepare: Prepare,
    /// Our own state directory: the port and the child are remembered there.
    pub state_dir: PathBuf,
    /// A fixed port instead of one we choose.
    pub port: Option<u16>,
    pub times: Times,
    /// Start at the first bridged call and stop after this long without one.
    pub idle_stop: Option<Duration>,
    /// Bytes that its process tree may have resident; 0: no ceiling. [`Handle::limit_memory`] changes it.
    pub memory_max: u64,
}

/// Deadlines of the child's life.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From start to ready. A first start creates databases; a start beside another OpenClaw waits for its lock.
    pub start: Duration,
    /// From the order to stop until SIGKILL.
    pub stop: Duration,
    /// How long it may not answer at all before it is killed and started again.
    pub silent: Duration,
    /// Pause between looks at its memory.
    pub look: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(180),
            stop: Duration::from_secs(4),
            silent: Duration::from_secs(60),
            look: Duration::from_secs(5),
        }
    }
}

#[derive(Debug)]
enum Order {
    Start,
    Stop(oneshot::Sender<()>),
    Restart,
    /// Let go of these accounts, stop, tell the first that it is gone, start again when the second says so.
    Exchange(
        Vec<ChannelAccount>,
        oneshot::Sender<()>,
        oneshot::Receiver<()>,
    ),
}

/// What links know before the next probe does.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// A link lost its socket unexpectedly.
    pub(crate) suspect: Notify,
    /// Milliseconds from `zero` to the last bridged call.
    activity_ms: AtomicU64,
    zero: OnceLock<Instant>,
    /// Of the child that lives; 0 for none.
    pid: AtomicU32,
    /// Bytes; 0: no ceiling.
    memory_max: AtomicU64,
    /// Children that were stopped for what they held.
    too_large: AtomicU64,
    /// The child is being replaced or sleeps: another one follows as soon as it can.
    gap: AtomicBool,
}

/// What is known of the child beside its state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Vitals {
    pub(crate) pid: Option<u32>,
    /// Starts since this gateway's own.
    pub(crate) starts: u64,
    /// Ceiling of its memory, bytes; 0: none.
    pub(crate) memory_max: u64,
    /// Times that it was started anew for being past it.
    pub(crate) memory_restarts: u64,
}

impl Hints {
    fn touch(&self) {
        let zero = *self.zero.get_or_init(Instant::now);
        let now = u64::try_from(zero.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.activity_ms.store(now, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        let zero = *self.zero.get_or_init(Instant::now);
        zero.elapsed().saturating_sub(Duration::from_millis(
            self.activity_ms.load(Ordering::Relaxed),
        ))
    }
}

/// Gives orders to the supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    hints: Arc<Hints>,
    wake: Arc<Notify>,
    output: Arc<Output>,
}

impl Handle {
    /// What the child wrote, over all its runs.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    pub(crate) fn vitals(&self) -> Vitals {
        let pid = self.hints.pid.load(Ordering::Relaxed);
        Vitals {
            pid: (pid != 0).then_some(pid),
            starts: self.output.starts(),
            memory_max: self.hints.memory_max.load(Ordering::Relaxed),
            memory_restarts: self.hints.too_large.load(Ordering::Relaxed),
        }
    }

    /// Another ceiling, bytes, from the next look on; 0: none.
    pub(crate) fn limit_memory(&self, bytes: u64) {
        self.hints.memory_max.store(bytes, Ordering::Relaxed);
    }

    /// Starts a child that is stopped, asleep or waiting for its next try. Nothing happens to a running one.
    pub fn start(&self) {
        self.order(Order::Start);
    }

    /// Stops the child until somebody starts it. Resolves when it is gone.
    pub async fn stop(&self) {
        let (done, gone) = oneshot::channel();
        self.order(Order::Stop(done));
        // An order that was refused, or a supervisor that ended, has nothing more to wait for.
        drop(gone.await);
    }

    /// Stops a running child and starts it again, with what `Prepare` makes now.
    pub fn restart(&self) {
        self.order(Order::Restart);
    }

    /// Stops a running child for a moment in which what it had can change hands. Resolves when it is gone, or none runs; the next
    /// one starts when [`Between`] is dropped. One that is stopped or asleep stays so. `leaving`: the accounts that it will not have
    /// any more.
    pub(crate) async fn exchange(&self, leaving: Vec<ChannelAccount>) -> Between {
        let (told, gone) = oneshot::channel();
        let (go, wait) = oneshot::channel();
        self.order(Order::Exchange(leaving, told, wait));
        // An order that was refused is in the log.
        drop(gone.await);
        Between { _go: go }
    }

    /// A bridged call is waiting: starts a sleeping child and keeps a running one awake.
    pub fn wake(&self) {
        self.hints.touch();
        self.wake.notify_one();
    }

    /// The child is in use: it does not count as idle from here on.
    pub fn touch(&self) {
        self.hints.touch();
    }

    /// Whether the child goes, or is gone, on purpose and another one follows: what is asked meanwhile can wait for that.
    pub(crate) fn is_replacing(&self) -> bool {
        self.hints.gap.load(Ordering::Acquire)
    }

    /// A link lost its socket without having asked for it: have a look now, not at the next probe.
    pub fn report_failure(&self) {
        self.hints.suspect.notify_one();
    }

    fn order(&self, order: Order) {
        if let Err(error) = self.orders.try_send(order) {
            tracing::warn!(%error, "an order to the openclaw supervisor was dropped");
        }
    }
}

/// `(channel, account)`.
pub(crate) type ChannelAccount = (String, String);

/// While it is kept, no child starts.
#[derive(Debug)]
pub(crate) struct Between {
    _go: oneshot::Sender<()>,
}

/// A child may finish what it does for so long before something changes hands.
const EXCHANGE_DRAIN: Duration = Duration::from_secs(30);
/// A moment in which nothing comes is waited for so long before accounts leave it.
const EXCHANGE_QUIET: Duration = Duration::from_secs(30);
/// Whoever exchanges something has so long for it.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);

/// Says that no child runs, and waits until one may, or none is to any more.
async fn exchanged(
    told: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
    shutdown: &mut watch::Receiver<bool>,
) {
    // Whoever gave up has nothing to exchange.
    told.send(()).ok();
    tokio::select! {
        waited = tokio::time::timeout(EXCHANGE_MAX, go) => if waited.is_err() {
            tracing::error!(
                "what was to change hands with openclaw took too long; openclaw is started"
            );
        },
        () = stopped(shutdown) => {}
    }
}

/// Why one run of the child is over.
#[derive(Debug)]
enum Ended {
    /// Failed; try again later.
    Failed {
        why: String,
    },
    /// Stopped for what it held; started anew as after a failure.
    TooLarge {
        why: String,
    },
    /// Nothing but a person can help.
    GivenUp {
        why: String,
    },
    /// It was stopped by somebody else, for instance `openclaw gateway stop`.
    StoppedOutside {
        why: String,
    },
    /// We were ordered to stop it.
    Stopped,
    Restart,
    FellAsleep,
    ShutDown,
}

/// The task that owns the child.
pub struct Supervisor {
    plan: Plan,
    state: watch::Sender<UpstreamState>,
    orders: mpsc::Receiver<Order>,
    hints: Arc<Hints>,
    wake: Arc<Notify>,
    call: Option<Call>,
    shutdown: watch::Receiver<bool>,
    backoff: Backoff,
    memory: Memory,
    output: Arc<Output>,
    epoch: u64,
    /// Who waits for the child to be gone.
    stopping: Vec<oneshot::Sender<()>>,
    night: Night,
    /// The child's port, when we chose it; kept from other gateways between two children too.
    port: Option<ports::Held>,
}

impl Supervisor {
    /// Starts supervising. The task ends after `shutdown` is true and the child is gone.
    ///
    /// `call` speaks to the child as ourselves: it is used to drain it before a stop and, with `idle_stop`, to learn
    /// whether it may sleep.
    pub fn start(
        plan: Plan,
        state: watch::Sender<UpstreamState>,
        wake: Arc<Notify>,
        call: Option<Call>,
        shutdown: watch::Receiver<bool>,
    ) -> (Handle, tokio::task::JoinHandle<()>) {
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        let hints = Arc::new(Hints {
            memory_max: AtomicU64::new(plan.memory_max),
            ..Hints::default()
        });
        let output = Arc::new(Output::default());
        let handle = Handle {
            output: Arc::clone(&output),
            orders: sender,
            hints: Arc::clone(&hints),
            wake: Arc::clone(&wake),
        };
        let memory = Memory::new(plan.state_dir.join("upstream-child.json"));
        let supervisor = Self {
            night: Night::new(&plan.state_dir),
            plan,
            state,
            orders,
            hints,
            wake,
            call,
            shutdown,
            backoff: Backoff::default(),
            memory,
            output,
            epoch: 0,
            stopping: Vec::new(),
            port: None,
        };
        (handle, tokio::spawn(supervisor.run()))
    }

    async fn run(mut self) {
        self.memory.end_orphan().await;
        let may_sleep = self.plan.idle_stop.is_some();
        let mut next = if may_sleep && self.night.begin() == Morning::Sleep {
            self.rest(UpstreamState::Asleep).await
        } else {
            true
        };
        while next {
            self.say(UpstreamState::Starting);
            if may_sleep {
                self.night.ends();
            }
            let ended = self.live().await;
            self.memory.forget();
            next = match ended {
                Ended::Failed { why } => {
                    self.hints.gap.store(false, Ordering::Relaxed);
                    self.pause(why).await
                }
                Ended::TooLarge { why } => self.pause(why).await,
                Ended::GivenUp { why } => {
                    tracing::error!(%why, "openclaw can't run; not trying again by itself");
                    self.rest(UpstreamState::Stopped { why }).await
                }
                Ended::StoppedOutside { why } => {
                    tracing::info!(%why, "openclaw was stopped by somebody else; it stays stopped until started here");
                    self.rest(UpstreamState::Stopped { why }).await
                }
                Ended::Stopped => {
                    self.rest(UpstreamState::Stopped {
                        why: "stopped by request".to_owned(),
                    })
                    .await
                }
                Ended::FellAsleep => {
                    tracing::info!(
                        "openclaw had nothing to do and was stopped; the next bridged call starts it"
                    );
                    self.rest(UpstreamState::Asleep).await
                }
                Ended::Restart => {
                    self.backoff.reset();
                    true
                }
                Ended::ShutDown => false,
            };
        }
        self.say(UpstreamState::Stopped {
            why: "the gateway is stopping".to_owned(),
        });
    }

    fn say(&mut self, state: UpstreamState) {
        let gone = !matches!(state, UpstreamState::Starting | UpstreamState::Ready(_));
        let gap = match state {
            UpstreamState::Ready(_) | UpstreamState::Stopped { .. } => Some(false),
            UpstreamState::Asleep => Some(true),
            _ => None,
        };
        self.state.send_replace(state);
        // Behind the state: whoever sees that the gap is over sees why.
        if let Some(gap) = gap {
            self.hints.gap.store(gap, Ordering::Release);
        }
        if gone {
            for waiting in self.stopping.drain(..) {
                // Whoever stopped waiting needs no answer.
                waiting.send(()).ok();
            }
        }
    }

    /// Waits for an order to start. Answers false when the gateway stops.
    async fn rest(&mut self, state: UpstreamState) -> bool {
        let asleep = matches!(state, UpstreamState::Asleep);
        let wake_at = self.night.take().filter(|_| asleep);
        self.say(state);
        loop {
            tokio::select! {
                () = self.wake.notified() => if asleep { return true },
                () = Night::is_over(wake_at) => {
                    tracing::info!("openclaw has a job to do and is started");
                    return true;
                }
                order = self.orders.recv() => match order {
                    Some(Order::Start | Order::Restart) => {
                        self.backoff.reset();
                        return true;
                    }
                    Some(Order::Exchange(_, told, go)) => {
                        exchanged(told, go, &mut self.shutdown).await;
                    }
                    Some(Order::Stop(done)) => {
                        self.stopping.push(done);
                        self.say(UpstreamState::Stopped { why: "stopped by request".to_owned() });
                        return Box::pin(self.rest(UpstreamState::Stopped { why: "stopped by request".to_owned() })).await;
                    }
                    None => {
                        // No handle is left: only the shutdown can still come.
                        stopped(&mut self.shutdown).await;
                        return false;
                    }
                },
                () = stopped(&mut self.shutdown) => return false,
            }
        }
    }

    /// Waits before the next try, or for an order. Answers false when the gateway stops.
    async fn pause(&mut self, why: String) -> bool {
        let pause = self.backoff.failed();
        let failures = self.backoff.failures();
        if self.backoff.is_loop() {
            tracing::error!(%why, failures, retry_in = ?pause, "openclaw keeps failing");
        } else {
            tracing::warn!(%why, retry_in = ?pause, "openclaw is down");
        }
        let count = if failures > 1 {
            format!(" ({failures} failures in a row)")
        } else {
            String::new()
        };
        self.say(UpstreamState::Down {
            why: format!("{why}{count}; next try in {} s", pause.as_secs()),
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            order = self.orders.recv() => match order {
                Some(Order::Stop(done)) => {
                    self.stopping.push(done);
                    self.rest(UpstreamState::Stopped { why: "stopped by request".to_owned() }).await
                }
                Some(Order::Start | Order::Restart) => true,
                Some(Order::Exchange(_, told, go)) => {
                    exchanged(told, go, &mut self.shutdown).await;
                    !*self.shutdown.borrow()
                }
                None => {
                    tokio::time::sleep(pause).await;
                    true
                }
            },
            () = stopped(&mut self.shutdown) => false,
        }
    }

    /// One run of the child, from start to end.
    async fn live(&mut self) -> Ended {
        let spec = match self.prepare().await {
            Ok(spec) => spec,
            Err(why) => return Ended::Failed { why },
        };
        let began = Instant::now();
        let mut child = match Child::start(&spec, &self.output).await {
            Ok(child) => child,
            Err(error) => {
                return Ended::Failed {
                    why: format!("cannot start {}: {error}", spec.program.display()),
                };
            }
        };
        tracing::info!(pid = child.pid(), port = spec.port, "openclaw is starting");
        self.memory.remember(child.pid()).await;
        self.hints.pid.store(child.pid(), Ordering::Relaxed);
        self.hints.touch();
        let mut life = Life::new(
            ([127, 0, 0, 1], spec.port).into(),
            spec.token.clone(),
            Some(child.pid()),
            self.epoch,
        );
        let ended = self.watch(&mut child, &mut life, began).await;
        self.hints.pid.store(0, Ordering::Relaxed);
        self.epoch = life.epoch();
        ended
    }

    async fn prepare(&mut self) -> Result<ChildSpec, String> {
        let port = match self.plan.port {
            Some(port) => port,
            None => {
                let file = self.plan.state_dir.join("upstream-port");
                let before = self.port.take();
                let held = tokio::task::spawn_blocking(move || ports::choose(&file, before))
                    .await
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())?;
                self.port.insert(held).port()
            }
        };
        (self.plan.prepare)(port).await
    }

    /// Follows a running child until it ends, one way or the other. Never returns with the child alive.
    async fn watch(&mut self, child: &mut Child, life: &mut Life, began: Instant) -> Ended {
        let times = self.plan.times;
        let hints = Arc::clone(&self.hints);
        let wake = Arc::clone(&self.wake);
        let idle_stop = self.plan.idle_stop;
        let mut asked_to_sleep: Option<Instant> = None;
        let mut look = tokio::time::interval(times.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ready = life.ready().is_some();
            tokio::select! {
                exit = child.exited() => return exit_meaning(exit, child, ready),
                step = life.next(&hints) => {
                    if life.ready().is_some() && !ready {
                        self.backoff.ready();
                        // Whoever had it started has waited for this long enough to make it look idle.
                        hints.touch();
                        tracing::info!(pid = child.pid(), epoch = life.epoch(), after = ?began.elapsed(), "openclaw is ready");
                    }
                    if let Some(state) = step {
                        self.say(state);
                    }
                    if let Some(why) = life.hopeless(&times) {
                        child.stop(Duration::ZERO).await;
                        return Ended::Failed { why: with_output(&why, child) };
                    }
                }
                () = idle(&hints, idle_stop, asked_to_sleep), if ready => {
                    asked_to_sleep = Some(Instant::now());
                    // It takes nothing new from the moment that it agrees.
                    hints.gap.store(true, Ordering::Relaxed);
                    if let rest::Rest::Asleep { wake_in } = self.may_sleep().await {
                        self.night.falls(wake_in);
                        self.say(UpstreamState::Asleep);
                        child.stop(times.stop).await;
                        return Ended::FellAsleep;
                    }
                    hints.gap.store(false, Ordering::Relaxed);
                }
                // What it needs to start is not what it keeps.
                _ = look.tick(), if ready => {
                    if let Some(why) = too_large(child.pid(), &hints).await {
                        hints.gap.store(true, Ordering::Relaxed);
                        self.end(child, ready).await;
                        return Ended::TooLarge { why };
                    }
                }
                // Somebody asked for a running child: it is wanted.
                () = wake.notified() => hints.touch(),
                order = self.orders.recv() => match order {
                    Some(Order::Start) => {}
                    Some(Order::Stop(done)) => {
                        self.stopping.push(done);
                        self.end(child, ready).await;
                        return Ended::Stopped;
                    }
                    Some(Order::Restart) => {
                        hints.gap.store(true, Ordering::Relaxed);
                        self.end(child, ready).await;
                        return Ended::Restart;
                    }
                    Some(Order::Exchange(leaving, told, go)) => {
                        return self.exchange(child, ready, &leaving, told, go).await;
                    }
                    None => {
                        stopped(&mut self.shutdown).await;
                        self.end(child, ready).await;
                        return Ended::ShutDown;
                    }
                },
                () = stopped(&mut self.shutdown) => {
                    self.end(child, ready).await;
                    return Ended::ShutDown;
                }
            }
        }
    }

    /// Has a running child let go of accounts and end, and waits until the next one may start. When the gateway stops meanwhile,
    /// the child has no longer for it than for any other end.
    async fn exchange(
        &mut self,
        child: &mut Child,
        ready: bool,
        leaving: &[ChannelAccount],
        told: oneshot::Sender<()>,
        go: oneshot::Receiver<()>,
    ) -> Ended {
        let hints = Arc::clone(&self.hints);
        let mut shutdown = self.shutdown.clone();
        if ready && let Some(call) = self.call.clone() {
            let deadline = Instant::now() + EXCHANGE_QUIET;
            tokio::select! {
                () = rest::let_go(&call, &hints.gap, leaving, deadline) => {}
                exit = child.exited() => {
                    // It has nothing any more, whatever comes of it.
                    hints.gap.store(true, Ordering::Release);
                    self.say(UpstreamState::Starting);
                    exchanged(told, go, &mut shutdown).await;
                    return exit_meaning(exit, child, ready);
                }
                () = stopped(&mut shutdown) => {
                    // A question about its work may have left this so.
                    hints.gap.store(false, Ordering::Release);
                    self.end(child, ready).await;
                    return Ended::ShutDown;
                }
            }
        }
        hints.gap.store(true, Ordering::Release);
        // What it would answer through an account that it loses, it answers now or never.
        let within = self.plan.times.stop.max(EXCHANGE_DRAIN);
        let is_over = tokio::select! {
            () = self.end_within(child, ready, within) => false,
            () = stopped(&mut shutdown) => true,
        };
        if is_over {
            self.end(child, ready).await;
            return Ended::ShutDown;
        }
        self.say(UpstreamState::Starting);
        exchanged(told, go, &mut shutdown).await;
        let is_over = *shutdown.borrow();
        match is_over {
            true => Ended::ShutDown,
            false => Ended::Restart,
        }
    }

    /// Lets a child that takes calls finish what it does, as long as there is time, then stops it.
    async fn end(&mut self, child: &mut Child, ready: bool) {
        self.end_within(child, ready, self.plan.times.stop).await;
    }

    async fn end_within(&mut self, child: &mut Child, ready: bool, within: Duration) {
        let deadline = Instant::now() + within;
        if ready && let Some(call) = &self.call {
            rest::drain(call, deadline - within / 4).await;
        }
        let exit = child
            .stop(deadline.saturating_duration_since(Instant::now()))
            .await;
        tracing::info!(pid = child.pid(), %exit, "openclaw has stopped");
    }

    async fn may_sleep(&self) -> rest::Rest {
        match &self.call {
            Some(call) => rest::may_sleep(call).await,
            None => rest::Rest::Asleep { wake_in: None },
        }
    }
}

/// Why the child must go, when it and what it started hold more than they may; counted.
async fn too_large(pid: u32, hints: &Hints) -> Option<String> {
    const MIB: u64 = 1024 * 1024;
    let max = hints.memory_max.load(Ordering::Relaxed);
    if max == 0 {
        return None;
    }
    let tree = tokio::task::spawn_blocking(move || procfs::tree(pid)).await;
    let tree = tree
        .ok()
        .flatten()
        .filter(|tree| tree.resident_bytes > max)?;
    hints.too_large.fetch_add(1, Ordering::Relaxed);
    Some(format!(
        "openclaw and what it started held {} MiB in {} processes, past upstream.memory_max_mib = {}",
        tree.resident_bytes / MIB,
        tree.processes,
        max / MIB
    ))
}

fn exit_meaning(exit: Exit, child: &Child, was_ready: bool) -> Ended {
    match exit {
        Exit::Code(EXIT_CONFIG) => Ended::GivenUp {
            why: with_output(
                "openclaw refuses its configuration (exit code 78): run `openclaw doctor --fix`, then `openclaw-gateway upstream start`",
                child,
            ),
        },
        exit if exit.on_request() && was_ready => Ended::StoppedOutside {
            why: format!("openclaw was stopped ({exit})"),
        },
        exit if exit.on_request() => Ended::StoppedOutside {
            why: with_output(
                &format!("openclaw was stopped before it was ready ({exit})"),
                child,
            ),
        },
        exit => Ended::Failed {
            why: with_output(&format!("openclaw ended with {exit}"), child),
        },
    }
}

fn with_output(why: &str, child: &Child) -> String {
    match child.last_output().last() {
        Some(line) => format!("{why}; its last line: {line}"),
        None => why.to_owned(),
    }
}

/// Resolves when the child has been idle long enough to be asked whether it may sleep.
async fn idle(hints: &Hints, after: Option<Duration>, asked: Option<Instant>) {
    let Some(after) = after else {
        return std::future::pending().await;
    };
    if let Some(asked) = asked {
        let (least, most) = SLEEP_QUESTION_EVERY;
        tokio::time::sleep_until(asked + after.clamp(least, most)).await;
    }
    loop {
        let idle = hints.idle();
        if idle >= after {
            return;
        }
        tokio::time::sleep(after - idle).await;
    }
}

/// Resolves when the gateway is to stop.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so: the process is ending anyway.
        std::future::pending::<()>().await;
    }
}
