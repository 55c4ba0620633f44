//! Devices that come and go while the machine is there.
//!
//! ```text
//!   add(config) ---> model --> a free slot --> the guest is told
//!   remove(name) --> the guest is asked ... _EJ0, or a reset --> out of its slot --> gone(): task ended, disk flushed, closed
//! ```

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::{Span, warn};

use super::{Bus, VirtioBus, VirtioConfig, lock};
use crate::{
    devices::acpi_hotplug::Eject,
    machine::{BuildError, DeviceCommandError},
};

impl VirtioBus {
    /// What the hot-plug registers call when the guest gives devices back; `None` if they cannot come and go.
    pub(in crate::machine) fn ejector(this: &Arc<Self>) -> Option<Eject> {
        matches!(this.bus, Bus::Pci(_)).then(|| {
            // Devices refer to each other weakly: none keeps a machine's memory.
            let this = Arc::downgrade(this);
            let eject = move |slots| {
                if let Some(this) = this.upgrade()
                    && let Bus::Pci(bus) = &this.bus
                {
                    bus.eject(slots);
                }
            };
            Box::new(eject) as Eject
        })
    }

    /// One more device; its slot and its name.
    pub(in crate::machine) async fn add(
        self: Arc<Self>,
        config: VirtioConfig,
    ) -> Result<(u8, String), DeviceCommandError> {
        // KVM waits for whoever uses what is changed.
        let added = spawn_blocking(move || self.plug(&config)).await;
        added.map_err(|error| BuildError::Device(std::io::Error::other(error)))?
    }

    fn plug(&self, config: &VirtioConfig) -> Result<(u8, String), DeviceCommandError> {
        let Bus::Pci(bus) = &self.bus else {
            return Err(DeviceCommandError::NoHotplug);
        };
        // Used only if there is a place for it.
        let mut owned = lock(&self.owned).clone();
        let made = owned.make(config, &self.requests);
        let name = made.id.to_string();
        let slot = bus.plug(&self.environment, made)?;
        let slot = slot.ok_or(DeviceCommandError::NoSlot)?;
        self.counters.set_devices(owned.counters());
        *lock(&self.owned) = owned;
        Ok((slot, name))
    }

    /// The device called `name` is to go; its slot.
    pub(in crate::machine) fn remove(&self, name: &str) -> Result<u8, DeviceCommandError> {
        let Bus::Pci(bus) = &self.bus else {
            return Err(DeviceCommandError::NoHotplug);
        };
        let slot = bus.unplug(name);
        slot.ok_or_else(|| DeviceCommandError::NoDevice(name.to_owned()))
    }

    /// The devices that were given back since the last call, by their names.
    pub(in crate::machine) async fn gone(&self) -> Vec<String> {
        let Bus::Pci(bus) = &self.bus else {
            return Vec::new();
        };
        let mut names = Vec::new();
        for gone in bus.gone() {
            if let Some(worker) = gone.worker {
                worker.stop().await;
            }
            let owned = {
                let mut all = lock(&self.owned);
                let removed = all.remove(gone.id);
                self.counters.set_devices(all.counters());
                removed
            };
            let (id, device) = (gone.id, gone.device);
            let span = Span::current();
            let close = move || {
                let _in_span = span.enter();
                drop(device);
                for disk in owned.disks() {
                    if let Err(error) = disk.flush() {
                        warn!(%error, disk = %id, "what was written last may be lost");
                    }
                    disk.close();
                }
                owned.cards().for_each(|card| card.close());
            };
            // It fails only if that panicked, or the runtime ends.
            let _ = spawn_blocking(close).await;
            names.push(id.to_string());
        }
        names
    }
}
