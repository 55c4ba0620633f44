//! What a vCPU left the guest for, and what is done about it (spec, sections 6 and 10).

use kvm_bindings::{
    KVM_EXIT_IO_OUT, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
    kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::libc;
use tracing::{debug, error};

use crate::{
    counters::{ExitKind, VcpuCounters},
    devices::timer::Timers,
    machine::{bus::PioBus, virtio::VirtioBus},
    runstate::{Request, Requests, RunState, ShutdownCause},
};

/// What came of one `KVM_RUN`.
pub(super) enum Outcome {
    /// An exit was handled. The next `KVM_RUN` completes it.
    Handled,
    /// As `Handled`, and a request was raised or a timer armed: the machine's owner has been woken.
    Raised,
    /// The vCPU was kicked; nothing is left to complete.
    Interrupted,
    /// `KVM_RUN` itself failed; nothing is left to complete.
    Failed,
}

/// Runs the guest until it leaves, once.
pub(super) fn run_once(
    vcpu: &mut VcpuFd,
    bus: &PioBus,
    virtio: &VirtioBus,
    requests: &Requests,
    timers: &Timers,
    counters: &VcpuCounters,
) -> Outcome {
    let woken = || (requests.raised(), timers.armed());
    let raise = |request| {
        requests.raise(request);
        Outcome::Raised
    };
    let exit = vcpu.run();
    counters.count(kind(&exit));
    match exit {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
            let before = woken();
            port_io(vcpu.get_kvm_run(), bus);
            if woken() == before {
                Outcome::Handled
            } else {
                Outcome::Raised
            }
        }
        // Where nothing is mapped, reads give ones and writes are lost.
        Ok(VcpuExit::MmioRead(address, data)) => {
            if !virtio.read(address, data) {
                data.fill(0xff);
            }
            Outcome::Handled
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            virtio.write(address, data);
            Outcome::Handled
        }
        Ok(VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => Outcome::Handled,
        Ok(VcpuExit::Intr) => Outcome::Interrupted,
        // A triple fault.
        Ok(VcpuExit::Shutdown) => raise(Request::Reset(ShutdownCause::GuestReset)),
        Ok(VcpuExit::SystemEvent(kind, _)) => system_event(kind).map_or(Outcome::Handled, raise),
        Ok(exit) => {
            let what = format!("{exit:?}");
            internal_error(vcpu, &what);
            raise(Request::VmStop(RunState::InternalError))
        }
        Err(error) if is_interrupted(&error) => Outcome::Interrupted,
        Err(error) => {
            internal_error(vcpu, &format!("KVM_RUN: {error}"));
            requests.raise(Request::VmStop(RunState::InternalError));
            Outcome::Failed
        }
    }
}

/// As it is counted.
fn kind(exit: &Result<VcpuExit<'_>, kvm_ioctls::Error>) -> ExitKind {
    match exit {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => ExitKind::Io,
        Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => ExitKind::Mmio,
        Ok(VcpuExit::Hlt) => ExitKind::Hlt,
        Ok(VcpuExit::IrqWindowOpen) => ExitKind::IrqWindow,
        Ok(VcpuExit::Shutdown) => ExitKind::Shutdown,
        Ok(VcpuExit::SystemEvent(..)) => ExitKind::SystemEvent,
        Ok(VcpuExit::InternalError) => ExitKind::InternalError,
        Ok(VcpuExit::FailEntry(..)) => ExitKind::FailEntry,
        Ok(VcpuExit::Intr) => ExitKind::Intr,
        Ok(_) => ExitKind::Other,
        Err(error) if is_interrupted(error) => ExitKind::Intr,
        Err(_) => ExitKind::Failed,
    }
}

/// The vCPU was kicked.
fn is_interrupted(error: &kvm_ioctls::Error) -> bool {
    matches!(error.errno(), libc::EINTR | libc::EAGAIN)
}

/// KVM API, KVM_EXIT_SYSTEM_EVENT.
fn system_event(kind: u32) -> Option<Request> {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Some(Request::Shutdown(ShutdownCause::GuestShutdown)),
        KVM_SYSTEM_EVENT_RESET => Some(Request::Reset(ShutdownCause::GuestReset)),
        KVM_SYSTEM_EVENT_CRASH => Some(Request::GuestPanicked),
        _ => {
            debug!(kind, "a system event that means nothing here");
            None
        }
    }
}

/// Says where the guest stood: it cannot go on.
fn internal_error(vcpu: &mut VcpuFd, what: &str) {
    // What it means depends on the exit; for an internal error it is the suberror.
    // SAFETY: every field of the union is plain data, so any of them may be read.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    match (vcpu.get_regs(), vcpu.get_sregs()) {
        (Ok(regs), Ok(sregs)) => error!(
            what,
            suberror,
            rip = format_args!("{:#x}", regs.rip),
            rsp = format_args!("{:#x}", regs.rsp),
            rax = format_args!("{:#x}", regs.rax),
            rflags = format_args!("{:#x}", regs.rflags),
            cs_base = format_args!("{:#x}", sregs.cs.base),
            cr0 = format_args!("{:#x}", sregs.cr0),
            cr3 = format_args!("{:#x}", sregs.cr3),
            "the guest cannot go on"
        ),
        _ => error!(what, "the guest cannot go on; its registers cannot be read"),
    }
}

/// Carries out a port I/O exit: `count` accesses of `size` bytes at one port (a string instruction has several).
fn port_io(run: &mut kvm_run, bus: &PioBus) {
    let (io, data) = io_data(run);
    let size = usize::from(io.size).max(1);
    for access in data.chunks_mut(size) {
        if u32::from(io.direction) == KVM_EXIT_IO_OUT {
            bus.write(io.port, access);
        } else {
            bus.read(io.port, access);
        }
    }
}

/// The accesses of a port I/O exit and their data. The exit must be one of port I/O.
fn io_data(run: &mut kvm_run) -> (kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_4, &mut [u8]) {
    // SAFETY: every field of the union is plain data, so any of them may be read.
    let io = unsafe { run.__bindgen_anon_1.io };
    let len = usize::from(io.size) * io.count as usize;
    // SAFETY: at a port I/O exit the kernel puts `len` bytes of data at `data_offset` from the start of `kvm_run`,
    // within the mapping that `run` is the start of (KVM API, 5). The slice borrows `run`.
    let data = unsafe {
        let start = std::ptr::from_mut(run).cast::<u8>();
        std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), len)
    };
    (io, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_events_become_requests() {
        let shutdown = Request::Shutdown(ShutdownCause::GuestShutdown);
        assert_eq!(system_event(KVM_SYSTEM_EVENT_SHUTDOWN), Some(shutdown));
        let reset = Request::Reset(ShutdownCause::GuestReset);
        assert_eq!(system_event(KVM_SYSTEM_EVENT_RESET), Some(reset));
        assert_eq!(
            system_event(KVM_SYSTEM_EVENT_CRASH),
            Some(Request::GuestPanicked)
        );
        assert_eq!(system_event(77), None);
    }
}
