//! Between a file and guest memory, without a copy: `preadv(2)` and `pwritev(2)` on slices of it.

use std::{fs::File, io, os::fd::AsRawFd};

use nix::libc;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::Bitmap;

/// Most parts that one system call takes (`IOV_MAX`).
pub(super) const PARTS_MAX: usize = 1024;

/// Fills `into` with what `file` has at `offset`. A file that ends before is an error of the medium.
pub(super) fn read(file: &File, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
    transfer(offset, into, |parts, offset| {
        let guards: Vec<_> = parts.iter().map(VolatileSlice::ptr_guard_mut).collect();
        let vectors: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        // SAFETY: the guards keep each part's memory mapped and writable for its length; nothing here has references into
        // it, and what else looks at it (the guest, other devices) does so knowing that it changes.
        let done = unsafe {
            libc::preadv(
                file.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
                offset,
            )
        };
        let done = count(done)?;
        let mut rest = done;
        for part in parts {
            let filled = rest.min(part.len());
            part.bitmap().mark_dirty(0, filled);
            rest -= filled;
        }
        Ok(done)
    })
}

/// Writes `from` at `offset`.
pub(super) fn write(file: &File, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
    transfer(offset, from, |parts, offset| {
        let guards: Vec<_> = parts.iter().map(VolatileSlice::ptr_guard).collect();
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
            libc::pwritev(
                file.as_raw_fd(),
                vectors.as_ptr(),
                vectors.len() as libc::c_int,
                offset,
            )
        };
        count(done)
    })
}

/// Writes `len` zeroes at `offset`.
pub(super) fn write_zeroes(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mut zeroes = [0_u8; 4096];
    let zeroes = VolatileSlice::from(&mut zeroes[..]);
    let whole = (len / 4096) as usize;
    let mut offset = offset;
    for first in (0..whole).step_by(PARTS_MAX) {
        let parts = vec![zeroes; (whole - first).min(PARTS_MAX)];
        write(file, offset, &parts)?;
        offset += parts.len() as u64 * 4096;
    }
    match zeroes.subslice(0, (len % 4096) as usize) {
        Ok(rest) if !rest.is_empty() => write(file, offset, &[rest]),
        _ => Ok(()),
    }
}

/// Calls `once` until all of `parts` is done; it does some of them, from the first on.
fn transfer<'a>(
    offset: u64,
    parts: &[VolatileSlice<'a>],
    once: impl Fn(&[VolatileSlice<'a>], libc::off_t) -> io::Result<usize>,
) -> io::Result<()> {
    let mut parts: Vec<_> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect();
    let mut offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    while !parts.is_empty() {
        let some = parts.get(..PARTS_MAX).unwrap_or(&parts);
        let done = match once(some, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if done == 0 {
            // The file has become shorter than the disk.
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        offset = offset.saturating_add_unsigned(done as u64);
        skip(&mut parts, done).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Leaves out the first `count` bytes.
fn skip(
    parts: &mut Vec<VolatileSlice<'_>>,
    count: usize,
) -> Result<(), vm_memory::VolatileMemoryError> {
    let mut rest = count;
    let whole = parts.iter().take_while(|part| {
        let is_done = part.len() <= rest;
        if is_done {
            rest -= part.len();
        }
        is_done
    });
    let whole = whole.count();
    parts.drain(..whole);
    if let Some(first) = parts.first_mut() {
        *first = first.offset(rest)?;
    }
    Ok(())
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_skipped() {
        let mut bytes = [0_u8; 10];
        let slice = VolatileSlice::from(&mut bytes[..]);
        let part = |at, len| slice.subslice(at, len).unwrap();
        for (count, lens) in [
            (0, &[3_usize, 3, 4][..]),
            (2, &[1, 3, 4]),
            (3, &[3, 4]),
            (7, &[3]),
            (10, &[]),
        ] {
            let mut parts = vec![part(0, 3), part(3, 3), part(6, 4)];
            skip(&mut parts, count).unwrap();
            let left: Vec<_> = parts.iter().map(VolatileSlice::len).collect();
            assert_eq!(left, lens, "{count}");
        }
    }
}
