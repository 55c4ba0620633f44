//! A request (virtio 1.2, section 5.2.6): what is in a chain of descriptors, taken apart.
//!
//! ```text
//!   to be read:     type, reserved, sector (16 bytes) | data
//!   to be written:  data | status (1 byte)
//! ```
//! How the parts are cut into descriptors is the driver's affair (section 2.7.4).

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::{
    super::queue::{Chain, QueueError},
    vectored::PARTS_MAX,
};

/// Bytes of a request's head.
const HEAD: usize = 16;

// Section 5.2.6.
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To read from this sector on.
    Read(u64),
    /// To write from this sector on.
    Write(u64),
    /// What was written is to outlive a loss of power.
    Flush,
    /// The serial number.
    GetId,
    /// The data of some ranges is not needed.
    Discard,
    /// Some ranges are to be zeroes.
    WriteZeroes,
    /// Something else.
    Unknown,
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) kind: Kind,
    /// Data to be read.
    pub(super) readable: Vec<VolatileSlice<'a>>,
    /// Data to be written.
    pub(super) writable: Vec<VolatileSlice<'a>>,
    /// Where the status goes: one byte.
    status: VolatileSlice<'a>,
}

impl<'a> Request<'a> {
    /// Takes `chain` apart. An error if it has no room for a head and a status.
    pub(super) fn read(chain: &Chain, memory: &'a GuestMemoryMmap) -> Result<Self, QueueError> {
        let (readable, writable) = parts(chain, memory)?;
        let (head, readable) = split(readable, HEAD).ok_or(QueueError::Request("has no head"))?;
        let room = total(&writable).checked_sub(1);
        let (writable, status) = room
            .and_then(|room| split(writable, room))
            .ok_or(QueueError::Request("has no room for its status"))?;
        let status = status.first().copied();
        Ok(Self {
            kind: Kind::read(copy(&head)),
            readable,
            writable,
            status: status.ok_or(QueueError::Request("has no room for its status"))?,
        })
    }

    /// Answers it.
    pub(super) fn set_status(&self, status: u8) -> Result<(), QueueError> {
        let written = self.status.write_obj(status, 0);
        written.map_err(|_| QueueError::Request("has no room for its status"))
    }
}

impl Kind {
    fn read(head: [u8; HEAD]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = head;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            T_IN => Self::Read(sector),
            T_OUT => Self::Write(sector),
            T_FLUSH => Self::Flush,
            T_GET_ID => Self::GetId,
            T_DISCARD => Self::Discard,
            T_WRITE_ZEROES => Self::WriteZeroes,
            _ => Self::Unknown,
        }
    }
}

type Slices<'a> = Vec<VolatileSlice<'a>>;

/// The parts to be read and those to be written.
fn parts<'a>(
    chain: &Chain,
    memory: &'a GuestMemoryMmap,
) -> Result<(Slices<'a>, Slices<'a>), QueueError> {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for (count, part) in chain.clone().enumerate() {
        if count >= PARTS_MAX {
            return Err(QueueError::Request("has too many parts"));
        }
        if part.len() == 0 {
            return Err(QueueError::Request("has an empty part"));
        }
        let parts = if part.is_write_only() {
            &mut writable
        } else if writable.is_empty() {
            &mut readable
        } else {
            // Section 2.7.4.2.
            return Err(QueueError::Request("has parts in the wrong order"));
        };
        for slice in memory.get_slices(part.addr(), part.len() as usize) {
            let slice = slice.map_err(|_| QueueError::Request("leads outside memory"))?;
            parts.push(slice);
        }
    }
    Ok((readable, writable))
}

/// Bytes of `slices` together.
pub(super) fn total(slices: &[VolatileSlice<'_>]) -> usize {
    // A chain has less than 4 GiB.
    slices.iter().map(VolatileSlice::len).sum()
}

/// Cuts `slices` into its first `count` bytes and the rest; `None` if there are fewer.
fn split(slices: Slices<'_>, count: usize) -> Option<(Slices<'_>, Slices<'_>)> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut missing = count;
    for slice in slices {
        let (head, tail) = slice.split_at(missing.min(slice.len())).ok()?;
        missing -= head.len();
        first.extend((!head.is_empty()).then_some(head));
        second.extend((!tail.is_empty()).then_some(tail));
    }
    (missing == 0).then_some((first, second))
}

/// The first `N` bytes of `slices`; what is missing is zero.
pub(super) fn copy<const N: usize>(slices: &[VolatileSlice<'_>]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut rest = &mut bytes[..];
    for slice in slices {
        let (now, later) = rest.split_at_mut(slice.len().min(rest.len()));
        slice.copy_to(now);
        rest = later;
    }
    bytes
}

/// Writes `bytes` to the beginning of `slices`, as far as they go; how many were written.
pub(super) fn fill(slices: &[VolatileSlice<'_>], bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for slice in slices {
        let (now, later) = rest.split_at(slice.len().min(rest.len()));
        slice.copy_from(now);
        rest = later;
    }
    bytes.len() - rest.len()
}

/// One range of a discard or write-zeroes request (section 5.2.6: `virtio_blk_discard_write_zeroes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    pub(super) flags: u32,
}

impl Range {
    /// Bytes of a range.
    pub(super) const SIZE: usize = 16;

    /// The ranges in `slices`, at most `max`; `None` if that is not what is there.
    pub(super) fn read_all(slices: Slices<'_>, max: usize) -> Option<Vec<Self>> {
        let bytes = total(&slices);
        if bytes == 0 || !bytes.is_multiple_of(Self::SIZE) || bytes / Self::SIZE > max {
            return None;
        }
        let mut rest = slices;
        let mut ranges = Vec::new();
        for _ in 0..bytes / Self::SIZE {
            let (first, others) = split(rest, Self::SIZE)?;
            rest = others;
            let [
                s0,
                s1,
                s2,
                s3,
                s4,
                s5,
                s6,
                s7,
                n0,
                n1,
                n2,
                n3,
                f0,
                f1,
                f2,
                f3,
            ] = copy(&first);
            ranges.push(Self {
                sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                sectors: u32::from_le_bytes([n0, n1, n2, n3]),
                flags: u32::from_le_bytes([f0, f1, f2, f3]),
            });
        }
        Some(ranges)
    }
}
