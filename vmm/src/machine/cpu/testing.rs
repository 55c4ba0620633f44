//! What KVM could say on two processors that do not exist: each has what one of its vendor's has, and what is to be
//! hidden.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::leaves::{leaf, subleaf};

/// EBX, ECX and EDX of leaf 0.
pub(super) const INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
const AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];

const LEAF_1_EDX: u32 = 0x07ab_fbff;

fn kvm_leaves() -> [kvm_cpuid_entry2; 2] {
    [
        leaf(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, [0x0103_fefb, 0, 0, 1]),
    ]
}

/// Leaf 0xd with x87, SSE, AVX, AVX-512 and AMX in XCR0, Processor Trace and CET in IA32_XSS; and a stray component 9.
fn xsave() -> [kvm_cpuid_entry2; 12] {
    [
        subleaf(0xd, 0, [0x6_00e7, 0x2b00, 0x2b00, 0]),
        subleaf(0xd, 1, [0x1f, 0x2b00, 0x1900, 0]),
        subleaf(0xd, 2, [0x100, 0x240, 0, 0]),
        subleaf(0xd, 5, [0x40, 0x440, 0, 0]),
        subleaf(0xd, 6, [0x200, 0x480, 0, 0]),
        subleaf(0xd, 7, [0x400, 0x680, 0, 0]),
        subleaf(0xd, 8, [0x80, 0, 1, 0]),
        subleaf(0xd, 9, [8, 0xa80, 0, 0]),
        subleaf(0xd, 11, [0x10, 0, 1, 0]),
        subleaf(0xd, 12, [0x18, 0, 1, 0]),
        subleaf(0xd, 17, [0x40, 0xac0, 2, 0]),
        subleaf(0xd, 18, [0x2000, 0xb00, 6, 0]),
    ]
}

/// Intel's, with every leaf up to 0x1f that matters. The TSC deadline is not listed, as by kernels before 5.18.
pub(super) fn intel() -> CpuId {
    let [b, c, d] = INTEL;
    let mut entries = vec![
        leaf(0x0, [0x1f, b, c, d]),
        leaf(0x1, [0x0008_06f8, 0x2740_0800, 0xf6fa_b227, LEAF_1_EDX]),
        leaf(0x2, [0x00fe_ff01, 0xf0, 0, 0]),
        subleaf(0x4, 0, [0xfc00_4121, 0x02c0_003f, 0x3f, 0]),
        subleaf(0x4, 1, [0xfc00_4122, 0x01c0_003f, 0x3f, 0]),
        subleaf(0x4, 2, [0xfc00_4143, 0x03c0_003f, 0x7ff, 0]),
        subleaf(0x4, 3, [0xfc1f_c163, 0x0380_003f, 0x1_bfff, 4]),
        subleaf(0x4, 4, [0, 0, 0, 0]),
        leaf(0x6, [4, 0, 0, 0]),
        subleaf(0x7, 0, [1, 0xf3bf_a7ef, 0x5b41_5ffe, 0xffd4_4432]),
        subleaf(0x7, 1, [0x40_1d30, 0, 0, 0x4_4130]),
        leaf(0xa, [0x0730_0802, 0, 7, 0x8603]),
        subleaf(0xb, 0, [1, 2, 0x100, 0x27]),
        subleaf(0xb, 1, [7, 0x60, 0x201, 0x27]),
        subleaf(0x12, 0, [1, 0, 0, 0]),
        subleaf(0x14, 0, [1, 0xf, 7, 0]),
        subleaf(0x1d, 0, [1, 0, 0, 0]),
        subleaf(0x1e, 0, [0, 0x4010, 0, 0]),
        subleaf(0x1f, 0, [1, 2, 0x100, 0x27]),
        subleaf(0x1f, 1, [7, 0x60, 0x201, 0x27]),
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, 0x121, 0x2c10_0800]),
        leaf(0x8000_0007, [0, 0, 0, 0x100]),
        leaf(0x8000_0008, [0x3934, 0x200, 0, 0]),
    ];
    entries.extend(xsave());
    entries.extend(kvm_leaves());
    CpuId::from_entries(&entries).unwrap()
}

/// AMD's, with the topology extensions.
pub(super) fn amd() -> CpuId {
    let [b, c, d] = AMD;
    let mut entries = vec![
        leaf(0x0, [0x10, b, c, d]),
        leaf(0x1, [0x00a2_0f12, 0x0710_0800, 0xf7fa_320b, LEAF_1_EDX]),
        subleaf(0x4, 0, [0, 0, 0, 0]),
        subleaf(0x7, 0, [1, 0x219c_97a9, 0x0040_06ca, 0x1010]),
        subleaf(0x7, 1, [0x30, 0, 0, 0]),
        subleaf(0xb, 0, [0, 0, 0, 0]),
        leaf(0x8000_0000, [0x8000_0022, b, c, d]),
        leaf(
            0x8000_0001,
            [0x00a2_0f12, 0x4000_0000, 0x15c2_37ff, 0x2fd3_fbff],
        ),
        leaf(0x8000_0008, [0x3030, 0x111e_f657, 0x7001, 0]),
        leaf(0x8000_000a, [1, 8, 0, 0x101b_9b0f]),
        leaf(0x8000_001b, [0x3ff, 0, 0, 0]),
        subleaf(0x8000_001d, 0, [0x4121, 0x01c0_003f, 0x3f, 0]),
        subleaf(0x8000_001d, 1, [0x4122, 0x01c0_003f, 0x3f, 0]),
        subleaf(0x8000_001d, 2, [0x4143, 0x01c0_003f, 0x3ff, 2]),
        subleaf(0x8000_001d, 3, [0x3_c163, 0x03c0_003f, 0x7fff, 1]),
        subleaf(0x8000_001d, 4, [0, 0, 0, 0]),
        leaf(0x8000_001e, [7, 0x103, 0x100, 0]),
        leaf(0x8000_001f, [0x0101_fd3f, 0x173, 0, 0]),
        leaf(0x8000_0022, [1, 6, 0, 0]),
    ];
    let mut xsave = xsave();
    xsave[0].eax = 7;
    entries.extend(
        xsave
            .into_iter()
            .filter(|e| [0, 1, 2, 11, 12].contains(&e.index)),
    );
    entries.extend(kvm_leaves());
    CpuId::from_entries(&entries).unwrap()
}
