//! The state of a vCPU at power-on, and the way back to it.
//!
//! KVM creates a vCPU in the state that the processor has after power-on: the first at the reset vector, the others
//! waiting for INIT and SIPI (Intel SDM, volume 3, 11.1). What differs between vCPUs is read then and written at reset;
//! the rest is constant.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Error, VcpuFd};

use crate::machine::boot::entry::Start;

/// What a vCPU had before the guest ran.
pub(super) struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
    /// Those of the machine's CPU model.
    msrs: Vec<(u32, u64)>,
}

impl PowerOn {
    /// Reads it. `msrs` are those of the machine's CPU model.
    pub(super) fn read(vcpu: &VcpuFd, msrs: Vec<(u32, u64)>) -> Result<Self, Error> {
        Ok(Self {
            regs: vcpu.get_regs()?,
            sregs: vcpu.get_sregs()?,
            lapic: vcpu.get_lapic()?,
            events: vcpu.get_vcpu_events()?,
            mp_state: vcpu.get_mp_state()?,
            msrs,
        })
    }

    /// Has `vcpu`, which is in this state, begin at `start`.
    pub(super) fn begin(&self, vcpu: &VcpuFd, start: Start) -> Result<(), Error> {
        if start == Start::PowerOn {
            return Ok(());
        }
        self.set_registers(vcpu, start)?;
        set_msrs(vcpu, start.msrs())
    }

    fn set_registers(&self, vcpu: &VcpuFd, start: Start) -> Result<(), Error> {
        let (mut regs, mut sregs) = (self.regs, self.sregs);
        start.apply(&mut regs, &mut sregs);
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&regs)
    }

    /// Puts `vcpu` back into it, but at `start`. It must not be in `KVM_RUN`, nor have an exit to complete.
    pub(super) fn restore(&self, vcpu: &VcpuFd, start: Start) -> Result<(), Error> {
        // An INIT or SIPI that is on its way would take effect when the vCPU runs: reading the state takes it now, and
        // what it did is overwritten below.
        vcpu.get_mp_state()?;
        // The mode comes first: some MSRs may not change while long mode or the APIC timer use them.
        self.set_registers(vcpu, start)?;
        reset_extended(vcpu)?;
        vcpu.set_debug_regs(&kvm_debugregs {
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..Default::default()
        })?;
        set_msrs(vcpu, &MSRS)?;
        set_msrs(vcpu, &self.msrs)?;
        set_msrs(vcpu, start.msrs())?;
        vcpu.set_lapic(&self.lapic)?;
        vcpu.set_vcpu_events(&self.events)?;
        vcpu.set_mp_state(self.mp_state)
    }
}

/// x87, SSE and all later register files (Intel SDM, volume 1, 13.6: initial configuration).
fn reset_extended(vcpu: &VcpuFd) -> Result<(), Error> {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    if let Some(xcr0) = xcrs.xcrs.first_mut() {
        xcr0.value = 1;
    }
    vcpu.set_xcrs(&xcrs)?;

    let mut image = kvm_xsave::default();
    // An empty XSTATE_BV (in the header at byte 512) puts every component into its initial state, but MXCSR and, for
    // processors without XSAVE, FCW are taken from the image.
    for (index, value) in [(0, 0x037f), (6, 0x1f80)] {
        if let Some(word) = image.region.get_mut(index) {
            *word = value;
        }
    }
    // SAFETY: the image has the 4096 bytes that KVM_SET_XSAVE reads; components beyond them (AMX) are only read if
    // the guest was given them by arch_prctl, which nobody does here.
    unsafe { vcpu.set_xsave(&image) }
}

/// Registers that keep a guest's setting until they are written, with their value after a reset (Intel SDM, volume 4,
/// and the KVM documentation's `msr.rst` for those at 0x4b564d00).
const MSRS: [(u32, u64); 27] = [
    (0x0000_0010, 0),                     // TSC
    (0x0000_003b, 0),                     // TSC_ADJUST
    (0x0000_0048, 0),                     // SPEC_CTRL
    (0x0000_00e1, 0),                     // UMWAIT_CONTROL
    (0x0000_0140, 0),                     // MISC_FEATURE_ENABLES
    (0x0000_0174, 0),                     // SYSENTER_CS
    (0x0000_0175, 0),                     // SYSENTER_ESP
    (0x0000_0176, 0),                     // SYSENTER_EIP
    (0x0000_0277, 0x0007_0406_0007_0406), // PAT
    (0x0000_02ff, 0),                     // MTRR_DEF_TYPE
    (0x0000_06e0, 0),                     // TSC_DEADLINE
    (0x0000_0da0, 0),                     // XSS
    (0xc000_0081, 0),                     // STAR
    (0xc000_0082, 0),                     // LSTAR
    (0xc000_0083, 0),                     // CSTAR
    (0xc000_0084, 0),                     // FMASK
    (0xc000_0102, 0),                     // KERNEL_GS_BASE
    (0xc000_0103, 0),                     // TSC_AUX
    (0x0000_0011, 0),                     // kvmclock: wall clock, old number
    (0x0000_0012, 0),                     // kvmclock: system time, old number
    (0x4b56_4d00, 0),                     // kvmclock: wall clock
    (0x4b56_4d01, 0),                     // kvmclock: system time
    (0x4b56_4d02, 0),                     // asynchronous page faults
    (0x4b56_4d03, 0),                     // steal time
    (0x4b56_4d04, 0),                     // paravirtual EOI
    (0x4b56_4d05, 1),                     // host-side polling
    (0x4b56_4d06, 0),                     // asynchronous page faults: interrupt vector
];

/// Whether a reset gives this MSR a value of its own.
pub(in crate::machine) fn is_reset(index: u32) -> bool {
    MSRS.iter().any(|&(known, _)| known == index)
}

/// KVM writes up to the first that it refuses. A register that this processor or model does not have cannot hold
/// anything of the guest's either, so the rest goes on after it.
fn set_msrs(vcpu: &VcpuFd, mut rest: &[(u32, u64)]) -> Result<(), Error> {
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|&(index, data)| kvm_msr_entry {
                index,
                data,
                ..Default::default()
            })
            .collect();
        let Ok(msrs) = Msrs::from_entries(&entries) else {
            break;
        };
        let written = vcpu.set_msrs(&msrs)?;
        rest = rest.get(written + 1..).unwrap_or_default();
    }
    Ok(())
}
