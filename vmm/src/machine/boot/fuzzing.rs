//! What the fuzz targets need of the inside of this module. Only `cargo fuzz` compiles it.

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{AcpiTables, DirectBoot};
use crate::machine::virtio::Layout;

impl DirectBoot {
    /// Writes everything into the memory of a machine of `memory_bytes` bytes, below 3 GiB, which this boot was made
    /// for; and again, as a reset does.
    #[allow(clippy::expect_used)]
    pub fn write_twice(&self, memory_bytes: usize) {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory_bytes)]);
        let ram = ram.expect("memory of the host's");
        let acpi = AcpiTables::new(1, &Layout::Mmio(Vec::new()));
        for run in [false, true] {
            self.write(&ram, &acpi, run).expect("it was found to fit");
        }
    }
}
