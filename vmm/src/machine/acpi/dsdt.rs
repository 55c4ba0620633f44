//! The DSDT: sleep states, and the devices that a guest would not find by itself (ACPI specification 6.5, sections 7.4.2,
//! 6.1 and 6.4). Kept small: the guest interprets it while it boots.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
        PackageBuilder, Path, ResourceTemplate, Scope,
    },
    sdt::Sdt,
};

use super::hotplug;
use crate::{
    devices::{pvpanic, rtc, serial, virtio::mmio},
    machine::virtio::{
        Layout, Place,
        pci::{ECAM, WINDOW},
    },
};

const REVISION: u8 = 2;

/// The SLP_TYP of each sleep state: what `acpi_pm` acts on.
const SLEEP_STATES: [(&str, u8); 3] = [("_S3_", 1), ("_S4_", 2), ("_S5_", 0)];

/// The DSDT; the VM generation identifier is at `generation`, virtio devices are where `layout` says.
pub(super) fn table(generation: u64, layout: &Layout) -> Sdt {
    let mut body = Vec::new();
    for (name, slp_typ) in SLEEP_STATES {
        let mut package = PackageBuilder::new();
        // SLP_TYPa, SLP_TYPb, reserved.
        for value in [slp_typ, 0, 0, 0] {
            package.add_element(&value);
        }
        Name::new(Path::new(name), &package).to_aml_bytes(&mut body);
    }
    let mut devices = vec![com1(), clock(), panic(), generation_id(generation)];
    match layout {
        Layout::Mmio(places) => devices.extend((0..=u8::MAX).zip(places).map(virtio_device)),
        Layout::Pci { slots } => devices.extend([host_bridge(*slots), configuration_space()]),
    }
    let devices = devices.iter().map(|device| device as &dyn Aml).collect();
    Scope::new(Path::new("_SB_"), devices).to_aml_bytes(&mut body);
    if matches!(layout, Layout::Pci { .. }) {
        hotplug::events().to_aml_bytes(&mut body);
    }
    super::table(*b"DSDT", REVISION, &body)
}

/// An object that is there already as AML.
pub(super) struct Done(pub(super) Vec<u8>);

impl Aml for Done {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn device(name: &str, id: &dyn Aml, resources: Vec<&dyn Aml>) -> Done {
    let id = Name::new(Path::new("_HID"), id);
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    Done(super::aml(&Device::new(
        Path::new(name),
        vec![&id, &resources],
    )))
}

fn ports(ports: &std::ops::RangeInclusive<u16>) -> IO {
    // No device has more than a few.
    IO::new(*ports.start(), *ports.start(), 0, ports.len() as u8)
}

/// An interrupt of the ISA bus: edge triggered, active high, not shared.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn com1() -> Done {
    device(
        "COM1",
        &EISAName::new("PNP0501"),
        vec![&ports(&serial::PORTS), &interrupt(serial::IRQ)],
    )
}

fn clock() -> Done {
    device(
        "RTC_",
        &EISAName::new("PNP0B00"),
        vec![&ports(&rtc::PORTS), &interrupt(rtc::IRQ)],
    )
}

fn panic() -> Done {
    device("PEVT", &"QEMU0001", vec![&ports(&pvpanic::PORTS)])
}

/// A virtio device behind the MMIO transport.
fn virtio_device((index, place): (u8, &Place)) -> Done {
    // The registers are below 4 GiB.
    let registers = Memory32Fixed::new(true, place.base as u32, mmio::SIZE as u32);
    let interrupt = interrupt(place.gsi);
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    Done(super::aml(&Device::new(
        Path::new(&format!("VR{index:02X}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &index),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    )))
}

/// The PCI host bridge: one bus with so many slots for devices, and where their registers may be. Their interrupts are messages, so nothing is routed.
fn host_bridge(slots: u8) -> Done {
    let window = AddressSpace::<u32>::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        WINDOW.start,
        WINDOW.end - 1,
        None,
    );
    let bus = AddressSpace::<u16>::new_bus_number(0, 0);
    let resources = ResourceTemplate::new(vec![&bus, &window]);
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0A08"));
    // For guests that know conventional PCI only.
    let cid = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));
    let uid = Name::new(Path::new("_UID"), &0_u8);
    let resources = Name::new(Path::new("_CRS"), &resources);
    let slots = hotplug::slots(slots);
    let mut all: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &resources];
    all.extend(slots.iter().map(|slot| slot as &dyn Aml));
    Done(super::aml(&Device::new(Path::new("PCI0"), all)))
}

/// The PCI configuration space as a resource of the board: a guest believes the MCFG only then (PCI Firmware 3.2, 4.1.2).
fn configuration_space() -> Done {
    // It is below 4 GiB.
    let (start, bytes) = (ECAM.start as u32, (ECAM.end - ECAM.start) as u32);
    let space = Memory32Fixed::new(true, start, bytes);
    device("MBRD", &EISAName::new("PNP0C02"), vec![&space])
}

/// The identifier that tells a guest that it has been copied or set back (Microsoft, "Virtual Machine Generation ID").
fn generation_id(address: u64) -> Done {
    let mut halves = PackageBuilder::new();
    // The address is below 4 GiB.
    halves.add_element(&(address as u32));
    halves.add_element(&0_u32);
    let mut ids = PackageBuilder::new();
    // The specification's, and one of a length that ACPI allows.
    ids.add_element(&"VM_Gen_Counter");
    ids.add_element(&"VMGENCTR");
    Done(super::aml(&Device::new(
        Path::new("VGEN"),
        vec![
            &Name::new(Path::new("_HID"), &"VMDG0001"),
            &Name::new(Path::new("_CID"), &ids),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(Path::new("ADDR"), &halves),
        ],
    )))
}
