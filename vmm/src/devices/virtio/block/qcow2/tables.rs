//! The tables of a qcow2 image: whether what they point to is there. An image that was cut off would read as zeroes where it
//! ends, and its guest would take them for its data.
//!
//! ```text
//!   header --> L1 table --> L2 tables --> data clusters
//!         \--> refcount table --> refcount blocks
//! ```

use std::{fs::File, os::unix::fs::FileExt};

use super::{Qcow2Error, header::Header};

/// Bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// In an entry of an L2 table: the cluster reads as zeroes, wherever it is.
const ZERO: u64 = 1;

/// Most bytes of L2 tables that are looked at: those of 2 TiB with clusters of 64 KiB. What belongs to later ones is found
/// missing when it is read.
const L2_MAX: u64 = 256 << 20;

/// Checks every table of `file`, which is `len` bytes long.
pub(super) fn check(file: &File, len: u64, header: &Header) -> Result<(), Qcow2Error> {
    let cluster = header.cluster();
    let at = |what, offset: u64, bytes: u64| {
        let end = offset.checked_add(bytes);
        if offset.is_multiple_of(cluster) && end.is_some_and(|end| end <= len) {
            Ok(())
        } else {
            Err(Qcow2Error::Outside(what))
        }
    };
    let (offset, count) = header.refcounts;
    for entry in read(file, offset, count)? {
        at("a block of reference counts", entry & !0x1ff, 0)?;
        // The last one is written in whole, too.
        at(
            "a block of reference counts",
            entry & !0x1ff,
            u64::from(entry != 0) * cluster,
        )?;
    }
    let (offset, count) = header.l1;
    let mut read_so_far = 0;
    for entry in read(file, offset, count)? {
        let table = entry & OFFSET;
        if table == 0 {
            continue;
        }
        at("an L2 table", table, cluster)?;
        read_so_far += cluster;
        if read_so_far > L2_MAX {
            continue;
        }
        for entry in read(file, table, cluster / 8)? {
            if entry & COMPRESSED != 0 {
                // In sectors, wherever they begin.
                let bits = 62 - (header.cluster_bits - 8);
                if entry & ((1 << bits) - 1) >= len {
                    return Err(Qcow2Error::Outside("compressed data"));
                }
            } else if entry & OFFSET != 0 && entry & ZERO == 0 {
                // The last cluster may end early.
                at("data", entry & OFFSET, 1)?;
            }
        }
    }
    Ok(())
}

/// The entries of a table, which is within the file.
fn read(file: &File, offset: u64, count: u64) -> Result<Vec<u64>, Qcow2Error> {
    // Bounded: at most 32 MiB.
    let mut bytes = vec![0; count as usize * 8];
    file.read_exact_at(&mut bytes, offset)?;
    let (entries, _) = bytes.as_chunks();
    Ok(entries
        .iter()
        .map(|entry| u64::from_be_bytes(*entry))
        .collect())
}
