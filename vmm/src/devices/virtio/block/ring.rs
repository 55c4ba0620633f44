//! Reads, writes and flushes of a file by io_uring: no thread waits for them, and those of a batch go side by side.
//!
//! ```text
//!   Flight::add --> submission queue --> kernel --> completion queue --(the ring's descriptor is readable)--> finish
//! ```
//! The kernel uses guest memory until it has completed a request, whatever becomes of the task that asked for it. So all that
//! must stay is held by the [`Flight`]: one that is dropped early waits for the kernel, on a thread where it may.

use std::{fs::File, io, mem::ManuallyDrop, os::fd::AsRawFd, sync::Arc};

use io_uring::{IoUring, opcode, squeue, types};
use nix::libc;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};
use tracing::error;
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use super::{
    super::worker::Busy,
    disk::{Access, Disk},
    serve::BATCH_MAX,
    vectored::PARTS_MAX,
};

/// A ring, with nothing under way.
pub(super) struct Ring(AsyncFd<IoUring>);

impl Ring {
    /// Makes one, if the host has io_uring and lets this process use it. Must be called within a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(BATCH_MAX as u32)?;
        // SAFETY: a ring's descriptor stays open, and the same, as long as the ring is there, which the result keeps.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self(ring))
    }

    /// Why this host has none, if so.
    pub(super) fn check() -> io::Result<()> {
        IoUring::new(1).map(drop)
    }
}

/// What is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Flush,
}

/// What the kernel uses, and so must stay until it is done.
pub(super) struct Held {
    pub(super) access: Access,
    pub(super) memory: Arc<GuestMemoryMmap>,
    /// Has the file.
    pub(super) disk: Arc<Disk>,
    /// For whoever stops the device.
    pub(super) _busy: Busy,
}

/// Requests that are under way.
pub(super) struct Flight {
    /// Taken when it has landed.
    ring: Option<Ring>,
    held: ManuallyDrop<Held>,
    transfers: Vec<Transfer>,
    under_way: usize,
}

struct Transfer {
    operation: Operation,
    offset: u64,
    /// What is left to do.
    parts: Vec<Part>,
    result: io::Result<()>,
}

/// As `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Part {
    address: usize,
    len: usize,
}

impl Flight {
    pub(super) fn new(ring: Ring, held: Held) -> Self {
        Self {
            ring: Some(ring),
            held: ManuallyDrop::new(held),
            transfers: Vec::new(),
            under_way: 0,
        }
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Adds a transfer between `slices`, which are of the memory that is held, and the disk's file at `offset`. At most
    /// [`BATCH_MAX`] of them.
    pub(super) fn add(&mut self, operation: Operation, offset: u64, slices: &[VolatileSlice<'_>]) {
        let part = |slice: &VolatileSlice<'_>| Part {
            address: slice.ptr_guard_mut().as_ptr() as usize,
            len: slice.len(),
        };
        self.transfers.push(Transfer {
            operation,
            offset,
            parts: slices.iter().map(part).collect(),
            result: Ok(()),
        });
        self.push(self.transfers.len() - 1);
    }

    /// Puts what is left of a transfer into the submission queue.
    fn push(&mut self, index: usize) {
        let file = self.held.disk.config.backing.file().map(File::as_raw_fd);
        let (Some(ring), Some(file), Some(transfer)) =
            (&mut self.ring, file, self.transfers.get_mut(index))
        else {
            return;
        };
        let entry = transfer.entry(file).user_data(index as u64);
        // SAFETY: the file, the parts and the memory that they are in stay until the kernel is done: they are in `self`,
        // which waits for that before it goes. Nothing here has references into that memory.
        let pushed = unsafe { ring.0.get_mut().submission().push(&entry) };
        match pushed {
            Ok(()) => self.under_way += 1,
            // There is a place for each transfer.
            Err(full) => transfer.result = Err(io::Error::other(full)),
        }
    }

    /// Takes what is completed. Whether something of it is to be submitted once more.
    fn reap(&mut self) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        let mut is_again = false;
        let completed = ring.0.get_mut().completion();
        let completed: Vec<_> = completed
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        for (index, result) in completed {
            self.under_way -= 1;
            let index = index as usize;
            let transfer = self.transfers.get_mut(index);
            if transfer.is_some_and(|transfer| !transfer.is_done(result)) {
                self.push(index);
                is_again = true;
            }
        }
        is_again
    }

    /// Lets the kernel have what is in the submission queue, and waits until `want` are completed.
    fn submit(&mut self, want: usize) -> io::Result<()> {
        let Some(ring) = &self.ring else {
            return Ok(());
        };
        match ring.0.get_ref().submit_and_wait(want) {
            // The kernel has no room for now: what is completed makes some.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Waits until all of it is done: what became of each transfer, in order.
    pub(super) async fn finish(mut self) -> io::Result<(Ring, Held, Vec<io::Result<()>>)> {
        loop {
            self.submit(0)?;
            // What is not done to its end is in the submission queue again.
            let is_again = self.reap();
            if self.under_way == 0 {
                break;
            }
            if let Some(ring) = &self.ring
                && !is_again
            {
                ring.0.readable().await?.clear_ready();
            }
        }
        let results = self.transfers.drain(..).map(|transfer| transfer.result);
        let results = results.collect();
        let ring = self.ring.take().ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: it is not used again: without a ring, the drop leaves it alone.
        let held = unsafe { ManuallyDrop::take(&mut self.held) };
        Ok((ring, held, results))
    }

    /// Waits until the kernel uses nothing any more. Blocks.
    fn land(&mut self) {
        while self.under_way > 0 {
            if let Err(error) = self.submit(1) {
                // The kernel may go on for ever: let it have the memory, and the gate never close.
                error!(%error, "an io_uring does not end");
                return;
            }
            self.reap();
        }
        self.ring = None;
        // SAFETY: it is not used again: without a ring, the drop leaves it alone.
        unsafe { ManuallyDrop::drop(&mut self.held) };
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.ring.is_none() {
            return;
        }
        let mut rest = Self {
            ring: self.ring.take(),
            // SAFETY: without a ring, `self` does not use it again.
            held: ManuallyDrop::new(unsafe { ManuallyDrop::take(&mut self.held) }),
            transfers: std::mem::take(&mut self.transfers),
            under_way: self.under_way,
        };
        match Handle::try_current() {
            Ok(runtime) if rest.under_way > 0 => {
                // A runtime that ends drops the closure at once: then this happens here.
                let mut rest = Landing(rest);
                drop(runtime.spawn_blocking(move || rest.0.land()));
            }
            _ => rest.land(),
        }
    }
}

/// Lands where it is dropped.
struct Landing(Flight);

impl Drop for Landing {
    fn drop(&mut self) {
        if self.0.ring.is_some() {
            self.0.land();
        }
    }
}

impl Transfer {
    fn entry(&self, file: i32) -> squeue::Entry {
        let file = types::Fd(file);
        let count = self.parts.len().min(PARTS_MAX) as u32;
        let parts: *const libc::iovec = self.parts.as_ptr().cast();
        match self.operation {
            Operation::Read => opcode::Readv::new(file, parts, count)
                .offset(self.offset)
                .build(),
            Operation::Write => opcode::Writev::new(file, parts, count)
                .offset(self.offset)
                .build(),
            Operation::Flush => opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }

    /// Takes note of what the kernel has answered; whether nothing is left to do.
    fn is_done(&mut self, answer: i32) -> bool {
        match (answer, self.operation) {
            (answer, _) if -answer == libc::EINTR || -answer == libc::EAGAIN => return false,
            (..0, _) => self.result = Err(io::Error::from_raw_os_error(-answer)),
            (_, Operation::Flush) => {}
            // The file has become shorter than the disk.
            (0, _) => self.result = Err(io::Error::from_raw_os_error(libc::EIO)),
            (1.., _) => {
                self.skip(answer as usize);
                return self.parts.is_empty();
            }
        }
        true
    }

    /// Leaves out the first `count` bytes.
    fn skip(&mut self, count: usize) {
        self.offset = self.offset.saturating_add(count as u64);
        let mut rest = count;
        self.parts.retain_mut(|part| {
            let done = rest.min(part.len);
            rest -= done;
            part.address += done;
            part.len -= done;
            part.len > 0
        });
    }
}
