//! What the function says in its configuration space: who it is, and where its registers are (virtio 1.2, sections 4.1.2
//! and 4.1.4).

use super::{
    BAR_SIZE, COMMON, DEVICE, Function, ISR, NOTIFY, NOTIFY_STRIDE, PAGE, PENDING, TABLE, common,
};
use crate::devices::pci::{
    config::{Config, Identity},
    msix::{self, CONTROL_ENABLE, CONTROL_MASK_ALL, ENTRY},
};

/// Red Hat's number, for virtio.
const VENDOR: u16 = 0x1af4;
/// The first device without the legacy interface.
const FIRST: u16 = 0x1040;
const SUBSYSTEM: u16 = 0x1100;
const REVISION: u8 = 1;

/// A capability of the vendor's own.
const VENDOR_SPECIFIC: u8 = 0x09;
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// From the start of the MSI-X capability to its control word.
pub(super) const CONTROL: u16 = 2;

// From the start of the capability that is a window.
const WINDOW_BAR: u16 = 4;
const WINDOW_OFFSET: u16 = 8;
const WINDOW_LENGTH: u16 = 12;
const WINDOW_DATA: u16 = 16;

/// The configuration space of a device with `messages` messages, where in it MSI-X is, and the window; `None` if it is too
/// large for them.
pub(super) fn config(
    function: &Function,
    messages: usize,
    base: u32,
) -> Option<(Config, u16, Window)> {
    let queues = function.queue_count();
    let notify = u32::try_from(queues).ok()?.checked_mul(NOTIFY_STRIDE)?;
    let table = u32::try_from(messages as u64 * ENTRY).ok()?;
    if notify > PAGE || table > PENDING - TABLE || messages == 0 {
        return None;
    }
    let id = u16::try_from(function.id()).ok()?;
    let mut config = Config::new(Identity {
        vendor: VENDOR,
        device: FIRST.checked_add(id)?,
        revision: REVISION,
        class: class(id),
        subsystem: (VENDOR, SUBSYSTEM),
    });
    config.add_bar(BAR_SIZE, base);

    let mut body = Vec::new();
    body.extend((messages as u16 - 1).to_le_bytes());
    // Both are in memory of base address 0.
    body.extend(TABLE.to_le_bytes());
    body.extend(PENDING.to_le_bytes());
    let control = CONTROL_ENABLE | CONTROL_MASK_ALL;
    let msix = config.add_capability(msix::CAPABILITY, &body, &control.to_le_bytes())?;

    for (kind, offset, length) in [
        (COMMON_CFG, COMMON, common::LEN as u32),
        (ISR_CFG, ISR, 1),
        (DEVICE_CFG, DEVICE, PAGE),
    ] {
        config.add_capability(VENDOR_SPECIFIC, &place(kind, offset, length, &[]), &[])?;
    }
    let multiplier = NOTIFY_STRIDE.to_le_bytes();
    let body = place(NOTIFY_CFG, NOTIFY, notify, &multiplier);
    config.add_capability(VENDOR_SPECIFIC, &body, &[])?;
    // From the third byte on: nothing of length, kind and padding, all of base address, offset, length and data.
    let writable = [
        0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let window =
        config.add_capability(VENDOR_SPECIFIC, &place(PCI_CFG, 0, 0, &[0; 4]), &writable)?;
    Some((config, msix, Window(window)))
}

/// A `virtio_pci_cap` without its first two bytes: registers at `offset` from base address 0.
fn place(kind: u8, offset: u32, length: u32, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + rest.len() as u8, kind, 0, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(rest);
    body
}

/// Class, subclass and interface, for drivers that know no virtio device by its number.
fn class(id: u16) -> u32 {
    match id {
        // Network.
        1 => 0x02_0000,
        // Block: other mass storage.
        2 => 0x01_8000,
        // Console: other simple communication.
        3 => 0x07_8000,
        _ => 0xff_0000,
    }
}

/// The way to the registers through the configuration space, for whoever cannot reach them otherwise (section 4.1.4.9).
pub(super) struct Window(u16);

impl Window {
    /// Where an access to the configuration space leads, and how many bytes of it: if it is one to the window's data, and
    /// the window is set to something.
    pub(super) fn target(
        &self,
        config: &Config,
        register: u16,
        len: usize,
    ) -> Option<(u32, usize)> {
        let end = usize::from(register) + len;
        let data = usize::from(self.0 + WINDOW_DATA);
        if usize::from(register) >= data + 4 || end <= data {
            return None;
        }
        let (offset, length) = (
            config.long(self.0 + WINDOW_OFFSET),
            config.long(self.0 + WINDOW_LENGTH),
        );
        let is_set = config.word(self.0 + WINDOW_BAR) & 0xff == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && offset < BAR_SIZE;
        is_set.then_some((offset, length as usize))
    }

    /// Shows what was read.
    pub(super) fn show(&self, config: &mut Config, value: [u8; 4]) {
        config.store((self.0 + WINDOW_DATA).into(), &value);
    }

    /// What is to be written.
    pub(super) fn value(&self, config: &Config) -> [u8; 4] {
        config.long(self.0 + WINDOW_DATA).to_le_bytes()
    }
}
