//! What the daemon and its machines look like from outside, for Prometheus.
//!
//! ```text
//!   calls.rs   (layer around the service) ---+
//!   readers.rs (streams of events) ----------+
//!   meter.rs, cpu_time.rs (one per machine) -+--> collect.rs --> text.rs --> http.rs --> GET /metrics
//!   vmm::counters (one per machine) ---------+
//!   process.rs (/proc/self) -----------------+
//! ```
//! Everything is read as it stands when somebody asks: a scrape waits for no machine, no actor and no vCPU, and a machine
//! that is gone has left nothing behind. All of it belongs to one [`Daemon`](crate::Daemon).

mod calls;
mod collect;
mod cpu_time;
mod devices;
mod http;
mod meter;
mod process;
mod readers;
mod text;

pub(crate) use self::{
    calls::{CallLayer, Calls},
    http::serve,
    meter::Meter,
    readers::{Place, Readers},
};

/// What is counted for one daemon, beside its machines.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) calls: std::sync::Arc<Calls>,
    pub(crate) readers: std::sync::Arc<Readers>,
}
