//! Why a run is over: how the guest ended or who left it in, a line and an exit code out.

use std::io::{Write, stderr};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::machine::{Machine, Removal};
use crate::{
    cli::failure::{self, Failure},
    json,
    names::Spelled,
    v1::{ShutdownCause, VmEnd, vm_end},
};

/// The guest panicked.
const PANIC: u8 = 10;
/// The watchdog ended the machine.
const WATCHDOG: u8 = 11;
/// The machine failed, or KVM could not go on with it.
const FAILED: u8 = 12;
/// Another client, or the daemon, ended the machine.
const OUTSIDE: u8 = 13;
/// The guest was reset, and that was to end it.
const RESET: u8 = 14;

/// Why a run is over.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The machine has ended.
    Ended(VmEnd),
    /// It is in internal-error.
    Stuck,
    /// Somebody removed it, and how it had ended is not known.
    Gone,
    /// The escape key was pressed.
    Escape,
    /// A signal came.
    Signal(u8),
    /// Whoever read stdout has left.
    Closed,
    /// Something failed.
    Broken(Failure),
}

impl Verdict {
    /// Says how it ended; the exit code says it, too.
    pub(super) fn tell(
        self,
        machine: &Machine,
        removal: &Removal,
        is_json: bool,
    ) -> Result<(), Failure> {
        removal.tell();
        let failure = match self {
            Self::Broken(failure) => return Err(failure),
            Self::Closed => Failure::Signal(Signal::SIGPIPE as u8),
            Self::Signal(number) => Failure::Signal(number),
            _ => Failure::Guest(self.code()),
        };
        if is_json {
            let object = self.object(machine, removal, failure.exit_code());
            // If nobody can read it, so be it.
            let _ = writeln!(stderr().lock(), "{object}");
        } else {
            failure::say(&self.line(&machine.name, removal));
        }
        match failure {
            Failure::Guest(0) => Ok(()),
            failure => Err(failure),
        }
    }

    /// True if the daemon's end is why the run is over.
    pub(super) fn is_the_daemons_end(&self) -> bool {
        match self {
            Self::Ended(end) => end.cause() == ShutdownCause::HostSignal,
            Self::Broken(failure) => failure.exit_code() == 3,
            _ => false,
        }
    }

    /// The exit code of what the guest did.
    fn code(&self) -> u8 {
        use ShutdownCause as Cause;
        match self {
            Self::Ended(end) => match (end.kind(), end.cause()) {
                (vm_end::Kind::Watchdog, _) => WATCHDOG,
                (vm_end::Kind::Shutdown, Cause::GuestShutdown) => 0,
                (vm_end::Kind::Shutdown, Cause::GuestPanic) => PANIC,
                (vm_end::Kind::Shutdown, Cause::GuestReset | Cause::SubsystemReset) => RESET,
                (vm_end::Kind::Shutdown, Cause::HostError) => FAILED,
                (vm_end::Kind::Shutdown, _) | (vm_end::Kind::Lost, _) => OUTSIDE,
                (vm_end::Kind::Failed | vm_end::Kind::Unspecified, _) => FAILED,
            },
            Self::Stuck => FAILED,
            Self::Gone => OUTSIDE,
            Self::Escape | Self::Signal(_) | Self::Closed | Self::Broken(_) => 0,
        }
    }

    /// The reason in a word.
    fn reason(&self) -> &'static str {
        match self {
            Self::Ended(end) => match end.kind() {
                vm_end::Kind::Shutdown => ShutdownCause::spelling_of(end.cause),
                _ => vm_end::Kind::spelling_of(end.kind),
            }
            .unwrap_or("unknown"),
            Self::Stuck => "internal-error",
            Self::Gone => "removed",
            Self::Escape => "escape",
            Self::Signal(_) => "signal",
            Self::Closed => "closed",
            Self::Broken(_) => "broken",
        }
    }

    /// For people.
    fn line(&self, name: &str, removal: &Removal) -> String {
        let removed = removal.is_done();
        let left = if removed { "quit" } else { "left" };
        let what = match self {
            Self::Ended(end) if !end.failure.is_empty() => {
                let failure = end.failure.escape_debug();
                format!("'{name}' has ended: failed: {failure}")
            }
            Self::Ended(_) => format!("'{name}' has ended: {}", self.reason()),
            Self::Stuck => {
                format!("'{name}' is in state internal-error: KVM cannot go on with its guest")
            }
            Self::Gone => return format!("'{name}' was removed by another client"),
            Self::Signal(number) => format!("signal {number}: {left} '{name}'"),
            Self::Closed => format!("stdout is closed: {left} '{name}'"),
            Self::Escape | Self::Broken(_) => format!("{left} '{name}'"),
        };
        if removed {
            format!("{what}; removed")
        } else {
            format!("{what}; `vmctl rm --force {name}` removes it")
        }
    }

    /// For scripts.
    fn object(&self, machine: &Machine, removal: &Removal, exit_code: u8) -> Value {
        let end = match self {
            Self::Ended(end) => Some(json::end(end)),
            _ => None,
        };
        json!({
            "name": machine.name,
            "id": machine.id,
            "reason": self.reason(),
            "end": end,
            "removed": removal.is_done(),
            "exit_code": exit_code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(kind: vm_end::Kind, cause: ShutdownCause) -> Verdict {
        Verdict::Ended(VmEnd {
            kind: kind.into(),
            cause: cause.into(),
            ..Default::default()
        })
    }

    #[test]
    fn each_end_has_its_code_and_reason() {
        use ShutdownCause as C;
        use vm_end::Kind as K;
        for (kind, cause, code, reason) in [
            (K::Shutdown, C::GuestShutdown, 0, "guest-shutdown"),
            (K::Shutdown, C::GuestPanic, 10, "guest-panic"),
            (K::Watchdog, C::Unspecified, 11, "watchdog"),
            (K::Failed, C::Unspecified, 12, "failed"),
            (K::Shutdown, C::HostError, 12, "host-error"),
            (K::Shutdown, C::HostQmpQuit, 13, "host-qmp-quit"),
            (K::Shutdown, C::HostSignal, 13, "host-signal"),
            (
                K::Shutdown,
                C::HostQmpSystemReset,
                13,
                "host-qmp-system-reset",
            ),
            (K::Shutdown, C::GuestReset, 14, "guest-reset"),
            (K::Unspecified, C::Unspecified, 12, "unknown"),
        ] {
            let verdict = ended(kind, cause);
            assert_eq!((verdict.code(), verdict.reason()), (code, reason));
        }
        assert_eq!((Verdict::Stuck.code(), Verdict::Gone.code()), (12, 13));
    }

    #[test]
    fn the_line_says_what_became_of_the_machine() {
        let shutdown = ended(vm_end::Kind::Shutdown, ShutdownCause::GuestShutdown);
        assert_eq!(
            shutdown.line("a", &Removal::Done),
            "'a' has ended: guest-shutdown; removed"
        );
        assert_eq!(
            Verdict::Escape.line("a", &Removal::Kept),
            "left 'a'; `vmctl rm --force a` removes it"
        );
        assert_eq!(
            Verdict::Signal(15).line("a", &Removal::Done),
            "signal 15: quit 'a'; removed"
        );
        let failed = Verdict::Ended(VmEnd {
            kind: vm_end::Kind::Failed.into(),
            failure: "vCPU 0 \u{1b}[2J".to_owned(),
            ..Default::default()
        });
        assert_eq!(
            failed.line("a", &Removal::Done),
            r"'a' has ended: failed: vCPU 0 \u{1b}[2J; removed"
        );
    }
}
