//! Threads that only work on images: never Node's event loop, never libuv's pool, which files and DNS need.
//!
//! Bounded three ways: threads, calls that wait, and pixels of all images that are being worked on. An image over the
//! last bound is worked on alone.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

/// Calls that may wait. Each holds its input, so a caller that never awaits would eat memory without a bound.
pub(crate) const WAITING_MAX: usize = 10_000;
/// 100 megapixels: what one image may have by default, about 300 MB of planes.
const PIXELS: u64 = 100_000_000;

/// Node may load the addon into several threads of one process; the bounds hold for all together.
pub(crate) static POOL: Pool = Pool {
    state: Mutex::new(State {
        queue: VecDeque::new(),
        threads: 0,
        threads_max: 0,
        running: 0,
        pixels: 0,
        pixels_max: PIXELS,
    }),
    changed: Condvar::new(),
};

pub(crate) struct Pool {
    state: Mutex<State>,
    /// Something came, or something was given back.
    changed: Condvar,
}

struct State {
    queue: VecDeque<Job>,
    threads: u32,
    /// 0: as many as the machine has cores, asked at the first job.
    threads_max: u32,
    running: u32,
    pixels: u64,
    pixels_max: u64,
}

/// Work that answers by itself, also when it is turned away.
pub(crate) struct Job(Box<dyn FnOnce(Turn<'_>) + Send>);

impl Job {
    pub(crate) fn new(work: impl FnOnce(Turn<'_>) + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

/// A job's place on a thread.
pub(crate) struct Turn<'a> {
    /// `None`: the job is turned away.
    pool: Option<&'a Pool>,
}

/// Pixels that count as in work until this is dropped.
pub(crate) struct Held<'a> {
    pool: &'a Pool,
    pixels: u64,
}

impl Turn<'_> {
    /// Whether there is room; if not, the job answers so and ends.
    pub(crate) fn is_refused(&self) -> bool {
        self.pool.is_none()
    }

    /// Waits until so many more pixels may be in work.
    pub(crate) fn pixels(&self, pixels: u64) -> Option<Held<'_>> {
        let pool = self.pool?;
        let mut state = pool.state.lock();
        while state.pixels > 0 && state.pixels.saturating_add(pixels) > state.pixels_max {
            pool.changed.wait(&mut state);
        }
        state.pixels = state.pixels.saturating_add(pixels);
        Some(Held { pool, pixels })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.pixels = state.pixels.saturating_sub(self.pixels);
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl Pool {
    /// Runs `job` when its turn comes; at [`WAITING_MAX`] it is refused at once.
    pub(crate) fn submit(&'static self, job: Job) {
        let mut state = self.state.lock();
        if state.queue.len() >= WAITING_MAX {
            drop(state);
            return (job.0)(Turn { pool: None });
        }
        state.queue.push_back(job);
        let wanted = state.wanted();
        // One more only if all that exist are busy.
        let grows = state.threads < wanted && state.running >= state.threads;
        if grows {
            state.threads += 1;
        }
        drop(state);
        if grows {
            let started = std::thread::Builder::new()
                .name("media".into())
                .spawn(move || self.work());
            if started.is_err() {
                self.state.lock().threads -= 1;
                // Without a single thread nothing would ever answer.
                self.drain_if_alone();
            }
        }
        self.changed.notify_all();
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if state.threads > state.wanted() {
                state.threads -= 1;
                return;
            }
            let Some(job) = state.queue.pop_front() else {
                self.changed.wait(&mut state);
                continue;
            };
            state.running += 1;
            drop(state);
            (job.0)(Turn { pool: Some(self) });
            state = self.state.lock();
            state.running -= 1;
        }
    }

    /// The system gives no thread: what waits is refused, unless another thread will come to it.
    fn drain_if_alone(&self) {
        let mut state = self.state.lock();
        if state.threads > 0 {
            return;
        }
        let stranded = std::mem::take(&mut state.queue);
        drop(state);
        for job in stranded {
            (job.0)(Turn { pool: None });
        }
    }

    pub(crate) fn configure(&self, threads: Option<u32>, pixels: Option<u64>) -> (u32, u64) {
        let mut state = self.state.lock();
        if let Some(threads) = threads {
            state.threads_max = threads;
        }
        if let Some(pixels) = pixels {
            state.pixels_max = pixels.max(1);
        }
        let now = (state.wanted(), state.pixels_max);
        drop(state);
        self.changed.notify_all();
        now
    }

    /// Jobs waiting, jobs running.
    pub(crate) fn counters(&self) -> (u32, u32) {
        let state = self.state.lock();
        let waiting = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        (waiting, state.running)
    }
}

impl State {
    fn wanted(&mut self) -> u32 {
        if self.threads_max == 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.threads_max = u32::try_from(cores).unwrap_or(1);
        }
        self.threads_max
    }
}
