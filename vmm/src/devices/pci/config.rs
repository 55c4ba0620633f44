//! The configuration space of a function (PCI 3.0, chapter 6): a type 0 header, one base address, capabilities.
//!
//! | offset | register | offset | register |
//! | --- | --- | --- | --- |
//! | 0x00 | vendor, device | 0x10 | base address 0; the others are 0 |
//! | 0x04 | command, status | 0x2c | subsystem vendor, subsystem |
//! | 0x08 | revision, class | 0x34 | first capability |
//! | 0x0c | header type 0, nothing else | 0x3c | interrupt line; no interrupt pin |
//!
//! A mask says for each bit whether it can be written; what else is written is lost. There are no extended capabilities:
//! what is beyond 256 bytes reads as zero.

/// Bytes of the space.
pub const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// Where the header ends.
const HEADER_END: usize = 0x40;

/// The function answers at its base address.
const COMMAND_MEMORY: u16 = 1 << 1;
/// It may send messages and use memory (section 6.2.2).
const COMMAND_MASTER: u16 = 1 << 2;
/// It must not use its interrupt pin, which it does not have.
const COMMAND_INTX_OFF: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function says that it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// Which of the vendor's devices it is.
    pub device: u16,
    /// Its revision.
    pub revision: u8,
    /// Base class, subclass and interface, in the lower 24 bits.
    pub class: u32,
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
}

/// A function's configuration space.
pub struct Config {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    power_on: [u8; SIZE],
    /// Where the number of the next capability goes, and where that is.
    link: usize,
    free: usize,
}

impl Config {
    /// The space of a function without base addresses and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            power_on: [0; SIZE],
            link: CAPABILITIES,
            free: HEADER_END,
        };
        config.set(0x00, &identity.vendor.to_le_bytes());
        config.set(0x02, &identity.device.to_le_bytes());
        let class = identity.class << 8 | u32::from(identity.revision);
        config.set(REVISION, &class.to_le_bytes());
        config.set(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        config.set(SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF;
        config.allow(COMMAND, &command.to_le_bytes());
        config.allow(INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Gives it `size` bytes of memory, a power of two of at least 16, at `address` until the guest moves them: base
    /// address 0, 32 bits, not prefetchable.
    pub fn add_bar(&mut self, size: u32, address: u32) {
        let mask = !(size - 1);
        self.allow(BAR0, &mask.to_le_bytes());
        self.set(BAR0, &(address & mask).to_le_bytes());
    }

    /// Appends a capability: `body` follows its number and the pointer to the next, and the bits of `writable` can be
    /// written. Where it is; `None` if there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u16> {
        let at = self.free;
        let end = at + 2 + body.len();
        if end > SIZE {
            return None;
        }
        self.set(self.link, &[at as u8]);
        self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        self.link = at + 1;
        self.free = end.next_multiple_of(4);
        Some(at as u16)
    }

    fn set(&mut self, at: usize, values: &[u8]) {
        for (place, value) in self.power_on.iter_mut().skip(at).zip(values) {
            *place = *value;
        }
        self.store(at, values);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (place, mask) in self.writable.iter_mut().skip(at).zip(mask) {
            *place = *mask;
        }
    }

    /// Reads from `register` on.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        let mut bytes = self.bytes.iter().skip(register.into());
        data.fill_with(|| bytes.next().copied().unwrap_or(0));
    }

    /// Writes the guest's `data` from `register` on, as far as it can be written.
    pub fn write(&mut self, register: u16, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable);
        for ((place, mask), value) in places.skip(register.into()).zip(data) {
            *place = (*place & !mask) | (value & mask);
        }
    }

    /// Writes what the function itself has to say.
    pub fn store(&mut self, at: usize, values: &[u8]) {
        for (place, value) in self.bytes.iter_mut().skip(at).zip(values) {
            *place = *value;
        }
    }

    /// Reads 16 bits of its own.
    pub fn word(&self, at: u16) -> u16 {
        let mut word = [0; 2];
        self.read(at, &mut word);
        u16::from_le_bytes(word)
    }

    /// Reads 32 bits of its own.
    pub fn long(&self, at: u16) -> u32 {
        let mut long = [0; 4];
        self.read(at, &mut long);
        u32::from_le_bytes(long)
    }

    /// Where the function answers, if it does: its base address, once the guest has turned memory on.
    pub fn base(&self) -> Option<u32> {
        self.commands(COMMAND_MEMORY)
            .then(|| self.long(BAR0 as u16))
    }

    /// Whether the function may send messages and use memory: whether the guest has made it a bus master (section 6.2.2).
    pub fn is_master(&self) -> bool {
        self.commands(COMMAND_MASTER)
    }

    fn commands(&self, bit: u16) -> bool {
        self.word(COMMAND as u16) & bit != 0
    }

    /// Puts it into its state after power-on.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8000,
            subsystem: (0x1af4, 0x1100),
        });
        config.add_bar(0x8000, 0xc000_8000);
        config
    }

    #[test]
    fn the_header_says_what_it_is_and_stays_so() {
        let mut config = config();
        let expected = [
            (0x00, 0x1042_1af4),
            (0x08, 0x0180_0001),
            (0x0c, 0),
            (0x2c, 0x1100_1af4),
            // No other base address, no ROM, no interrupt pin.
            (0x14, 0),
            (0x30, 0),
            (0x3c, 0),
        ];
        for (register, value) in expected {
            assert_eq!(config.long(register), value, "{register:#x}");
        }
        for register in 0..SIZE as u16 {
            config.write(register, &[0xff; 4]);
        }
        assert_eq!(config.long(0x00), 0x1042_1af4);
        assert_eq!(config.long(0x3c), 0xff);
        config.reset();
        assert_eq!(config.long(0x3c), 0);
    }

    #[test]
    fn the_base_address_tells_its_size_and_counts_once_memory_is_on() {
        let mut config = config();
        assert_eq!((config.base(), config.long(0x10)), (None, 0xc000_8000));
        config.write(0x10, &u32::MAX.to_le_bytes());
        assert_eq!(config.long(0x10), 0xffff_8000);
        // In two halves, at an odd place.
        config.write(0x10, &[0x34, 0x92]);
        config.write(0x12, &[0x01, 0xd0]);
        config.write(0x04, &[2]);
        assert_eq!(config.base(), Some(0xd001_8000));
        config.reset();
        assert_eq!((config.base(), config.long(0x10)), (None, 0xc000_8000));
    }

    #[test]
    fn it_is_a_bus_master_from_when_it_is_told_to_a_reset() {
        let mut config = config();
        assert!(!config.is_master());
        for (command, is_master) in [(0x02, false), (0x04, true), (0xfb, false), (0x06, true)] {
            config.write(0x04, &[command]);
            assert_eq!(config.is_master(), is_master, "{command:#x}");
        }
        config.reset();
        assert!(!config.is_master());
    }

    #[test]
    fn capabilities_are_a_list_that_ends() {
        let mut config = config();
        let first = config.add_capability(0x11, &[1, 2, 3, 4, 5, 6], &[0, 0xc0]);
        let second = config.add_capability(0x09, &[7], &[]);
        assert_eq!((first, second), (Some(0x40), Some(0x48)));
        assert_eq!(config.word(STATUS as u16), STATUS_CAPABILITIES);
        assert_eq!(config.long(0x34), 0x40);
        assert_eq!((config.word(0x40), config.word(0x48)), (0x4811, 0x0009));
        config.write(0x40, &[0xff; 8]);
        assert_eq!((config.word(0x40), config.word(0x42)), (0x4811, 0xc201));
        assert_eq!(config.add_capability(0x09, &[0; 200], &[]), None);
    }

    #[test]
    fn beyond_the_end_there_are_zeroes() {
        let mut config = config();
        let mut data = [0xff; 4];
        for register in [254, 256, 0xffe, u16::MAX] {
            config.write(register, &[0xff; 4]);
            config.read(register, &mut data);
            assert_eq!(data, [0; 4], "{register:#x}");
        }
    }
}
