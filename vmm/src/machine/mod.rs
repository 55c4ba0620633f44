//! The KVM machine: what the main loop's [`Machine`] is in reality. The only place that talks to KVM.
//!
//! ```text
//!              MainLoop (its owner: one task)
//!                 |  pause, resume, reset, wake up, NMI, timers
//!                 v
//!   KvmMachine -- Vcpu ---- thread in KVM_RUN --- exits ---> PioBus ---> devices (board.rs)
//!        |           ^ jobs, kicks                              |
//!        |                                    Requests::raise <-+-> GsiLine (irq.rs)
//!        +-- Memory, ChipState, VirtualClock, Timers
//! ```

mod acpi;
mod board;
pub mod boot;
mod build;
mod bus;
mod clock;
pub mod config;
pub mod cpu;
mod device_command;
mod firmware_items;
mod host;
mod irq;
mod memory;
mod msi;
mod vcpu;
mod virtio;

use std::{
    sync::{Arc, atomic::AtomicI32},
    time::{Duration, Instant},
};

use kvm_ioctls::VmFd;
use thiserror::Error;
use tokio::{
    sync::{Notify, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use self::{
    acpi::AcpiTables,
    board::Board,
    boot::{DirectBoot, entry::Start},
    bus::PioBus,
    irq::ChipState,
    memory::Memory,
    vcpu::Vcpu,
    virtio::VirtioBus,
};
pub use self::{
    build::{BuildError, BuildStep},
    config::{Boot, Firmware, MachineConfig},
    device_command::{DeviceCommand, DeviceCommandError},
    host::{Host, HostError, MAX_VCPUS},
    virtio::{VirtioConfig, VirtioTransport},
};
use crate::{
    counters::Counters,
    devices::{
        clock::{Clock, VirtualClock, WallClock},
        console::Console,
        timer::{TimerId, Timers},
        virtio::balloon::Balloon,
    },
    runstate::{Cleanup, Machine, MainLoop, Notifiers, Requests},
};

/// How long a vCPU may take to obey. It leaves the guest within microseconds of the signal; only a host that is stuck
/// takes longer.
const OBEY: Duration = Duration::from_secs(30);

/// Images of so many bytes are written by the runtime's own thread: it takes less time than to find another. Kernels with
/// their RAM disks may have hundreds of MiB.
const WRITTEN_AT_ONCE: u64 = 256 << 10;

/// One KVM virtual machine.
///
/// Dropping it joins the vCPU threads and closes the VM, which takes tens of milliseconds: not on a runtime's thread.
pub struct KvmMachine {
    // The order of fields is the order in which they go: threads first, then what they use, memory last.
    vcpus: Vec<Vcpu>,
    counters: Arc<Counters>,
    parked: Arc<Notify>,
    board: Board,
    bus: Arc<PioBus>,
    virtio: Arc<VirtioBus>,
    timers: Arc<Timers>,
    clock: Arc<VirtualClock>,
    timers_held: bool,
    chips: ChipState,
    boot: Boot,
    acpi: Arc<AcpiTables>,
    vm: Arc<VmFd>,
    memory: Memory,
}

/// The machine did not do what it was told.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A vCPU did not obey in time.
    #[error("a vCPU did not obey within {} s", OBEY.as_secs())]
    Stuck,
    /// A vCPU's thread is gone.
    #[error("the thread of a vCPU has ended")]
    VcpuDied,
    /// A KVM call failed.
    #[error("KVM: {0}")]
    Kvm(#[from] kvm_ioctls::Error),
    /// The images could not be written again.
    #[error(transparent)]
    Images(#[from] BuildError),
    /// Whoever wrote the images again has ended before it was done.
    #[error("the images were not written to their end")]
    ImagesLost,
    /// Where the guest wants to go on after a wake-up could not be read.
    #[error("the waking vector: {0}")]
    WakingVector(#[from] vm_memory::GuestMemoryError),
}

impl KvmMachine {
    /// A main loop that drives this machine, with the devices told of what concerns them and closed at its end.
    pub fn into_main_loop(self, requests: Requests) -> MainLoop<Self> {
        let mut notifiers = Notifiers::default();
        self.board.attach(&mut notifiers);
        let mut kvmclock = clock::kvmclock_handler(self.vm.clone());
        let (console, virtio) = (self.board.console.clone(), self.virtio.clone());
        let mut main_loop = MainLoop::new(requests, self);
        main_loop.notifiers = notifiers;
        main_loop
            .handlers
            .register(0, move |running, _| kvmclock(running));
        let closers = &mut main_loop.closers;
        closers.register(Cleanup::Chardevs, async move { console.close() });
        closers.register(Cleanup::Drain, {
            let virtio = virtio.clone();
            async move { virtio.pause().await }
        });
        closers.register(Cleanup::BlockDevices, {
            let virtio = virtio.clone();
            async move { virtio.close_disks().await }
        });
        closers.register(Cleanup::Network, async move { virtio.close_cards().await });
        main_loop
    }

    /// The first serial port's host side.
    pub fn console(&self) -> &Arc<Console> {
        &self.board.console
    }

    /// Its balloon, if it has one.
    pub fn balloon(&self) -> Option<Arc<Balloon>> {
        self.virtio.balloon()
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Waits until the vCPUs' threads have begun, which they do by themselves. Blocks.
    pub fn wait_for_threads(&self) -> Result<(), BuildError> {
        self.vcpus.iter().try_for_each(Vcpu::ready)
    }

    /// The host's thread of each vCPU, in order; 0 until the thread has begun.
    pub fn vcpu_threads(&self) -> Vec<Arc<AtomicI32>> {
        self.vcpus.iter().map(Vcpu::thread_id).collect()
    }

    /// What makes the machine unusable, if anything: its owner gives it up.
    pub fn failure(&self) -> Option<MachineError> {
        self.vcpus
            .iter()
            .any(Vcpu::is_dead)
            .then_some(MachineError::VcpuDied)
    }

    /// When [`KvmMachine::run_timers`] has something to do next. Timers of the virtual clock are held while the vCPUs
    /// are paused.
    pub fn next_timer(&self) -> Option<Instant> {
        let now = Instant::now();
        self.deadlines()
            .map(|(id, deadline)| deadline.saturating_sub(self.now_ns(id)))
            .min()
            .and_then(|rest| now.checked_add(Duration::from_nanos(rest)))
    }

    /// Calls the devices whose timers have come.
    pub fn run_timers(&mut self) {
        let due: Vec<_> = self
            .deadlines()
            .filter(|&(id, deadline)| deadline <= self.now_ns(id))
            .map(|(id, _)| id)
            .collect();
        for id in due {
            self.board.expire(id);
        }
    }

    /// The timers that are armed and not held.
    fn deadlines(&self) -> impl Iterator<Item = (TimerId, u64)> {
        TimerId::ALL
            .into_iter()
            .filter(|id| !(id.is_virtual() && self.timers_held))
            .filter_map(|id| Some((id, self.timers.deadline(id)?)))
    }

    fn now_ns(&self, id: TimerId) -> u64 {
        if id.is_virtual() {
            self.clock.now_ns()
        } else {
            WallClock.now_ns()
        }
    }

    /// Waits until every vCPU is paused.
    async fn all_parked(&self) -> Result<(), MachineError> {
        loop {
            // A vCPU that parks from here on leaves a permit.
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if self.vcpus.iter().all(Vcpu::is_parked) {
                return Ok(());
            }
            self.parked.notified().await;
        }
    }

    /// Devices and vCPUs into their power-on state, but the first vCPU at `start`. The vCPUs are paused.
    async fn power_on(&self, start: Start) -> Result<(), MachineError> {
        let starts = std::iter::once(start).chain(std::iter::repeat(Start::PowerOn));
        let vcpus = self.vcpus.iter().zip(starts);
        let jobs: Vec<_> = vcpus.map(|(vcpu, start)| vcpu.reset(start)).collect();
        self.board.reset();
        self.virtio.reset().await;
        self.chips.restore(&self.vm)?;
        finish(jobs).await
    }

    /// Writes what a guest that was booted directly begins with.
    async fn write_again(&self, direct: &DirectBoot) -> Result<(), MachineError> {
        let (direct, acpi) = (direct.clone(), self.acpi.clone());
        let ram = self.memory.ram().clone();
        let is_small = direct.size() <= WRITTEN_AT_ONCE;
        let write = move || direct.write(&ram, &acpi, true);
        let written = if is_small {
            write()
        } else {
            let written = spawn_blocking(write).await;
            written.map_err(|_| MachineError::ImagesLost)?
        };
        Ok(written.map_err(BuildError::from)?)
    }
}

/// Waits for what the vCPUs were told to do.
async fn finish(
    jobs: Vec<oneshot::Receiver<Result<(), kvm_ioctls::Error>>>,
) -> Result<(), MachineError> {
    for job in jobs {
        timeout(OBEY, job)
            .await
            .map_err(|_| MachineError::Stuck)?
            .map_err(|_| MachineError::VcpuDied)??;
    }
    Ok(())
}

impl Machine for KvmMachine {
    type Error = MachineError;

    async fn pause_vcpus(&mut self) -> Result<(), MachineError> {
        let began = Instant::now();
        let was_held = std::mem::replace(&mut self.timers_held, true);
        self.vcpus.iter().for_each(Vcpu::pause);
        let paused = timeout(OBEY, async {
            self.all_parked().await?;
            self.virtio.pause().await;
            Ok::<_, MachineError>(())
        });
        paused.await.map_err(|_| MachineError::Stuck)??;
        // A machine that was paused already is not paused once more.
        if !was_held {
            self.counters.pause.observe(began.elapsed());
        }
        Ok(())
    }

    fn resume_vcpus(&mut self) -> Result<(), MachineError> {
        self.timers_held = false;
        self.virtio.resume();
        self.vcpus.iter().for_each(Vcpu::resume);
        Ok(())
    }

    fn set_ticks(&mut self, enabled: bool) {
        self.clock.set_ticks(enabled);
    }

    async fn reset(&mut self) -> Result<(), MachineError> {
        match &self.boot {
            Boot::Firmware(firmware) => {
                self.power_on(Start::PowerOn).await?;
                self.memory.load_shadow(firmware.bytes())?;
            }
            Boot::Direct(direct) => {
                // While the vCPUs' threads do their part.
                let (on, written) =
                    tokio::join!(self.power_on(direct.start()), self.write_again(direct));
                on?;
                written?;
            }
        }
        Ok(())
    }

    async fn wake_up(&mut self) -> Result<(), MachineError> {
        let start = match &self.boot {
            // Firmware finds the waking vector by itself.
            Boot::Firmware(_) => Start::PowerOn,
            Boot::Direct(_) => Start::Waking {
                vector: self.acpi.waking_vector(self.memory.ram())?,
            },
        };
        self.power_on(start).await
    }

    async fn inject_nmi(&mut self) -> Result<(), MachineError> {
        finish(self.vcpus.iter().map(Vcpu::inject_nmi).collect()).await
    }

    fn port_write(&mut self, port: u16, data: &[u8]) {
        self.bus.write(port, data);
    }

    async fn drain_and_flush(&mut self) -> Result<(), i32> {
        // The machine is paused, and with that drained.
        self.virtio.flush().await
    }
}
