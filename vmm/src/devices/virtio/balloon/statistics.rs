//! What a guest says of its memory (section 5.5.6.3).

use std::time::SystemTime;

/// Statistics of a guest's memory. What it does not tell is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// When it told them.
    pub time: SystemTime,
    /// Bytes that were swapped in.
    pub swap_in: Option<u64>,
    /// Bytes that were swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed the disk.
    pub major_faults: Option<u64>,
    /// Page faults that did not.
    pub minor_faults: Option<u64>,
    /// Bytes that are free.
    pub free_memory: Option<u64>,
    /// Bytes of memory.
    pub total_memory: Option<u64>,
    /// Bytes that programs could have without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of caches that can be taken from them.
    pub disk_caches: Option<u64>,
    /// Huge pages that were had.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be had.
    pub hugetlb_failures: Option<u64>,
}

/// Bytes of one statistic: a tag of two bytes, a value of eight.
pub(super) const ENTRY: usize = 10;

impl Statistics {
    /// From what a driver wrote: the last of a tag counts, what is not known is passed over.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let mut statistics = Self {
            time: SystemTime::now(),
            swap_in: None,
            swap_out: None,
            major_faults: None,
            minor_faults: None,
            free_memory: None,
            total_memory: None,
            available_memory: None,
            disk_caches: None,
            hugetlb_allocations: None,
            hugetlb_failures: None,
        };
        for entry in bytes.chunks_exact(ENTRY) {
            let Some((tag, rest)) = entry.split_first_chunk() else {
                break;
            };
            let Some((value, _)) = rest.split_first_chunk() else {
                break;
            };
            let field = match u16::from_le_bytes(*tag) {
                0 => &mut statistics.swap_in,
                1 => &mut statistics.swap_out,
                2 => &mut statistics.major_faults,
                3 => &mut statistics.minor_faults,
                4 => &mut statistics.free_memory,
                5 => &mut statistics.total_memory,
                6 => &mut statistics.available_memory,
                7 => &mut statistics.disk_caches,
                8 => &mut statistics.hugetlb_allocations,
                9 => &mut statistics.hugetlb_failures,
                _ => continue,
            };
            // All ones: the driver does not know.
            *field = Some(u64::from_le_bytes(*value)).filter(|value| *value != u64::MAX);
        }
        statistics
    }
}
