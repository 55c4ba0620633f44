//! The memory of a chain of descriptors.

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::{
    super::queue::{Chain, QueueError},
    descriptor::PARTS_MAX,
};

/// Which way a chain's data goes. Those of this device's frames go one way each (sections 5.1.6.2 and 5.1.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the driver.
    Readable,
    /// To the driver.
    Writable,
}

/// The parts of `chain`, all of them for this direction, in order. Fewer than [`PARTS_MAX`].
pub(super) fn slices<'a>(
    chain: &Chain,
    memory: &'a GuestMemoryMmap,
    direction: Direction,
) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
    let mut slices = Vec::new();
    for part in chain.clone() {
        if part.len() == 0 {
            return Err(QueueError::Request("has an empty part"));
        }
        if part.is_write_only() != (direction == Direction::Writable) {
            return Err(QueueError::Request("has parts of the wrong direction"));
        }
        for slice in memory.get_slices(part.addr(), part.len() as usize) {
            let slice = slice.map_err(|_| QueueError::Request("leads outside memory"))?;
            slices.push(slice);
        }
        if slices.len() >= PARTS_MAX {
            return Err(QueueError::Request("has too many parts"));
        }
    }
    Ok(slices)
}

/// Bytes of `slices` together.
pub(super) fn total(slices: &[VolatileSlice<'_>]) -> usize {
    // A chain has less than 4 GiB.
    slices.iter().map(VolatileSlice::len).sum()
}

/// Writes `bytes` to `slices` from their byte `offset` on, as far as they go.
pub(super) fn fill(slices: &[VolatileSlice<'_>], offset: usize, bytes: &[u8]) {
    let (mut skip, mut rest) = (offset, bytes);
    for slice in slices {
        let from = skip.min(slice.len());
        let Ok(slice) = slice.offset(from) else {
            return;
        };
        skip -= from;
        let (now, later) = rest.split_at(slice.len().min(rest.len()));
        slice.copy_from(now);
        rest = later;
    }
}
