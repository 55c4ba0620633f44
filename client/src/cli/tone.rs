//! Colours: what an event or a state means for people, and how a terminal shows that.

use std::{
    env,
    io::{IsTerminal, stdout},
};

use clap::ValueEnum;

use crate::v1::{RunState, VmStatus, event::Kind, vm_end};

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    // No help texts, as for `Format`.
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    /// Decides it. `NO_COLOR` and a `dumb` terminal count unless the command line says otherwise.
    pub(super) fn wanted(self) -> bool {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => stdout().is_terminal() && !dumb && !set("NO_COLOR"),
        }
    }
}

/// What something means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// A guest runs.
    Good,
    /// A guest does not run, and somebody wanted that.
    Notice,
    /// Something went wrong.
    Bad,
    /// It is over.
    Faint,
}

impl Tone {
    /// Of an event.
    pub(super) fn of_event(kind: &Kind) -> Self {
        match kind {
            Kind::Created(_) | Kind::Started(_) | Kind::Resume(_) | Kind::Wakeup(_) => Self::Good,
            Kind::Watchdog(_)
            | Kind::GuestPanicked(_)
            | Kind::GuestCrashloaded(_)
            | Kind::BlockIoError(_)
            | Kind::DeviceError(_) => Self::Bad,
            Kind::Ended(ended) => match ended.end.as_ref().map(|end| end.kind()) {
                Some(vm_end::Kind::Failed | vm_end::Kind::Watchdog) => Self::Bad,
                _ => Self::Faint,
            },
            Kind::Deleted(_) => Self::Faint,
            Kind::BalloonChange(_) | Kind::DeviceDeleted(_) => Self::Plain,
            _ => Self::Notice,
        }
    }

    /// Of a machine's run state.
    pub(super) fn of_state(state: RunState) -> Self {
        match state {
            RunState::Running => Self::Good,
            RunState::InternalError
            | RunState::IoError
            | RunState::Watchdog
            | RunState::GuestPanicked => Self::Bad,
            RunState::Shutdown => Self::Faint,
            RunState::Unspecified => Self::Plain,
            _ => Self::Notice,
        }
    }

    /// Of a machine.
    pub(super) fn of_status(status: &VmStatus) -> Self {
        match &status.end {
            Some(end) if end.exit_status == 0 && end.kind() == vm_end::Kind::Shutdown => {
                Self::Faint
            }
            Some(_) => Self::Bad,
            None => Self::of_state(status.state()),
        }
    }

    /// The text with what makes a terminal show it so.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Notice => "33",
            Self::Bad => "1;31",
            Self::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
