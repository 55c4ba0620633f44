//! The pending set: the one door through which devices, vCPUs and commands reach the main loop (spec, section 3.1).
//!
//! ```text
//!  device, vCPU thread ---+                          +--> take_*: one main-loop pass, in the spec's order
//!  timer, command --------+--> raise --> pending ----+
//!                                 |      (one slot a kind)
//!                                 +----> events that are emitted at raise time, in order with all others
//! ```
//! Raising never blocks on the guest and never fails; it wakes the main loop. Each kind of request has one slot, and
//! raised events have a limit, so what is pending is bounded whatever a guest does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, ThreadId},
};

use super::{
    ActionChange, Actions, BlockErrorAction, BlockIoError, DeviceError, Emitted, Event,
    GuestPanicAction, IllegalTransition, PanicAction, RebootAction, Refusal, RunState,
    ShutdownAction, ShutdownCause, TransitionTable, WakeupMask, WakeupReason, WatchdogAction,
    journal::{Dropped, Entry, Input, Journal, Taken},
    trace,
};

mod journaled;

pub(super) use journaled::Serving;

/// How many events may wait to be taken before those that a guest raises are dropped.
const RAISED_EVENTS_MAX: usize = 1024;

/// Something that the main loop is asked to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A vCPU stopped at a breakpoint.
    Debug,
    /// The guest goes to S3. Dropped in `suspended`.
    Suspend,
    /// The guest goes to S4: emits SUSPEND_DISK, then as `Shutdown(GuestShutdown)`.
    SuspendDisk,
    /// Shut down. The latest cause wins.
    Shutdown(ShutdownCause),
    /// Reset, or shut down if the reboot action says so now. The latest cause wins.
    Reset(ShutdownCause),
    /// Wake from S3. Dropped outside `suspended`, and if the mask forbids the reason.
    Wakeup(WakeupReason),
    /// Press the power button.
    Powerdown,
    /// Stop with this state: what a vCPU, a timer or the block layer asks for. The latest state wins.
    VmStop(RunState),
    /// The guest reported a panic: emits GUEST_PANICKED, then acts on it.
    GuestPanicked,
    /// The guest panicked and handles it itself: emits GUEST_CRASHLOADED.
    GuestCrashloaded,
    /// The watchdog expired: emits WATCHDOG, then acts on it.
    WatchdogExpired,
    /// A disk failed: emits BLOCK_IO_ERROR, then stops the machine in `io-error` if that is the error's action.
    BlockIoError(BlockIoError),
    /// A device does not go on with its driver: emits DEVICE_ERROR.
    DeviceError(DeviceError),
    /// The guest's balloon has changed: emits BALLOON_CHANGE, with the bytes of memory that the guest has now.
    BalloonChange(u64),
}

impl Request {
    /// Whether a guest can raise it as often as it likes, and events come of it.
    fn is_guests(self) -> bool {
        match self {
            Self::Suspend
            | Self::SuspendDisk
            | Self::GuestPanicked
            | Self::GuestCrashloaded
            | Self::WatchdogExpired
            | Self::BlockIoError(_)
            | Self::DeviceError(_)
            | Self::BalloonChange(_) => true,
            Self::Shutdown(cause) | Self::Reset(cause) => cause.is_guest(),
            // A wake-up follows a suspend; the others are the host's, or stop the machine until somebody acts.
            Self::Wakeup(_) | Self::Debug | Self::Powerdown | Self::VmStop(_) => false,
        }
    }
}

/// The pending requests of one machine, its run state and its actions. Clones share them.
#[derive(Clone)]
pub struct Requests {
    shared: Arc<Shared>,
}

struct Shared {
    pending: Mutex<Pending>,
    raised: AtomicU64,
    /// Of these, what the guest causes and becomes events.
    by_guest: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// Invariant: only the main loop changes `state`, in steps that check the table under the lock, with one exception:
/// any thread's raise of a wake-up moves `suspended` to `running`.
struct Pending {
    table: TransitionTable,
    state: RunState,
    actions: Actions,
    wakeup_mask: WakeupMask,
    debug: bool,
    suspend: bool,
    shutdown: Option<ShutdownCause>,
    reset: Option<ShutdownCause>,
    wakeup: Option<WakeupReason>,
    powerdown: bool,
    vmstop: Option<RunState>,
    nmi: bool,
    /// Of the main loop's own access to a device, while it lasts.
    outside: Option<Outside>,
    /// The machine has ended: no event follows, and nothing wakes it.
    ended: bool,
    emitted: Vec<Emitted>,
    dropped: u64,
    /// Of a recording, or a replay, while there is one.
    journal: Option<Box<Journal>>,
    #[cfg(test)]
    raised: Vec<Request>,
}

/// An access to a device outside any vCPU.
struct Outside {
    /// Who makes it: vCPUs raise at the same time.
    thread: ThreadId,
    /// Whether a panic that stops the machine came of it.
    panicked: bool,
}

impl Pending {
    /// Whether this thread is making the main loop's own access to a device.
    fn is_outside(&self) -> bool {
        let access = self.outside.as_ref();
        access.is_some_and(|access| access.thread == thread::current().id())
    }

    fn allows(&self, to: RunState) -> Result<(), IllegalTransition> {
        let from = self.state;
        if from == to || self.table.allows(from, to) {
            Ok(())
        } else {
            Err(IllegalTransition { from, to })
        }
    }

    fn set_state(&mut self, to: RunState) -> Result<(), IllegalTransition> {
        trace::runstate_set(self.state, to);
        self.allows(to)?;
        self.enter(to);
        Ok(())
    }

    fn enter(&mut self, to: RunState) {
        if self.state != to {
            self.state = to;
            self.note(|| Entry::State(to));
        }
    }

    /// The state after a reset (spec, section 6).
    fn after_reset(&self) -> Result<RunState, IllegalTransition> {
        if self.state.survives_reset() {
            return Ok(self.state);
        }
        self.allows(RunState::Prelaunch)?;
        Ok(RunState::Prelaunch)
    }

    fn emit(&mut self, event: Event) {
        if !self.ended {
            let state = self.state;
            let emitted = Emitted { event, state };
            self.emitted.push(emitted);
            self.note(|| Entry::Event(emitted));
        }
    }

    /// Emits an event that a guest can raise as often as it likes while the main loop is busy.
    fn emit_raised(&mut self, event: Event) {
        if self.emitted.len() < RAISED_EVENTS_MAX {
            self.emit(event);
        } else {
            self.count_dropped(Dropped::Event);
        }
    }

    fn count_dropped(&mut self, what: Dropped) {
        self.dropped += 1;
        self.note(|| Entry::Dropped(what));
    }

    /// `outside`: by the main loop's own access to a device.
    fn raise(&mut self, request: Request, outside: bool) {
        trace::raised(request);
        match request {
            Request::Debug => self.debug = true,
            Request::Suspend => self.suspend |= self.state != RunState::Suspended,
            Request::SuspendDisk => {
                self.emit_raised(Event::SuspendDisk);
                self.shutdown = Some(ShutdownCause::GuestShutdown);
            }
            Request::Shutdown(cause) => self.shutdown = Some(cause),
            Request::Reset(cause) => {
                // Decided now: a later change of the action does not alter what is pending.
                let shuts_down = self.actions.reboot == RebootAction::Shutdown
                    && cause != ShutdownCause::SubsystemReset;
                let slot = if shuts_down {
                    &mut self.shutdown
                } else {
                    &mut self.reset
                };
                *slot = Some(cause);
            }
            // A source without anyone to tell: the refusal is dropped with the request.
            Request::Wakeup(reason) => drop(self.wake_up(reason)),
            Request::Powerdown => self.powerdown = true,
            Request::VmStop(state) => self.vmstop = Some(state),
            Request::GuestPanicked => self.guest_panicked(outside),
            Request::GuestCrashloaded => self.emit_raised(Event::GuestCrashloaded),
            Request::WatchdogExpired => self.watchdog_expired(outside),
            Request::BlockIoError(error) => self.block_io_error(error),
            Request::DeviceError(error) => self.emit_raised(Event::DeviceError(error)),
            Request::BalloonChange(actual) => self.emit_raised(Event::BalloonChange(actual)),
        }
    }

    /// Spec, section 7. The state is `running` from here on, so that a second wake-up is judged right.
    fn wake_up(&mut self, reason: WakeupReason) -> Result<(), Refusal> {
        trace::system_wakeup_request(reason);
        if self.ended || self.state != RunState::Suspended {
            return Err(Refusal::NotSuspended);
        }
        if self.wakeup_mask.allows(reason) {
            trace::runstate_set(self.state, RunState::Running);
            self.enter(RunState::Running);
            self.wakeup = Some(reason);
        }
        Ok(())
    }

    /// Spec, section 8. Raised by a vCPU, the stop is deferred.
    fn guest_panicked(&mut self, outside: bool) {
        let action = match self.actions.panic {
            PanicAction::None => GuestPanicAction::Run,
            PanicAction::Pause => GuestPanicAction::Pause,
            PanicAction::Shutdown if self.actions.shutdown == ShutdownAction::Pause => {
                GuestPanicAction::Pause
            }
            PanicAction::Shutdown | PanicAction::ExitFailure => GuestPanicAction::Poweroff,
        };
        self.emit_raised(Event::GuestPanicked(action));
        if action != GuestPanicAction::Run {
            match &mut self.outside {
                Some(access) if outside => access.panicked = true,
                _ => self.vmstop = Some(RunState::GuestPanicked),
            }
        }
        if action == GuestPanicAction::Poweroff {
            self.shutdown = Some(ShutdownCause::GuestPanic);
        }
    }

    /// Spec, section 10. The event and the stop are one step, so that STOP always follows BLOCK_IO_ERROR.
    fn block_io_error(&mut self, error: BlockIoError) {
        self.emit_raised(Event::BlockIoError(error));
        if error.action == BlockErrorAction::Stop {
            self.vmstop = Some(RunState::IoError);
        }
    }

    /// Spec, section 9.
    fn watchdog_expired(&mut self, outside: bool) {
        let action = self.actions.watchdog;
        self.emit_raised(Event::Watchdog(action));
        match action {
            WatchdogAction::Reset => {
                self.raise(Request::Reset(ShutdownCause::GuestReset), outside);
            }
            WatchdogAction::Shutdown => self.powerdown = true,
            WatchdogAction::Poweroff => self.ended = true,
            WatchdogAction::Pause => self.vmstop = Some(RunState::Watchdog),
            WatchdogAction::InjectNmi => self.nmi = true,
            WatchdogAction::Debug => trace::watchdog_fired(),
            WatchdogAction::None => {}
        }
    }
}

/// The raising side.
impl Requests {
    /// An empty set. `wake` is called after each raise, from the raising thread, and must only wake the main loop.
    pub fn new(
        table: TransitionTable,
        actions: Actions,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let pending = Pending {
            table,
            state: RunState::Prelaunch,
            actions,
            wakeup_mask: WakeupMask::default(),
            debug: false,
            suspend: false,
            shutdown: None,
            reset: None,
            wakeup: None,
            powerdown: false,
            vmstop: None,
            nmi: false,
            outside: None,
            ended: false,
            emitted: Vec::new(),
            dropped: 0,
            journal: None,
            #[cfg(test)]
            raised: Vec::new(),
        };
        Self {
            shared: Arc::new(Shared {
                raised: AtomicU64::new(0),
                by_guest: AtomicU64::new(0),
                pending: Mutex::new(pending),
                wake: Box::new(wake),
            }),
        }
    }

    /// Asks the main loop to serve `request`. Any thread may call this.
    pub fn raise(&self, request: Request) {
        let mut pending = self.lock();
        #[cfg(test)]
        pending.raised.push(request);
        let input = if pending.is_outside() {
            Input::RaiseOutside(request)
        } else {
            Input::Raise(request)
        };
        pending.input(input);
        drop(pending);
        if request.is_guests() {
            self.shared.by_guest.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    fn wake(&self) {
        self.shared.raised.fetch_add(1, Ordering::Relaxed);
        (self.shared.wake)();
    }

    /// How many requests were raised so far.
    pub fn raised(&self) -> u64 {
        self.shared.raised.load(Ordering::Relaxed)
    }

    /// How many requests were raised that the guest is the cause of and that become events; a watchdog's expiry and what
    /// devices tell of their driver or their image are among them.
    pub fn caused_by_guest(&self) -> u64 {
        self.shared.by_guest.load(Ordering::Relaxed)
    }

    /// The run state now.
    pub fn state(&self) -> RunState {
        self.lock().state
    }

    /// The actions in force.
    pub fn actions(&self) -> Actions {
        self.lock().actions
    }

    /// Lets the ACPI enable bits decide what may wake the guest (spec, section 7).
    pub fn set_wakeup_mask(&self, mask: WakeupMask) {
        self.lock().input(Input::Mask(mask));
    }

    /// Whether a vCPU that raised what is pending has to stop now rather than when the main loop pauses it: true for
    /// a breakpoint, a suspend, a reset (also one that became a shutdown) and a deferred stop (spec, sections 3.1
    /// and 4.1).
    pub fn stops_vcpu(&self) -> bool {
        let pending = self.lock();
        pending.debug
            || pending.suspend
            || pending.reset.is_some()
            || pending.shutdown == Some(ShutdownCause::GuestReset)
            || pending.vmstop.is_some()
    }

    /// How many suspend and reset requests were dropped because the state no longer allowed them (spec, section 16),
    /// and how many raised events because too many waited to be taken.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Takes the events emitted since the last call, in order.
    pub fn take_events(&self) -> Vec<Emitted> {
        self.lock().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Every change leaves the set valid at once, so a panic elsewhere cannot have left it half changed.
        self.shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main loop's side.
impl Requests {
    pub(super) fn allows(&self, to: RunState) -> Result<(), IllegalTransition> {
        self.step().allows(to)
    }

    /// Whether a reset leads to a legal state (spec, section 16, cases 2 and 3).
    pub(super) fn check_reset(&self) -> Result<(), IllegalTransition> {
        self.step().after_reset().map(drop)
    }

    /// Moves to `to`, or leaves everything as it is (spec, section 1.1).
    pub(super) fn set_state(&self, to: RunState) -> Result<(), IllegalTransition> {
        self.step().set_state(to)
    }

    /// Moves to `to` and emits `event`, in one step: no other thread's raise comes between.
    pub(super) fn set_state_and_emit(
        &self,
        to: RunState,
        event: Event,
    ) -> Result<(), IllegalTransition> {
        let mut pending = self.step();
        pending.set_state(to)?;
        pending.emit(event);
        Ok(())
    }

    /// Ends a reset: moves to the state after it and emits RESET unless `cause` is silent. In one step: a wake-up
    /// raised by another thread either came before, and the machine runs, or finds it in `prelaunch`.
    pub(super) fn finish_reset(&self, cause: ShutdownCause) -> Result<(), IllegalTransition> {
        let mut pending = self.step();
        let after = pending.after_reset()?;
        if !pending.state.survives_reset() {
            trace::runstate_set(pending.state, after);
        }
        pending.enter(after);
        if cause.reset_is_reported() {
            pending.emit(Event::Reset(cause));
        }
        Ok(())
    }

    /// Emits `event`, which leaves the machine in the state it has now.
    pub(super) fn emit(&self, event: Event) {
        self.step().emit(event);
    }

    /// Puts the machine into any state, whatever the table says.
    #[cfg(test)]
    pub(super) fn force_state(&self, state: RunState) {
        self.lock().state = state;
    }

    /// Makes an access to a device that belongs to no vCPU. Returns whether the guest's panic came of it, for which the
    /// machine is to be stopped at once.
    pub(super) fn outside_vcpus(&self, access: impl FnOnce()) -> bool {
        self.step().outside = Some(Outside {
            thread: thread::current().id(),
            panicked: false,
        });
        access();
        let outside = self.step().outside.take();
        outside.is_some_and(|outside| outside.panicked)
    }

    pub(super) fn change_actions(&self, change: ActionChange) {
        let mut pending = self.step();
        pending.actions = pending.actions.with(change);
    }

    /// As [`Request::Wakeup`], with the refusal told.
    pub(super) fn wake_up(&self, reason: WakeupReason) -> Result<(), Refusal> {
        self.step().wake_up(reason)
    }

    pub(super) fn take_debug(&self) -> bool {
        let mut pending = self.step();
        let taken = std::mem::take(&mut pending.debug);
        pending.note_taken(taken.then_some(Taken::Debug));
        taken
    }

    pub(super) fn take_suspend(&self) -> bool {
        let mut pending = self.step();
        let taken = pending.suspend && pending.checkpoint(Taken::Suspend);
        if taken {
            pending.suspend = false;
            pending.note_taken(Some(Taken::Suspend));
        }
        taken
    }

    pub(super) fn take_shutdown(&self) -> Option<ShutdownCause> {
        let mut pending = self.step();
        let taken = pending.shutdown.take();
        pending.note_taken(taken.map(Taken::Shutdown));
        taken
    }

    pub(super) fn take_reset(&self) -> Option<ShutdownCause> {
        let mut pending = self.step();
        let cause = pending.reset?;
        if !pending.checkpoint(Taken::Reset(cause)) {
            return None;
        }
        pending.reset = None;
        pending.note_taken(Some(Taken::Reset(cause)));
        Some(cause)
    }

    /// The pending wake-up stays until [`Requests::clear_wakeup`]: its notifiers still see it.
    pub(super) fn wakeup(&self) -> Option<WakeupReason> {
        let mut pending = self.step();
        let taken = pending.wakeup;
        pending.note_taken(taken.map(Taken::Wakeup));
        taken
    }

    pub(super) fn clear_wakeup(&self) {
        self.step().wakeup = None;
    }

    pub(super) fn take_powerdown(&self) -> bool {
        let mut pending = self.step();
        let taken = std::mem::take(&mut pending.powerdown);
        pending.note_taken(taken.then_some(Taken::Powerdown));
        taken
    }

    pub(super) fn take_vmstop(&self) -> Option<RunState> {
        let mut pending = self.step();
        let taken = pending.vmstop.take();
        pending.note_taken(taken.map(Taken::VmStop));
        taken
    }

    pub(super) fn take_nmi(&self) -> bool {
        let mut pending = self.step();
        let taken = std::mem::take(&mut pending.nmi);
        pending.note_taken(taken.then_some(Taken::Nmi));
        taken
    }

    pub(super) fn ended(&self) -> bool {
        self.step().ended
    }

    /// Nothing follows the SHUTDOWN just emitted (spec, section 11).
    pub(super) fn end(&self) {
        self.step().ended = true;
    }

    pub(super) fn count_dropped(&self, what: Dropped) {
        self.step().count_dropped(what);
    }
}

/// What the tests of the devices look at.
#[cfg(all(test, feature = "kvm"))]
impl Requests {
    /// Everything raised since the last call, in order, also what was dropped at once.
    pub(crate) fn take_raised(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().raised)
    }

    pub(crate) fn wakeup_mask(&self) -> WakeupMask {
        self.lock().wakeup_mask
    }
}
