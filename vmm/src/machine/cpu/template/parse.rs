//! Reading a template: JSON in, checked masks out.

use std::collections::HashSet;

use serde::Deserialize;

use super::{CpuTemplate, LeafMask, MAX_LEAVES, MAX_MSRS, RegisterMask, TemplateError, bitmap};
use crate::machine::{
    cpu::{leaves::Register, msrs::MsrMask},
    vcpu,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    cpuid_modifiers: Vec<Leaf>,
    #[serde(default)]
    msr_modifiers: Vec<Msr>,
    #[serde(default)]
    kvm_capabilities: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Leaf {
    leaf: String,
    subleaf: String,
    #[serde(default, rename = "flags")]
    _flags: u32,
    modifiers: Vec<Modifier>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Modifier {
    register: String,
    bitmap: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Msr {
    addr: String,
    bitmap: String,
}

/// Registers of a vCPU's state rather than of its model: APIC base; EFER; FS, GS and their kernel base; the x2APIC.
/// A reset has values of its own for further ones.
const STATE: [std::ops::RangeInclusive<u32>; 4] = [
    0x1b..=0x1b,
    0x800..=0x8ff,
    0xc000_0080..=0xc000_0084,
    0xc000_0100..=0xc000_0103,
];

pub(in crate::machine::cpu) fn parse(json: &[u8]) -> Result<CpuTemplate, TemplateError> {
    // A derived reader takes an array for a struct, too: its elements as the fields.
    if json
        .trim_ascii_start()
        .first()
        .is_some_and(|&byte| byte != b'{')
    {
        return Err(TemplateError::value("line 1", "not a JSON object"));
    }
    let document: Document = serde_json::from_slice(json).map_err(TemplateError::Json)?;
    if !document.kvm_capabilities.is_empty() {
        let problem = "not supported: vmd checks what it needs itself";
        return Err(TemplateError::value("kvm_capabilities", problem));
    }
    let at_most = |field: &str, count: usize, most: usize| {
        let problem = || format!("{count} entries: at most {most}");
        let good = count <= most;
        good.then_some(())
            .ok_or_else(|| TemplateError::value(field, problem()))
    };
    at_most(
        "cpuid_modifiers",
        document.cpuid_modifiers.len(),
        MAX_LEAVES,
    )?;
    at_most("msr_modifiers", document.msr_modifiers.len(), MAX_MSRS)?;
    Ok(CpuTemplate {
        leaves: leaves(&document.cpuid_modifiers)?,
        msrs: msrs(&document.msr_modifiers)?,
    })
}

fn leaves(leaves: &[Leaf]) -> Result<Vec<LeafMask>, TemplateError> {
    let mut seen = HashSet::new();
    let read = |(index, given): (usize, &Leaf)| {
        let at = format!("cpuid_modifiers[{index}]");
        let leaf = number(&given.leaf, format!("{at}.leaf"))?;
        let subleaf = number(&given.subleaf, format!("{at}.subleaf"))?;
        if !seen.insert((leaf, subleaf)) {
            let problem = format!("leaf {leaf:#x}, subleaf {subleaf:#x} is given twice");
            return Err(TemplateError::value(at, problem));
        }
        let registers = registers(&given.modifiers, &at)?;
        Ok(LeafMask {
            leaf,
            subleaf,
            registers,
        })
    };
    leaves.iter().enumerate().map(read).collect()
}

fn registers(modifiers: &[Modifier], at: &str) -> Result<Vec<RegisterMask>, TemplateError> {
    let mut masks: Vec<RegisterMask> = Vec::new();
    for (index, Modifier { register, bitmap }) in modifiers.iter().enumerate() {
        let at = format!("{at}.modifiers[{index}]");
        let named = |problem| TemplateError::value(format!("{at}.register"), problem);
        let register = match register.as_str() {
            "eax" => Register::Eax,
            "ebx" => Register::Ebx,
            "ecx" => Register::Ecx,
            "edx" => Register::Edx,
            other => {
                return Err(named(format!("{other:?} is none of eax, ebx, ecx and edx")));
            }
        };
        if masks.iter().any(|mask| mask.register == register) {
            return Err(named("the register is given twice".to_owned()));
        }
        let wrong = |problem| TemplateError::value(format!("{at}.bitmap"), problem);
        let (mask, value) = bitmap::parse(bitmap, 32).map_err(wrong)?;
        // 32 bits of it, at most.
        let low = |bits: u64| u32::try_from(bits).unwrap_or_default();
        masks.push(RegisterMask {
            register,
            mask: low(mask),
            value: low(value),
        });
    }
    Ok(masks)
}

fn msrs(msrs: &[Msr]) -> Result<Vec<MsrMask>, TemplateError> {
    let mut seen = HashSet::new();
    let read = |(number_in_file, given): (usize, &Msr)| {
        let at = format!("msr_modifiers[{number_in_file}]");
        let index = number(&given.addr, format!("{at}.addr"))?;
        let refuse = |problem| Err(TemplateError::value(format!("{at}.addr"), problem));
        if !seen.insert(index) {
            return refuse(format!("MSR {index:#x} is given twice"));
        }
        if STATE.iter().any(|range| range.contains(&index)) || vcpu::is_reset(index) {
            return refuse(format!(
                "MSR {index:#x} is part of a vCPU's state, which a reset sets"
            ));
        }
        let wrong = |problem| TemplateError::value(format!("{at}.bitmap"), problem);
        let (mask, value) = bitmap::parse(&given.bitmap, 64).map_err(wrong)?;
        Ok(MsrMask { index, mask, value })
    };
    msrs.iter().enumerate().map(read).collect()
}

/// A number in a string: hexadecimal with `0x`, binary with `0b`, else decimal.
fn number(text: &str, at: String) -> Result<u32, TemplateError> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) => (digits, 2),
        _ => (text, 10),
    };
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    match u32::from_str_radix(digits, radix) {
        Ok(number) if plain => Ok(number),
        _ => {
            let problem = format!("{text:?} is not a number of 32 bits");
            Err(TemplateError::value(at, problem))
        }
    }
}
