//! The typed client library of `vmd`, and the `vmctl` command built on it.
//!
//! What flows through here: a caller names a daemon with an [`Endpoint`], [`Client::connect`] opens
//! one HTTP/2 connection to it, and each method of [`Client`] is one call of `vmd.v1.VmService`.
//! Replies are the generated messages of [`v1`]; whatever goes wrong is an [`Error`] that tells a
//! daemon that cannot be reached from one that said no.
//!
//! ```text
//! Endpoint -> Client -> unary calls ............ v1 replies
//!                    -> watch_events, watch_vms  Feed<T>: next() until the end
//!                    -> wait, wait_for_state ... a Feed, followed until the machine is there
//!                    -> console ................ ByteInput and ConsoleOutput
//! v1 messages -> names (QEMU's spellings) -> json (stable objects for scripts)
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use vmctl::{Client, Endpoint, v1};
//!
//! let client = Client::connect(&Endpoint::default_for_user()?).await?;
//! client.stop("build-7").await?;
//! let vm = client.wait_for_state("build-7", v1::RunState::Paused).await?;
//! println!("{} has paused", vm.name);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod cli;
mod client;
mod console;
mod endpoint;
mod error;
mod feed;
pub mod json;
pub mod man;
pub mod names;
mod size;
mod tls;
mod transport;
mod wait;

pub use client::Client;
pub use console::{ByteInput, ConsoleOutput, InputClosed};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{Error, FieldViolation, Lost, Refusal};
pub use feed::{EventStream, Feed, RecordStream, VmStream};
pub use size::{format_size, parse_size};
pub use tls::{TlsError, TlsFiles};
/// The generated messages of package `vmd.v1`.
pub use vmd_proto::v1;
