//! The model `portable`: see [`CpuModel::Portable`](super::CpuModel::Portable) for what it shows.

use super::leaves::{Leaves, Register::*, leaf};

/// Bits of a physical address: what the least of today's processors with hardware virtualisation has.
pub const PHYSICAL_BITS: u32 = 39;
const VIRTUAL_BITS: u32 = 48;

/// Family 15, model 6, stepping 1. No processor's workarounds are for it under a hypervisor, and QEMU's `kvm64` has used
/// it for years, also with AMD as the vendor.
const SIGNATURE: u32 = 0x0f61;
/// CLFLUSH lines, in units of 8 bytes, at bit 8.
const CLFLUSH_LINE: u32 = 8 << 8;

/// Leaf 1: x2APIC, TSC deadline, hypervisor.
const LEAF_1_ECX: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// Leaf 1: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC, SEP MTRR PGE MCA CMOV PAT, PSE36, CLFLUSH, MMX FXSR SSE SSE2.
const LEAF_1_EDX: u32 = 0x3ff | 0x3f << 11 | 1 << 17 | 1 << 19 | 0xf << 23;
/// Leaf 0x8000_0001: SYSCALL, NX, LM; AMD's repeats the bits of leaf 1 that are older than it.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 29;
const EXTENDED_EDX_REPEATED: u32 = LEAF_1_EDX & 0x0183_f3ff;
/// Leaf 0x8000_0008, AMD: FXSAVE always stores the error pointers (APM volume 3, E.4.7, RstrFpErrPtrs). Without it a guest
/// clears them with x87 instructions at each task switch; every AMD processor since Zen has it.
const SIZES_EBX_AMD: u32 = 1 << 2;
/// KVM's features (Linux, `Documentation/virt/kvm/x86/cpuid.rst`): CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, STEAL_TIME,
/// PV_EOI, CLOCKSOURCE_STABLE_BIT. Those that need hypercalls are not in it.
const KVM_FEATURES: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 24;

const KVM_LEAF: u32 = 0x4000_0000;

/// The baseline, of what the host `offers`.
pub(super) fn of(offers: &Leaves) -> Leaves {
    let vendor = [Ebx, Ecx, Edx].map(|register| offers.value(0, 0, register));
    let extended_vendor = [Ebx, Ecx, Edx].map(|register| offers.value(0x8000_0000, 0, register));
    let signature = [Ebx, Ecx, Edx].map(|register| offers.value(KVM_LEAF, 0, register));
    let with = |eax, [ebx, ecx, edx]: [u32; 3]| [eax, ebx, ecx, edx];

    let (extended_signature, repeated, sizes_ebx) = if offers.is_amd() {
        (SIGNATURE, EXTENDED_EDX_REPEATED, SIZES_EBX_AMD)
    } else {
        (0, 0, 0)
    };
    Leaves::new(vec![
        leaf(0x0, with(0xb, vendor)),
        leaf(
            0x1,
            [
                SIGNATURE,
                CLFLUSH_LINE,
                offers.value(1, 0, Ecx) & LEAF_1_ECX,
                offers.value(1, 0, Edx) & LEAF_1_EDX,
            ],
        ),
        leaf(KVM_LEAF, with(KVM_LEAF + 1, signature)),
        leaf(
            KVM_LEAF + 1,
            [offers.value(KVM_LEAF + 1, 0, Eax) & KVM_FEATURES, 0, 0, 0],
        ),
        leaf(0x8000_0000, with(0x8000_0008, extended_vendor)),
        leaf(
            0x8000_0001,
            [
                extended_signature,
                0,
                0,
                offers.value(0x8000_0001, 0, Edx) & (EXTENDED_EDX | repeated),
            ],
        ),
        leaf(
            0x8000_0008,
            [
                VIRTUAL_BITS << 8 | PHYSICAL_BITS,
                offers.value(0x8000_0008, 0, Ebx) & sizes_ebx,
                0,
                0,
            ],
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::{
        super::{offered, testing, topology},
        *,
    };

    #[test]
    fn every_host_of_a_vendor_shows_the_same() {
        let all = |offers: &Leaves| {
            let mut leaves = of(offers);
            topology::apply(&mut leaves, 0, 1);
            let lines: Vec<_> = leaves
                .entries()
                .iter()
                .map(|e| (e.function, e.index, [e.eax, e.ebx, e.ecx, e.edx]))
                .collect();
            lines
        };
        let vendor = testing::INTEL;
        let leaf_b = [
            (0xb, 0, [0, 1, 0x100, 0]),
            (0xb, 1, [0, 1, 0x201, 0]),
            (0xb, 2, [0, 0, 2, 0]),
        ];
        let [ebx, ecx, edx] = vendor;
        let kvm = [0x4b4d_564b, 0x564b_4d56, 0x4d];
        let mut expected = vec![
            (0x0, 0, [0xb, ebx, ecx, edx]),
            (0x1, 0, [0xf61, 1 << 16 | 8 << 8, 0x8120_0000, 0x078b_fbff]),
            (0x4000_0000, 0, [0x4000_0001, kvm[0], kvm[1], kvm[2]]),
            (0x4000_0001, 0, [0x0100_006b, 0, 0, 0]),
            (0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
            (0x8000_0001, 0, [0, 0, 0, 0x2010_0800]),
            (0x8000_0008, 0, [0x3027, 0, 0, 0]),
        ];
        expected.extend(leaf_b);
        let new = offered(&testing::intel(), true);
        assert_eq!(all(&new), expected);

        // A host that supports everything there could be.
        let mut rich = new.clone();
        for entry in rich
            .entries_mut()
            .filter(|entry| !matches!(entry.function, 0 | 0x4000_0000 | 0x8000_0000))
        {
            for register in [Eax, Ebx, Ecx, Edx] {
                *super::super::leaves::register_of(entry, register) = u32::MAX;
            }
        }
        assert_eq!(all(&rich), expected);
    }

    #[test]
    fn amd_repeats_leaf_1() {
        let leaves = of(&offered(&testing::amd(), true));
        assert_eq!(leaves.value(0x8000_0001, 0, Edx), 0x2193_fbff);
        assert_eq!(leaves.value(0x8000_0001, 0, Ecx), 0);
        assert_eq!(leaves.value(0x8000_0001, 0, Eax), SIGNATURE);
        assert!(leaves.is_amd());
    }

    #[test]
    fn what_guests_trip_over_is_hidden() {
        for kvm in [testing::intel(), testing::amd()] {
            let leaves = of(&offered(&kvm, true));
            for leaf in [2, 4, 5, 6, 7, 0xd, 0x1f, 0x8000_0007, 0x8000_001d] {
                assert_eq!(leaves.get(leaf, 0), None, "{leaf:#x}");
            }
            let kvm = leaves.value(0x4000_0001, 0, Eax);
            assert_eq!(kvm & (1 << 7 | 1 << 11 | 1 << 13 | 1 << 16), 0);
            let cx16_xsave_popcnt = 1 << 13 | 1 << 26 | 1 << 23;
            assert_eq!(leaves.value(1, 0, Ecx) & cx16_xsave_popcnt, 0);
        }
    }
}
