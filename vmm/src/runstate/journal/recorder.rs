//! The state of a recording, or of a replay, which is a recording with something to compare.

use thiserror::Error;

use super::{
    Answer, Call, Ending, Entry, Input, MachineCall, Replayed, Taken, line::Chain, replay::Script,
};
use crate::runstate::{Machine, MainLoop, RunState};

/// Where a recording goes. Called with the pending set locked, also from vCPU threads: it must neither wait nor call
/// the machine.
pub trait Sink: Send + 'static {
    /// Takes a line, with its line feed. `false` if it cannot: the recording ends.
    fn line(&mut self, line: String) -> bool;

    /// Takes the line that says so; there must be room for this one.
    fn lost(&mut self, line: String);

    /// Whether anybody still wants the lines.
    fn is_open(&self) -> bool;
}

/// The machine is being recorded already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the machine is being recorded already")]
pub struct Recording;

/// A recording or a replay, beside the pending set.
pub(in crate::runstate) struct Journal {
    chain: Chain,
    step: u64,
    /// The step of the last line.
    written: u64,
    in_call: bool,
    side: Side,
}

enum Side {
    Record(Box<dyn Sink>),
    Replay(Box<Script>),
}

impl Journal {
    pub(in crate::runstate) fn record(sink: Box<dyn Sink>) -> Self {
        Self::new(Side::Record(sink))
    }

    pub(super) fn replay(script: Script) -> Self {
        Self::new(Side::Replay(Box::new(script)))
    }

    fn new(side: Side) -> Self {
        Self {
            chain: Chain::new(),
            step: 0,
            written: 0,
            in_call: false,
            side,
        }
    }

    /// The main loop has done one thing more.
    pub(in crate::runstate) fn step(&mut self) {
        self.step += 1;
    }

    pub(in crate::runstate) fn set_in_call(&mut self, in_call: bool) {
        self.in_call = in_call;
    }

    pub(in crate::runstate) fn in_call(&self) -> bool {
        self.in_call
    }

    pub(in crate::runstate) fn is_open(&self) -> bool {
        match &self.side {
            Side::Record(sink) => sink.is_open(),
            Side::Replay(_) => true,
        }
    }

    /// Writes an entry; `state` is the run state with it. `false`: nothing more can be written.
    pub(in crate::runstate) fn note(&mut self, entry: Entry, state: RunState) -> bool {
        let mut chain = self.chain;
        let line = chain.line(self.step, &entry.to_string());
        match &mut self.side {
            Side::Record(sink) => {
                if !sink.line(line) {
                    let lost = Entry::End(Ending::Lost).to_string();
                    sink.lost(self.chain.line(self.written, &lost));
                    return false;
                }
            }
            Side::Replay(script) => {
                if !script.compare(self.step, entry, &line, state) {
                    return true;
                }
            }
        }
        self.chain = chain;
        self.written = self.step;
        true
    }

    /// What another thread did at this step, in a replay.
    pub(in crate::runstate) fn due(&self) -> Option<Input> {
        match self.script()?.expected(self.step)? {
            Entry::Input(input) => Some(*input),
            _ => None,
        }
    }

    /// Whether a request may be taken now.
    pub(in crate::runstate) fn checkpoint(&self, taken: Taken) -> bool {
        // Past the journal's end there is nothing to keep to.
        self.script()
            .filter(|script| !script.is_over(self.step))
            .is_none_or(|script| script.expected(self.step) == Some(&Entry::Taken(taken)))
    }

    /// What the machine answered; `None` if the replay goes no further.
    pub(super) fn answer(&mut self, call: MachineCall) -> Option<Answer> {
        // The answer is a step of its own.
        let step = self.step + 1;
        let script = self.script_mut()?;
        match script.expected(step) {
            Some(Entry::Machine(expected, answer)) if *expected == call => Some(answer.clone()),
            _ => {
                script.diverge(step, format!("machine {call}"));
                None
            }
        }
    }

    /// What the owner calls next, in a replay; none at its end.
    pub(super) fn next_call(&mut self) -> Option<Call> {
        let step = self.step;
        let script = self.script_mut()?;
        match script.next()?.entry {
            Entry::Call(call) => Some(call),
            Entry::End(_) => None,
            _ => {
                script.diverge(step, "nothing more".to_owned());
                None
            }
        }
    }

    /// What came of a replay.
    pub(in crate::runstate) fn finish(mut self, state: RunState) -> Option<Replayed> {
        let step = self.step;
        if let Some(script) = self.script()
            && let Some(line) = script.next()
        {
            // One that broke off does not say how far the main loop had come.
            let step = if script.is_over(step) {
                line.step
            } else {
                step
            };
            let entry = Entry::End(script.ending());
            let written = self.chain.line(step, &entry.to_string());
            self.script_mut()?.compare(step, entry, &written, state);
        }
        match self.side {
            Side::Replay(script) => Some(script.into_replayed()),
            Side::Record(_) => None,
        }
    }

    fn script(&self) -> Option<&Script> {
        match &self.side {
            Side::Replay(script) => Some(script),
            Side::Record(_) => None,
        }
    }

    fn script_mut(&mut self) -> Option<&mut Script> {
        match &mut self.side {
            Side::Replay(script) => Some(script),
            Side::Record(_) => None,
        }
    }
}

impl<M: Machine> MainLoop<M> {
    /// Begins to record the machine, called `name`, into `sink`: everything from here on. Between calls only.
    ///
    /// # Errors
    /// If a recording runs whose lines somebody takes.
    pub fn record(&mut self, name: &str, sink: impl Sink) -> Result<(), Recording> {
        let (autostart, supported) = (self.autostart, self.wakeup_supported);
        self.requests
            .record(name, autostart, supported, Box::new(sink))
    }

    /// Whether a recording runs whose lines somebody takes.
    pub fn is_recorded(&self) -> bool {
        self.requests.is_journaled()
    }

    /// Ends the recording, if there is one. One that ends within a call, because that panicked, is marked
    /// [`Ending::Interrupted`].
    pub fn end_recording(&mut self, ending: Ending) {
        self.requests.end_journal(ending);
    }
}
