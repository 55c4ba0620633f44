//! Why vCPUs leave their guest.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Why `KVM_RUN` came back (KVM API, `exit_reason`), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
    /// The guest used an I/O port.
    Io,
    /// The guest used memory where there is none.
    Mmio,
    /// The guest halted.
    Hlt,
    /// The guest takes interrupts again.
    IrqWindow,
    /// A triple fault.
    Shutdown,
    /// The guest asked for a reset or a shutdown by a hypercall.
    SystemEvent,
    /// KVM cannot go on with the guest.
    InternalError,
    /// The processor did not take the guest's state.
    FailEntry,
    /// Something else that nobody here expects.
    Other,
    /// `KVM_RUN` itself failed.
    Failed,
    /// A signal came: the vCPU is to pause, or to do something.
    Intr,
}

impl ExitKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Io,
        Self::Mmio,
        Self::Hlt,
        Self::IrqWindow,
        Self::Shutdown,
        Self::SystemEvent,
        Self::InternalError,
        Self::FailEntry,
        Self::Other,
        Self::Failed,
        Self::Intr,
    ];

    /// The same, as text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Mmio => "mmio",
            Self::Hlt => "hlt",
            Self::IrqWindow => "irq-window",
            Self::Shutdown => "shutdown",
            Self::SystemEvent => "system-event",
            Self::InternalError => "internal-error",
            Self::FailEntry => "fail-entry",
            Self::Other => "other",
            Self::Failed => "failed",
            Self::Intr => "intr",
        }
    }
}

/// What one vCPU counts. It is alone on its cache lines: nobody else's counting slows its thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct VcpuCounters {
    exits: [AtomicU64; ExitKind::ALL.len()],
    /// The last exit's place in [`ExitKind::ALL`], from 1; 0 if there was none.
    last: AtomicU8,
}

impl VcpuCounters {
    /// The vCPU left its guest. Called by its own thread only: no locked instruction is needed.
    pub(crate) fn count(&self, kind: ExitKind) {
        if let Some(count) = self.exits.get(kind as usize) {
            let before = count.load(Ordering::Relaxed);
            count.store(before.wrapping_add(1), Ordering::Relaxed);
        }
        // A signal is not the guest's doing.
        if kind != ExitKind::Intr {
            self.last.store(kind as u8 + 1, Ordering::Relaxed);
        }
    }

    /// How often it left for this reason.
    pub fn exits(&self, kind: ExitKind) -> u64 {
        let count = self.exits.get(kind as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// What it left for last, signals left out.
    pub fn last_exit(&self) -> Option<ExitKind> {
        let place = usize::from(self.last.load(Ordering::Relaxed));
        ExitKind::ALL.get(place.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_and_the_last_is_the_guests_own() {
        let vcpu = VcpuCounters::default();
        assert_eq!(vcpu.last_exit(), None);
        for (times, kind) in (1..).zip(ExitKind::ALL) {
            (0..times).for_each(|_| vcpu.count(kind));
        }
        for (times, kind) in (1..).zip(ExitKind::ALL) {
            assert_eq!(vcpu.exits(kind), times, "{kind:?}");
        }
        assert_eq!(vcpu.last_exit(), Some(ExitKind::Failed));
        vcpu.count(ExitKind::Hlt);
        vcpu.count(ExitKind::Intr);
        assert_eq!(vcpu.last_exit(), Some(ExitKind::Hlt));
    }
}
