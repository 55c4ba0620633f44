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
//! All but the core needs the feature `kvm`, which is on by default; without it the core replays journals anywhere.
//!
//! This crate knows nothing of gRPC or of other machines; the daemon owns one `MainLoop` per machine.

#[cfg(feature = "kvm")]
pub mod confine;
#[cfg(feature = "kvm")]
pub mod counters;
#[cfg(feature = "kvm")]
pub mod devices;
#[cfg(feature = "kvm")]
pub mod heap;
#[cfg(feature = "kvm")]
pub mod log;
#[cfg(feature = "kvm")]
pub mod machine;
#[cfg(feature = "kvm")]
pub mod place;
#[cfg(feature = "kvm")]
pub mod probe;
pub mod runstate;
