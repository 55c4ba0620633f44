//! Linux as the guest, from `deploy/guest/`: what the probe guest shows step by step, with a kernel that knows nothing
//! of this project. Everything is a whole boot, a core's work for seconds where guest kernel code is emulated; so a test
//! checks what it can in one.
//!
//! | file | what |
//! | --- | --- |
//! | `balloon` | memory that goes to the host and comes back |
//! | `boot` | the boot protocols, vCPUs, stop and reset in the middle of a boot |
//! | `console` | `vmctl console` both ways, a shell |
//! | `disk` | disks and the entropy device, with Linux's drivers |
//! | `fleet` | many at once do not disturb each other |
//! | `lifecycle` | reboot, reset, power button, panic, NMI |
//! | `ports` | a console with several ports |
//! | `net` | network cards, over tap and over passt, with Linux's driver |
//! | `pci` | the same over PCI: interrupts by message, hot-plug |
//! | `suspend` | S3, and what ends it |
//! | `vsock` | sockets between guest and host, both ways |
//! | `watchdog` | ib700, under each action |
//!
//! The guest's words are listed in `deploy/guest/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod balloon;
mod boot;
mod console;
mod disk;
mod fleet;
mod lifecycle;
mod net;
mod pci;
mod ports;
mod suspend;
mod vsock;
mod watchdog;

/// What a guest that powers itself off leaves.
const POWERED_OFF: &[&str] = &[
    "SHUTDOWN guest=true reason=guest-shutdown -> running",
    "ENDED kind=shutdown cause=guest-shutdown exit_status=0 failure=null -> shutdown",
];
const GUEST_RESET: &str = "RESET guest=true reason=guest-reset -> running";
const HOST_RESET: &str = "RESET guest=false reason=host-qmp-system-reset -> running";
const STOP: &str = "STOP -> paused";
const RESUME: &str = "RESUME -> running";
