//! Many machines: the registry, one actor per VM, the gRPC service and the event log.
//!
//! ```text
//!   client --> service --> registry --> VmHandle -- mailbox --> actor --> MainLoop<KvmMachine> (crate vmm)
//!                 ^                                               |
//!                 +------------- event log <----------------------+
//! ```
//! One way, no call back up. Everything belongs to one [`Daemon`]; there is no process-wide state.
#![forbid(unsafe_code)]

pub mod convert;
mod daemon;
pub mod demo;
pub mod event_log;
pub mod listener;
pub mod logging;
mod qmp;
mod reaper;
mod registry;
pub mod server;
mod service;
pub mod vm;

pub use daemon::Daemon;
