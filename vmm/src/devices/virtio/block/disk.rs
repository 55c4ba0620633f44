//! A disk: carries requests out, and says what comes of its errors.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::libc;
use tokio::task;
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::{
    super::{
        interrupt::Interrupt,
        queue::{Chain, QueueError},
        rate::Limiter,
        worker::{Gate, Inside},
    },
    BlockConfig, F_FLUSH, SERIAL_MAX,
    backing::{ResizeError, SECTOR},
    request::{Kind, Range, Request, fill, total},
    ring::{Flight, Operation},
};
use crate::{
    counters::DiskCounters,
    runstate::{BlockErrorAction, BlockIoError, BlockOperation, Requests},
};

/// Most bytes that one request reads, writes or zeroes. Drivers are told less ([`super::SIZE_MAX`] times
/// [`super::SEGMENTS_MAX`]); this holds for those that do not listen.
pub(super) const REQUEST_MAX: usize = 8 << 20;
/// Most ranges of a discard request.
pub(super) const DISCARD_RANGES_MAX: usize = 16;
/// Most sectors of such a range.
pub(super) const DISCARD_SECTORS_MAX: u32 = 1 << 22;
/// Most sectors that are zeroed at once, in one range: where the host cannot do it, zeroes are written.
pub(super) const ZERO_SECTORS_MAX: u32 = (REQUEST_MAX as u64 / SECTOR) as u32;

/// Most ranges of a request, and most sectors of each.
const DISCARDS: (usize, u32) = (DISCARD_RANGES_MAX, DISCARD_SECTORS_MAX);
const ZEROES: (usize, u32) = (1, ZERO_SECTORS_MAX);

// Section 5.2.6.
const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;
const FLAG_UNMAP: u32 = 1;

/// A disk.
pub(crate) struct Disk {
    pub(super) config: BlockConfig,
    /// Its place among the machine's disks.
    index: u8,
    requests: Requests,
    /// How often something was written: counted when it is done, so before the guest knows.
    written: AtomicU64,
    /// How much of that outlives a loss of power. Others may write during a flush: they are not in it.
    flushed: AtomicU64,
    /// What it counts.
    pub(crate) counters: Arc<DiskCounters>,
    /// Shared by its queues.
    pub(super) limiter: Limiter,
    /// Closed while the size changes.
    gate: Gate,
    /// Where a driver is told that the configuration has changed, while there is one.
    driver: Mutex<Option<Arc<Interrupt>>>,
}

/// As long as this is held, the machine is not paused and the disk keeps its size.
pub(super) struct Access {
    _machine: Inside,
    _disk: Inside,
}

/// A driver that is told of changes, until this is dropped.
pub(super) struct Told(Arc<Disk>);

impl Drop for Told {
    fn drop(&mut self) {
        *self.0.driver() = None;
    }
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// It was answered; so many bytes were written to its parts.
    Done(u32),
    /// It was not: it is to be tried again once the machine goes on.
    Kept(BlockIoError),
    /// It was not begun: the disk's limiter does not admit it yet.
    Early,
}

/// What became of a request that is served on a ring.
pub(super) enum Begun {
    /// It is under way, and moves so many bytes.
    UnderWay(UnderWay, usize),
    /// It was served.
    Served(Served, usize),
    /// The disk's limiter does not admit it yet.
    Early,
    /// It is for a thread where it may block.
    Blocks,
}

/// A request whose transfer is under way.
pub(super) struct UnderWay {
    operation: Operation,
    /// Bytes that it writes to guest memory.
    len: usize,
    /// What a flush has made safe once it is done.
    written: u64,
}

/// Why a request was not carried out.
enum Failure {
    /// It asks for what is not there.
    Invalid,
    /// It asks for what the device does not do.
    Unsupported,
    /// The host failed.
    Host(BlockOperation, io::Error),
}

impl Disk {
    pub(crate) fn new(config: BlockConfig, index: u8, requests: Requests) -> Arc<Self> {
        let gate = Gate::default();
        gate.open();
        Arc::new(Self {
            limiter: Limiter::new(config.rate_limit),
            counters: Arc::default(),
            config,
            index,
            requests,
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            gate,
            driver: Mutex::default(),
        })
    }

    /// What it is called: d0, d1, ...
    pub(crate) fn name(&self) -> String {
        format!("d{}", self.index)
    }

    /// Waits until requests may be carried out.
    pub(super) async fn enter(&self, machine: &Gate) -> Access {
        // In this order: who is inside of the machine's gate waits no longer than a change of size takes.
        Access {
            _machine: machine.enter().await,
            _disk: self.gate.enter().await,
        }
    }

    /// Tells `interrupt` of changes as long as the result is kept.
    pub(super) fn tell(self: &Arc<Self>, interrupt: Arc<Interrupt>) -> Told {
        *self.driver() = Some(interrupt);
        Told(self.clone())
    }

    fn driver(&self) -> MutexGuard<'_, Option<Arc<Interrupt>>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the disk `size` bytes long or, without one, as long as its image has become; tells the driver. Requests that
    /// are under way are waited for, and later ones see the new size. One call at a time.
    pub(crate) async fn resize(
        self: &Arc<Self>,
        size: Option<u64>,
        allow_shrink: bool,
    ) -> Result<(), ResizeError> {
        let before = self.config.backing.size();
        if let Some(asked) = size {
            if asked == 0 || !asked.is_multiple_of(SECTOR) {
                return Err(ResizeError::Size(asked));
            }
            if self.config.backing.is_read_only() {
                return Err(ResizeError::ReadOnly);
            }
            if asked < before && !allow_shrink {
                let now = before;
                return Err(ResizeError::Shrinks { now, asked });
            }
        }
        self.gate.close().await;
        let disk = self.clone();
        let resized = task::spawn_blocking(move || disk.config.backing.resize(size)).await;
        self.gate.open();
        resized.map_err(io::Error::other)??;
        let driver = self.driver().clone();
        if let Some(driver) = driver
            && self.config.backing.size() != before
        {
            driver.configuration();
        }
        Ok(())
    }

    pub(super) fn sectors(&self) -> u64 {
        self.config.backing.size() / SECTOR
    }

    /// Begins to serve the request in `chain` on a ring: puts it into `flight`, or answers it if that takes no I/O.
    pub(super) fn begin(&self, chain: &Chain, flight: &mut Flight) -> Result<Begun, QueueError> {
        let memory = flight.held().memory.clone();
        let request = Request::read(chain, &memory)?;
        let moved = total(&request.readable) + total(&request.writable);
        let placed = match request.kind {
            Kind::Read(sector) => self.place(sector, &request.writable, &request.readable),
            Kind::Write(_) if self.config.backing.is_read_only() => Err(Failure::Invalid),
            Kind::Write(sector) => self.place(sector, &request.readable, &request.writable),
            Kind::Flush => Ok(0),
            Kind::GetId | Kind::Unknown | Kind::Discard | Kind::WriteZeroes => {
                return Ok(Begun::Blocks);
            }
        };
        if !self.limiter.admit(moved as u64) {
            return Ok(Begun::Early);
        }
        // Before anything that is under way from here on is done.
        let written = self.written.load(Ordering::SeqCst);
        let (operation, slices) = match request.kind {
            Kind::Read(_) => (Operation::Read, &request.writable),
            Kind::Write(_) => (Operation::Write, &request.readable),
            _ => (Operation::Flush, &request.readable),
        };
        let nothing = match operation {
            Operation::Flush => self.flushed.load(Ordering::SeqCst) >= written,
            Operation::Read | Operation::Write => total(slices) == 0,
        };
        match placed {
            Ok(offset) if !nothing => {
                flight.add(operation, offset, slices);
                let len = total(&request.writable);
                let transfer = UnderWay {
                    operation,
                    len,
                    written,
                };
                Ok(Begun::UnderWay(transfer, moved))
            }
            result => {
                let served = self.answer(&request, result.map(|_| 0))?;
                Ok(Begun::Served(served, moved))
            }
        }
    }

    /// Serves the rest of what was begun: `result` is what became of its transfer.
    pub(super) fn end(
        &self,
        chain: &Chain,
        memory: &GuestMemoryMmap,
        transfer: &UnderWay,
        result: io::Result<()>,
    ) -> Result<Served, QueueError> {
        let (operation, written) = match transfer.operation {
            Operation::Read => (BlockOperation::Read, transfer.len),
            Operation::Write | Operation::Flush => (BlockOperation::Write, 0),
        };
        match transfer.operation {
            Operation::Write => self.has_written(),
            Operation::Flush if result.is_ok() => {
                self.flushed.fetch_max(transfer.written, Ordering::SeqCst);
            }
            Operation::Read | Operation::Flush => {}
        }
        // Taken apart anew: a driver that has changed it meanwhile has its answer elsewhere.
        let request = Request::read(chain, memory)?;
        let result = result.map(|()| written);
        self.answer(
            &request,
            result.map_err(|error| Failure::Host(operation, error)),
        )
    }

    /// Serves the request in `chain`, and says how many bytes it moved. Blocks. Errors that are ignored or reported are
    /// raised here, before the guest can see an answer; one that stops the machine is the caller's to raise.
    pub(super) fn serve(
        &self,
        chain: &Chain,
        memory: &GuestMemoryMmap,
        features: u64,
    ) -> Result<(Served, usize), QueueError> {
        let request = Request::read(chain, memory)?;
        // Zeroes count as if they had come from the driver: the host may have to write them.
        let zeroed = match request.kind {
            Kind::WriteZeroes => self.ranges(&request, ZEROES, FLAG_UNMAP).ok(),
            _ => None,
        };
        let zeroed = zeroed.iter().flatten().map(|(_, len, _)| *len as usize);
        let moved = total(&request.readable) + total(&request.writable) + zeroed.sum::<usize>();
        if !self.limiter.admit(moved as u64) {
            return Ok((Served::Early, 0));
        }
        let result = self.carry_out(&request, features);
        Ok((self.answer(&request, result)?, moved))
    }

    /// Answers a request, unless it is to be kept. `result` has how many bytes of data were written to guest memory.
    fn answer(
        &self,
        request: &Request<'_>,
        result: Result<usize, Failure>,
    ) -> Result<Served, QueueError> {
        let (status, written) = match result {
            Ok(written) => {
                self.count(request);
                (S_OK, written)
            }
            Err(Failure::Invalid) => (S_IOERR, 0),
            Err(Failure::Unsupported) => (S_UNSUPP, 0),
            Err(Failure::Host(operation, error)) => {
                match operation {
                    BlockOperation::Read => self.counters.read_errors.add(1),
                    BlockOperation::Write => self.counters.write_errors.add(1),
                }
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let policies = self.config.policies;
                let error = policies.apply(self.index, operation, errno);
                if error.action == BlockErrorAction::Stop {
                    return Ok(Served::Kept(error));
                }
                self.raise(error);
                let is_ignored = error.action == BlockErrorAction::Ignore;
                (if is_ignored { S_OK } else { S_IOERR }, 0)
            }
        };
        request.set_status(status)?;
        // The parts of a chain have less than 4 GiB.
        Ok(Served::Done(written as u32 + 1))
    }

    /// Counts a request that was carried out.
    fn count(&self, request: &Request<'_>) {
        let counters = &self.counters;
        match request.kind {
            Kind::Read(_) => {
                counters.reads.add(1);
                counters.read_bytes.add(total(&request.writable) as u64);
            }
            Kind::Write(_) => {
                counters.writes.add(1);
                counters.written_bytes.add(total(&request.readable) as u64);
            }
            Kind::Flush => counters.flushes.add(1),
            Kind::Discard | Kind::WriteZeroes => counters.discards.add(1),
            Kind::GetId | Kind::Unknown => {}
        }
    }

    /// Waits until the rate limit admits something.
    pub(super) async fn ready(&self) {
        let waited = self.limiter.ready().await;
        self.counters.throttled_ns.add(waited.as_nanos() as u64);
    }

    /// Tells of an error.
    pub(super) fn raise(&self, error: BlockIoError) {
        use crate::runstate::Request;
        self.requests.raise(Request::BlockIoError(error));
    }

    /// How many bytes of data were written to guest memory.
    fn carry_out(&self, request: &Request<'_>, features: u64) -> Result<usize, Failure> {
        let backing = &self.config.backing;
        let reading = |error| Failure::Host(BlockOperation::Read, error);
        let writing = |error| Failure::Host(BlockOperation::Write, error);
        match request.kind {
            Kind::Read(sector) => {
                let offset = self.place(sector, &request.writable, &request.readable)?;
                backing.read(offset, &request.writable).map_err(reading)?;
                return Ok(total(&request.writable));
            }
            Kind::GetId => return Ok(self.serial(request)),
            Kind::Flush => {
                self.flush().map_err(writing)?;
                return Ok(0);
            }
            Kind::Unknown => return Err(Failure::Unsupported),
            Kind::Write(_) | Kind::Discard | Kind::WriteZeroes => {}
        }
        if backing.is_read_only() {
            return Err(Failure::Invalid);
        }
        match request.kind {
            Kind::Write(sector) => {
                let offset = self.place(sector, &request.readable, &request.writable)?;
                let written = backing.write(offset, &request.readable);
                self.has_written();
                written.map_err(writing)?;
            }
            Kind::Discard => {
                for (offset, len, _) in self.ranges(request, DISCARDS, 0)? {
                    let discarded = backing.discard(offset, len);
                    self.has_written();
                    discarded.map_err(writing)?;
                }
            }
            _ => {
                for (offset, len, flags) in self.ranges(request, ZEROES, FLAG_UNMAP)? {
                    let unmap = flags & FLAG_UNMAP != 0;
                    let zeroed = backing.write_zeroes(offset, len, unmap);
                    self.has_written();
                    zeroed.map_err(writing)?;
                }
            }
        }
        if features & F_FLUSH == 0 {
            // A driver that cannot flush believes what was answered to be safe (section 5.2.6.2).
            self.flush().map_err(writing)?;
        }
        Ok(0)
    }

    /// Where `data`, which begins at `sector`, is, if that is whole sectors of the disk. There must be no `other` data, that
    /// goes the wrong way.
    fn place(
        &self,
        sector: u64,
        data: &[VolatileSlice<'_>],
        other: &[VolatileSlice<'_>],
    ) -> Result<u64, Failure> {
        let len = total(data);
        let bytes = len as u64;
        let end = sector.checked_add(bytes / SECTOR);
        let fits = end.is_some_and(|end| end <= self.sectors());
        if !fits || !bytes.is_multiple_of(SECTOR) || len > REQUEST_MAX || !other.is_empty() {
            return Err(Failure::Invalid);
        }
        Ok(sector * SECTOR)
    }

    /// The ranges of a request, all checked: offset, length and flags of each. There are limits to how many there are, and how
    /// many sectors each has; `known` are the flags that there are.
    fn ranges(
        &self,
        request: &Request<'_>,
        (max, sectors_max): (usize, u32),
        known: u32,
    ) -> Result<Vec<(u64, u64, u32)>, Failure> {
        let ranges = Range::read_all(request.readable.clone(), max).ok_or(Failure::Invalid)?;
        let checked = ranges.into_iter().map(|range| {
            let end = range.sector.checked_add(range.sectors.into());
            if range.sectors > sectors_max || end.is_none_or(|end| end > self.sectors()) {
                return Err(Failure::Invalid);
            }
            if range.flags & !known != 0 {
                return Err(Failure::Unsupported);
            }
            let len = u64::from(range.sectors) * SECTOR;
            Ok((range.sector * SECTOR, len, range.flags))
        });
        // Nothing to do is not for the host, which takes a length of zero for a mistake.
        let checked: Vec<_> = checked.collect::<Result<_, _>>()?;
        Ok(checked.into_iter().filter(|(_, len, _)| *len > 0).collect())
    }

    fn serial(&self, request: &Request<'_>) -> usize {
        let mut id = [0; SERIAL_MAX];
        for (to, from) in id.iter_mut().zip(self.config.serial.bytes()) {
            *to = from;
        }
        fill(&request.writable, &id)
    }

    /// Has all that was written outlive a loss of power. Blocks.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let written = self.written.load(Ordering::SeqCst);
        if self.flushed.load(Ordering::SeqCst) >= written {
            return Ok(());
        }
        self.config.backing.flush()?;
        self.flushed.fetch_max(written, Ordering::SeqCst);
        Ok(())
    }

    /// Something was written, or was not to its end.
    pub(super) fn has_written(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets others have the image.
    pub(crate) fn close(&self) {
        self.config.backing.close();
    }
}
