//! How the pending set is journaled, and driven by a journal (see [`journal`](super::super::journal)).
//!
//! Everything that the main loop does with the set begins with [`Requests::step`]; everything that others do goes
//! through [`Pending::input`]. While nothing is recorded both come down to a look at an empty option.

use std::ops::Deref;

use super::{Pending, Requests};
use crate::runstate::{
    Actions, Emitted, Event, Request, RunState,
    journal::{
        Answer, Call, Ending, Entry, Initial, Input, Journal, MachineCall, Recording, Replayed,
        Sink, Taken,
    },
};

impl Pending {
    /// What others do with the set: journaled, then done.
    pub(super) fn input(&mut self, input: Input) {
        self.note(|| Entry::Input(input));
        match input {
            Input::Raise(request) => self.raise(request, false),
            Input::RaiseOutside(request) => self.raise(request, true),
            Input::Mask(mask) => self.wakeup_mask = mask,
            Input::Collect(_) => self.emitted.clear(),
        }
    }

    /// Takes the events, which makes room for those that a guest raises.
    pub(super) fn collect(&mut self) -> Vec<Emitted> {
        let count = self.emitted.len();
        if count > 0 {
            self.note(|| Entry::Input(Input::Collect(count)));
        }
        std::mem::take(&mut self.emitted)
    }

    pub(super) fn note(&mut self, entry: impl FnOnce() -> Entry) {
        if let Some(journal) = &mut self.journal
            && !journal.note(entry(), self.state)
        {
            self.journal = None;
        }
    }

    pub(super) fn note_taken(&mut self, taken: Option<Taken>) {
        if let Some(taken) = taken {
            self.note(|| Entry::Taken(taken));
        }
    }

    /// Whether a pending request may be taken now: in a replay, only where the journal says so (spec, section 14).
    pub(super) fn checkpoint(&self, taken: Taken) -> bool {
        self.journal
            .as_ref()
            .is_none_or(|journal| journal.checkpoint(taken))
    }

    /// The main loop's next step begins: in a replay, what others did before it is done now.
    fn step(&mut self) {
        if self.journal.is_some() {
            self.replay_inputs();
            if let Some(journal) = &mut self.journal {
                journal.step();
            }
        }
    }

    fn replay_inputs(&mut self) {
        while let Some(input) = self.journal.as_ref().and_then(|journal| journal.due()) {
            // What is there now, not what was: a difference is told.
            let input = match input {
                Input::Collect(_) => Input::Collect(self.emitted.len()),
                other => other,
            };
            self.input(input);
        }
    }

    fn initial(&self, autostart: bool, wakeup_supported: bool) -> Initial {
        Initial {
            table: self.table,
            state: self.state,
            actions: self.actions,
            wakeup_mask: self.wakeup_mask,
            autostart,
            wakeup_supported,
            debug: self.debug,
            suspend: self.suspend,
            shutdown: self.shutdown,
            reset: self.reset,
            wakeup: self.wakeup,
            powerdown: self.powerdown,
            vmstop: self.vmstop,
            nmi: self.nmi,
            ended: self.ended,
            waiting: self.emitted.len(),
        }
    }

    fn restore(&mut self, initial: &Initial) {
        self.table = initial.table;
        self.state = initial.state;
        self.actions = initial.actions;
        self.wakeup_mask = initial.wakeup_mask;
        self.debug = initial.debug;
        self.suspend = initial.suspend;
        self.shutdown = initial.shutdown;
        self.reset = initial.reset;
        self.wakeup = initial.wakeup;
        self.powerdown = initial.powerdown;
        self.vmstop = initial.vmstop;
        self.nmi = initial.nmi;
        self.ended = initial.ended;
        // Which events they were does not matter, only that they wait.
        let waiting = Emitted {
            event: Event::Stop,
            state: initial.state,
        };
        self.emitted = vec![waiting; initial.waiting];
    }
}

impl Requests {
    /// The set, for the main loop's next step.
    pub(super) fn step(&self) -> super::MutexGuard<'_, Pending> {
        let mut pending = self.lock();
        pending.step();
        pending
    }

    /// Begins a recording of the machine called `name`.
    pub(in crate::runstate) fn record(
        &self,
        name: &str,
        autostart: bool,
        wakeup_supported: bool,
        sink: Box<dyn Sink>,
    ) -> Result<(), Recording> {
        let mut pending = self.lock();
        if pending.journal.as_ref().is_some_and(|it| it.is_open()) {
            return Err(Recording);
        }
        let initial = pending.initial(autostart, wakeup_supported);
        pending.journal = Some(Box::new(Journal::record(sink)));
        pending.note(|| Entry::Header(name.to_owned()));
        pending.note(|| Entry::Initial(Box::new(initial)));
        Ok(())
    }

    /// Begins a replay from `initial`.
    pub(in crate::runstate) fn replay(&self, name: &str, initial: &Initial, journal: Journal) {
        let mut pending = self.lock();
        pending.restore(initial);
        pending.journal = Some(Box::new(journal));
        pending.note(|| Entry::Header(name.to_owned()));
        let noted = initial.clone();
        pending.note(|| Entry::Initial(Box::new(noted)));
    }

    /// Ends the recording, if there is one.
    pub(in crate::runstate) fn end_journal(&self, ending: Ending) {
        let mut pending = self.lock();
        let ending = match &pending.journal {
            // In the middle of a call: what it would still have done is not known.
            Some(journal) if journal.in_call() => Ending::Interrupted,
            _ => ending,
        };
        pending.note(|| Entry::End(ending));
        pending.journal = None;
    }

    /// Whether a recording runs that somebody takes.
    pub(in crate::runstate) fn is_journaled(&self) -> bool {
        let pending = self.lock();
        pending.journal.as_ref().is_some_and(|it| it.is_open())
    }

    /// Looks at the journal, which a replay leaves in place. `f` sees it after all inputs that are due.
    pub(in crate::runstate) fn with_journal<R>(
        &self,
        f: impl FnOnce(&mut Journal) -> R,
    ) -> Option<R> {
        let mut pending = self.lock();
        pending.replay_inputs();
        pending.journal.as_deref_mut().map(f)
    }

    /// Ends a replay.
    pub(in crate::runstate) fn end_replay(&self) -> Option<Replayed> {
        let mut pending = self.lock();
        pending.replay_inputs();
        let state = pending.state;
        pending.journal.take()?.finish(state)
    }
}

/// The pending set as the main loop has it: what it reads or raises itself is a step of its own, not an input.
#[derive(Clone)]
pub(in crate::runstate) struct Serving(Requests);

impl Serving {
    pub(in crate::runstate) fn new(requests: Requests) -> Self {
        Self(requests)
    }

    /// The run state now.
    pub(in crate::runstate) fn state(&self) -> RunState {
        self.0.step().state
    }

    /// The actions in force.
    pub(in crate::runstate) fn actions(&self) -> Actions {
        self.0.step().actions
    }

    /// As [`Requests::raise`], by the main loop.
    pub(in crate::runstate) fn raise(&self, request: Request) {
        let mut pending = self.0.step();
        #[cfg(test)]
        pending.raised.push(request);
        pending.raise(request, false);
        drop(pending);
        self.0.wake();
    }

    /// The owner of the main loop calls it.
    pub(in crate::runstate) fn called(&self, call: Call) {
        let mut pending = self.0.step();
        if let Some(journal) = &mut pending.journal {
            journal.set_in_call(true);
        }
        pending.note(|| Entry::Call(call));
    }

    /// The call is done; `outcome` is told unless there is nothing to tell.
    pub(in crate::runstate) fn returned(&self, outcome: impl FnOnce() -> Option<Entry>) {
        let mut pending = self.0.step();
        if pending.journal.is_some()
            && let Some(entry) = outcome()
        {
            pending.note(|| entry);
        }
        if let Some(journal) = &mut pending.journal {
            journal.set_in_call(false);
        }
    }

    /// The machine was told something, and answered.
    pub(in crate::runstate) fn answered(&self, call: MachineCall, answer: impl FnOnce() -> Answer) {
        self.0.step().note(|| Entry::Machine(call, answer()));
    }
}

impl Deref for Serving {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.0
    }
}
