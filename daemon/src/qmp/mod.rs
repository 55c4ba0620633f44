//! The QMP door: each machine can have a Unix socket that speaks QEMU's monitor protocol, for the tools that already do.
//!
//! ```text
//!   client bytes --> input (JSON values) --> session (negotiation, order) --> commands --> VmHandle --> actor
//!   client bytes <------------------------- session <-- replies, and events (from the event log) <--------+
//! ```
//! Commands of one client are served one after another; the events that a command causes are sent before its reply, as
//! QEMU does (spec, section 3.3). Each client gets every event from its negotiation on, in the same order.
//!
//! | file | what is there |
//! | --- | --- |
//! | `input` | cutting the byte stream into JSON values, bounded: `lexer`, `parser` |
//! | `message` | greeting, requests, replies, errors: what QMP looks like |
//! | `commands`, `arguments` | which commands there are, and what they take |
//! | `monitor`, `expression` | the few lines of the human monitor, and their numbers |
//! | `events` | events in QEMU's form |
//! | `door` | what all clients share: WATCHDOG at most once a second, the end |
//! | `session`, `socket` | one client; the socket |

mod arguments;
mod commands;
mod door;
mod events;
mod expression;
mod input;
mod message;
mod monitor;
mod session;
mod socket;

pub(crate) use door::Door;
pub(crate) use session::{Machine, serve};
pub(crate) use socket::open;
