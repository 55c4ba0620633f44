//! Transfers into guest memory.
//!
//! The address register takes the guest address of 16 bytes, all big-endian:
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | u32 control | bit 3: select the key in bits 16..=31; then bit 1: read, else bit 4: write, else bit 2: skip |
//! | 4 | u32 length | in bytes |
//! | 8 | u64 address | where to |
//!
//! Done within the access: control then is 0, or 1 (error) where the transfer was refused. What a read asks for beyond the
//! item's end is zeros. A write is refused: every item is read-only. So is whatever does not lie in RAM, before its first
//! byte, and a read of more zeros than [`MAX_ZEROS`]: an access does a bounded amount of work.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::FwCfg;

const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// How many bytes beyond an item's end one transfer may ask for.
pub(super) const MAX_ZEROS: usize = 64 << 10;

static ZEROS: [u8; 4096] = [0; 4096];

/// The transfer cannot be done.
struct Refused;

impl<E: std::error::Error> From<E> for Refused {
    fn from(_: E) -> Self {
        Self
    }
}

impl FwCfg {
    /// Does what the 16 bytes at `at` say.
    pub(super) fn transfer(&mut self, at: u64) {
        let outcome = match self.try_transfer(GuestAddress(at)) {
            Ok(()) => 0,
            Err(Refused) => ERROR,
        };
        // Where control itself is not in RAM there is nobody to tell.
        let _ = self
            .memory
            .write_slice(&u32::to_be_bytes(outcome), GuestAddress(at));
    }

    fn try_transfer(&mut self, at: GuestAddress) -> Result<(), Refused> {
        let mut request = [0; 16];
        self.memory.read_slice(&mut request, at)?;
        let request = u128::from_be_bytes(request);
        // The three fields of the 128 bits.
        let control = (request >> 96) as u32;
        let length = usize::try_from((request >> 64) as u32)?;
        let address = GuestAddress(request as u64);

        if control & SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        if control & READ != 0 {
            self.copy(address, length)
        } else if control & WRITE != 0 {
            Err(Refused)
        } else {
            if control & SKIP != 0 {
                self.offset += length.min(self.rest().len());
            }
            Ok(())
        }
    }

    /// Copies the next `length` bytes of the item to `address`.
    fn copy(&mut self, address: GuestAddress, length: usize) -> Result<(), Refused> {
        let rest = self.rest();
        let bytes = rest.get(..length).unwrap_or(rest);
        let (copied, zeros) = (bytes.len(), length - bytes.len());
        if zeros > MAX_ZEROS || !self.memory.check_range(address, length) {
            return Err(Refused);
        }
        self.memory.write_slice(bytes, address)?;
        let mut done = copied;
        while done < length {
            let chunk = ZEROS.get(..length - done).unwrap_or(&ZEROS);
            let to = address.0.checked_add(done as u64).ok_or(Refused)?;
            self.memory.write_slice(chunk, GuestAddress(to))?;
            done += chunk.len();
        }
        self.offset += copied;
        Ok(())
    }
}
