//! A machine that does nothing but write down what it is told.

use std::{
    future::{Future, ready},
    io,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::runstate::*;

/// An empty trace.
pub(super) const NOTHING: [&str; 0] = [];

/// Runs a future that is ready at once, as all of a fake machine's are.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a fake machine never waits"),
    }
}

/// A line of a trace, and the run state that was seen with it: of an event, the one it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) state: RunState,
}

/// Marks in a trace that something was raised in the middle of a step; [`Rig::trace`] leaves it out.
pub(super) const RAISED: &str = "raised";

/// Writes lines and, between them, the events emitted meanwhile. Clones share the trace.
#[derive(Clone)]
pub(super) struct Recorder {
    requests: Requests,
    trace: Arc<Mutex<Vec<Seen>>>,
    /// Raised, once, while the step that writes the line runs.
    during: Arc<Mutex<Vec<(String, Request)>>>,
}

impl Recorder {
    pub(super) fn note(&self, line: impl Into<String>) {
        let line = line.into();
        self.see(line.clone());
        let mut during = self.during.lock().unwrap();
        for (_, request) in during.extract_if(.., |(at, _)| *at == line) {
            self.requests.raise(request);
            self.see(RAISED.to_owned());
        }
    }

    fn see(&self, line: String) {
        self.drain_events();
        let state = self.requests.state();
        self.trace.lock().unwrap().push(Seen { line, state });
    }

    fn drain_events(&self) {
        let events = self.requests.take_events();
        let seen = events.iter().map(|emitted| Seen {
            line: show(emitted),
            state: emitted.state,
        });
        self.trace.lock().unwrap().extend(seen);
    }
}

/// As in `RESET guest-reset @running`.
fn show(Emitted { event, state }: &Emitted) -> String {
    let name = event.name();
    match event {
        Event::Reset(cause) | Event::Shutdown(cause) => format!("{name} {cause} @{state}"),
        Event::Watchdog(action) => format!("{name} {action} @{state}"),
        Event::GuestPanicked(action) => format!("{name} {action} @{state}"),
        Event::BlockIoError(error) => {
            format!("{name} {} {} @{state}", error.operation, error.action)
        }
        Event::DeviceError(error) => {
            format!("{name} {} {} @{state}", error.device, error.fault)
        }
        Event::BalloonChange(actual) => format!("{name} {actual} @{state}"),
        _ => format!("{name} @{state}"),
    }
}

/// The error of a fake machine; it has a source.
#[derive(Debug, thiserror::Error)]
#[error("vCPU 0 does not {0}")]
pub(super) struct Disobeys(&'static str, #[source] io::Error);

pub(super) struct Fake {
    recorder: Recorder,
    /// The call that fails.
    pub(super) fails: Option<&'static str>,
}

impl Fake {
    fn call(&self, name: &'static str) -> Result<(), Disobeys> {
        self.recorder.note(name);
        if self.fails == Some(name) {
            return Err(Disobeys(name, io::ErrorKind::TimedOut.into()));
        }
        Ok(())
    }
}

impl Machine for Fake {
    type Error = Disobeys;

    fn pause_vcpus(&mut self) -> impl Future<Output = Result<(), Disobeys>> + Send {
        ready(self.call("pause"))
    }

    fn resume_vcpus(&mut self) -> Result<(), Disobeys> {
        self.call("resume")
    }

    fn set_ticks(&mut self, enabled: bool) {
        self.recorder
            .note(if enabled { "ticks on" } else { "ticks off" });
    }

    fn reset(&mut self) -> impl Future<Output = Result<(), Disobeys>> + Send {
        ready(self.call("reset"))
    }

    fn wake_up(&mut self) -> impl Future<Output = Result<(), Disobeys>> + Send {
        ready(self.call("wake up"))
    }

    fn inject_nmi(&mut self) -> impl Future<Output = Result<(), Disobeys>> + Send {
        ready(self.call("nmi"))
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.recorder.note(format!("port {port:#x} {data:02x?}"));
    }

    fn drain_and_flush(&mut self) -> impl Future<Output = Result<(), i32>> + Send {
        ready(self.call("flush").map_err(|_| 5))
    }
}

/// A main loop on a fake machine, with one change-state handler and one notifier of each kind.
pub(super) struct Rig {
    pub(super) main_loop: MainLoop<Fake>,
    pub(super) requests: Requests,
    pub(super) recorder: Recorder,
}

impl Rig {
    /// In `state`, with the default actions and the seed table.
    pub(super) fn new(state: RunState) -> Self {
        Self::with(state, ActionChange::default())
    }

    /// As [`Rig::new`], with `change` made to the actions.
    pub(super) fn with(state: RunState, change: ActionChange) -> Self {
        Self::on(TransitionTable::Seed, state, change)
    }

    pub(super) fn on(table: TransitionTable, state: RunState, change: ActionChange) -> Self {
        let requests = Requests::new(table, Actions::default().with(change), || {});
        requests.force_state(state);
        let recorder = Recorder {
            requests: requests.clone(),
            trace: Arc::default(),
            during: Arc::default(),
        };
        let fake = Fake {
            recorder: recorder.clone(),
            fails: None,
        };
        let mut main_loop = MainLoop::new(requests.clone(), fake);
        observe(&mut main_loop, &recorder);
        Self {
            main_loop,
            requests,
            recorder,
        }
    }

    pub(super) fn raise(&self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            self.requests.raise(request);
        }
    }

    /// Raises `request` while the step that writes `line` runs.
    pub(super) fn raise_during(&self, line: &str, request: Request) {
        let mut during = self.recorder.during.lock().unwrap();
        during.push((line.to_owned(), request));
    }

    /// One pass that must not fail.
    pub(super) fn pass(&mut self) -> Flow {
        self.try_pass().unwrap()
    }

    pub(super) fn try_pass(&mut self) -> Result<Flow, Failure> {
        block_on(self.main_loop.pass())
    }

    /// A command without its pass.
    pub(super) fn command(&mut self, command: Command) -> Result<(), CommandError> {
        block_on(self.main_loop.command(command))
    }

    /// A command and its pass, both of which must succeed.
    pub(super) fn serve(&mut self, command: Command) -> Flow {
        self.command(command).unwrap();
        self.pass()
    }

    pub(super) fn stop(&mut self, target: RunState) -> Result<Option<i32>, Failure> {
        block_on(self.main_loop.stop(target))
    }

    pub(super) fn state(&self) -> RunState {
        self.requests.state()
    }

    /// What happened since the last call.
    pub(super) fn trace(&self) -> Vec<String> {
        let lines = self.seen().into_iter().map(|seen| seen.line);
        lines.filter(|line| line != RAISED).collect()
    }

    /// As [`Rig::trace`], with the run states and the marks.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.recorder.drain_events();
        std::mem::take(&mut self.recorder.trace.lock().unwrap())
    }
}

fn observe(main_loop: &mut MainLoop<Fake>, recorder: &Recorder) {
    let to = || recorder.clone();
    let told = |recorder: &Recorder, what: String| {
        recorder.note(format!("told {what}"));
        Keep::Yes
    };
    let log = to();
    main_loop.handlers.register(0, move |running, state| {
        let verb = if running { "start" } else { "stop" };
        log.note(format!("handlers {verb} {state}"));
        Keep::Yes
    });
    let lists = &mut main_loop.notifiers;
    let log = to();
    let notifier = move |&(): &()| told(&log, "powerdown".into());
    lists.powerdown.register(notifier);
    let log = to();
    let notifier = move |&(): &()| told(&log, "suspend".into());
    lists.suspend.register(notifier);
    let log = to();
    let notifier = move |reason: &WakeupReason| told(&log, format!("wakeup {reason}"));
    lists.wakeup.register(notifier);
    let log = to();
    let notifier = move |cause: &ShutdownCause| told(&log, format!("shutdown {cause}"));
    lists.shutdown.register(notifier);
    let log = to();
    let notifier = move |&(): &()| told(&log, "exit".into());
    lists.exit.register(notifier);
}
