//! A vCPU's place: one package, its cores with one thread each, APIC ids from 0 on.
//!
//! With at most 64 vCPUs every id fits the 8 bits of the xAPIC. One thread a core: a guest's scheduler that was told of
//! threads would keep apart what the host may run anywhere. Sources: Intel SDM, volume 2A, CPUID (leaves 1, 4, 0BH,
//! 1FH) and volume 3A, 9.9 (identifying the topology); AMD APM, volume 3, appendix E (functions 1, 0BH, 8000_0001H,
//! 8000_0008H, 8000_001DH, 8000_001EH; E.5, counting processors).

use super::leaves::{Leaves, Register::*, register_of, subleaf};

/// Types of levels in leaves 0xb and 0x1f.
const THREAD: u32 = 1;
const CORE: u32 = 2;

const X2APIC: u32 = 1 << 21;
const HTT: u32 = 1 << 28;
const CMP_LEGACY: u32 = 1 << 1;
/// The cache level from which on a cache is shared by the package.
const SHARED_LEVEL: u32 = 3;

/// Tells vCPU `index` of `count` where it is.
pub(super) fn apply(leaves: &mut Leaves, index: u32, count: u32) {
    // Bits of an APIC id that tell cores apart: as many as the highest id needs.
    let shift = count.max(1).next_power_of_two().trailing_zeros();
    let several = |bit| if count > 1 { bit } else { 0 };
    let amd = leaves.is_amd();

    if let Some(entry) = leaves.get_mut(1, 0) {
        entry.ebx = entry.ebx & 0xffff | count << 16 | index << 24;
        entry.edx = entry.edx & !HTT | several(HTT);
    }
    for entry in leaves.entries_mut() {
        match entry.function {
            // Ids set aside for cores, and for those that share the cache; both less one.
            0x4 if entry.eax & 0x1f != 0 => {
                let reserved = (1 << shift) - 1;
                let sharing = shared(entry.eax, reserved);
                entry.eax = entry.eax & 0x3fff | reserved << 26 | sharing << 14;
            }
            0x8000_001d if entry.eax & 0x1f != 0 => {
                let sharing = shared(entry.eax, count - 1);
                entry.eax = entry.eax & 0x3fff | sharing << 14;
            }
            // The id; core `index` with one thread; node 0 of 1.
            0x8000_001e if amd => {
                for (register, value) in [(Eax, index), (Ebx, index), (Ecx, 0), (Edx, 0)] {
                    *register_of(entry, register) = value;
                }
            }
            // CmpLegacy: what leaf 1 counts are cores.
            0x8000_0001 if amd => entry.ecx = entry.ecx & !CMP_LEGACY | several(CMP_LEGACY),
            // Cores less one, and the bits of an APIC id that tell them apart.
            0x8000_0008 if amd => entry.ecx = shift << 12 | (count - 1),
            _ => {}
        }
    }

    // Leaf 0xb is part of the x2APIC, which KVM emulates on processors that have neither.
    let x2apic = leaves.value(1, 0, Ecx) & X2APIC != 0;
    if let Some(entry) = leaves.get_mut(0, 0)
        && x2apic
    {
        entry.eax = entry.eax.max(0xb);
    }
    let highest = leaves.value(0, 0, Eax);
    let has_1f = highest >= 0x1f && leaves.get(0x1f, 0).is_some();
    leaves.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
    for leaf in [(0xb, highest >= 0xb), (0x1f, has_1f)]
        .into_iter()
        .filter_map(|(leaf, has)| has.then_some(leaf))
    {
        // How far to shift an id for the next level's; processors in this level; the level's number and type.
        for (number, [bits, processors, level]) in
            (0..).zip([[0, 1, THREAD], [shift, count, CORE], [0, 0, 0]])
        {
            let level = level << 8 | number;
            leaves.push(subleaf(leaf, number, [bits, processors, level, index]));
        }
    }
}

/// How many further processors share the cache of a level, which the description `eax` of it names.
fn shared(eax: u32, package: u32) -> u32 {
    if eax >> 5 & 0x7 >= SHARED_LEVEL {
        package
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{offered, testing},
        *,
    };

    /// Numbers of vCPUs, and the bits that their ids need.
    const COUNTS: [(u32, u32); 9] = [
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (8, 3),
        (33, 6),
        (63, 6),
        (64, 6),
    ];

    /// Every vCPU of every machine: its leaves, index, count and shift.
    fn each(kvm: &kvm_bindings::CpuId, check: impl Fn(&Leaves, u32, u32, u32)) {
        for (count, shift) in COUNTS {
            for index in 0..count {
                let mut leaves = offered(kvm, true);
                apply(&mut leaves, index, count);
                check(&leaves, index, count, shift);
            }
        }
    }

    #[test]
    fn leaf_1_counts_and_names() {
        for kvm in [testing::intel(), testing::amd()] {
            let before = offered(&kvm, true);
            each(&kvm, |leaves, index, count, _| {
                let low = before.value(1, 0, Ebx) & 0xffff;
                let expected = index << 24 | count << 16 | low;
                assert_eq!(leaves.value(1, 0, Ebx), expected);
                assert_eq!(leaves.value(1, 0, Edx) & HTT != 0, count > 1);
                let rest = |leaves: &Leaves| leaves.value(1, 0, Edx) & !HTT;
                assert_eq!(rest(leaves), rest(&before));
                assert_eq!(leaves.value(1, 0, Ecx), before.value(1, 0, Ecx));
                assert_eq!(leaves.value(1, 0, Eax), before.value(1, 0, Eax));
            });
        }
    }

    #[test]
    fn leaf_b_has_a_thread_and_a_core_level() {
        for (kvm, has_1f) in [(testing::intel(), true), (testing::amd(), false)] {
            each(&kvm, |leaves, index, count, shift| {
                let rows = |leaf| {
                    let entries = leaves.entries().iter().filter(|e| e.function == leaf);
                    let rows = entries.map(|e| (e.index, e.flags, [e.eax, e.ebx, e.ecx, e.edx]));
                    rows.collect::<Vec<_>>()
                };
                let expected = [
                    (0, 1, [0, 1, 0x100, index]),
                    (1, 1, [shift, count, 0x201, index]),
                    (2, 1, [0, 0, 2, index]),
                ];
                assert_eq!(rows(0xb), expected);
                assert_eq!(rows(0x1f), if has_1f { &expected[..] } else { &[] });
                // Ids within a core level's bits, and no fewer bits than that takes.
                assert!(index < 1 << shift && (count == 1 || count > 1 << (shift - 1)));
            });
        }
    }

    #[test]
    fn intel_s_caches_are_a_core_s_own_but_for_the_last() {
        each(&testing::intel(), |leaves, _, _, shift| {
            let reserved = (1 << shift) - 1;
            for (subleaf, low, sharing) in [
                (0, 0x121, 0),
                (1, 0x122, 0),
                (2, 0x143, 0),
                (3, 0x163, reserved),
            ] {
                let expected = reserved << 26 | sharing << 14 | low;
                assert_eq!(leaves.value(4, subleaf, Eax), expected, "{subleaf}");
            }
            assert_eq!(leaves.value(4, 4, Eax), 0, "no more caches");
            assert_eq!(leaves.value(0x8000_0008, 0, Ecx), 0, "reserved");
            assert_eq!(leaves.value(0x8000_0001, 0, Ecx) & CMP_LEGACY, 0);
        });
    }

    #[test]
    fn amd_s_leaves_count_cores() {
        each(&testing::amd(), |leaves, index, count, shift| {
            let counts = shift << 12 | (count - 1);
            assert_eq!(leaves.value(0x8000_0008, 0, Ecx), counts);
            let legacy = leaves.value(0x8000_0001, 0, Ecx) & CMP_LEGACY != 0;
            assert_eq!(legacy, count > 1);
            let e = leaves.get(0x8000_001e, 0).unwrap();
            assert_eq!([e.eax, e.ebx, e.ecx, e.edx], [index, index, 0, 0]);
            for (subleaf, low, sharing) in [
                (0, 0x121, 0),
                (1, 0x122, 0),
                (2, 0x143, 0),
                (3, 0x163, count - 1),
            ] {
                let expected = sharing << 14 | low;
                assert_eq!(leaves.value(0x8000_001d, subleaf, Eax), expected);
            }
            assert_eq!(leaves.value(4, 0, Eax), 0, "AMD has no leaf 4");
        });
    }

    #[test]
    fn a_processor_too_old_for_leaf_b_gets_it_with_the_x2apic() {
        for x2apic in [true, false] {
            let mut leaves = offered(&testing::intel(), true);
            leaves.retain(|entry| entry.function < 0xb || entry.function >= 0x4000_0000);
            leaves.get_mut(0, 0).unwrap().eax = 0xa;
            if !x2apic {
                leaves.clear(1, 0, Ecx, X2APIC);
            }
            apply(&mut leaves, 3, 5);
            let highest = if x2apic { 0xb } else { 0xa };
            assert_eq!(leaves.value(0, 0, Eax), highest);
            assert_eq!(leaves.value(0xb, 1, Edx), if x2apic { 3 } else { 0 });
            assert_eq!(leaves.get(0xb, 0).is_some(), x2apic);
            assert_eq!(leaves.get(0x1f, 0), None);
        }
    }
}
