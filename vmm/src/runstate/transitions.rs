//! The legal transitions between run states (spec, sections 1.2 and 1.3), as data.
//!
//! A state may always be set to itself; that is not in the table.

use super::RunState::{self, *};

/// Which of QEMU's tables holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransitionTable {
    /// `softmmu/runstate.c` of early 2021: 69 pairs.
    #[default]
    Seed,
    /// The newest QEMU seen: nothing removed, 16 pairs added.
    Newest,
}

impl TransitionTable {
    /// Whether a machine in `from` may be set to the other state `to`.
    pub fn allows(self, from: RunState, to: RunState) -> bool {
        seed(from).contains(&to) || (self == Self::Newest && added(from).contains(&to))
    }
}

const fn seed(from: RunState) -> &'static [RunState] {
    match from {
        Debug => &[Running, FinishMigrate, Prelaunch, Suspended],
        InMigrate => &[
            InternalError,
            IoError,
            Paused,
            Running,
            Shutdown,
            Suspended,
            Watchdog,
            GuestPanicked,
            FinishMigrate,
            Prelaunch,
            PostMigrate,
            Colo,
        ],
        InternalError => &[Paused, FinishMigrate, Prelaunch],
        IoError => &[Running, FinishMigrate, Prelaunch],
        Paused => &[Running, FinishMigrate, PostMigrate, Prelaunch, Colo],
        PostMigrate => &[Running, FinishMigrate, Prelaunch],
        Prelaunch => &[InMigrate, Running, FinishMigrate],
        FinishMigrate => &[Running, Paused, PostMigrate, Prelaunch, Colo],
        RestoreVm => &[Running, Prelaunch],
        Running => &[
            Debug,
            InternalError,
            IoError,
            Paused,
            FinishMigrate,
            RestoreVm,
            SaveVm,
            Shutdown,
            Watchdog,
            GuestPanicked,
            Colo,
            Suspended,
        ],
        SaveVm => &[Running],
        Shutdown => &[Paused, FinishMigrate, Prelaunch, Colo],
        Suspended => &[Running, FinishMigrate, Prelaunch, Colo],
        Watchdog => &[Running, FinishMigrate, Prelaunch, Colo],
        GuestPanicked => &[Running, FinishMigrate, Prelaunch],
        Colo => &[Running],
    }
}

const fn added(from: RunState) -> &'static [RunState] {
    match from {
        Colo => &[Prelaunch, Shutdown],
        FinishMigrate => &[
            InternalError,
            IoError,
            Shutdown,
            Suspended,
            Watchdog,
            GuestPanicked,
        ],
        Prelaunch | Paused | RestoreVm | SaveVm => &[Suspended],
        Suspended => &[Paused, SaveVm, RestoreVm, Shutdown],
        _ => &[],
    }
}
