//! Taking steps in order, and back when one fails or a person says stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Place, Step};
use crate::cli::{complain, print};
use crate::procfs;

/// How a walk over the steps ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    Done,
    /// A step behind the point of return failed; the others were taken.
    InPart,
    Undone,
}

impl Walked {
    pub(super) const fn code(self) -> std::process::ExitCode {
        match self {
            Self::Done => std::process::ExitCode::SUCCESS,
            Self::InPart | Self::Undone => std::process::ExitCode::FAILURE,
        }
    }
}

/// Whether a person asked to stop. Between two steps nobody may have the port, so it is never just obeyed.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt {
    asked: Arc<AtomicBool>,
    /// What was done is being undone, to the end.
    undoing: Arc<AtomicBool>,
}

impl Interrupt {
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && !self.undoing.load(Ordering::Relaxed)
    }

    /// From here on Ctrl-C, a request to end and a closed terminal are asked about, and end nothing by themselves. What this
    /// command was started to ignore, as by `nohup`, stays ignored.
    fn watch(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _in = runtime.enter();
            (
                heeded(SignalKind::interrupt())?,
                heeded(SignalKind::terminate())?,
                heeded(SignalKind::hangup())?,
            )
        };
        let Self { asked, undoing } = self.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    loop {
                        tokio::select! {
                            () = next(&mut interrupt) => {}
                            () = next(&mut terminate) => {}
                            () = next(&mut hangup) => {}
                        }
                        if undoing.load(Ordering::Relaxed) {
                            complain("undoing what was done, please wait");
                            continue;
                        }
                        asked.store(true, Ordering::Relaxed);
                        complain(
                            "stopping here would leave the port with nobody: what was begun is brought to an end or undone first",
                        );
                    }
                });
            })?;
        Ok(())
    }
}

/// `None` for one that is ignored from the start.
fn heeded(kind: SignalKind) -> std::io::Result<Option<Signal>> {
    match procfs::ignores(kind.as_raw_value()) {
        true => Ok(None),
        false => signal(kind).map(Some),
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Takes the steps in order, or says them.
pub(super) fn walk(at: &Place<'_>, steps: &[Step], dry_run: bool) -> anyhow::Result<Walked> {
    let began = Instant::now();
    if dry_run {
        for (number, step) in steps.iter().enumerate() {
            print(&format!("{}  {step}", number + 1));
        }
        print("nothing was changed");
        return Ok(Walked::Done);
    }
    at.interrupt.watch()?;
    let mut walked = Walked::Done;
    for (number, step) in steps.iter().enumerate() {
        print(&format!("{}  {step}", number + 1));
        let next = steps.get(number + 1);
        match step.take(at) {
            // With nothing more to do, or OpenClaw serving again, the end is nearer than the beginning.
            Ok(()) if !at.interrupt.is_asked() || next.is_none_or(Step::is_behind_return) => {
                continue;
            }
            Ok(()) => complain("interrupted"),
            Err(why) => {
                complain(&format!("{why:#}"));
                if step.is_behind_return() {
                    walked = Walked::InPart;
                    continue;
                }
            }
        }
        undo(at, &steps[..=number]);
        return Ok(Walked::Undone);
    }
    let done = match walked {
        Walked::Done => "done",
        Walked::InPart | Walked::Undone => "done but for what failed,",
    };
    print(&format!("{done} in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(walked)
}

/// Last first, to the end, whoever asks to stop meanwhile.
fn undo(at: &Place<'_>, steps: &[Step]) {
    at.interrupt.undoing.store(true, Ordering::Relaxed);
    for done in steps.iter().rev() {
        match done.undo(at) {
            None => {}
            Some(Ok(())) => print(&format!("undone: {done}")),
            Some(Err(why)) => complain(&format!("could not be undone: {done}: {why:#}")),
        }
    }
}
