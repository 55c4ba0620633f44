//! The system calls of the whole process, beside those of vCPUs' and devices' threads: what the start needs, files, the
//! network, the store, and the C library.
//!
//! Not among them, so that nobody who breaks in has them: starting programs and processes (`execve`, `fork`), other
//! processes (`ptrace`, `process_vm_readv`, `kill`), mounts and namespaces, loading code into the kernel (`bpf`, modules, `kexec`),
//! keys, `perf_event_open`, `userfaultfd`, clocks, the host's name, devices' nodes, users and groups of the process.

use nix::libc;
use vmm::confine::{
    Group,
    When::{Always, Masked, OneOf},
};

const EXEC: u64 = libc::PROT_EXEC as u64;
const WRITE: u64 = libc::PROT_WRITE as u64;

/// The table.
pub(super) const OTHERS: &[Group] = &[
    Group {
        reason: "files: configuration, certificates, images, sockets, the store",
        calls: &[
            (libc::SYS_open, Always),
            (libc::SYS_openat, Always),
            (libc::SYS_stat, Always),
            (libc::SYS_lstat, Always),
            (libc::SYS_statfs, Always),
            (libc::SYS_fstatfs, Always),
            (libc::SYS_access, Always),
            (libc::SYS_faccessat, Always),
            (libc::SYS_faccessat2, Always),
            (libc::SYS_getdents64, Always),
            (libc::SYS_readlink, Always),
            (libc::SYS_readlinkat, Always),
            (libc::SYS_getcwd, Always),
            (libc::SYS_fcntl, Always),
            (libc::SYS_flock, Always),
            (libc::SYS_dup, Always),
            (libc::SYS_mkdir, Always),
            (libc::SYS_mkdirat, Always),
            (libc::SYS_rmdir, Always),
            (libc::SYS_unlink, Always),
            (libc::SYS_unlinkat, Always),
            (libc::SYS_rename, Always),
            (libc::SYS_renameat, Always),
            (libc::SYS_renameat2, Always),
            (libc::SYS_umask, Always),
            (libc::SYS_fadvise64, Always),
            (libc::SYS_copy_file_range, Always),
            (libc::SYS_sync_file_range, Always),
            (libc::SYS_utimensat, Always),
        ],
    },
    Group {
        reason: "mode and group of a socket's file",
        calls: &[
            (libc::SYS_chmod, Always),
            (libc::SYS_fchmod, Always),
            (libc::SYS_fchmodat, Always),
            (libc::SYS_chown, Always),
            (libc::SYS_fchown, Always),
            (libc::SYS_fchownat, Always),
        ],
    },
    Group {
        reason: "machines are built by KVM's calls; tap interfaces, block devices, terminals",
        calls: &[
            // Those that are KVM's by their type.
            (libc::SYS_ioctl, Masked(1, &[(0xff00, 0xae00)])),
            (
                libc::SYS_ioctl,
                OneOf(
                    1,
                    &[
                        libc::TUNSETIFF,
                        libc::SIOCGIFINDEX,
                        libc::FIONREAD,
                        libc::FIOCLEX,
                        libc::TCGETS,
                        libc::TIOCGWINSZ,
                        libc::BLKSSZGET,
                    ],
                ),
            ),
        ],
    },
    Group {
        reason: "clients by Unix sockets and TCP, and the resolver's questions",
        calls: &[
            (
                libc::SYS_socket,
                OneOf(0, &[libc::AF_INET as u64, libc::AF_INET6 as u64]),
            ),
            (libc::SYS_socketpair, OneOf(0, &[libc::AF_UNIX as u64])),
            (libc::SYS_bind, Always),
            (libc::SYS_listen, Always),
            (libc::SYS_accept, Always),
            (libc::SYS_setsockopt, Always),
            (libc::SYS_sendmmsg, Always),
            (libc::SYS_recvmmsg, Always),
            (libc::SYS_epoll_create1, Always),
            (libc::SYS_pipe2, Always),
            (libc::SYS_select, Always),
            (libc::SYS_pselect6, Always),
        ],
    },
    Group {
        reason: "signals: those that end or reload the daemon, and those that make vCPUs leave the guest",
        calls: &[(libc::SYS_rt_sigaction, Always), (libc::SYS_tgkill, Always)],
    },
    Group {
        reason: "libraries that the C library loads to look users up: code may be mapped, but not what can be written",
        calls: &[
            (libc::SYS_mmap, Masked(2, &[(EXEC, 0), (WRITE, 0)])),
            (libc::SYS_msync, Always),
            (libc::SYS_mincore, Always),
            (libc::SYS_mlock, Always),
            (libc::SYS_membarrier, Always),
        ],
    },
    Group {
        reason: "who and what this process is, on which host, with which limits",
        calls: &[
            (libc::SYS_getuid, Always),
            (libc::SYS_geteuid, Always),
            (libc::SYS_getgid, Always),
            (libc::SYS_getegid, Always),
            (libc::SYS_getgroups, Always),
            (libc::SYS_getppid, Always),
            (libc::SYS_uname, Always),
            (libc::SYS_sysinfo, Always),
            (libc::SYS_getrusage, Always),
            (libc::SYS_times, Always),
            (libc::SYS_getrlimit, Always),
            (libc::SYS_setrlimit, Always),
            (libc::SYS_prlimit64, OneOf(0, &[0])),
            (libc::SYS_sched_setaffinity, Always),
            (libc::SYS_sched_getparam, Always),
            (libc::SYS_sched_getscheduler, Always),
            (libc::SYS_getcpu, Always),
            (libc::SYS_gettimeofday, Always),
            (libc::SYS_time, Always),
            (libc::SYS_clock_getres, Always),
            (libc::SYS_nanosleep, Always),
        ],
    },
    Group {
        reason: "names of threads and, by the C library, of memory",
        calls: &[(
            libc::SYS_prctl,
            OneOf(0, &[libc::PR_GET_NAME as u64, libc::PR_SET_VMA as u64]),
        )],
    },
    Group {
        reason: "the end",
        calls: &[(libc::SYS_exit_group, Always)],
    },
];
