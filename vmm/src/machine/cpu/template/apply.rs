//! Putting a template on a model.

use super::{CpuTemplate, RegisterMask, TemplateError};
use crate::machine::cpu::leaves::{
    Leaves,
    Register::{self, *},
    register_of,
};

/// Registers in which each bit is a feature, by leaf and subleaf (Intel SDM, volume 2A, CPUID; AMD APM, volume 3,
/// appendix E; Linux, `Documentation/virt/kvm/x86/cpuid.rst`).
const FEATURES: [(u32, u32, Register); 25] = [
    (0x1, 0, Ecx),
    (0x1, 0, Edx),
    (0x6, 0, Eax),
    (0x6, 0, Ecx),
    (0x7, 0, Ebx),
    (0x7, 0, Ecx),
    (0x7, 0, Edx),
    (0x7, 1, Eax),
    (0x7, 1, Ebx),
    (0x7, 1, Ecx),
    (0x7, 1, Edx),
    (0x7, 2, Edx),
    (0xd, 0, Eax),
    (0xd, 0, Edx),
    (0xd, 1, Eax),
    (0xd, 1, Ecx),
    (0xd, 1, Edx),
    (0x4000_0001, 0, Eax),
    (0x4000_0001, 0, Edx),
    (0x8000_0001, 0, Ecx),
    (0x8000_0001, 0, Edx),
    (0x8000_0007, 0, Ebx),
    (0x8000_0007, 0, Edx),
    (0x8000_0008, 0, Ebx),
    (0x8000_0021, 0, Eax),
];

impl CpuTemplate {
    /// Changes `model`, which was made of what the host `offers`.
    pub(in crate::machine::cpu) fn apply(
        &self,
        model: &mut Leaves,
        offers: &Leaves,
    ) -> Result<(), TemplateError> {
        for (index, mask) in self.leaves.iter().enumerate() {
            let at = || format!("cpuid_modifiers[{index}]");
            let (leaf, subleaf) = (mask.leaf, mask.subleaf);
            let Some(entry) = model.get_mut(leaf, subleaf) else {
                let who = match offers.get(leaf, subleaf) {
                    Some(_) => "the CPU model hides",
                    None => "this host does not offer",
                };
                let problem = format!("{who} leaf {leaf:#x}, subleaf {subleaf:#x}");
                return Err(TemplateError::value(at(), problem));
            };
            for (index, change) in mask.registers.iter().enumerate() {
                let &RegisterMask {
                    register,
                    mask,
                    value,
                } = change;
                let old = *register_of(entry, register);
                let new = old & !mask | value;
                let lie = new & !old & !offers.value(leaf, subleaf, register);
                if lie != 0 && FEATURES.contains(&(leaf, subleaf, register)) {
                    let at = format!("{}.modifiers[{index}].bitmap", at());
                    let problem = format!(
                        "leaf {leaf:#x}, subleaf {subleaf:#x}: this host does not offer bit {}",
                        bits(lie)
                    );
                    return Err(TemplateError::value(at, problem));
                }
                *register_of(entry, register) = new;
            }
        }
        Ok(())
    }
}

/// The numbers of the bits that are set: `3, 17`.
fn bits(value: u32) -> String {
    let numbers = (0..32).filter(|bit| value >> bit & 1 == 1);
    let numbers: Vec<_> = numbers.map(|bit: u32| bit.to_string()).collect();
    numbers.join(", ")
}
