//! What is done when the host fails a request (spec, section 10).

use crate::runstate::{BlockErrorAction, BlockIoError, BlockOperation, ErrorPolicy};

/// Linux's number for a full disk.
const ENOSPC: i32 = nix::libc::ENOSPC;

/// What is done about the errors of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policies {
    /// When it cannot be read.
    pub read: ErrorPolicy,
    /// When it cannot be written.
    pub write: ErrorPolicy,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            read: ErrorPolicy::Report,
            write: ErrorPolicy::Enospc,
        }
    }
}

impl Policies {
    /// What is done about this error, as the event tells it.
    pub fn apply(self, disk: u8, operation: BlockOperation, errno: i32) -> BlockIoError {
        let policy = match operation {
            BlockOperation::Read => self.read,
            BlockOperation::Write => self.write,
        };
        let action = match policy {
            ErrorPolicy::Ignore => BlockErrorAction::Ignore,
            ErrorPolicy::Stop => BlockErrorAction::Stop,
            ErrorPolicy::Enospc if errno == ENOSPC => BlockErrorAction::Stop,
            ErrorPolicy::Enospc | ErrorPolicy::Report => BlockErrorAction::Report,
        };
        let may_stop = |policy| matches!(policy, ErrorPolicy::Stop | ErrorPolicy::Enospc);
        let nospace = (may_stop(self.read) || may_stop(self.write)).then_some(errno == ENOSPC);
        BlockIoError {
            disk,
            operation,
            action,
            nospace,
            errno,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_has_its_action() {
        use {BlockErrorAction as Action, BlockOperation::*};
        let eio = nix::libc::EIO;
        for (policy, on_eio, on_enospc) in [
            (ErrorPolicy::Report, Action::Report, Action::Report),
            (ErrorPolicy::Ignore, Action::Ignore, Action::Ignore),
            (ErrorPolicy::Enospc, Action::Report, Action::Stop),
            (ErrorPolicy::Stop, Action::Stop, Action::Stop),
        ] {
            let (one, other) = (policy, ErrorPolicy::Ignore);
            let reads = Policies {
                read: one,
                write: other,
            };
            let writes = Policies {
                read: other,
                write: one,
            };
            for (policies, operation) in [(reads, Read), (writes, Write)] {
                let on = |errno| policies.apply(3, operation, errno);
                assert_eq!((on(eio).action, on(ENOSPC).action), (on_eio, on_enospc));
                let may_stop = matches!(policy, ErrorPolicy::Enospc | ErrorPolicy::Stop);
                assert_eq!(on(eio).nospace, may_stop.then_some(false));
                assert_eq!(on(ENOSPC).nospace, may_stop.then_some(true));
            }
        }
    }

    #[test]
    fn by_default_a_full_disk_stops_the_machine() {
        let on = |operation, errno| Policies::default().apply(0, operation, errno).action;
        use BlockOperation::{Read, Write};
        assert_eq!(on(Write, ENOSPC), BlockErrorAction::Stop);
        assert_eq!(on(Write, nix::libc::EIO), BlockErrorAction::Report);
        assert_eq!(on(Read, ENOSPC), BlockErrorAction::Report);
    }
}
