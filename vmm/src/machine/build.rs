//! Building a machine: the steps, in an order that matters.
//!
//! ```text
//!   Vm -> Memory -> Images -> Irqchip -> Pit -> Vcpus -> Devices -> Threads
//! ```
//! Memory slots come before the interrupt controllers: with those in place, setting a slot waits for the kernel's RCU
//! (8 ms instead of 0.6 to the guest's first byte). A step that fails undoes the ones before it: everything is owned
//! by a value that is dropped.

use std::sync::Arc;

use kvm_ioctls::{Cap, Error as KvmError, VmFd};
use thiserror::Error;
use tokio::{runtime::Handle, sync::Notify};

use super::{
    Host, KvmMachine, MachineConfig,
    acpi::AcpiTables,
    board::Board,
    boot::{self, entry::Start},
    config::Boot,
    cpu::{self, CpuError, GuestCpu},
    firmware_items,
    irq::{self, ChipState},
    memory::Memory,
    vcpu::{self, Vcpu, VcpuContext, event_rate::EventRate},
    virtio::{self, VirtioBus},
};
use crate::{
    confine::ConfineError,
    counters::Counters,
    devices::{clock::VirtualClock, timer::Timers},
    log,
    runstate::Requests,
};

/// Two pages that KVM needs on Intel processors, just below where firmware may begin (KVM API,
/// KVM_SET_IDENTITY_MAP_ADDR and KVM_SET_TSS_ADDR).
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;
/// Both, and the two pages after it that belong to the TSS: start and length.
const KVM_PAGES: (u64, u64) = (IDENTITY_MAP, 0x4000);

/// A step of the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStep {
    /// The VM itself.
    Vm,
    /// Guest memory and its slots.
    Memory,
    /// The images in it: firmware, or a kernel and what it is given.
    Images,
    /// PIC, IOAPIC, local APICs.
    Irqchip,
    /// The PIT.
    Pit,
    /// The vCPUs.
    Vcpus,
    /// The devices.
    Devices,
    /// The vCPUs' threads.
    Threads,
}

impl BuildStep {
    /// Every step, in order.
    pub const ALL: [Self; 8] = [
        Self::Vm,
        Self::Memory,
        Self::Images,
        Self::Irqchip,
        Self::Pit,
        Self::Vcpus,
        Self::Devices,
        Self::Threads,
    ];
}

/// Why a machine could not be built. Nothing of it is left.
#[derive(Debug, Error)]
pub enum BuildError {
    /// A KVM call failed.
    #[error("{call}: {source}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// Its error.
        source: KvmError,
    },
    /// The host did not give the memory.
    #[error("cannot reserve {bytes} bytes of guest memory")]
    Memory {
        /// How much.
        bytes: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The firmware could not be written into guest memory.
    #[error("cannot put the firmware into guest memory")]
    Firmware(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel, or what it is given, could not be written into guest memory.
    #[error("cannot put the kernel into guest memory")]
    Boot(#[from] boot::WriteError),
    /// The kernel takes no command line that is long enough to tell of the devices.
    #[error("with the words for virtio devices: {0}")]
    Cmdline(#[source] boot::BootError),
    /// A device could not be made.
    #[error("cannot make a device: {0}")]
    Device(#[from] std::io::Error),
    /// The vCPUs cannot be as they were asked for.
    #[error(transparent)]
    Cpu(CpuError),
    /// A vCPU's thread could not be made.
    #[error("cannot make a vCPU's thread: {0}")]
    VcpuThread(#[source] nix::Error),
    /// A vCPU's thread could not be confined.
    #[error("a vCPU's thread cannot be confined: {0}")]
    Confine(#[source] ConfineError),
    /// Asked for by [`MachineConfig::fail_at`].
    #[error("failed at step {0:?}, as a test asked")]
    Injected(BuildStep),
}

impl BuildError {
    pub(super) fn kvm(call: &'static str) -> impl FnOnce(KvmError) -> Self {
        move |source| Self::Kvm { call, source }
    }
}

impl KvmMachine {
    /// Builds a machine, its vCPUs paused at the reset vector. `wake` is called, from any thread, when a timer was
    /// armed or a vCPU's thread died; it must only wake the machine's owner.
    pub fn build(
        host: &Host,
        config: &MachineConfig,
        requests: Requests,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, BuildError> {
        // The fault comes after the step, so that there is something to undo.
        let done = |step| match config.fail_at {
            Some(fail_at) if fail_at == step => Err(BuildError::Injected(step)),
            _ => Ok(()),
        };
        let firmware = config.boot.firmware();
        let guest_cpu =
            GuestCpu::new(&host.cpuid, &config.cpu, config.vcpus).map_err(BuildError::Cpu)?;

        let vm = Arc::new(create_vm(host)?);
        done(BuildStep::Vm)?;
        let memory = Memory::new(&vm, config.memory_bytes, firmware)?;
        done(BuildStep::Memory)?;
        let layout = virtio::layout(config.virtio_transport, config.virtio.len());
        let acpi = Arc::new(AcpiTables::new(config.vcpus, &layout));
        let boot = match &config.boot {
            Boot::Direct(direct) => {
                let direct = direct.clone().describing(&layout, config.vcpus);
                Boot::Direct(direct.map_err(BuildError::Cmdline)?)
            }
            firmware => firmware.clone(),
        };
        let start = match &boot {
            Boot::Firmware(_) => {
                memory.load_firmware(firmware)?;
                Start::PowerOn
            }
            Boot::Direct(direct) => {
                direct.write(memory.ram(), &acpi, false)?;
                direct.start()
            }
        };
        done(BuildStep::Images)?;
        irq::create_irqchip(&vm)?;
        done(BuildStep::Irqchip)?;
        irq::create_pit(&vm)?;
        let chips = ChipState::read(&vm)?;
        done(BuildStep::Pit)?;
        let vcpus = (0..config.vcpus)
            .map(|index| {
                let cpuid = guest_cpu.cpuid(index).map_err(BuildError::Cpu)?;
                vcpu::create(&vm, index, &cpuid)
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| cpu::blame_template(&config.cpu, error))?;
        done(BuildStep::Vcpus)?;

        let clock = Arc::new(VirtualClock::default());
        let timers = Timers::new({
            let wake = wake.clone();
            move || wake()
        });
        let mut reserved = vec![KVM_PAGES];
        if let Some(ecam) = acpi.ecam() {
            reserved.push((ecam.start, ecam.end - ecam.start));
        }
        let items = firmware_items::items(memory.ram(), &reserved, config.vcpus);
        let counters = Counters::new(config.vcpus);
        let in_their_runtime = host.devices.as_ref().map(Handle::enter);
        let virtio = Arc::new(VirtioBus::new(
            &vm,
            memory.ram(),
            &requests,
            &wake,
            config.virtio_transport,
            &config.virtio,
            counters.clone(),
        )?);
        drop(in_their_runtime);
        let eject = VirtioBus::ejector(&virtio);
        let (board, bus) = Board::new(&vm, &requests, &timers, &clock, &memory, items, eject);
        board.describe_machine(&memory, config.vcpus);
        let (board, bus) = (board, Arc::new(bus));
        done(BuildStep::Devices)?;

        let parked = Arc::new(Notify::new());
        let event_rate = Arc::new(EventRate::new());
        let vcpus = (0..)
            .zip(vcpus)
            .zip(counters.vcpus())
            .map(|((index, vcpu), exits)| {
                let context = VcpuContext {
                    bus: bus.clone(),
                    virtio: virtio.clone(),
                    requests: requests.clone(),
                    timers: timers.clone(),
                    event_rate: event_rate.clone(),
                    msrs: guest_cpu.msrs(),
                    host_cpus: config.cpu.host_cpus(index).to_vec(),
                    filter: host.vcpu_filter.clone(),
                    parked: parked.clone(),
                    counters: counters.clone(),
                    exits: exits.clone(),
                    died: wake.clone(),
                };
                // Linux shows 15 characters of a thread's name.
                let start = if index == 0 { start } else { Start::PowerOn };
                Vcpu::spawn(vcpu, start, log::vcpu_thread(index, &config.name), context)
            })
            .collect::<Result<Vec<_>, _>>()?;
        // Whether the host gives the CPUs is an answer to whoever asked for them; nothing else needs to be waited for.
        if !config.cpu.pins.is_empty() {
            vcpus.iter().try_for_each(Vcpu::ready)?;
        }
        done(BuildStep::Threads)?;

        Ok(Self {
            vcpus,
            counters,
            parked,
            board,
            bus,
            virtio,
            timers,
            clock,
            timers_held: true,
            chips,
            boot,
            acpi,
            vm,
            memory,
        })
    }
}

fn create_vm(host: &Host) -> Result<VmFd, BuildError> {
    let vm = host
        .kvm
        .create_vm()
        .map_err(BuildError::kvm("KVM_CREATE_VM"))?;
    if host.kvm.check_extension(Cap::SetIdentityMapAddr) {
        vm.set_identity_map_address(IDENTITY_MAP)
            .map_err(BuildError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    }
    if host.kvm.check_extension(Cap::SetTssAddr) {
        vm.set_tss_address(TSS)
            .map_err(BuildError::kvm("KVM_SET_TSS_ADDR"))?;
    }
    Ok(vm)
}
