//! How a vCPU is made to leave `KVM_RUN`.
//!
//! ```text
//!   who kicks                         the vCPU's thread
//!   --------------------------        ------------------------------------------
//!   change what is wanted             immediate_exit := 0
//!   immediate_exit := 1               read what is wanted
//!   send the signal                   KVM_RUN: returns at once if immediate_exit is 1,
//!                                              or as soon as the signal arrives
//! ```
//! Whatever the interleaving, a change is seen: before `KVM_RUN` through the flag, in it through the signal. The signal
//! handler does nothing at all. The flag is in the page that the kernel shares with the vCPU's owner; it is reached
//! through a mapping of its own, as an atomic, so that nothing aliases the reference that `VcpuFd::run` holds.

use std::{
    num::NonZeroUsize,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::thread::{JoinHandleExt, RawPthread},
    },
    ptr::NonNull,
    sync::{
        Once,
        atomic::{AtomicU8, Ordering},
    },
    thread::JoinHandle,
};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use nix::{
    libc,
    sys::{
        mman::{MapFlags, ProtFlags, mmap, munmap},
        signal::{SaFlags, SigAction, SigHandler, SigSet},
    },
};

/// Checked when this is compiled.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The `immediate_exit` flag of one vCPU.
pub(super) struct ImmediateExit {
    page: NonNull<libc::c_void>,
}

// SAFETY: the mapping is owned by this value alone and only its atomic flag is ever accessed.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above; an atomic may be shared.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    pub(super) fn new(vcpu: &VcpuFd) -> nix::Result<Self> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, of the page that holds `kvm_run`.
        let page = unsafe { mmap(None, PAGE, prot, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Self { page })
    }

    pub(super) fn set(&self, on: bool) {
        self.flag().store(on.into(), Ordering::SeqCst);
    }

    fn flag(&self) -> &AtomicU8 {
        let offset = std::mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: `immediate_exit` lies within the mapped page, which is mapped as long as `self` lives; it is a byte
        // that this mapping accesses atomically only, and that the kernel reads once at entry (KVM API, 5).
        unsafe { AtomicU8::from_ptr(self.page.as_ptr().cast::<u8>().add(offset)) }
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new` with this length, and no reference to it outlives `self`.
        let unmapped = unsafe { munmap(self.page, PAGE.get()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Sends the kick signal to `thread`.
pub(super) fn signal(thread: &JoinHandle<()>) {
    let id: RawPthread = thread.as_pthread_t();
    // SAFETY: the thread has not been joined, as its handle is borrowed, so its id is valid; the signal has a handler
    // (see `install_handler`, which ran before any vCPU thread began).
    let errno = unsafe { libc::pthread_kill(id, libc::SIGRTMIN()) };
    debug_assert!(errno == 0 || errno == libc::ESRCH);
}

/// Gives the kick signal a handler, once per process: without one it would end the process.
pub(super) fn install_handler() -> nix::Result<()> {
    static INSTALL: Once = Once::new();
    extern "C" fn ignore(_: libc::c_int) {}

    let mut result = Ok(());
    INSTALL.call_once(|| {
        // Without SA_RESTART: KVM_RUN has to come back.
        let action = SigAction::new(
            SigHandler::Handler(ignore),
            SaFlags::empty(),
            SigSet::empty(),
        );
        result = set_action(libc::SIGRTMIN(), &action);
    });
    result
}

/// nix names no real-time signals.
fn set_action(signal: libc::c_int, action: &SigAction) -> nix::Result<()> {
    let action: libc::sigaction = (*action).into();
    // SAFETY: `action` is a valid sigaction whose handler does nothing, which is async-signal-safe.
    let result = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    nix::errno::Errno::result(result).map(drop)
}
