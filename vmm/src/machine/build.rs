//! Building a machine: the steps, in an order that matters.
//!
//! ```text
//!   Vm -> Memory -> Firmware -> Irqchip -> Pit -> Vcpus -> Devices -> Threads
//! ```
//! Memory slots come before the interrupt controllers: with those in place, setting a slot waits for the kernel's RCU
//! (8 ms instead of 0.6 to the guest's first byte). A step that fails undoes the ones before it: everything is owned
//! by a value that is dropped.

use std::sync::Arc;

use kvm_ioctls::{Cap, Error as KvmError, VmFd};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::info_span;

use super::{
    Host, KvmMachine, MachineConfig,
    board::Board,
    irq::{self, ChipState},
    memory::Memory,
    vcpu::{self, Vcpu, VcpuContext},
};
use crate::{
    devices::{clock::VirtualClock, timer::Timers},
    runstate::Requests,
};

/// Two pages that KVM needs on Intel processors, just below where firmware may begin (KVM API,
/// KVM_SET_IDENTITY_MAP_ADDR and KVM_SET_TSS_ADDR).
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TSS: usize = 0xfeff_d000;

/// A step of the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStep {
    /// The VM itself.
    Vm,
    /// Guest memory and its slots.
    Memory,
    /// The firmware's images.
    Firmware,
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
        Self::Firmware,
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
    /// A vCPU's thread could not be made.
    #[error("cannot make a vCPU's thread: {0}")]
    VcpuThread(#[source] nix::Error),
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
        let firmware = config.firmware.bytes();

        let vm = Arc::new(create_vm(host)?);
        done(BuildStep::Vm)?;
        let memory = Memory::new(&vm, config.memory_bytes, firmware)?;
        done(BuildStep::Memory)?;
        memory.load_firmware(firmware)?;
        done(BuildStep::Firmware)?;
        irq::create_irqchip(&vm)?;
        done(BuildStep::Irqchip)?;
        irq::create_pit(&vm)?;
        let chips = ChipState::read(&vm)?;
        done(BuildStep::Pit)?;
        let vcpus = (0..config.vcpus)
            .map(|index| vcpu::create(&vm, index, &host.cpuid))
            .collect::<Result<Vec<_>, _>>()?;
        done(BuildStep::Vcpus)?;

        let clock = Arc::new(VirtualClock::default());
        let timers = Timers::new({
            let wake = wake.clone();
            move || wake()
        });
        let (board, bus) = Board::new(&vm, &requests, &timers, &clock);
        let (board, bus) = (board, Arc::new(bus));
        done(BuildStep::Devices)?;

        let parked = Arc::new(Notify::new());
        let vcpus = vcpus
            .into_iter()
            .enumerate()
            .map(|(index, vcpu)| {
                let context = VcpuContext {
                    bus: bus.clone(),
                    requests: requests.clone(),
                    timers: timers.clone(),
                    span: info_span!("vcpu", vm = %config.name, index),
                    parked: parked.clone(),
                    died: wake.clone(),
                };
                // Linux shows 15 characters of a thread's name.
                Vcpu::spawn(vcpu, format!("vcpu{index}:{}", config.name), context)
            })
            .collect::<Result<Vec<_>, _>>()?;
        done(BuildStep::Threads)?;

        Ok(Self {
            vcpus,
            parked,
            board,
            bus,
            timers,
            clock,
            timers_held: true,
            chips,
            firmware: config.firmware.clone(),
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
