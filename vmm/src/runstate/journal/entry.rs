//! What is journaled.

use crate::runstate::{
    Actions, Command, Emitted, Exit, Request, RunState, ShutdownCause, TransitionTable, WakeupMask,
    WakeupReason, state::named_enum,
};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The first: the format's version and the machine's name.
    Header(String),
    /// The second: where the recording begins.
    Initial(Box<Initial>),
    /// Another thread did something with the pending set.
    Input(Input),
    /// The main loop's owner called it.
    Call(Call),
    /// The machine was told something, and what it answered.
    Machine(MachineCall, Answer),
    /// The main loop took something that was pending.
    Taken(Taken),
    /// The run state moved.
    State(RunState),
    /// An event was emitted.
    Event(Emitted),
    /// Something came too late, or was too much.
    Dropped(Dropped),
    /// How the call went, unless it simply succeeded.
    Outcome(Outcome),
    /// The last: why the recording ends.
    End(Ending),
}

impl Entry {
    /// What sort of entry it is, in a word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Header(_) | Self::Initial(_) => "start",
            Self::Input(_) => "input",
            Self::Call(_) => "call",
            Self::Machine(..) => "machine",
            Self::Taken(_) | Self::Dropped(_) => "take",
            Self::State(_) => "state",
            Self::Event(_) => "event",
            Self::Outcome(_) => "outcome",
            Self::End(_) => "end",
        }
    }
}

/// The pending set and the main loop when a recording begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial {
    /// Which transitions are legal.
    pub table: TransitionTable,
    /// The run state.
    pub state: RunState,
    /// The actions in force.
    pub actions: Actions,
    /// What may wake the guest.
    pub wakeup_mask: WakeupMask,
    /// Whether an incoming migration starts the guest at its end.
    pub autostart: bool,
    /// Whether `system_wakeup` is offered.
    pub wakeup_supported: bool,
    /// A debug request is pending.
    pub debug: bool,
    /// A suspend is pending.
    pub suspend: bool,
    /// A shutdown is pending.
    pub shutdown: Option<ShutdownCause>,
    /// A reset is pending.
    pub reset: Option<ShutdownCause>,
    /// A wake-up is pending.
    pub wakeup: Option<WakeupReason>,
    /// The power button is pressed.
    pub powerdown: bool,
    /// A deferred stop is pending.
    pub vmstop: Option<RunState>,
    /// The watchdog's NMI is pending.
    pub nmi: bool,
    /// The machine has ended.
    pub ended: bool,
    /// How many events wait to be taken.
    pub waiting: usize,
}

/// What another thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It raised a request.
    Raise(Request),
    /// The machine did, while the main loop had it write to a port: no vCPU's doing.
    RaiseOutside(Request),
    /// It said what may wake the guest.
    Mask(WakeupMask),
    /// It took so many events, which makes room for others.
    Collect(usize),
}

/// What the main loop's owner called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`MainLoop::command`](crate::runstate::MainLoop::command)
    Command(Command),
    /// [`MainLoop::pass`](crate::runstate::MainLoop::pass)
    Pass,
    /// [`MainLoop::stop`](crate::runstate::MainLoop::stop)
    Stop(RunState),
    /// [`MainLoop::start`](crate::runstate::MainLoop::start)
    Start,
    /// [`MainLoop::set_wakeup_supported`](crate::runstate::MainLoop::set_wakeup_supported)
    WakeupSupported(bool),
}

named_enum! {
    /// What the machine was told: the methods of [`Machine`](crate::runstate::Machine).
    MachineCall, "machine call" {
        /// Pause the vCPUs.
        Pause = "pause",
        /// Resume the vCPUs.
        Resume = "resume",
        /// Let the guest's clock advance.
        TicksOn = "ticks-on",
        /// Let the guest's clock stand still.
        TicksOff = "ticks-off",
        /// Reset.
        Reset = "reset",
        /// Wake up.
        WakeUp = "wake-up",
        /// Send an NMI.
        InjectNmi = "nmi",
        /// Write to a port.
        PortWrite = "port-write",
        /// Drain and flush the disks.
        Flush = "flush",
    }
}

/// What the machine answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Ok,
    /// The host's error of a flush.
    Errno(i32),
    /// It could not be done, and why.
    Failed(String),
}

/// What the main loop took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A debug request.
    Debug,
    /// A suspend: checkpoint 3.
    Suspend,
    /// A shutdown.
    Shutdown(ShutdownCause),
    /// A reset: checkpoint 2.
    Reset(ShutdownCause),
    /// A wake-up.
    Wakeup(WakeupReason),
    /// A press of the power button.
    Powerdown,
    /// A deferred stop.
    VmStop(RunState),
    /// The watchdog's NMI.
    Nmi,
}

named_enum! {
    /// What was dropped.
    Dropped, "dropped thing" {
        /// A suspend, for which it was too late.
        Suspend = "suspend",
        /// A reset, for which it was too late.
        Reset = "reset",
        /// A guest's event: too many waited.
        Event = "event",
    }
}

/// How a call of the main loop's owner went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was refused.
    Refused(String),
    /// The machine has failed.
    Failed(String),
    /// The machine has ended.
    Exit(Exit),
    /// The machine was stopped, but its disks could not be flushed.
    Errno(i32),
}

named_enum! {
    /// Why a journal ends.
    Ending, "ending" {
        /// The machine has ended.
        Exit = "exit",
        /// The machine has failed.
        Failed = "failed",
        /// The main loop's owner ended the recording.
        Stopped = "stopped",
        /// The recording broke off, maybe in the middle of a call.
        Interrupted = "interrupted",
        /// Whoever took the lines could not keep up.
        Lost = "lost",
    }
}

impl Ending {
    /// Whether the main loop may have gone on past the last entry.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Interrupted | Self::Lost)
    }
}
