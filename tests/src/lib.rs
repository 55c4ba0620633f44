//! The harness of the end-to-end tests: real daemons, real guests, real sockets.
//!
//! ```text
//!   Daemon (a vmd process of the test's own) --- Client (gRPC), vmctl (a process)
//!      |
//!      +-- Guest: a machine, its console and its events, each read with a deadline
//! ```
//! Nothing here sleeps: everything waits for an event, up to [`DEADLINE`], and fails with what it saw until then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod daemon;
mod guest;
pub mod guests;
#[path = "../../vmm/src/machine/boot/testing.rs"]
pub mod kernel_file;
mod linux;
mod netns;
mod process;
mod qmp;
mod seabios;

use std::time::Duration;

pub use daemon::Daemon;
pub use guest::{
    ConsoleReader, EventReader, Guest, actions, describe, refusal, request, request_with,
};
pub use linux::{LINUX_DEADLINE, LinuxGuest, LinuxHost, linux_guest, recipe};
pub use netns::NetNs;
pub use process::{Resources, binary, settle};
pub use qmp::{Qmp, untimed};
pub use seabios::seabios;

/// How long anything may take that is not expected to. Generous: guest code is emulated on some hosts, and tests run
/// side by side.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long the daemon may take to answer a call, whatever its guests do. Not for those that build a machine: setting its
/// memory waits for grace periods of the kernel, which come late while guests keep every core busy.
pub const ANSWER: Duration = Duration::from_secs(20);

/// Waits for the answer to a call; panics with `what` if it takes longer than [`ANSWER`].
pub async fn answered<F: Future>(what: &str, call: F) -> F::Output {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: no answer within {ANSWER:?}"),
    }
}

/// Runs `work` in a thread of its own, which a test that fails does not wait for.
pub async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    answer
        .await
        .expect("the thread has ended without an answer")
}

/// Waits for `future`; panics with `what` if it takes too long.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within(DEADLINE, what, future).await
}

/// The same with a deadline of the caller's.
pub async fn within<F: Future>(deadline: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(deadline, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {deadline:?}"),
    }
}
