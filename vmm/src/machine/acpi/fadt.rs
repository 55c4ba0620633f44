//! The FADT: the fixed hardware, and what of a PC there is not (ACPI specification 6.5, section 5.2.9).

use acpi_tables::{
    fadt::{FADT, FADTBuilder, Flags, PmProfile},
    gas::{AccessSize, AddressSpace, GAS},
};

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::{
    devices::{acpi_hotplug, acpi_pm, reset_control},
    machine::irq::SCI_GSI,
};

/// PM1 events: status and enable. PM1 control. PM timer. Where they are from the first port, and their bytes.
const PM1_EVENT: (u16, u8) = (0, 4);
const PM1_CONTROL: (u16, u8) = (4, 2);
const PM_TIMER: (u16, u8) = (8, 4);

/// Where the RTC keeps the century.
const CENTURY: u8 = 0x32;
/// Latencies that mean "there is no such state", in microseconds.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
/// There are devices on the ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// There is no VGA.
const NO_VGA: u16 = 1 << 2;
/// Full reset.
const RESET_VALUE: u8 = 0x06;

/// The FADT, with a general-purpose event block if devices can be plugged. There is no SMI command port: the hardware is in
/// ACPI mode from the start.
pub(super) fn table(dsdt: u64, facs: u64, has_hotplug: bool) -> FADT {
    let port = |(offset, _): (u16, u8)| u32::from(acpi_pm::PORTS.start() + offset);
    let gas = |(offset, length): (u16, u8), access| {
        GAS::new(
            AddressSpace::SystemIo,
            length * 8,
            0,
            access,
            port((offset, length)).into(),
        )
    };
    // Everything is below 4 GiB. The 32-bit fields are for guests that know no others.
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    table.sci_int = (SCI_GSI as u16).into();
    table.pm1a_evt_blk = port(PM1_EVENT).into();
    table.pm1_evt_len = PM1_EVENT.1;
    table.pm1a_cnt_blk = port(PM1_CONTROL).into();
    table.pm1_cnt_len = PM1_CONTROL.1;
    table.pm_tmr_blk = port(PM_TIMER).into();
    table.pm_tmr_len = PM_TIMER.1;
    table.x_pm1a_evt_blk = gas(PM1_EVENT, AccessSize::WordAccess);
    table.x_pm1a_cnt_blk = gas(PM1_CONTROL, AccessSize::WordAccess);
    table.x_pm_tmr_blk = gas(PM_TIMER, AccessSize::DwordAccess);
    if has_hotplug {
        let (start, bytes) = (*acpi_hotplug::GPE0.start(), acpi_hotplug::GPE0.len() as u8);
        table.gpe0_blk = u32::from(start).into();
        table.gpe0_blk_len = bytes;
        table.x_gpe0_blk = GAS::new(
            AddressSpace::SystemIo,
            bytes * 8,
            0,
            AccessSize::ByteAccess,
            start.into(),
        );
    }
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY;
    table.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    table.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(reset_control::REGISTER),
    );
    table.reset_value = RESET_VALUE;
    table.finalize()
}
