//! The processor that a guest sees: which features, which topology, which host CPUs it runs on.
//!
//! ```text
//!   KVM_GET_SUPPORTED_CPUID --> supported.rs --> the model: all of it, or portable.rs
//!   (once per host)             less what vmd          |
//!                               cannot give            v
//!                                            template.rs: a user's masks
//!                                                      |
//!                                                      v
//!                                topology.rs: this vCPU's own --> KVM_SET_CPUID2
//! ```
//! Nothing is invented: what a guest is told is what KVM supports, or less. The topology is vmd's to say and comes last.
//! A hidden feature is a feature that the guest is not told of; most instructions work all the same for a guest that tries
//! them, so a model is no security boundary.

mod affinity;
mod leaves;
mod msrs;
mod portable;
mod supported;
mod template;
#[cfg(test)]
mod testing;
mod topology;

use std::sync::Arc;

use kvm_bindings::CpuId;
use nix::libc;
use thiserror::Error;

pub(super) use self::{
    affinity::pin_this_thread,
    leaves::Leaves,
    msrs::{MsrMask, set_up as set_up_msrs},
    supported::offered,
};
pub use self::{
    affinity::{CpuPin, HostCpus, PinError, check_pins},
    portable::PHYSICAL_BITS as PORTABLE_PHYSICAL_BITS,
    template::{CpuTemplate, MAX_TEMPLATE, TemplateError},
};
use super::BuildError;

/// What the vCPUs are like.
#[derive(Clone, Debug, Default)]
pub struct CpuConfig {
    /// What the guest is told of the host's processor.
    pub model: CpuModel,
    /// What is changed of that.
    pub template: Option<Arc<CpuTemplate>>,
    /// The vCPUs that may run only on certain host CPUs.
    pub pins: Vec<CpuPin>,
}

impl CpuConfig {
    /// The host CPUs that vCPU `index` is bound to; empty if it is not.
    pub(super) fn host_cpus(&self, index: u32) -> &[u32] {
        self.pins
            .iter()
            .find(|pin| pin.vcpu == index)
            .map_or(&[], |pin| &pin.host_cpus)
    }
}

/// What a guest is told of the host's processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuModel {
    /// Everything that KVM supports on this host and vmd can give.
    #[default]
    Host,
    /// A fixed baseline, the same on every host of one vendor.
    ///
    /// | leaf | what it shows |
    /// | --- | --- |
    /// | 0 | the host's vendor; the highest basic leaf is 0xb |
    /// | 1 | family 15, model 6, stepping 1; cache lines of 64 bytes; in EDX FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2, and HTT if there are several vCPUs; in ECX x2APIC, the APIC timer's TSC deadline, and that there is a hypervisor |
    /// | 0xb | the topology |
    /// | 0x4000_0000, 0x4000_0001 | KVM, with kvmclock (0, 3, 24), no I/O delays (1), steal time (5) and paravirtual EOI (6) |
    /// | 0x8000_0000 | the highest extended leaf is 0x8000_0008 |
    /// | 0x8000_0001 | SYSCALL, NX, LM; on AMD also leaf 1's EAX and EDX bits again, and CmpLegacy if there are several vCPUs |
    /// | 0x8000_0008 | 39 bits of physical and 48 of virtual address; on AMD the number of vCPUs, and that FXSAVE always stores the error pointers |
    ///
    /// Everything else reads as zero: no CX16, SSE3 or later, XSAVE, AVX, no leaf 7 (FSGSBASE, SMEP, SMAP, ...), no
    /// RDTSCP, no invariant TSC, no caches, no brand string; of KVM's features no PV_UNHALT (7), PV_SEND_IPI (11),
    /// PV_SCHED_YIELD (13) and MAP_GPA_RANGE (16), which need hypercalls. That is what x86-64 began with (the psABI's
    /// baseline), so a kernel runs with it that asks for no more. Every 64-bit processor on which KVM runs has all of it.
    Portable,
}

/// Why a machine cannot have the processor that its configuration asks for.
#[derive(Debug, Error)]
pub enum CpuError {
    /// The template asks for what cannot be given.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A vCPU's thread cannot be bound to its host CPUs.
    #[error("cannot bind a vCPU to its host CPUs: {0}")]
    Pin(#[source] nix::Error),
    /// More leaves than KVM takes.
    #[error("{0} CPUID leaves: KVM takes fewer")]
    TooManyLeaves(usize),
}

/// The processor of one machine: what its vCPUs have in common.
pub(super) struct GuestCpu {
    leaves: Leaves,
    vcpus: u32,
    msrs: Arc<[MsrMask]>,
}

impl GuestCpu {
    /// What `config` makes of what the host `offers`.
    pub(super) fn new(offers: &Leaves, config: &CpuConfig, vcpus: u32) -> Result<Self, CpuError> {
        let mut leaves = match config.model {
            CpuModel::Host => offers.clone(),
            CpuModel::Portable => portable::of(offers),
        };
        let mut msrs = Arc::default();
        if let Some(template) = &config.template {
            template.apply(&mut leaves, offers)?;
            msrs = template.msrs().into();
        }
        supported::fit_xsave(&mut leaves);
        Ok(Self {
            leaves,
            vcpus,
            msrs,
        })
    }

    /// The CPUID of vCPU `index`.
    pub(super) fn cpuid(&self, index: u32) -> Result<CpuId, CpuError> {
        let mut leaves = self.leaves.clone();
        topology::apply(&mut leaves, index, self.vcpus);
        leaves
            .to_cpuid()
            .ok_or_else(|| CpuError::TooManyLeaves(leaves.entries().len()))
    }

    /// What is changed of the MSRs at power-on.
    pub(super) fn msrs(&self) -> Arc<[MsrMask]> {
        self.msrs.clone()
    }
}

/// KVM's refusal of a CPUID is the template's fault, if there is one.
pub(super) fn blame_template(config: &CpuConfig, error: BuildError) -> BuildError {
    match error {
        BuildError::Kvm { call, source }
            if config.template.is_some()
                && call == "KVM_SET_CPUID2"
                && source.errno() == libc::EINVAL =>
        {
            BuildError::Cpu(TemplateError::Kvm(source).into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{leaves::Register::*, *};

    fn cpu(model: CpuModel, template: Option<&str>) -> Result<GuestCpu, CpuError> {
        let template = template.map(|text| Arc::new(CpuTemplate::parse(text.as_bytes()).unwrap()));
        let config = CpuConfig {
            model,
            template,
            pins: Vec::new(),
        };
        GuestCpu::new(&offered(&testing::intel(), true), &config, 2)
    }

    #[test]
    fn the_default_is_the_host_without_pins() {
        let config = CpuConfig::default();
        assert_eq!(config.model, CpuModel::Host);
        assert!(config.host_cpus(0).is_empty());
    }

    #[test]
    fn a_template_is_put_on_the_model_and_the_topology_on_both() {
        let clears_all = r#"{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0", "flags": 0, "modifiers": [
            {"register": "ebx", "bitmap": "0b00000000000000000000000000000000"},
            {"register": "ecx", "bitmap": "0b0xxxxxxxxxxxxxxxxxxxxxxxxxxxx"}]}]}"#;
        let plain = cpu(CpuModel::Host, None).unwrap().cpuid(1).unwrap();
        let masked = cpu(CpuModel::Host, Some(clears_all)).unwrap();
        let masked = Leaves::from(&masked.cpuid(1).unwrap());
        let plain = Leaves::from(&plain);
        assert_eq!(plain.value(1, 0, Ecx) & 1 << 28, 1 << 28, "AVX");
        assert_eq!(masked.value(1, 0, Ecx), plain.value(1, 0, Ecx) & !(1 << 28));
        assert_eq!(masked.value(1, 0, Ebx), 1 << 24 | 2 << 16);
    }

    #[test]
    fn a_template_that_hides_xsave_hides_its_leaf() {
        let no_xsave = r#"{"cpuid_modifiers": [{"leaf": "1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "ecx", "bitmap": "0b0xxxxxxxxxxxxxxxxxxxxxxxxxx"}]}]}"#;
        let leaves = cpu(CpuModel::Host, Some(no_xsave)).unwrap().leaves;
        assert_eq!(leaves.get(0xd, 0), None);
    }

    #[test]
    fn a_leaf_that_the_model_hides_cannot_be_changed() {
        let leaf_7 = r#"{"cpuid_modifiers": [{"leaf": "0x7", "subleaf": "0x0", "flags": 1, "modifiers": []}]}"#;
        assert!(cpu(CpuModel::Host, Some(leaf_7)).is_ok());
        let error = cpu(CpuModel::Portable, Some(leaf_7)).map(drop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cpuid_modifiers[0]: the CPU model hides leaf 0x7, subleaf 0x0"
        );
    }
}
