//! The device models, one a file, and what they are given: an interrupt line, a timer, `Requests`, guest memory.
//!
//! ```text
//!   vCPU thread --- port I/O exit ---> PioDevice::{read, write} ---> IrqLine::set    (to the interrupt controllers)
//!                                              |                \--> Timer::arm      (expiry comes back to the device)
//!                                              +-------------------> Requests::raise (reset, suspend, shutdown, ...)
//! ```
//! A device never sees the machine, the daemon or another device. Every byte that a guest writes is hostile: a device
//! keeps a bounded state whatever is written, and never fails.

pub mod acpi_hotplug;
pub mod acpi_pm;
pub mod clock;
pub mod console;
pub mod debugcon;
pub mod fw_cfg;
pub mod i8042;
pub mod ib700;
pub mod pci;
pub mod port92;
pub mod pvpanic;
pub mod reset_control;
pub mod rtc;
pub mod serial;
pub mod shared_line;
#[cfg(test)]
mod testing;
pub mod timer;
pub mod virtio;

/// A device with registers in the port I/O space.
pub trait PioDevice: Send {
    /// Reads `data.len()` bytes (1, 2 or 4) of the registers at `offset` from the device's first port. All of them
    /// belong to the device. Unassigned bits read as 0, unassigned registers as 0xff.
    fn read(&mut self, offset: u16, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes to the registers at `offset` from the device's first port.
    fn write(&mut self, offset: u16, data: &[u8]);

    /// Puts the device into its power-on state: system reset and wake-up from S3.
    fn reset(&mut self);
}

/// A wire to the interrupt controllers.
pub trait IrqLine: Send + Sync {
    /// Drives the line high or low.
    fn set(&self, high: bool);

    /// One edge, for an edge-triggered interrupt.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// Serves a read of any width from registers that are one byte wide.
fn read_bytes(offset: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    let mut register = offset;
    for byte in data {
        *byte = read(register);
        register = register.wrapping_add(1);
    }
}

/// Serves a write of any width to registers that are one byte wide, the lowest first.
fn write_bytes(offset: u16, data: &[u8], mut write: impl FnMut(u16, u8)) {
    let mut register = offset;
    for byte in data {
        write(register, *byte);
        register = register.wrapping_add(1);
    }
}
