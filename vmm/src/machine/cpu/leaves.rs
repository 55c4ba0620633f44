//! CPUID leaves: a list that can be read and changed by leaf, subleaf and register.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// A register that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// The entries of a CPUID.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::machine) struct Leaves(Vec<kvm_cpuid_entry2>);

impl From<&CpuId> for Leaves {
    fn from(cpuid: &CpuId) -> Self {
        Self(cpuid.as_slice().to_vec())
    }
}

impl Leaves {
    pub(super) fn new(entries: Vec<kvm_cpuid_entry2>) -> Self {
        Self(entries)
    }

    /// For KVM; `None` if there are too many.
    pub(super) fn to_cpuid(&self) -> Option<CpuId> {
        CpuId::from_entries(&self.0).ok()
    }

    pub(super) fn entries(&self) -> &[kvm_cpuid_entry2] {
        &self.0
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.0.iter_mut()
    }

    /// A leaf without subleaves has its entry at subleaf 0 alone.
    pub(super) fn get(&self, leaf: u32, subleaf: u32) -> Option<&kvm_cpuid_entry2> {
        self.0.iter().find(|entry| is(entry, leaf, subleaf))
    }

    pub(super) fn get_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.0.iter_mut().find(|entry| is(entry, leaf, subleaf))
    }

    /// What a register reads; 0 where there is no entry.
    pub(super) fn value(&self, leaf: u32, subleaf: u32, register: Register) -> u32 {
        self.get(leaf, subleaf).map_or(0, |entry| {
            let mut entry = *entry;
            *register_of(&mut entry, register)
        })
    }

    /// Clears these bits, if there is such an entry.
    pub(super) fn clear(&mut self, leaf: u32, subleaf: u32, register: Register, bits: u32) {
        if let Some(entry) = self.get_mut(leaf, subleaf) {
            *register_of(entry, register) &= !bits;
        }
    }

    /// Leaves out what is not to be kept.
    pub(super) fn retain(&mut self, keep: impl FnMut(&kvm_cpuid_entry2) -> bool) {
        self.0.retain(keep);
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, entry: kvm_cpuid_entry2) {
        self.0.push(entry);
    }

    /// Whether the vendor is one whose leaves are AMD's.
    pub(super) fn is_amd(&self) -> bool {
        const VENDORS: [&[u8; 12]; 2] = [b"AuthenticAMD", b"HygonGenuine"];
        self.get(0, 0).is_some_and(|entry| {
            let mut vendor = Vec::with_capacity(12);
            for register in [entry.ebx, entry.edx, entry.ecx] {
                vendor.extend(register.to_le_bytes());
            }
            VENDORS.iter().any(|known| known[..] == vendor)
        })
    }
}

fn is(entry: &kvm_cpuid_entry2, leaf: u32, subleaf: u32) -> bool {
    entry.function == leaf && entry.index == subleaf
}

pub(super) fn register_of(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

/// An entry of a leaf without subleaves.
pub(super) fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// An entry of a leaf with subleaves.
pub(super) fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..leaf(function, registers)
    }
}
