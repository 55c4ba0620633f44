//! The host's KVM: opened once by the daemon, shared by every machine.

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;
use tokio::runtime::Handle;
use vmm_sys_util::errno;

use super::cpu::{self, HostCpus, Leaves};
use crate::confine::Filter;

/// Where KVM is.
const DEVICE: &str = "/dev/kvm";

/// Most vCPUs a machine may have here, whatever the host offers.
pub const MAX_VCPUS: u32 = 64;

/// Why this host cannot run machines. Each text is one line and says what to do.
#[derive(Debug, Error)]
pub enum HostError {
    /// There is no `/dev/kvm`.
    #[error(
        "{DEVICE} is missing: load the module (modprobe kvm_intel or kvm_amd), with virtualisation turned on in the \
         computer's firmware; in a container, pass the device in (--device {DEVICE})"
    )]
    Missing,
    /// `/dev/kvm` may not be opened.
    #[error(
        "{DEVICE} may not be opened by this user: add the user to the device's group (usermod -aG kvm $USER, then log \
         in again), or run as root"
    )]
    Denied,
    /// `/dev/kvm` could not be opened for another reason.
    #[error("{DEVICE} cannot be opened: {0}")]
    Open(#[source] errno::Error),
    /// KVM speaks another API.
    #[error("{DEVICE} has API version {0}; version {KVM_API_VERSION} is needed: update the kernel")]
    ApiVersion(i32),
    /// KVM lacks something that every machine needs.
    #[error("{DEVICE} lacks {0}: update the kernel")]
    Lacks(&'static str),
    /// What the processor can do could not be read.
    #[error("{DEVICE} does not tell the supported CPUID: {0}")]
    Cpuid(#[source] errno::Error),
}

/// An open `/dev/kvm`, what it offers, and what machines' threads may do there.
pub struct Host {
    pub(super) kvm: Kvm,
    /// What guests may be told of the processor.
    pub(super) cpuid: Leaves,
    max_vcpus: u32,
    cpus: HostCpus,
    /// What vCPUs' threads may do; anything if there is none.
    pub(super) vcpu_filter: Option<Filter>,
    /// Where devices' tasks run; where a machine is built if there is none.
    pub(super) devices: Option<Handle>,
}

impl Host {
    /// Opens KVM and checks that it has what machines need.
    pub fn open() -> Result<Self, HostError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            nix::libc::ENOENT | nix::libc::ENODEV | nix::libc::ENXIO => HostError::Missing,
            nix::libc::EACCES | nix::libc::EPERM => HostError::Denied,
            _ => HostError::Open(error),
        })?;
        match u32::try_from(kvm.get_api_version()) {
            Ok(KVM_API_VERSION) => {}
            _ => return Err(HostError::ApiVersion(kvm.get_api_version())),
        }
        for (cap, name) in [
            (Cap::UserMemory, "user memory regions"),
            (Cap::ReadonlyMem, "read-only memory regions"),
            (Cap::Irqchip, "the in-kernel interrupt controllers"),
            (Cap::Pit2, "the in-kernel timer"),
            (Cap::ImmediateExit, "immediate_exit"),
            (Cap::MpState, "the vCPU's run state"),
        ] {
            if !kvm.check_extension(cap) {
                return Err(HostError::Lacks(name));
            }
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(HostError::Cpuid)?;
        let max_vcpus = u32::try_from(kvm.get_max_vcpus())
            .unwrap_or(MAX_VCPUS)
            .min(MAX_VCPUS);
        Ok(Self {
            cpuid: cpu::offered(&cpuid, kvm.check_extension(Cap::TscDeadlineTimer)),
            kvm,
            max_vcpus,
            cpus: HostCpus::allowed(),
            vcpu_filter: None,
            devices: None,
        })
    }

    /// The same, where vCPUs' threads may do no more than `filter` says, which is one for them.
    #[must_use]
    pub fn with_vcpu_filter(self, filter: Option<Filter>) -> Self {
        Self {
            vcpu_filter: filter,
            ..self
        }
    }

    /// The same, where devices' tasks run on this runtime, which has I/O and time.
    #[must_use]
    pub fn with_device_runtime(self, devices: Option<Handle>) -> Self {
        Self { devices, ..self }
    }

    /// Most vCPUs a machine may have.
    pub fn max_vcpus(&self) -> u32 {
        self.max_vcpus
    }

    /// The CPUs that vCPUs may be bound to: those that this process might use when it opened KVM.
    pub fn cpus(&self) -> &HostCpus {
        &self.cpus
    }
}
