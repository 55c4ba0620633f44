//! MSRs that differ from what KVM has at power-on, in every model or by a template: set then, and again at each reset.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Error, VcpuFd};

use super::{CpuError, TemplateError};

/// A change of an MSR: bits that are taken from `value` rather than from the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) struct MsrMask {
    pub(in crate::machine) index: u32,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// Fast string operations, in IA32_MISC_ENABLE: a processor has them on at power-on (Intel SDM, volume 4), not so every
/// KVM. A Linux that sees them off on an Intel processor does without.
const FAST_STRINGS: MsrMask = MsrMask {
    index: 0x1a0,
    mask: 1,
    value: 1,
};

/// Changes the MSRs of a vCPU that has not run; returns what they are then.
pub(in crate::machine) fn set_up(
    vcpu: &VcpuFd,
    masks: &[MsrMask],
) -> Result<Vec<(u32, u64)>, CpuError> {
    // Where it cannot be set, nobody asks for it.
    let all_have = change(vcpu, &FAST_STRINGS).ok().map(Ok);
    let template = masks.iter().map(|mask| {
        let index = mask.index;
        change(vcpu, mask).map_err(|problem| TemplateError::Msr { index, problem }.into())
    });
    all_have.into_iter().chain(template).collect()
}

/// Changes an MSR; returns which, and what it is then.
fn change(vcpu: &VcpuFd, mask: &MsrMask) -> Result<(u32, u64), &'static str> {
    let &MsrMask { index, mask, value } = mask;
    let old = read(vcpu, index).ok_or("cannot be read")?;
    let new = old & !mask | value & mask;
    if !write(vcpu, index, new) {
        return Err("cannot be written");
    }
    // KVM may take a value and keep another.
    if read(vcpu, index) != Some(new) {
        return Err("does not keep what is written");
    }
    Ok((index, new))
}

fn one(index: u32, data: u64) -> Option<Msrs> {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).ok()
}

/// KVM says how many of the registers it has served: 0 or 1 of one.
fn served(result: Result<usize, Error>) -> bool {
    result.is_ok_and(|count| count == 1)
}

fn read(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = one(index, 0)?;
    if !served(vcpu.get_msrs(&mut msrs)) {
        return None;
    }
    msrs.as_slice().first().map(|entry| entry.data)
}

fn write(vcpu: &VcpuFd, index: u32, data: u64) -> bool {
    one(index, data).is_some_and(|msrs| served(vcpu.set_msrs(&msrs)))
}
