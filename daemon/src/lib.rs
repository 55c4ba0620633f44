//! Many machines: the registry, one actor per VM, the gRPC service and the event log.
//!
//! ```text
//!   client --> service --> registry --> VmHandle -- mailbox --> actor --> MainLoop<KvmMachine> (crate vmm)
//!                 ^                                               |
//!                 +------------- event log <----------------------+
//!
//!   Prometheus --> metrics: reads what each of them counts
//! ```
//! One way, no call back up. Everything belongs to one [`Daemon`]; there is no process-wide state.
#![forbid(unsafe_code)]

pub mod access;
pub mod allocator;
mod cgroup;
pub mod config;
pub mod containment;
pub mod convert;
pub mod cpu_control;
mod daemon;
pub mod demo;
pub mod event_log;
pub mod limits;
pub mod listener;
pub mod logging;
mod metrics;
mod qmp;
mod reaper;
mod recovery;
mod registry;
mod reload;
pub mod server;
mod service;
pub mod store;
pub mod systemd;
pub mod vm;

pub use daemon::Daemon;
pub use reload::Reload;
