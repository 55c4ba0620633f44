//! Run by systemd, or by what speaks its protocols: sockets in, messages out. Without it nothing of this does anything.
//!
//! ```text
//!   LISTEN_FDS, LISTEN_FDNAMES --> Sockets --> server::bind_given, instead of binding
//!   NOTIFY_SOCKET <-- Manager <-- READY, RELOADING, STOPPING; a task: STATUS, WATCHDOG
//! ```

mod manager;
mod sockets;

pub use manager::Manager;
pub(crate) use sockets::Given;
pub use sockets::{Sockets, SocketsError};
