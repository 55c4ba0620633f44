//! The device's tasks, one for each queue: they take requests out, and have them served by a ring, or where that may block.

use std::{collections::VecDeque, io, sync::Arc};

use tokio::task::JoinSet;
use tracing::{Instrument, debug, warn};
use vm_memory::GuestMemoryMmap;

use super::{
    super::{
        DeviceError, Driver,
        queue::{Chain, QueueError, VirtQueue},
    },
    Engine, F_FLUSH,
    disk::{Access, Begun, Disk, REQUEST_MAX, Served, UnderWay},
    ring::{Flight, Held, Ring},
};
use crate::runstate::BlockIoError;

/// Most requests that are served before others get their turn.
pub(super) const BATCH_MAX: usize = 16;

/// Serves a driver's requests until it does what it must not.
pub(super) async fn serve(disk: Arc<Disk>, mut driver: Driver) -> Result<(), DeviceError> {
    let first = driver.take(0)?;
    let _told = disk.tell(driver.interrupt.clone());
    let others: Vec<_> = driver.queues.iter_mut().filter_map(Option::take).collect();
    let driver = Arc::new(driver);
    // Those that are left when this one ends, or is dropped, end with it: whoever stops the device waits for them.
    let mut tasks = JoinSet::new();
    for queue in others {
        let (disk, driver) = (disk.clone(), driver.clone());
        let task = async move {
            let _busy = driver.blocking.busy().await;
            serve_queue(&disk, &driver, queue).await
        };
        tasks.spawn(task.in_current_span());
    }
    tokio::select! {
        result = serve_queue(&disk, &driver, first) => result,
        // It fails if the task has panicked.
        Some(ended) = tasks.join_next() => ended.map_err(io::Error::other)?,
    }
}

async fn serve_queue(
    disk: &Arc<Disk>,
    driver: &Driver,
    mut queue: VirtQueue,
) -> Result<(), DeviceError> {
    let mut ring = ring(disk, driver);
    loop {
        queue.kicked().await?;
        // One batch at a time: a driver that always has another request must not keep the gate open.
        while serve_batch(disk, driver, &mut queue, &mut ring).await? {}
    }
}

/// A ring for a queue, if its requests are to go by one and the host has it.
fn ring(disk: &Disk, driver: &Driver) -> Option<Ring> {
    // Without the flush feature a write is two operations, one after the other.
    let is_asked = disk.config.engine != Engine::Threads
        && disk.config.backing.file().is_some()
        && driver.features & F_FLUSH != 0;
    match is_asked.then(Ring::new)? {
        Ok(ring) => Some(ring),
        Err(error) => {
            if disk.config.engine == Engine::IoUring {
                warn!(%error, "no io_uring: a disk's I/O goes on threads");
            } else {
                debug!(%error, "no io_uring: a disk's I/O goes on threads");
            }
            None
        }
    }
}

/// Serves some of the requests that wait; whether there were any.
async fn serve_batch(
    disk: &Arc<Disk>,
    driver: &Driver,
    queue: &mut VirtQueue,
    ring: &mut Option<Ring>,
) -> Result<bool, DeviceError> {
    disk.ready().await;
    let mut access = disk.enter(&driver.gate).await;
    let mut waiting = VecDeque::new();
    while waiting.len() < BATCH_MAX
        && let Some(chain) = queue.pop()?
    {
        waiting.push_back(chain);
    }
    if waiting.is_empty() {
        return Ok(false);
    }
    loop {
        let job = Job {
            disk: disk.clone(),
            memory: queue.memory().clone(),
            features: driver.features,
            waiting,
        };
        let still_inside;
        let batch = match ring.take() {
            Some(empty) => {
                let (landed, inside, batch) = job.fly(driver, empty, access).await?;
                (*ring, still_inside) = (Some(landed), inside);
                batch
            }
            None => {
                let work = move || job.carry_out();
                let (inside, batch) = driver.blocking.run(access, work).await?;
                still_inside = inside;
                batch?
            }
        };
        for (chain, written) in &batch.done {
            queue.push(chain, *written)?;
        }
        waiting = batch.left;
        if waiting.is_empty() {
            return Ok(true);
        }
        if batch.stops.is_empty() {
            drop(still_inside);
        } else {
            // Whatever opens the gate from here on, the machine goes on after it knew of the errors.
            let openings = driver.gate.openings();
            batch.stops.into_iter().for_each(|error| disk.raise(error));
            drop(still_inside);
            driver.gate.opened_since(openings).await;
        }
        disk.ready().await;
        access = disk.enter(&driver.gate).await;
    }
}

/// Some requests, to be served in order until they have moved [`REQUEST_MAX`] bytes: what is left waits for another turn, so
/// that a pause need not wait for it.
struct Job {
    disk: Arc<Disk>,
    memory: Arc<GuestMemoryMmap>,
    features: u64,
    waiting: VecDeque<Chain>,
}

/// What became of some requests.
#[derive(Default)]
struct Batch {
    /// Those that were answered, and how much was written to their parts.
    done: Vec<(Chain, u32)>,
    /// Why others were not, if the machine is to stop for them.
    stops: Vec<BlockIoError>,
    /// Those that were not, in order.
    left: VecDeque<Chain>,
}

impl Batch {
    fn add(&mut self, chain: Chain, served: Served) {
        match served {
            Served::Done(written) => self.done.push((chain, written)),
            Served::Early => self.left.push_back(chain),
            Served::Kept(error) => {
                self.left.push_back(chain);
                self.stops.push(error);
            }
        }
    }
}

impl Job {
    /// Serves them one after the other, up to one that is not answered. Blocks.
    fn carry_out(mut self) -> Result<Batch, QueueError> {
        let (mut batch, mut moved) = (Batch::default(), 0);
        while moved < REQUEST_MAX
            && batch.left.is_empty()
            && let Some(chain) = self.waiting.pop_front()
        {
            let (served, bytes) = self.disk.serve(&chain, &self.memory, self.features)?;
            moved += bytes;
            batch.add(chain, served);
        }
        batch.left.append(&mut self.waiting);
        Ok(batch)
    }

    /// Serves them side by side, by `ring`.
    async fn fly(
        mut self,
        driver: &Driver,
        ring: Ring,
        access: Access,
    ) -> Result<(Ring, Access, Batch), DeviceError> {
        let held = Held {
            access,
            memory: self.memory.clone(),
            disk: self.disk.clone(),
            _busy: driver.blocking.busy().await,
        };
        let mut flight = Flight::new(ring, held);
        let (mut begun, mut moved) = (Vec::new(), 0);
        let mut blocks = false;
        while moved < REQUEST_MAX
            && let Some(chain) = self.waiting.pop_front()
        {
            match self.disk.begin(&chain, &mut flight)? {
                Begun::UnderWay(transfer, bytes) => {
                    moved += bytes;
                    begun.push((chain, Step::UnderWay(transfer)));
                }
                Begun::Served(served, bytes) => {
                    moved += bytes;
                    begun.push((chain, Step::Served(served)));
                }
                Begun::Early => {
                    self.waiting.push_front(chain);
                    break;
                }
                Begun::Blocks => {
                    // When it is the first.
                    blocks = begun.is_empty();
                    self.waiting.push_front(chain);
                    break;
                }
            }
        }
        let (ring, held, results) = flight.finish().await?;
        let (mut access, mut results) = (held.access, results.into_iter());
        let mut batch = Batch::default();
        for (chain, step) in begun {
            let served = match step {
                Step::Served(served) => served,
                Step::UnderWay(transfer) => {
                    let result = results
                        .next()
                        .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
                    self.disk.end(&chain, &self.memory, &transfer, result)?
                }
            };
            batch.add(chain, served);
        }
        if blocks {
            let rest = self.waiting.split_off(1);
            let work = move || self.carry_out();
            let (inside, alone) = driver.blocking.run(access, work).await?;
            (access, batch) = (inside, alone?);
            batch.left.extend(rest);
        } else {
            batch.left.append(&mut self.waiting);
        }
        Ok((ring, access, batch))
    }
}

/// How far a request is that was begun.
enum Step {
    Served(Served),
    UnderWay(UnderWay),
}
