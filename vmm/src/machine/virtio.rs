//! The virtio devices of a machine, behind the transport that it has.
//!
//! ```text
//!   vCPU --- MMIO exit ------> VirtioBus --+--> mmio.rs --> Mmio                  (registers)
//!                                          +--> pci.rs --> Config, VirtioPci
//!   vCPU --- write to notify --(ioeventfd)--> the device's task --(irqfd)--> IOAPIC, or local APIC
//! ```

mod hotplug;
mod mmio;
mod models;
pub(super) mod pci;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kvm_ioctls::VmFd;
use nix::libc;
use tokio::{runtime::Handle, task};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub(super) use self::mmio::Place;
use self::{mmio::MmioBus, models::Owned, pci::PciBus};
use super::{BuildError, DeviceCommandError};
use crate::{
    counters::Counters,
    devices::virtio::{
        balloon::{Balloon, BalloonConfig},
        block::BlockConfig,
        console::PortConfig,
        net::NetConfig,
        vsock::VsockConfig,
        worker::{Gate, Worker},
    },
    runstate::Requests,
};

/// How a machine's virtio devices are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VirtioTransport {
    /// Registers in memory, told of by ACPI or the kernel's command line.
    #[default]
    Mmio,
    /// A PCI bus.
    Pci,
}

impl VirtioTransport {
    /// Most virtio devices of a machine.
    pub const fn max_devices(self) -> usize {
        match self {
            Self::Mmio => mmio::MAX,
            Self::Pci => pci::MAX,
        }
    }
}

/// A virtio device that a machine is to have.
#[derive(Clone, Debug)]
pub enum VirtioConfig {
    /// A disk.
    Block(BlockConfig),
    /// A network card.
    Net(NetConfig),
    /// A source of entropy.
    Rng,
    /// Sockets between guest and host.
    Vsock(VsockConfig),
    /// Memory that the guest gives back and takes again.
    Balloon(BalloonConfig),
    /// Ports, byte streams between guest and host.
    Console(Vec<PortConfig>),
}

/// How a guest finds the devices.
#[derive(Debug)]
pub(super) enum Layout {
    /// Each is told of, with its place.
    Mmio(Vec<Place>),
    /// It looks for them on the bus.
    Pci {
        /// How many slots devices may come and go in: the first ones, but for the host bridge's.
        slots: u8,
    },
}

/// The layout of `count` devices.
pub(super) fn layout(transport: VirtioTransport, count: usize) -> Layout {
    match transport {
        VirtioTransport::Mmio => Layout::Mmio(mmio::places(count).collect()),
        VirtioTransport::Pci => Layout::Pci {
            slots: pci::slots(count),
        },
    }
}

/// What a device gets of its machine: memory, the runtime for its task, the gate.
type Environment = (Arc<GuestMemoryMmap>, Handle, Gate);

/// A machine's virtio devices.
pub(super) struct VirtioBus {
    bus: Bus,
    owned: Mutex<Owned>,
    environment: Environment,
    requests: Requests,
    counters: Arc<Counters>,
}

enum Bus {
    Mmio(MmioBus),
    Pci(Box<PciBus>),
}

impl VirtioBus {
    /// Makes the devices and wires them to `vm`. Their tasks run on the runtime that this is called in. `wake` is called when
    /// the guest has given a device back.
    pub(super) fn new(
        vm: &Arc<VmFd>,
        memory: &GuestMemoryMmap,
        requests: &Requests,
        wake: &Arc<dyn Fn() + Send + Sync>,
        transport: VirtioTransport,
        configs: &[VirtioConfig],
        counters: Arc<Counters>,
    ) -> Result<Self, BuildError> {
        let bytes = memory.iter().map(GuestMemoryRegion::len).sum();
        let mut owned = Owned::new(bytes);
        let models = configs.iter();
        let models = models.map(|config| owned.make(config, requests)).collect();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let environment = (Arc::new(memory.clone()), runtime, Gate::default());
        let bus = match transport {
            VirtioTransport::Mmio => Bus::Mmio(MmioBus::new(vm, &environment, models)?),
            VirtioTransport::Pci => {
                let bus = PciBus::new(vm, &environment, models, wake.clone())?;
                Bus::Pci(Box::new(bus))
            }
        };
        counters.set_devices(owned.counters());
        Ok(Self {
            bus,
            owned: Mutex::new(owned),
            environment,
            requests: requests.clone(),
            counters,
        })
    }

    /// A read of `data.len()` bytes at `address`; whether a device is there.
    pub(super) fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match &self.bus {
            Bus::Mmio(bus) => bus.read(address, data),
            Bus::Pci(bus) => bus.read(address, data),
        }
    }

    /// A write of `data.len()` bytes at `address`. Called by a vCPU's thread: it may wait for a device's task.
    pub(super) fn write(&self, address: u64, data: &[u8]) {
        match &self.bus {
            Bus::Mmio(bus) => bus.write(address, data),
            Bus::Pci(bus) => bus.write(address, data),
        }
    }

    /// Waits until no device uses guest memory any more.
    pub(super) async fn pause(&self) {
        self.environment.2.close().await;
    }

    /// Lets the devices work.
    pub(super) fn resume(&self) {
        self.environment.2.open();
    }

    /// Puts every device into its power-on state. They are paused.
    pub(super) async fn reset(&self) {
        match &self.bus {
            Bus::Mmio(bus) => bus.reset().await,
            Bus::Pci(bus) => bus.reset().await,
        }
    }

    /// Has what was written to the disks outlive a loss of power. All are tried; the error is the first one's.
    pub(super) async fn flush(&self) -> Result<(), i32> {
        let mut result = Ok(());
        let disks: Vec<_> = lock(&self.owned).disks().cloned().collect();
        for disk in disks {
            let flushed = task::spawn_blocking(move || disk.flush()).await;
            let flushed = flushed
                .map_err(io::Error::other)
                .and_then(|flushed| flushed);
            let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
            result = result.and(flushed.map_err(errno));
        }
        result
    }

    /// Changes the size of the disk called `name`.
    pub(super) async fn resize_disk(
        &self,
        name: String,
        size: Option<u64>,
        allow_shrink: bool,
    ) -> Result<String, DeviceCommandError> {
        let disk = lock(&self.owned).disk(&name).cloned();
        let Some(disk) = disk else {
            return Err(DeviceCommandError::NoDisk(name));
        };
        match disk.resize(size, allow_shrink).await {
            Ok(()) => Ok(name),
            Err(source) => Err(DeviceCommandError::ResizeDisk { disk: name, source }),
        }
    }

    /// Takes the link of the network card called `name` up or down.
    pub(super) fn set_link(&self, name: String, up: bool) -> Result<String, DeviceCommandError> {
        let card = lock(&self.owned).card(&name).cloned();
        match card {
            Some(card) => card.set_link(up),
            None => return Err(DeviceCommandError::NoNet(name)),
        }
        Ok(name)
    }

    /// The balloon, if the machine has one.
    pub(super) fn balloon(&self) -> Option<Arc<Balloon>> {
        lock(&self.owned).balloon().cloned()
    }

    /// Lets others have the disks. The devices are paused, and stay so.
    pub(super) async fn close_disks(&self) {
        self.stop().await;
        lock(&self.owned).disks().for_each(|disk| disk.close());
    }

    /// Lets others have what the network cards are connected to.
    pub(super) async fn close_cards(&self) {
        self.stop().await;
        lock(&self.owned).cards().for_each(|card| card.close());
    }

    /// Ends the tasks of all devices.
    async fn stop(&self) {
        match &self.bus {
            Bus::Mmio(bus) => bus.stop().await,
            Bus::Pci(bus) => bus.stop().await,
        }
    }
}

/// Ends a device's task, if it has one: `take` takes it.
async fn stop(take: impl FnOnce() -> Option<Worker>) {
    // The device is not locked while its task ends.
    let worker = take();
    if let Some(worker) = worker {
        worker.stop().await;
    }
}

fn lock<D>(device: &Mutex<D>) -> MutexGuard<'_, D> {
    // A panic in a device ends its machine; until then others may still look at it.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}
