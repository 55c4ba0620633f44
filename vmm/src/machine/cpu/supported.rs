//! What vmd offers of what KVM supports: all but what a machine of vmd's does not have, or could not put back at a reset
//! or save.

use kvm_bindings::CpuId;

use super::leaves::{Leaves, Register, Register::*, register_of};

/// Leaves that are left out; they read as zero.
const DROPPED: [u32; 12] = [
    0xa,         // performance counters: their MSRs are not reset
    0x12,        // SGX: there is no enclave memory
    0x14,        // Processor Trace: its MSRs are not reset
    0x1c,        // last branch records: as above
    0x1d,        // AMX tiles: their state needs a permission that vmd does not ask for
    0x1e,        // AMX multiplication
    0x23,        // performance counters, further
    0x8000_000a, // SVM: see VMX below
    0x8000_001b, // instruction sampling: its MSRs are not reset
    0x8000_001f, // encrypted memory
    0x8000_0022, // performance counters, AMD's second version
    0x8000_0026, // the host's topology; 0xb has the guest's
];

/// Bits that are cleared, by leaf and subleaf (Intel SDM, volume 2A, CPUID; AMD APM, volume 3, appendix E; Linux,
/// `Documentation/virt/kvm/x86/cpuid.rst` for 0x4000_0001).
const CLEARED: [(u32, u32, Register, u32); 13] = [
    // DTES64; VMX: the state of a guest's own guests is neither reset nor saved; PDCM.
    (0x1, 0, Ecx, 1 << 2 | 1 << 5 | 1 << 15),
    // Debug store.
    (0x1, 0, Edx, 1 << 21),
    // SGX, Processor Trace.
    (0x7, 0, Ebx, 1 << 2 | 1 << 25),
    // CET's shadow stacks, whose MSRs are not reset; SGX launch control.
    (0x7, 0, Ecx, 1 << 7 | 1 << 30),
    // Last branch records, CET's branch tracking, AMX.
    (0x7, 0, Edx, 1 << 19 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25),
    // The leaf of performance counters, AMX.
    (0x7, 1, Eax, 1 << 8 | 1 << 21),
    // AMX, CET.
    (0x7, 1, Edx, 1 << 8 | 1 << 18),
    // AMX's two components of XCR0.
    (0xd, 0, Eax, 1 << 17 | 1 << 18),
    // Every component of IA32_XSS is one of the above.
    (0xd, 1, Ecx, u32::MAX),
    (0xd, 1, Edx, u32::MAX),
    // MAP_GPA_RANGE and MIGRATION_CONTROL: hypercalls that vmd does not answer.
    (0x4000_0001, 0, Eax, 1 << 16 | 1 << 17),
    // SVM, instruction sampling, three kinds of performance counters.
    (
        0x8000_0001,
        0,
        Ecx,
        1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28,
    ),
    // Invariant TSC: it counts on while the machine is stopped. Guests that see it prefer it to kvmclock, which does not.
    (0x8000_0007, 0, Edx, 1 << 8),
];

const TSC_DEADLINE: u32 = 1 << 24;
const XSAVE: u32 = 1 << 26;
const HYPERVISOR: u32 = 1 << 31;

/// What vmd offers of what `kvm` supports. Whether the APIC timer has the TSC deadline is told by a capability, not by
/// the list (KVM API, KVM_GET_SUPPORTED_CPUID).
pub(in crate::machine) fn offered(kvm: &CpuId, tsc_deadline: bool) -> Leaves {
    let mut leaves = Leaves::from(kvm);
    leaves.retain(|entry| !DROPPED.contains(&entry.function));
    for (leaf, subleaf, register, bits) in CLEARED {
        leaves.clear(leaf, subleaf, register, bits);
    }
    if let Some(entry) = leaves.get_mut(1, 0) {
        entry.ecx &= !TSC_DEADLINE;
        entry.ecx |= HYPERVISOR | if tsc_deadline { TSC_DEADLINE } else { 0 };
    }
    fit_xsave(&mut leaves);
    leaves
}

/// Makes leaf 0xd agree with its own masks: no subleaf of a component that is not there, and sizes that fit the rest
/// (Intel SDM, volume 1, 13.2). KVM keeps what depends on the guest's XCR0.
pub(super) fn fit_xsave(leaves: &mut Leaves) {
    /// The legacy region and the header.
    const LEAST: u32 = 512 + 64;

    if leaves.value(1, 0, Ecx) & XSAVE == 0 {
        leaves.retain(|entry| entry.function != 0xd);
        return;
    }
    let mask = |low, high| u64::from(high) << 32 | u64::from(low);
    let user = mask(leaves.value(0xd, 0, Eax), leaves.value(0xd, 0, Edx));
    let supervisor = mask(leaves.value(0xd, 1, Ecx), leaves.value(0xd, 1, Edx));
    let has = |mask: u64, component: u32| 1_u64.checked_shl(component).unwrap_or(0) & mask != 0;
    leaves.retain(|entry| {
        entry.function != 0xd || entry.index < 2 || has(user | supervisor, entry.index)
    });
    let size = leaves
        .entries()
        .iter()
        .filter(|entry| entry.function == 0xd && entry.index >= 2 && has(user, entry.index))
        .map(|entry| entry.ebx.saturating_add(entry.eax))
        .fold(LEAST, u32::max);
    if let Some(entry) = leaves.get_mut(0xd, 0) {
        *register_of(entry, Ebx) = size;
        *register_of(entry, Ecx) = size;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing, *};

    #[test]
    fn what_vmd_cannot_give_is_hidden_and_the_rest_stays() {
        for kvm in [testing::intel(), testing::amd()] {
            let before = Leaves::from(&kvm);
            let after = offered(&kvm, true);
            for entry in before.entries() {
                let (leaf, subleaf) = (entry.function, entry.index);
                let dropped = DROPPED.contains(&leaf) || leaf == 0xd && subleaf >= 8;
                assert_eq!(after.get(leaf, subleaf).is_none(), dropped, "{leaf:#x}");
                for register in [Eax, Ebx, Ecx, Edx] {
                    let (was, is) = (
                        before.value(leaf, subleaf, register),
                        after.value(leaf, subleaf, register),
                    );
                    let hidden = CLEARED
                        .iter()
                        .filter(|row| (row.0, row.1, row.2) == (leaf, subleaf, register))
                        .fold(0, |bits, row| bits | row.3);
                    let sizes = leaf == 0xd && matches!((subleaf, register), (0, Ebx | Ecx));
                    if !dropped && !sizes {
                        let added = if (leaf, register) == (1, Ecx) {
                            TSC_DEADLINE | HYPERVISOR
                        } else {
                            0
                        };
                        assert_eq!(
                            is,
                            was & !hidden | added,
                            "{leaf:#x} {subleaf} {register:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_tsc_deadline_is_the_capability_s() {
        for (kvm, has) in [(testing::intel(), false), (testing::amd(), true)] {
            let listed = Leaves::from(&kvm).value(1, 0, Ecx) & TSC_DEADLINE != 0;
            assert_eq!(listed, has, "one of each is tried");
            for capability in [false, true] {
                let offered = offered(&kvm, capability);
                let told = offered.value(1, 0, Ecx) & TSC_DEADLINE != 0;
                assert_eq!(told, capability);
            }
        }
    }

    #[test]
    fn the_size_of_the_xsave_area_fits_what_is_left() {
        let mut leaves = offered(&testing::intel(), true);
        assert_eq!(leaves.value(0xd, 0, Eax), 0xe7);
        assert_eq!(
            leaves.value(0xd, 0, Ecx),
            0xa80,
            "to the end of component 7"
        );
        assert!(leaves.get(0xd, 9).is_none() && leaves.get(0xd, 18).is_none());
        leaves.clear(0xd, 0, Eax, 0xe0);
        fit_xsave(&mut leaves);
        assert_eq!(
            leaves.value(0xd, 0, Ecx),
            0x340,
            "to the end of component 2"
        );
        assert_eq!(leaves.value(0xd, 0, Ebx), 0x340);
        assert!(leaves.get(0xd, 5).is_none());
        leaves.clear(0xd, 0, Eax, 4);
        fit_xsave(&mut leaves);
        assert_eq!(leaves.value(0xd, 0, Ecx), 576);
        leaves.clear(1, 0, Ecx, XSAVE);
        fit_xsave(&mut leaves);
        assert_eq!(leaves.get(0xd, 0), None);
    }
}
