//! What a thread of the runtime may do that the devices' tasks are on: move data between guest memory and what the machine
//! has open, and connect to Unix sockets.
//!
//! It makes no file, has no network but the tap interface that it is handed, and signals nobody. What a ring of io_uring does
//! is not seen by any filter: where that matters, the kernel's `io_uring_disabled` turns it off, and disks go by threads.

use nix::libc;

use super::table::{
    Group, NO_EXEC, THREADS_ONLY,
    When::{Always, OneOf},
};

/// The table of the devices' threads.
pub const DEVICE: &[Group] = &[
    Group {
        reason: "locks and time",
        calls: &[
            (libc::SYS_futex, Always),
            (libc::SYS_sched_yield, Always),
            (libc::SYS_restart_syscall, Always),
            (libc::SYS_clock_gettime, Always),
            (libc::SYS_clock_nanosleep, Always),
        ],
    },
    Group {
        reason: "the runtime waits for what is ready",
        calls: &[
            (libc::SYS_epoll_wait, Always),
            (libc::SYS_epoll_pwait, Always),
            (libc::SYS_epoll_pwait2, Always),
            (libc::SYS_epoll_ctl, Always),
            (libc::SYS_eventfd2, Always),
            (libc::SYS_poll, Always),
            (libc::SYS_ppoll, Always),
        ],
    },
    Group {
        reason: "disks, tap interfaces, eventfds, log lines",
        calls: &[
            (libc::SYS_read, Always),
            (libc::SYS_readv, Always),
            (libc::SYS_pread64, Always),
            (libc::SYS_preadv, Always),
            (libc::SYS_preadv2, Always),
            (libc::SYS_write, Always),
            (libc::SYS_writev, Always),
            (libc::SYS_pwrite64, Always),
            (libc::SYS_pwritev, Always),
            (libc::SYS_pwritev2, Always),
            (libc::SYS_lseek, Always),
            (libc::SYS_fsync, Always),
            (libc::SYS_fdatasync, Always),
            (libc::SYS_fallocate, Always),
            (libc::SYS_ftruncate, Always),
            (libc::SYS_fstat, Always),
            (libc::SYS_newfstatat, Always),
            (libc::SYS_statx, Always),
            (libc::SYS_close, Always),
            (
                libc::SYS_fcntl,
                OneOf(
                    1,
                    &[
                        libc::F_DUPFD_CLOEXEC as u64,
                        libc::F_GETFD as u64,
                        libc::F_SETFD as u64,
                        libc::F_GETFL as u64,
                        libc::F_SETFL as u64,
                        libc::F_OFD_SETLK as u64,
                        libc::F_OFD_GETLK as u64,
                    ],
                ),
            ),
        ],
    },
    Group {
        reason: "disks, by a ring",
        calls: &[
            (libc::SYS_io_uring_setup, Always),
            (libc::SYS_io_uring_enter, Always),
            (libc::SYS_io_uring_register, Always),
        ],
    },
    Group {
        reason: "what a card's driver has agreed to with its tap interface; the size of a disk that is a block device",
        calls: &[(
            libc::SYS_ioctl,
            OneOf(
                1,
                &[
                    libc::TUNSETOFFLOAD,
                    libc::TUNSETVNETHDRSZ,
                    libc::TUNSETQUEUE,
                    libc::FIONBIO,
                    BLKGETSIZE64,
                ],
            ),
        )],
    },
    Group {
        reason: "Unix sockets: passt, console ports, programs that the guest speaks to by vsock",
        calls: &[
            (libc::SYS_openat2, Always),
            (libc::SYS_socket, OneOf(0, &[libc::AF_UNIX as u64])),
            (libc::SYS_connect, Always),
            (libc::SYS_accept4, Always),
            (libc::SYS_sendto, Always),
            (libc::SYS_sendmsg, Always),
            (libc::SYS_recvfrom, Always),
            (libc::SYS_recvmsg, Always),
            (libc::SYS_shutdown, Always),
            (libc::SYS_getsockopt, Always),
            (libc::SYS_getsockname, Always),
            (libc::SYS_getpeername, Always),
        ],
    },
    Group {
        reason: "the allocator, and the balloon, which gives guest memory back; nothing of it can be executed",
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
        reason: "more threads of the runtime, where work may block, and their end",
        calls: &[
            (libc::SYS_clone, THREADS_ONLY),
            (libc::SYS_rt_sigprocmask, Always),
            (libc::SYS_rt_sigreturn, Always),
            (libc::SYS_sigaltstack, Always),
            (libc::SYS_set_robust_list, Always),
            (libc::SYS_rseq, Always),
            (libc::SYS_gettid, Always),
            (libc::SYS_getpid, Always),
            (libc::SYS_sched_getaffinity, Always),
            (libc::SYS_prctl, OneOf(0, &[libc::PR_SET_NAME as u64])),
            (libc::SYS_exit, Always),
        ],
    },
    Group {
        reason: "such a thread confines itself, too",
        calls: &[
            (
                libc::SYS_prctl,
                OneOf(0, &[libc::PR_SET_NO_NEW_PRIVS as u64]),
            ),
            (libc::SYS_seccomp, Always),
            (libc::SYS_capget, Always),
            (libc::SYS_capset, Always),
        ],
    },
];

/// `_IOR(0x12, 114, size_t)` (`linux/fs.h`).
const BLKGETSIZE64: u64 = 0x8008_1272;
