//! What can go wrong in the run-state core.

use thiserror::Error;

use super::RunState;

/// A text that is none of an enum's spellings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown {what} '{text}'")]
pub struct UnknownName {
    what: &'static str,
    text: String,
}

impl UnknownName {
    pub(super) fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            text: text.to_owned(),
        }
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A transition that the table does not hold. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("invalid runstate transition: '{from}' -> '{to}'")]
pub struct IllegalTransition {
    /// The state the machine is in, and stays in.
    pub from: RunState,
    /// The state that was asked for.
    pub to: RunState,
}

/// Why a command was refused. Nothing was changed, no event was emitted; the texts are QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// `cont` in `internal-error` or `shutdown`.
    #[error("Resetting the Virtual Machine is required")]
    ResetRequired,
    /// `cont` in `finish-migrate`.
    #[error("Migration is not finalized yet")]
    MigrationNotFinalized,
    /// `system_wakeup` for a machine without ACPI PM1 control.
    #[error("wake-up from suspend is not supported by this guest")]
    WakeupUnsupported,
    /// `system_wakeup` outside `suspended`.
    #[error("Unable to wake up: guest is not in suspended state")]
    NotSuspended,
    /// A start, other than by `cont`, in `suspended` (spec, section 16).
    #[error("The guest is suspended: only a wake-up starts it")]
    Suspended,
    /// The command leads to a transition that the table forbids (spec, section 16).
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
}

/// The machine cannot go on: an engine bug or a machine that does not obey. It ends as *failed*.
#[derive(Debug, Error)]
pub enum Failure {
    /// The engine itself asked for a transition that the table forbids.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The machine could not do what the main loop told it.
    #[error("could not {action}")]
    Machine {
        /// What it was told, as in "pause the vCPUs".
        action: &'static str,
        /// Why it could not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a command was not carried out.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The machine is as it was.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The machine has failed.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl From<IllegalTransition> for CommandError {
    fn from(error: IllegalTransition) -> Self {
        Self::Failed(error.into())
    }
}
