//! What a guest is told of hot-plug: slots that devices come to and go from, and what is done when the event comes
//! (ACPI specification 6.5, sections 5.6.4.1 and 6.3). In ASL:
//!
//! ```text
//!   Device(PCI0) {
//!     OperationRegion(HPRG, SystemIO, 0x624, 12)
//!     Field(HPRG, DWordAcc, NoLock, WriteAsZeros) { PCIU, 32, PCID, 32, PCIE, 32 }
//!     Device(S01) { Name(_ADR, 0x10000) Name(_SUN, 1) Method(_EJ0, 1) { PCIE = 2 } } ...
//!     Method(PCNT) {
//!       Local0 = PCIU                              // reading clears
//!       If (Local0 & 2) { Notify(S01, 1) } ...
//!       Local1 = PCID
//!       If (Local1 & 2) { Notify(S01, 3) } ...
//!     }
//!   }
//!   Scope(_GPE) { Method(_E01) { \_SB.PCI0.PCNT() } }
//! ```

use acpi_tables::{
    Aml,
    aml::{
        And, Device, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local,
        Method, MethodCall, Name, Notify, OpRegion, OpRegionSpace, Path, Scope, Store, ZERO,
    },
};

use super::{aml, dsdt::Done};
use crate::devices::acpi_hotplug::{EVENT, SLOTS};

/// Notifications (section 5.6.6): a device may have come; the device is to be ejected.
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// The objects of a host bridge with slots 1 to `last` for devices.
pub(super) fn slots(last: u8) -> Vec<Done> {
    let (start, bytes) = (*SLOTS.start(), SLOTS.len() as u8);
    let region = OpRegion::new(Path::new("HPRG"), OpRegionSpace::SystemIO, &start, &bytes);
    let registers = [*b"PCIU", *b"PCID", *b"PCIE"].map(|name| FieldEntry::Named(name, 32));
    let field = Field::new(
        Path::new("HPRG"),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        registers.to_vec(),
    );
    let mut objects = vec![Done(aml(&region)), Done(aml(&field))];
    objects.extend((1..=last).map(slot));
    objects.push(look(last));
    objects
}

fn path(slot: u8) -> Path {
    Path::new(&format!("S{slot:02}_"))
}

fn slot(slot: u8) -> Done {
    let (register, bit) = (Path::new("PCIE"), 1_u32 << slot);
    let eject = Store::new(&register, &bit);
    Done(aml(&Device::new(
        path(slot),
        vec![
            &Name::new(Path::new("_ADR"), &(u32::from(slot) << 16)),
            &Name::new(Path::new("_SUN"), &slot),
            &Method::new(Path::new("_EJ0"), 1, false, vec![&eject]),
        ],
    )))
}

/// The method that tells the slots' drivers.
fn look(last: u8) -> Done {
    let mut statements = Vec::new();
    for (register, local, what) in [
        ("PCIU", Local(0), DEVICE_CHECK),
        ("PCID", Local(1), EJECT_REQUEST),
    ] {
        let register = Path::new(register);
        statements.push(Done(aml(&Store::new(&local, &register))));
        for slot in 1..=last {
            let (path, bit) = (path(slot), 1_u32 << slot);
            let notify = Notify::new(&path, &what);
            let is_meant = And::new(&ZERO, &local, &bit);
            statements.push(Done(aml(&If::new(&is_meant, vec![&notify]))));
        }
    }
    let statements = statements.iter().map(|one| one as &dyn Aml).collect();
    // One at a time: what is read is gone.
    Done(aml(&Method::new(Path::new("PCNT"), 0, true, statements)))
}

/// The event's method: cleared by the guest first, so that what comes meanwhile is an event again.
pub(super) fn events() -> Done {
    let look = MethodCall::new(Path::new("\\_SB_.PCI0.PCNT"), vec![]);
    let name = Path::new(&format!("_E{EVENT:02X}"));
    let method = Method::new(name, 0, false, vec![&look]);
    Done(aml(&Scope::new(Path::new("\\_GPE"), vec![&method])))
}
