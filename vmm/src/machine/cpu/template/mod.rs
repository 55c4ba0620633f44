//! CPU templates: JSON files that mask CPUID leaves and MSRs, in the format of Firecracker's custom CPU templates.
//!
//! ```json
//! {
//!   "cpuid_modifiers": [
//!     {"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
//!       {"register": "ecx", "bitmap": "0bxxx0_xxxx_xxxx_xxxx_xxxx_xxxx_xxxx_xxxx"}
//!     ]}
//!   ],
//!   "msr_modifiers": [
//!     {"addr": "0x10a", "bitmap": "0b0xxx"}
//!   ]
//! }
//! ```
//! | field | what it is |
//! | --- | --- |
//! | `leaf`, `subleaf` | numbers in strings: `"0x1f"`, `"0b1"`, `"31"` |
//! | `flags` | KVM's flags of the entry; optional, not used: a leaf and subleaf are enough to find it |
//! | `register` | `eax`, `ebx`, `ecx`, `edx` |
//! | `addr` | the MSR's number in a string |
//! | `bitmap` | `0b`, then for each bit, the highest first, `0`, `1` or `x` (as it is); `_` anywhere between. Bits at the top that are left out are `x` |
//! | `kvm_capabilities` | accepted if it is empty, as in Firecracker's dumps |
//!
//! A field that is not in the table is refused, as is a leaf, register or MSR that is given twice. Unlike Firecracker, a
//! template cannot set a feature bit that KVM does not support: a guest that is told of an instruction that is not there
//! dies of it. Numbers (family, sizes, ...) are taken as they are given. What vmd itself says of the topology comes after
//! the template, so leaves that differ among vCPUs may be in it and are not changed by it.

mod apply;
mod bitmap;
mod parse;
#[cfg(test)]
mod tests;

use thiserror::Error;

use super::{leaves::Register, msrs::MsrMask};
pub(super) use parse::parse;

/// Largest template, in bytes.
pub const MAX_TEMPLATE: u64 = 1 << 20;
/// Most leaves in a template: as many as KVM takes.
const MAX_LEAVES: usize = 256;
/// Most MSRs in a template: each reset writes all of them.
const MAX_MSRS: usize = 256;

/// A CPU template that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuTemplate {
    leaves: Vec<LeafMask>,
    msrs: Vec<MsrMask>,
}

/// Changes of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeafMask {
    leaf: u32,
    subleaf: u32,
    registers: Vec<RegisterMask>,
}

/// A change of a register: bits that are taken from `value` rather than from the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RegisterMask {
    register: Register,
    mask: u32,
    value: u32,
}

/// Why a template cannot be used. Each names the place in the file.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// It is not JSON, or not of this form; the text has line and column.
    #[error("{0}")]
    Json(#[source] serde_json::Error),
    /// A value is wrong.
    #[error("{at}: {problem}")]
    Value {
        /// Which, as in `msr_modifiers[0].addr`.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An MSR cannot be changed.
    #[error("msr_modifiers: MSR {index:#x} {problem} on this host")]
    Msr {
        /// The MSR.
        index: u32,
        /// What cannot be done.
        problem: &'static str,
    },
    /// KVM refuses the CPUID that comes of it.
    #[error("KVM refuses the CPUID that the template makes: {0}")]
    Kvm(#[source] kvm_ioctls::Error),
}

impl TemplateError {
    fn value(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value {
            at: at.into(),
            problem: problem.into(),
        }
    }
}

impl CpuTemplate {
    /// Reads a template.
    pub fn parse(json: &[u8]) -> Result<Self, TemplateError> {
        parse(json)
    }

    pub(super) fn msrs(&self) -> &[MsrMask] {
        &self.msrs
    }
}
