//! Where a vCPU begins, and the state of the processor that this asks for.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::layout::{GDT, PAGE_TABLES, START_INFO, ZERO_PAGE};

/// Where a vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) enum Start {
    /// As the processor does: at the reset vector, or waiting to be sent there.
    PowerOn,
    /// At a PVH entry point (Xen `misc/pvh`, "x86/HVM direct boot ABI").
    Pvh {
        /// Its address.
        entry: u32,
    },
    /// At Linux's 64-bit entry point (`Documentation/x86/boot.rst`, "64-bit boot protocol").
    Linux64 {
        /// Its address.
        entry: u64,
    },
    /// In real mode at an ACPI waking vector (ACPI specification 6.5, section 5.2.10 and 16.3.2).
    Waking {
        /// Its address.
        vector: u32,
    },
}

const PROTECTED_MODE: u64 = 1 << 0;
const EXTENSION_TYPE: u64 = 1 << 4;
const PAGING: u64 = 1 << 31;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const LONG_MODE_ENABLE: u64 = 1 << 8;
const LONG_MODE_ACTIVE: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS: u64 = 1 << 1;

/// The descriptors at [`GDT`]: null, null, 64-bit code (`__BOOT_CS`, 0x10), data (`__BOOT_DS`, 0x18).
pub(super) const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// What firmware would have left: IA32_MTRR_DEF_TYPE with write-back memory (Intel SDM, volume 3, 12.11.2.1).
const MSRS: [(u32, u64); 1] = [(0x2ff, 1 << 11 | 6)];

impl Start {
    /// Registers that do not have their power-on value.
    pub(in crate::machine) fn msrs(self) -> &'static [(u32, u64)] {
        match self {
            Self::PowerOn => &[],
            Self::Pvh { .. } | Self::Linux64 { .. } | Self::Waking { .. } => &MSRS,
        }
    }

    /// Changes `regs` and `sregs`, which are those at power-on, to what is asked for.
    pub(in crate::machine) fn apply(self, regs: &mut kvm_regs, sregs: &mut kvm_sregs) {
        match self {
            Self::PowerOn => {}
            Self::Pvh { entry } => {
                flat(sregs, false);
                sregs.cr0 = PROTECTED_MODE | EXTENSION_TYPE;
                begin(regs, entry.into());
                regs.rbx = START_INFO;
            }
            Self::Linux64 { entry } => {
                flat(sregs, true);
                sregs.cr3 = PAGE_TABLES;
                sregs.cr4 = PHYSICAL_ADDRESS_EXTENSION;
                sregs.efer = LONG_MODE_ENABLE | LONG_MODE_ACTIVE;
                sregs.cr0 = PROTECTED_MODE | EXTENSION_TYPE | PAGING;
                begin(regs, entry);
                regs.rsi = ZERO_PAGE;
            }
            Self::Waking { vector } => {
                sregs.cs.base = u64::from(vector & !0xf);
                // A vector lies below 1 MiB.
                sregs.cs.selector = (vector >> 4) as u16;
                begin(regs, u64::from(vector & 0xf));
            }
        }
    }
}

fn begin(regs: &mut kvm_regs, rip: u64) {
    *regs = kvm_regs {
        rip,
        rflags: RFLAGS,
        ..Default::default()
    };
}

/// Segments that span all of memory; the code segment is a 64-bit one if `long`.
fn flat(sregs: &mut kvm_sregs, long: bool) {
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: DATA,
        type_: 3, // read, write, accessed
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    sregs.cs = kvm_segment {
        selector: CODE,
        type_: 11, // execute, read, accessed
        db: (!long).into(),
        l: long.into(),
        ..data
    };
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.tr = kvm_segment {
        limit: 0x67,
        selector: 0,
        type_: 11, // busy task state segment
        db: 0,
        s: 0,
        g: 0,
        ..data
    };
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (size_of_val(&DESCRIPTORS) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(start: Start) -> (kvm_regs, kvm_sregs) {
        // What KVM gives at power-on is not zero.
        let mut regs = kvm_regs {
            rax: 1,
            rip: 0xfff0,
            ..Default::default()
        };
        let mut sregs = kvm_sregs {
            cr0: 0x6000_0010,
            ..Default::default()
        };
        start.apply(&mut regs, &mut sregs);
        (regs, sregs)
    }

    #[test]
    fn a_vcpu_without_a_kernel_starts_as_the_processor_does() {
        let (regs, sregs) = started(Start::PowerOn);
        assert_eq!((regs.rax, regs.rip, sregs.cr0), (1, 0xfff0, 0x6000_0010));
        assert!(Start::PowerOn.msrs().is_empty());
    }

    #[test]
    fn a_pvh_kernel_starts_in_protected_mode_without_paging() {
        let (regs, sregs) = started(Start::Pvh { entry: 0x12_3456 });
        let expected = kvm_regs {
            rip: 0x12_3456,
            rbx: START_INFO,
            rflags: 2,
            ..Default::default()
        };
        assert_eq!(regs, expected);
        // Protected mode, no paging; not task switched, no interrupts.
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.type_), (1, 0, 11));
        for data in [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss] {
            assert_eq!((data.base, data.limit, data.type_), (0, u32::MAX, 3));
        }
        assert_eq!(
            (sregs.tr.base, sregs.tr.limit, sregs.tr.type_),
            (0, 0x67, 11)
        );
        assert_eq!(sregs.cs.limit, u32::MAX);
        assert_eq!(Start::Pvh { entry: 0 }.msrs(), MSRS);
    }

    #[test]
    fn a_linux_kernel_starts_in_long_mode_with_paging() {
        let (regs, sregs) = started(Start::Linux64 { entry: 0x10_0200 });
        let expected = kvm_regs {
            rip: 0x10_0200,
            rsi: ZERO_PAGE,
            rflags: 2,
            ..Default::default()
        };
        assert_eq!(regs, expected);
        assert_eq!((sregs.cr0, sregs.cr3), (0x8000_0011, PAGE_TABLES));
        // Physical address extension; long mode enabled and active.
        assert_eq!((sregs.cr4, sregs.efer), (0x20, 0x500));
        // __BOOT_CS and __BOOT_DS, as the boot protocol wants them.
        assert_eq!((sregs.cs.selector, sregs.cs.db, sregs.cs.l), (0x10, 0, 1));
        for data in [sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((data.selector, data.limit), (0x18, u32::MAX));
        }
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (GDT, 31));
    }

    #[test]
    fn a_waking_vector_becomes_a_real_mode_address() {
        let (mut regs, mut sregs) = (kvm_regs::default(), kvm_sregs::default());
        Start::Waking { vector: 0x9_8765 }.apply(&mut regs, &mut sregs);
        assert_eq!(
            (sregs.cs.selector, sregs.cs.base, regs.rip, sregs.cr0),
            (0x9876, 0x9_8760, 5, 0)
        );
    }
}
