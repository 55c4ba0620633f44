//! Pages that go back to the host.

use std::{ops::Range, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};
use tracing::debug;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice,
};

use super::{super::queue::QueueError, PAGE};

const OUTSIDE: QueueError = QueueError::Request("for the balloon names what is no memory");

/// The ranges of addresses that pages of these numbers have, in order, neighbours drawn together.
pub(super) fn ranges(mut numbers: Vec<u32>) -> Vec<Range<u64>> {
    numbers.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        let start = u64::from(number) * PAGE;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = start + PAGE,
            // The same page twice.
            Some(last) if last.end > start => {}
            _ => ranges.push(start..start + PAGE),
        }
    }
    ranges
}

/// Fails unless all of `ranges` is RAM.
pub(super) fn check(memory: &GuestMemoryMmap, ranges: &[Range<u64>]) -> Result<(), QueueError> {
    ranges.iter().try_for_each(|range| {
        let is_whole = range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
        let slice = slice(memory, range).filter(|_| is_whole);
        slice.map(drop).ok_or(OUTSIDE)
    })
}

/// Gives `ranges`, which are RAM, back to the host. They read as zero from here on, and the host gives a page anew when it
/// is touched. Blocks.
pub(super) fn give_back(memory: &GuestMemoryMmap, ranges: &[Range<u64>]) {
    for range in ranges {
        let Some(slice) = slice(memory, range) else {
            continue;
        };
        let start = GuestAddress(range.start);
        let is_shared = memory
            .find_region(start)
            .is_some_and(|region| region.file_offset().is_some());
        if let Err(error) = discard(&slice, is_shared) {
            // Locked memory, for one. The guest does not use it any more; the host does not get it.
            debug!(%error, "memory cannot be given back");
        }
    }
}

/// Memory is in one piece below and one above the hole under 4 GiB: no range goes across.
fn slice<'a>(memory: &'a GuestMemoryMmap, range: &Range<u64>) -> Option<VolatileSlice<'a>> {
    let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    memory.get_slice(GuestAddress(range.start), len).ok()
}

/// Of private memory the pages are dropped; of shared memory the file's, which go back only so.
fn discard(slice: &VolatileSlice<'_>, is_shared: bool) -> nix::Result<()> {
    let Some(start) = NonNull::new(slice.ptr_guard_mut().as_ptr()) else {
        return Ok(());
    };
    let advice = match is_shared {
        true => MmapAdvise::MADV_REMOVE,
        false => MmapAdvise::MADV_DONTNEED,
    };
    // SAFETY: the slice is guest memory, mapped as long as it is borrowed. Both leave the mapping in place, with zeroes in
    // it; everything on this side reads guest memory as something that changes at any time.
    unsafe { madvise(start.cast(), slice.len(), advice) }
}
