//! The threads: one runtime for the daemon, another for its machines' devices, which may do less.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tracing::error;
use vmm::confine::Filter;

use super::{Confined, Containment, ContainmentError, capabilities};

/// How long a thread that built or closed a machine waits for another. Two hundred created at once leave as many threads,
/// each with its stack.
const HELPERS_KEPT: Duration = Duration::from_secs(1);

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
        let make = |name: &str, filter: Option<Filter>| {
            let kept = self.kept;
            let confine = move || {
                capabilities::give_up(kept)?;
                Ok(filter.as_ref().map_or(Ok(()), Filter::enter)?)
            };
            Builder::new_multi_thread()
                .enable_all()
                .thread_name(name)
                .thread_keep_alive(HELPERS_KEPT)
                .on_thread_start(move || {
                    let confined: Result<(), ContainmentError> = confine();
                    // The first thread has done as much; so it cannot fail but for memory.
                    if let Err(error) = confined {
                        error!(%error, "a thread is not confined as it should be");
                    }
                })
                .build()
                .map_err(ContainmentError::Threads)
        };
        let main = make("vmd", None)?;
        let devices = make("vmd-devices", self.device_filter.clone())?;
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

impl Runtimes {
    /// What is in force in this process.
    pub fn confined(&self) -> Confined {
        self.confined.clone()
    }
}
