//! virtio devices behind the MMIO transport: where their registers are, and which interrupts they have.
//!
//! | device | registers | interrupt |
//! | --- | --- | --- |
//! | n | 512 bytes at 0xd000_0000 + n * 0x1000 | the IOAPIC's inputs 16 to 23, then the ISA bus's free ones; edges |

use std::sync::{Mutex, MutexGuard};

use kvm_ioctls::{IoEventAddress, VmFd};

use super::{Environment, lock, models::Made, stop};
use crate::{
    devices::virtio::mmio::{Mmio, QUEUE_NOTIFY},
    machine::BuildError,
};

const BASE: u64 = 0xd000_0000;
const STRIDE: u64 = 0x1000;
/// The interrupts of the devices, in order. One each: an edge has no sharing.
const GSIS: [u32; 16] = [16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 14, 15];

/// Most devices.
pub(super) const MAX: usize = GSIS.len();

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) struct Place {
    /// The address of its registers.
    pub(in crate::machine) base: u64,
    /// Its interrupt.
    pub(in crate::machine) gsi: u32,
}

/// The places of `count` devices.
pub(super) fn places(count: usize) -> impl Iterator<Item = Place> {
    let bases = (0..).map(|index| BASE + index * STRIDE);
    let places = bases.zip(GSIS).map(|(base, gsi)| Place { base, gsi });
    places.take(count)
}

/// A machine's devices behind the MMIO transport.
pub(super) struct MmioBus {
    devices: Vec<Mutex<Mmio>>,
}

impl MmioBus {
    /// Wires the devices to `vm`.
    pub(super) fn new(
        vm: &VmFd,
        environment: &Environment,
        models: Vec<Made>,
    ) -> Result<Self, BuildError> {
        let places = places(models.len());
        let devices = models.into_iter().zip(places).map(|(made, place)| {
            let (memory, runtime, gate) = environment.clone();
            let mmio = Mmio::new(made.model, memory, runtime, gate)?;
            if let Some(line) = mmio.interrupt().line() {
                vm.register_irqfd(line, place.gsi)
                    .map_err(BuildError::kvm("KVM_IRQFD"))?;
            }
            let notify = IoEventAddress::Mmio(place.base + QUEUE_NOTIFY);
            for (index, kick) in (0_u32..).zip(mmio.kicks()) {
                vm.register_ioevent(kick, &notify, index)
                    .map_err(BuildError::kvm("KVM_IOEVENTFD"))?;
            }
            Ok(Mutex::new(mmio))
        });
        let devices = devices.collect::<Result<_, BuildError>>()?;
        Ok(Self { devices })
    }

    /// A read at `address`; whether a device is there.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((mut device, offset)) = self.find(address) else {
            return false;
        };
        device.read(offset, data);
        true
    }

    /// A write at `address`.
    pub(super) fn write(&self, address: u64, data: &[u8]) {
        if let Some((mut device, offset)) = self.find(address) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(MutexGuard<'_, Mmio>, u64)> {
        let from_first = address.checked_sub(BASE)?;
        let index = usize::try_from(from_first / STRIDE).ok()?;
        let device = self.devices.get(index)?;
        Some((lock(device), from_first % STRIDE))
    }

    /// Ends the devices' tasks.
    pub(super) async fn stop(&self) {
        for device in &self.devices {
            stop(|| lock(device).take_worker()).await;
        }
    }

    /// Puts every device into its power-on state.
    pub(super) async fn reset(&self) {
        self.stop().await;
        for device in &self.devices {
            lock(device).reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_places_and_interrupts_of_their_own() {
        let places: Vec<_> = places(MAX).collect();
        assert_eq!(places.len(), 16);
        let first = Place {
            base: 0xd000_0000,
            gsi: 16,
        };
        assert_eq!(places[0], first);
        for (index, place) in places.iter().enumerate() {
            let others = &places[index + 1..];
            assert!(others.iter().all(|other| other.gsi != place.gsi));
            // Those of the serial port, the RTC, the SCI and of what a PC has there.
            assert!(![0, 1, 2, 3, 4, 8, 9, 13].contains(&place.gsi));
        }
    }
}
