//! The run states (spec, section 1).

/// Defines a field-less enum whose variants have QEMU's spelling, and nothing else, as their text form.
macro_rules! named_enum {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every value, in QEMU's numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// QEMU's spelling of this value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::runstate::error::UnknownName;

            /// Accepts QEMU's spelling only; there are no aliases.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|value| value.name() == text)
                    .ok_or_else(|| $crate::runstate::error::UnknownName::new($what, text))
            }
        }
    };
}
pub(super) use named_enum;

named_enum! {
    /// Where a virtual machine stands. The numbers (`as u8`) are QEMU's; they show up in traces only.
    RunState, "run state" {
        /// Stopped by a debugger.
        Debug = "debug",
        /// Waiting for, or loading, an incoming migration.
        InMigrate = "inmigrate",
        /// The hypervisor failed; the guest cannot go on without a reset.
        InternalError = "internal-error",
        /// A disk I/O failed and the policy says stop.
        IoError = "io-error",
        /// Stopped by command.
        Paused = "paused",
        /// An outgoing migration completed.
        PostMigrate = "postmigrate",
        /// Created and never started, or reset while not running.
        Prelaunch = "prelaunch",
        /// Stopped for the last phase of a migration.
        FinishMigrate = "finish-migrate",
        /// Stopped to load a snapshot.
        RestoreVm = "restore-vm",
        /// The guest executes.
        Running = "running",
        /// Stopped to save a snapshot or to dump memory.
        SaveVm = "save-vm",
        /// The guest shut down and the shutdown action is `pause`.
        Shutdown = "shutdown",
        /// In ACPI S3.
        Suspended = "suspended",
        /// The watchdog fired with action `pause`.
        Watchdog = "watchdog",
        /// The guest reported a panic.
        GuestPanicked = "guest-panicked",
        /// Stopped for a COLO checkpoint.
        Colo = "colo",
    }
}

impl RunState {
    /// True only in `running`.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running)
    }

    /// In these states `cont` is refused until a reset (spec, section 1).
    pub const fn needs_reset(self) -> bool {
        matches!(self, Self::InternalError | Self::Shutdown)
    }

    /// These states outlast a reset; all others become `prelaunch` (spec, section 6).
    pub const fn survives_reset(self) -> bool {
        matches!(self, Self::Running | Self::InMigrate | Self::FinishMigrate)
    }
}
