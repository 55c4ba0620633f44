//! A main loop on a machine that does as a test says, recorded.

use std::{
    collections::VecDeque,
    future::{Future, ready},
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::runstate::{
    Actions, Command, CommandError, Failure, Flow, Machine, MainLoop, Requests, RunState,
    TransitionTable,
    journal::{Ending, Replayed, Sink, Transcript, replay},
};

/// Runs a future that is ready at once.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a fake machine never waits"),
    }
}

/// What a machine does while it is told something; an error is its answer.
pub(super) type Act = Box<dyn FnMut(&'static str) -> Result<(), Fault> + Send>;

#[derive(Debug, thiserror::Error)]
#[error("vCPU 0:\n{0}")]
pub(super) struct Fault(pub(super) &'static str, #[source] pub(super) std::io::Error);

impl Fault {
    pub(super) fn new(why: &'static str) -> Self {
        Self(why, std::io::ErrorKind::TimedOut.into())
    }
}

/// A machine that calls the test back.
pub(super) struct Fake(Act);

impl Machine for Fake {
    type Error = Fault;

    fn pause_vcpus(&mut self) -> impl Future<Output = Result<(), Fault>> + Send {
        ready(self.0("pause"))
    }

    fn resume_vcpus(&mut self) -> Result<(), Fault> {
        self.0("resume")
    }

    fn set_ticks(&mut self, _: bool) {
        let _ = self.0("ticks");
    }

    fn reset(&mut self) -> impl Future<Output = Result<(), Fault>> + Send {
        ready(self.0("reset"))
    }

    fn wake_up(&mut self) -> impl Future<Output = Result<(), Fault>> + Send {
        ready(self.0("wake-up"))
    }

    fn inject_nmi(&mut self) -> impl Future<Output = Result<(), Fault>> + Send {
        ready(self.0("nmi"))
    }

    fn port_write(&mut self, _: u16, _: &[u8]) {
        let _ = self.0("port-write");
    }

    fn drain_and_flush(&mut self) -> impl Future<Output = Result<(), i32>> + Send {
        ready(self.0("flush").map_err(|_| 28))
    }
}

/// Keeps the lines, up to so many.
#[derive(Clone)]
pub(super) struct Lines {
    pub(super) text: Arc<Mutex<String>>,
    pub(super) room: usize,
}

impl Lines {
    pub(super) fn new(room: usize) -> Self {
        let text = Arc::default();
        Self { text, room }
    }

    pub(super) fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }
}

impl Sink for Lines {
    fn line(&mut self, line: String) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.text.lock().unwrap().push_str(&line);
        true
    }

    fn lost(&mut self, line: String) {
        self.text.lock().unwrap().push_str(&line);
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// A main loop, recorded.
pub(super) struct Rig {
    pub(super) main_loop: MainLoop<Fake>,
    pub(super) requests: Requests,
    pub(super) lines: Lines,
}

impl Rig {
    /// In `state`, not recorded yet. The machine does `act`, which is given the requests.
    pub(super) fn new<A>(state: RunState, act: impl FnOnce(Requests) -> A) -> Self
    where
        A: FnMut(&'static str) -> Result<(), Fault> + Send + 'static,
    {
        Self::with(TransitionTable::Seed, Actions::default(), state, act)
    }

    pub(super) fn with<A>(
        table: TransitionTable,
        actions: Actions,
        state: RunState,
        act: impl FnOnce(Requests) -> A,
    ) -> Self
    where
        A: FnMut(&'static str) -> Result<(), Fault> + Send + 'static,
    {
        let requests = Requests::new(table, actions, || {});
        requests.force_state(state);
        let fake = Fake(Box::new(act(requests.clone())));
        Self {
            main_loop: MainLoop::new(requests.clone(), fake),
            requests,
            lines: Lines::new(usize::MAX),
        }
    }

    pub(super) fn record(&mut self) {
        self.main_loop.record("a", self.lines.clone()).unwrap();
    }

    /// A machine without a will of its own, recorded from `state` on.
    pub(super) fn quiet(state: RunState) -> Self {
        let mut rig = Self::new(state, |_| |_| Ok(()));
        rig.record();
        rig
    }

    pub(super) fn pass(&mut self) -> Result<Flow, Failure> {
        let flow = block_on(self.main_loop.pass());
        self.requests.take_events();
        flow
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), CommandError> {
        block_on(self.main_loop.command(command))
    }

    /// A command and its pass.
    pub(super) fn serve(&mut self, command: Command) {
        // A refusal is journaled.
        let _ = self.command(command);
        self.pass().unwrap();
    }

    /// The journal, ended.
    pub(super) fn end(&mut self, ending: Ending) -> String {
        self.main_loop.end_recording(ending);
        self.lines.text()
    }
}

/// The entries of a journal, without numbers.
pub(super) fn entries(journal: &str) -> Vec<&str> {
    journal
        .lines()
        .map(|line| line.splitn(4, ' ').nth(3).unwrap())
        .collect()
}

/// Replays a journal, which must come out as it went in.
pub(super) fn replays(journal: &str) -> Replayed {
    let transcript =
        Transcript::read(journal.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{journal}"));
    let replayed = replay(&transcript);
    assert_eq!(replayed.divergence, None, "{journal}");
    assert_eq!(replayed.journal, journal);
    assert_eq!(replayed.timeline.len(), journal.lines().count());
    replayed
}

/// What a machine does next, said ahead: at each call the first script that fits is done and forgotten.
pub(super) type Plan = VecDeque<(
    &'static str,
    Box<dyn FnOnce(&Requests) -> Result<(), Fault> + Send>,
)>;

/// A machine that follows `plan`.
pub(super) fn planned(
    mut plan: Plan,
) -> impl FnOnce(Requests) -> Box<dyn FnMut(&'static str) -> Result<(), Fault> + Send> {
    move |requests| {
        Box::new(move |call| {
            let at = plan.iter().position(|(planned, _)| *planned == call);
            match at.and_then(|at| plan.remove(at)) {
                Some((_, act)) => act(&requests),
                None => Ok(()),
            }
        })
    }
}
