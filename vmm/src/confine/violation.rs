//! How a vCPU's thread learns that it made a call that it may not make.
//!
//! ```text
//!   the call --> filter: SECCOMP_RET_TRAP --> SIGSYS --> handler: notes the call, makes it fail with ENOSYS
//!                                                                        |
//!   the thread, between two exits: take() --> the machine fails <--------+
//! ```
//! The kernel sends the signal to the thread itself, in the middle of the call, so the handler may do next to nothing.

use std::cell::Cell;

use nix::{
    errno::Errno,
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// The calls that are told of: what an intruder needs, and nothing that runs on a vCPU's thread makes, the C library included.
///
/// Others that are refused fail, and that is all: `openat` among them, by which an allocator counts the host's processors. The signal must not come while signals are blocked, which would end the
/// process: the C library blocks them while it makes a thread or ends one, and what it calls there is its own affair.
pub(super) const TOLD: [libc::c_long; 16] = [
    libc::SYS_openat2,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_mount,
    libc::SYS_bpf,
    libc::SYS_memfd_create,
    libc::SYS_io_uring_setup,
];

const NONE: i64 = -1;

thread_local! {
    /// The call that this thread was refused. Without a destructor and made when this is compiled: a signal handler may use it.
    static REFUSED: Cell<i64> = const { Cell::new(NONE) };
}

/// The number of the last call that this thread was refused since this was asked, if any was.
pub(crate) fn take() -> Option<i64> {
    let call = REFUSED.get();
    if call == NONE {
        return None;
    }
    REFUSED.set(NONE);
    Some(call)
}

/// Gives the signal its handler: without one it would end the process. To do so again does no harm.
pub(super) fn install_handler() -> nix::Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(refused),
        SaFlags::SA_ONSTACK | SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    // SAFETY: the handler only touches the thread's own variable and the registers it is handed, which is
    // async-signal-safe.
    unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop)
}

extern "C" fn refused(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands an SA_SIGINFO handler the interrupted thread's context, for it alone and as long as it runs.
    let Some(context) = (unsafe { context.cast::<libc::ucontext_t>().as_mut() }) else {
        return;
    };
    // The call was not made: the register has its number, and is what the caller will find as its result.
    if let Some(rax) = context.uc_mcontext.gregs.get_mut(libc::REG_RAX as usize) {
        REFUSED.set(*rax);
        *rax = -i64::from(Errno::ENOSYS as i32);
    }
}
