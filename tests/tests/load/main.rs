//! A fleet under load: every answer is held against the spec's table, every event against the answers; and what is left when
//! all is gone, or when the daemon is killed in the middle.
//!
//! ```text
//!   32 clients: each takes a machine, and acts on it --> daemon --> events
//!        |  what must come of it: commands.csv                        |
//!        v                                                            v
//!     Book, one for each machine ----------- the same? ---------- Watcher
//! ```
//!
//! | file | what is there |
//! | --- | --- |
//! | `book` | what is known of a machine, and what a call must answer |
//! | `act` | the calls, and whether the answer is right |
//! | `fleet` | the machines, the clients, the watcher of events |
//! | `whole` | 1,000 machines, 10,000 calls, and nothing left |
//! | `kills` | the daemon killed at random, again and again |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod act;
mod book;
mod dice;
mod fleet;
mod kills;
mod whole;
