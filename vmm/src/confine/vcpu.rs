//! What a vCPU's thread may do: run the guest, carry out its accesses to devices, wake others.
//!
//! It opens nothing, starts nothing, and has no network: what it is handed is all it has.

use std::mem::size_of;

use kvm_bindings::{
    kvm_debugregs, kvm_ioeventfd, kvm_irq_level, kvm_irqfd, kvm_lapic_state, kvm_mp_state,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use nix::libc;

use super::table::{
    Group, NO_EXEC,
    When::{Always, OneOf},
};

/// The table of a vCPU's thread.
pub const VCPU: &[Group] = &[
    Group {
        reason: "the guest runs; its registers are read and reset, its interrupts and doorbells set up",
        calls: &[(libc::SYS_ioctl, OneOf(1, &IOCTLS))],
    },
    Group {
        reason: "locks, and waiting for the machine's owner",
        calls: &[
            (libc::SYS_futex, Always),
            (libc::SYS_sched_yield, Always),
            (libc::SYS_restart_syscall, Always),
        ],
    },
    Group {
        reason: "the time, where the kernel does not give it without a call",
        calls: &[
            (libc::SYS_clock_gettime, Always),
            (libc::SYS_clock_nanosleep, Always),
        ],
    },
    Group {
        reason: "eventfds that wake a device's task or the runtime; log lines",
        calls: &[
            (libc::SYS_write, Always),
            (libc::SYS_writev, Always),
            (libc::SYS_read, Always),
        ],
    },
    Group {
        reason: "a driver that starts its device: the queues' eventfds become the runtime's",
        calls: &[
            (libc::SYS_epoll_ctl, Always),
            (libc::SYS_eventfd2, Always),
            (
                libc::SYS_fcntl,
                OneOf(
                    1,
                    &[
                        libc::F_DUPFD_CLOEXEC as u64,
                        libc::F_GETFL as u64,
                        libc::F_GETFD as u64,
                    ],
                ),
            ),
            (libc::SYS_close, Always),
        ],
    },
    Group {
        reason: "the allocator; nothing of it can be executed",
        calls: &[
            (libc::SYS_brk, Always),
            (libc::SYS_mmap, NO_EXEC),
            (libc::SYS_mprotect, NO_EXEC),
            (libc::SYS_mremap, Always),
            (libc::SYS_munmap, Always),
            (libc::SYS_madvise, Always),
            (libc::SYS_getrandom, Always),
        ],
    },
    Group {
        reason: "the kick that makes it leave the guest",
        calls: &[
            (libc::SYS_rt_sigreturn, Always),
            (libc::SYS_rt_sigprocmask, Always),
        ],
    },
    Group {
        reason: "the thread's end, or its panic",
        calls: &[
            (libc::SYS_exit, Always),
            (libc::SYS_sigaltstack, Always),
            (libc::SYS_gettid, Always),
            (libc::SYS_getpid, Always),
            (libc::SYS_sched_getaffinity, Always),
            (libc::SYS_set_robust_list, Always),
            (libc::SYS_rseq, Always),
        ],
    },
];

/// Of KVM (`linux/kvm.h`), and in KVM's numbers. The first is most of what such a thread ever does.
const IOCTLS: [u64; 23] = [
    none(0x80),                                      // KVM_RUN
    to_kernel(0x61, size_of::<kvm_irq_level>()),     // KVM_IRQ_LINE
    to_kernel(0x79, size_of::<kvm_ioeventfd>()),     // KVM_IOEVENTFD
    to_kernel(0x76, size_of::<kvm_irqfd>()),         // KVM_IRQFD
    to_kernel(0x6a, 8),                              // KVM_SET_GSI_ROUTING
    none(0x9a),                                      // KVM_NMI
    none(0xad),                                      // KVM_KVMCLOCK_CTRL
    from_kernel(0x81, size_of::<kvm_regs>()),        // KVM_GET_REGS
    to_kernel(0x82, size_of::<kvm_regs>()),          // KVM_SET_REGS
    from_kernel(0x83, size_of::<kvm_sregs>()),       // KVM_GET_SREGS
    to_kernel(0x84, size_of::<kvm_sregs>()),         // KVM_SET_SREGS
    both(0x88, 8),                                   // KVM_GET_MSRS
    to_kernel(0x89, 8),                              // KVM_SET_MSRS
    from_kernel(0x8e, size_of::<kvm_lapic_state>()), // KVM_GET_LAPIC
    to_kernel(0x8f, size_of::<kvm_lapic_state>()),   // KVM_SET_LAPIC
    from_kernel(0x98, size_of::<kvm_mp_state>()),    // KVM_GET_MP_STATE
    to_kernel(0x99, size_of::<kvm_mp_state>()),      // KVM_SET_MP_STATE
    from_kernel(0x9f, size_of::<kvm_vcpu_events>()), // KVM_GET_VCPU_EVENTS
    to_kernel(0xa0, size_of::<kvm_vcpu_events>()),   // KVM_SET_VCPU_EVENTS
    to_kernel(0xa2, size_of::<kvm_debugregs>()),     // KVM_SET_DEBUGREGS
    to_kernel(0xa5, size_of::<kvm_xsave>()),         // KVM_SET_XSAVE
    to_kernel(0xa7, size_of::<kvm_xcrs>()),          // KVM_SET_XCRS
    libc::FIONBIO,
];

/// `_IO`, `_IOW`, `_IOR` and `_IOWR` of KVM (`asm-generic/ioctl.h`): the direction, the size, the type, the number.
const fn none(number: u8) -> u64 {
    0xae00 | number as u64
}

const fn to_kernel(number: u8, size: usize) -> u64 {
    1 << 30 | (size as u64) << 16 | none(number)
}

const fn from_kernel(number: u8, size: usize) -> u64 {
    2 << 30 | (size as u64) << 16 | none(number)
}

const fn both(number: u8, size: usize) -> u64 {
    3 << 30 | (size as u64) << 16 | none(number)
}
