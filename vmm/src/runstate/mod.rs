//! The run-state core: QEMU's run states, requests, actions and events, without any machine.
//!
//! Pure: no I/O, no clock, no KVM, no runtime. It drives a [`Machine`]; the KVM one lives in `machine/`, a fake one in
//! the tests.
//!
//! ```text
//!   Requests::raise          MainLoop::pass              Machine
//!   (any thread)    ------>  (one owner)       ------>   pause, reset, wake up, ...
//!        |                        |
//!        +------ events, in one order, each with the run state it leaves ------> Requests::take_events
//! ```
//!
//! | file | what is there |
//! | --- | --- |
//! | `state`, `transitions` | the 16 states, the legal transitions |
//! | `cause`, `action`, `event` | the enumerations |
//! | `requests` | the pending set and the rules that hold when something is raised |
//! | `main_loop`, `command` | the pass, stop and start; the commands |
//! | `handlers`, `notifiers` | who else is told |
//! | `cleanup` | what is closed at the end, in which order |
//! | `trace` | QEMU's trace points, for the log |
//! | `journal` | record and replay |
#![forbid(unsafe_code)]

mod action;
mod cause;
mod cleanup;
mod command;
mod error;
mod event;
mod handlers;
pub mod journal;
mod machine;
mod main_loop;
mod notifiers;
mod requests;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod transitions;

pub use action::{
    ActionChange, Actions, ErrorPolicy, PanicAction, RebootAction, ShutdownAction, WatchdogAction,
};
pub use cause::{ShutdownCause, WakeupMask, WakeupReason};
pub use cleanup::{Cleanup, Closers};
pub use command::Command;
pub use error::{CommandError, Failure, IllegalTransition, Refusal, UnknownName, chain};
pub use event::{
    BlockErrorAction, BlockIoError, BlockOperation, DeviceError, DeviceFault, DeviceId, DeviceKind,
    Emitted, Event, GuestPanicAction,
};
pub use handlers::{ChangeHandlers, Keep};
pub use machine::Machine;
pub use main_loop::{Exit, Flow, MainLoop};
pub use notifiers::{NotifierList, Notifiers};
pub use requests::{Request, Requests};
pub use state::RunState;
pub use transitions::TransitionTable;
