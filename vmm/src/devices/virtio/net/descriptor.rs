//! Between a descriptor of the host's and guest memory, without a copy: `readv(2)` and `writev(2)` on slices of it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc;
use tokio::io::unix::AsyncFd;
use vm_memory::{VolatileSlice, bitmap::Bitmap};

/// Most parts that one system call takes (`IOV_MAX`).
pub(super) const PARTS_MAX: usize = 1024;

/// Lets the runtime tell when `descriptor`, which does not block, is ready. Must be called within a tokio runtime.
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned: it stays open, and the same, until the result drops it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Reads once: how many bytes came, from the first of `into` on.
pub(super) fn read(from: &OwnedFd, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = into.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    // SAFETY: the guards keep each part's memory mapped and writable for its length; nothing here has references into it,
    // and what else looks at it (the guest, other devices) does so knowing that it changes.
    let done = unsafe {
        libc::readv(
            from.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
        )
    };
    let done = count(done)?;
    let mut rest = done;
    for part in into {
        let filled = rest.min(part.len());
        part.bitmap().mark_dirty(0, filled);
        rest -= filled;
    }
    Ok(done)
}

/// Writes once: how many bytes were taken, from the first of `from` on.
pub(super) fn write(to: &OwnedFd, from: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = from.iter().map(VolatileSlice::ptr_guard).collect();
    let vectors: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast_mut().cast(),
            iov_len: guard.len(),
        })
        .collect();
    // SAFETY: the guards keep each part's memory mapped for its length; the kernel only reads it, whoever changes it
    // meanwhile.
    let done = unsafe {
        libc::writev(
            to.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
        )
    };
    count(done)
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
