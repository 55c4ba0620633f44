//! One virtual machine: the run-state core, KVM, guest memory, vCPU threads and devices.
//!
//! ```text
//!   runstate/   the state machine, pure
//!      ^  drives a Machine          ^ Requests::raise
//!      |                            |
//!   machine/    the KVM machine --- devices/   one file per device model
//!      |
//!   probe/      the built-in guest
//! ```
//! This crate knows nothing of gRPC or of other machines; the daemon owns one `MainLoop` per machine.

pub mod devices;
pub mod machine;
pub mod probe;
pub mod runstate;
