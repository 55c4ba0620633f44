//! The threads: one runtime for the daemon, another for its machines' devices, which may do less.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};
use tracing::error;
use vmm::confine::Filter;

use super::{Confined, Containment, ContainmentError, capabilities};
use crate::logging;

/// Threads for what blocks: building and closing machines, reading the store. They are there from the start, so that the
/// daemon that finds no thread for another vCPU still has its own.
const HELPERS: usize = 8;

/// The same of the devices: disks without io_uring.
const DEVICE_HELPERS: usize = 4;

/// How long they are kept while there is nothing to do: always.
const HELPERS_KEPT: Duration = Duration::from_secs(u32::MAX as u64);

/// The runtimes of a process.
#[derive(Debug)]
pub struct Runtimes {
    /// Where the daemon runs.
    pub main: Runtime,
    /// Where its machines' devices do.
    pub devices: Runtime,
    confined: Confined,
}

impl Containment {
    /// Starts them; each of their threads gives up capabilities, and those of the devices take their filter.
    pub fn runtimes(&self) -> Result<Runtimes, ContainmentError> {
        let make = |name: &str, helpers, filter: Option<Filter>| {
            let kept = self.kept;
            let confine = move || {
                capabilities::give_up(kept)?;
                Ok(filter.as_ref().map_or(Ok(()), Filter::enter)?)
            };
            let runtime = Builder::new_multi_thread()
                .enable_all()
                .thread_name(name)
                .max_blocking_threads(helpers)
                .thread_keep_alive(HELPERS_KEPT)
                .on_thread_start(move || {
                    logging::prepare_spans();
                    let confined: Result<(), ContainmentError> = confine();
                    // The first thread has done as much; so it cannot fail but for memory.
                    if let Err(error) = confined {
                        error!(%error, "a thread is not confined as it should be");
                    }
                })
                .build()
                .map_err(ContainmentError::Threads)?;
            start_helpers(&runtime, helpers);
            Ok::<_, ContainmentError>(runtime)
        };
        let main = make("vmd", HELPERS, None)?;
        let devices = make("vmd-devices", DEVICE_HELPERS, self.device_filter.clone())?;
        let confined = Confined {
            paths: self.has_landlock,
            vcpu_filter: self.vcpu_filter.clone(),
            devices: Some(devices.handle().clone()),
        };
        Ok(Runtimes {
            main,
            devices,
            confined,
        })
    }
}

/// Has all threads for what blocks start: so much work that none is free for the next.
fn start_helpers(runtime: &Runtime, helpers: usize) {
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write();
    for _ in 0..helpers {
        let gate = gate.clone();
        runtime.spawn_blocking(move || drop(gate.read()));
    }
    drop(closed);
}

impl Runtimes {
    /// What is in force in this process.
    pub fn confined(&self) -> Confined {
        self.confined.clone()
    }
}
