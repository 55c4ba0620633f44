//! Replay: the main loop on a machine that answers from the journal.

use std::{
    future::{Future, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use thiserror::Error;

use super::{Answer, Call, Ending, Entry, Journal, MachineCall, Transcript, line::Line};
use crate::runstate::{Machine, MainLoop, Requests, RunState};

/// What came of a replay.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// What happened, up to the end or to the divergence.
    pub timeline: Vec<Moment>,
    /// The replay's own journal: if nothing diverged, the recorded one.
    pub journal: String,
    /// Where the replay left the journal, if it did.
    pub divergence: Option<Divergence>,
}

/// One line of the journal, as it was reached in the replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Its line.
    pub line: usize,
    /// How much the main loop had done.
    pub step: u64,
    /// What happened.
    pub entry: Entry,
    /// The run state with it.
    pub state: RunState,
}

/// The replay did something else than the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line} says '{expected}', but the replay comes to '{found}'")]
pub struct Divergence {
    /// The journal's line.
    pub line: usize,
    /// What it says: the step and the entry.
    pub expected: String,
    /// What the replay did.
    pub found: String,
}

/// What a replay is compared with.
pub(in crate::runstate) struct Script {
    lines: Vec<Line>,
    /// How many of them were reached.
    reached: usize,
    ending: Ending,
    replayed: Replayed,
}

impl Script {
    pub(super) fn new(transcript: &Transcript) -> Self {
        Self {
            lines: transcript.lines.clone(),
            reached: 0,
            ending: transcript.ending,
            replayed: Replayed::default(),
        }
    }

    /// The next line, unless the replay has left the journal.
    pub(super) fn next(&self) -> Option<&Line> {
        if self.replayed.divergence.is_some() {
            return None;
        }
        self.lines.get(self.reached)
    }

    /// The next entry, if its step is this one.
    pub(super) fn expected(&self, step: u64) -> Option<&Entry> {
        let line = self.next().filter(|line| line.step == step)?;
        Some(&line.entry)
    }

    /// Whether there is nothing left to compare with: the end was reached, or the replay has left the journal, or the
    /// journal broke off here and the main loop went on.
    pub(super) fn is_over(&self, step: u64) -> bool {
        self.next().is_none_or(|line| {
            matches!(line.entry, Entry::End(ending) if ending.is_open()) && step >= line.step
        })
    }

    /// Why the journal ends.
    pub(super) fn ending(&self) -> Ending {
        self.ending
    }

    /// The replay wrote a line: it must be the next. `false` if it is not, or there is nothing left to compare with.
    pub(super) fn compare(
        &mut self,
        step: u64,
        entry: Entry,
        written: &str,
        state: RunState,
    ) -> bool {
        let Some(line) = self.next() else {
            return false;
        };
        if (line.step, &line.entry) != (step, &entry) {
            self.diverge(step, entry.to_string());
            return false;
        }
        self.reached += 1;
        self.replayed.journal.push_str(written);
        self.replayed.timeline.push(Moment {
            line: self.reached,
            step,
            entry,
            state,
        });
        true
    }

    /// The replay does `found`, which is not in the journal.
    pub(super) fn diverge(&mut self, step: u64, found: String) {
        if self.is_over(step) {
            return;
        }
        let Some(line) = self.next() else { return };
        let expected = format!("{} {}", line.step, line.entry);
        self.replayed.divergence = Some(Divergence {
            line: self.reached + 1,
            expected,
            found: format!("{step} {found}"),
        });
    }

    pub(super) fn into_replayed(self) -> Replayed {
        self.replayed
    }
}

/// A machine that answers from the journal.
struct Answers(Requests);

/// What a recorded machine failed with; empty if the replay is over.
#[derive(Debug, Error)]
#[error("{0}")]
struct Recorded(String);

impl Answers {
    fn answer(&self, call: MachineCall) -> Result<(), Recorded> {
        let answer = self.0.with_journal(|journal| journal.answer(call));
        match answer.flatten() {
            Some(Answer::Ok) => Ok(()),
            Some(Answer::Failed(why)) => Err(Recorded(why)),
            Some(Answer::Errno(_)) | None => Err(Recorded(String::new())),
        }
    }
}

impl Machine for Answers {
    type Error = Recorded;

    fn pause_vcpus(&mut self) -> impl Future<Output = Result<(), Recorded>> + Send {
        ready(self.answer(MachineCall::Pause))
    }

    fn resume_vcpus(&mut self) -> Result<(), Recorded> {
        self.answer(MachineCall::Resume)
    }

    fn set_ticks(&mut self, enabled: bool) {
        let call = if enabled {
            MachineCall::TicksOn
        } else {
            MachineCall::TicksOff
        };
        // It has no way to fail; what is left of the journal shows in what follows.
        let _ = self.answer(call);
    }

    fn reset(&mut self) -> impl Future<Output = Result<(), Recorded>> + Send {
        ready(self.answer(MachineCall::Reset))
    }

    fn wake_up(&mut self) -> impl Future<Output = Result<(), Recorded>> + Send {
        ready(self.answer(MachineCall::WakeUp))
    }

    fn inject_nmi(&mut self) -> impl Future<Output = Result<(), Recorded>> + Send {
        ready(self.answer(MachineCall::InjectNmi))
    }

    fn port_write(&mut self, _: u16, _: &[u8]) {
        // As above; what came of it is in the journal, too.
        let _ = self.answer(MachineCall::PortWrite);
    }

    fn drain_and_flush(&mut self) -> impl Future<Output = Result<(), i32>> + Send {
        let answer = self
            .0
            .with_journal(|journal| journal.answer(MachineCall::Flush));
        ready(match answer.flatten() {
            Some(Answer::Errno(errno)) => Err(errno),
            _ => Ok(()),
        })
    }
}

/// Replays a journal: the main loop's own code does it all again, given the same inputs at the same steps.
pub fn replay(transcript: &Transcript) -> Replayed {
    let initial = &transcript.initial;
    let requests = Requests::new(initial.table, initial.actions, || {});
    let mut main_loop = MainLoop::new(requests.clone(), Answers(requests.clone()));
    main_loop.autostart = initial.autostart;
    main_loop.wakeup_supported = initial.wakeup_supported;
    let journal = Journal::replay(Script::new(transcript));
    requests.replay(&transcript.name, initial, journal);

    let next_call = || requests.with_journal(Journal::next_call).flatten();
    while let Some(call) = next_call() {
        if !run(&mut main_loop, call) {
            break;
        }
    }
    requests.end_replay().unwrap_or_default()
}

/// Has the main loop do it. `false` if it does not come back, which only a machine could cause.
fn run(main_loop: &mut MainLoop<Answers>, call: Call) -> bool {
    match call {
        Call::Command(command) => finished(main_loop.command(command)),
        Call::Pass => finished(main_loop.pass()),
        Call::Stop(target) => finished(main_loop.stop(target)),
        Call::Start => {
            // How it went is in the journal.
            let _ = main_loop.start();
            true
        }
        Call::WakeupSupported(supported) => {
            main_loop.set_wakeup_supported(supported);
            true
        }
    }
}

/// Runs a future whose machine answers at once. Its output is in the journal.
fn finished<F: Future>(future: F) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    matches!(pin!(future).poll(&mut context), Poll::Ready(_))
}
