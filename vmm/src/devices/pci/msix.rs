//! MSI-X (PCI 3.0, section 6.8.2): a function's interrupts as messages, each of which can be masked.
//!
//! ```text
//!   trigger(n) --> masked, or no bus master? --no--> Vector::fire
//!                    |                                   ^
//!                    +-yes-> pending --------------------+  once it is neither
//! ```
//! A message is a write to memory, so a function that is no bus master sends none (section 6.8). It keeps them as if they
//! were masked.
//!
//! | offset in an entry | | offset in the pending bits | |
//! | --- | --- | --- | --- |
//! | 0, 4 | address | n / 64 * 8 | bit n % 64: message n waits |
//! | 8 | data | | |
//! | 12 | bit 0: masked | | |

/// The capability's number.
pub const CAPABILITY: u8 = 0x11;
/// Of the capability's control word: messages are on; all are masked.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// See [`CONTROL_ENABLE`].
pub const CONTROL_MASK_ALL: u16 = 1 << 14;
/// Bytes of an entry of the table.
pub const ENTRY: u64 = 16;
/// Most entries of a table.
pub const ENTRIES_MAX: usize = 2048;

const MASKED: u32 = 1;

/// What makes an interrupt of a message.
pub trait Vector: Send + Sync {
    /// From now on this is the message.
    fn connect(&self, address: u64, data: u32);

    /// Sends it.
    fn fire(&self);
}

/// A function's messages.
pub struct Msix {
    entries: Vec<Entry>,
    control: u16,
    is_master: bool,
}

struct Entry {
    /// As the guest sees it.
    words: [u32; 4],
    pending: bool,
    vector: Box<dyn Vector>,
    /// The message that the vector has.
    connected: Option<(u64, u32)>,
}

impl Msix {
    /// Messages that `vectors` carry, at most [`ENTRIES_MAX`]; off, and of no bus master.
    pub fn new(vectors: impl IntoIterator<Item = Box<dyn Vector>>) -> Self {
        let entries = vectors.into_iter().take(ENTRIES_MAX).map(|vector| Entry {
            words: [0, 0, 0, MASKED],
            pending: false,
            vector,
            connected: None,
        });
        Self {
            entries: entries.collect(),
            control: 0,
            is_master: false,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The guest wrote the capability's control word.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & (CONTROL_ENABLE | CONTROL_MASK_ALL);
        self.deliver_all();
    }

    /// The function is a bus master now, or no longer.
    pub fn set_master(&mut self, is_master: bool) {
        self.is_master = is_master;
        self.deliver_all();
    }

    fn deliver_all(&mut self) {
        (0..self.entries.len()).for_each(|index| self.deliver(index));
    }

    /// Message `index` is to be sent. One that is not there, or while messages are off, is lost.
    pub fn trigger(&mut self, index: u16) {
        let index = usize::from(index);
        if let Some(entry) = self.entries.get_mut(index)
            && self.control & CONTROL_ENABLE != 0
        {
            entry.pending = true;
            self.deliver(index);
        }
    }

    /// Sends message `index` if it waits and may be sent.
    fn deliver(&mut self, index: usize) {
        let on = self.control & (CONTROL_ENABLE | CONTROL_MASK_ALL) == CONTROL_ENABLE;
        let on = on && self.is_master;
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let [low, high, data, control] = entry.words;
        if !on || control & MASKED != 0 {
            return;
        }
        let message = (u64::from(high) << 32 | u64::from(low), data);
        if entry.connected != Some(message) {
            entry.vector.connect(message.0, message.1);
            entry.connected = Some(message);
        }
        if std::mem::take(&mut entry.pending) {
            entry.vector.fire();
        }
    }

    /// Reads the table from `offset` on.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let words = self.entries.iter().flat_map(|entry| entry.words);
        let mut bytes = words.flat_map(u32::to_le_bytes).skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    /// Writes the table: one or two whole words. Other accesses mean nothing (section 6.8.2).
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(4) || !matches!(data.len(), 4 | 8) {
            return;
        }
        let Ok(first) = usize::try_from(offset / 4) else {
            return;
        };
        let (chunks, _) = data.as_chunks::<4>();
        for (word, bytes) in (first..).zip(chunks) {
            let value = u32::from_le_bytes(*bytes);
            let (index, word) = (word / 4, word % 4);
            let Some(entry) = self.entries.get_mut(index) else {
                return;
            };
            let mask = match word {
                // A message goes to a whole word (section 6.8.2.4).
                0 => !3,
                3 => MASKED,
                _ => u32::MAX,
            };
            if let Some(place) = entry.words.get_mut(word) {
                *place = value & mask;
            }
            self.deliver(index);
        }
    }

    /// Reads the pending bits from `offset` on.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bits = self.entries.chunks(8).map(|entries| {
            let bits = entries.iter().rev();
            bits.fold(0, |byte, entry| byte << 1 | u8::from(entry.pending))
        });
        let mut bytes = bits.skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    /// Puts it into its state after power-on.
    pub fn reset(&mut self) {
        self.control = 0;
        self.is_master = false;
        for entry in &mut self.entries {
            entry.words = [0, 0, 0, MASKED];
            entry.pending = false;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What vectors were told: number, and the message they were connected to, or none if they fired.
    pub(crate) type Told = Arc<Mutex<Vec<(usize, Option<(u64, u32)>)>>>;

    struct Spy(usize, Told);

    impl Vector for Spy {
        fn connect(&self, address: u64, data: u32) {
            self.1.lock().unwrap().push((self.0, Some((address, data))));
        }

        fn fire(&self) {
            self.1.lock().unwrap().push((self.0, None));
        }
    }

    /// `count` vectors, and where it is to be seen what they are told.
    pub(crate) fn spies(count: usize) -> (Vec<Box<dyn Vector>>, Told) {
        let told = Told::default();
        let spy = |index| Box::new(Spy(index, told.clone())) as Box<dyn Vector>;
        ((0..count).map(spy).collect(), told)
    }

    fn take(told: &Told) -> Vec<(usize, Option<(u64, u32)>)> {
        std::mem::take(&mut told.lock().unwrap())
    }

    const MESSAGE: Option<(u64, u32)> = Some((0xfee0_1000, 0x41));

    /// Ten messages of a bus master; number 9 is set up, and masked.
    fn msix() -> (Msix, Told) {
        let (vectors, told) = spies(10);
        let mut msix = Msix::new(vectors);
        msix.set_master(true);
        msix.write_table(9 * ENTRY, &0xfee0_1000_u64.to_le_bytes());
        msix.write_table(9 * ENTRY + 8, &[0x41, 0, 0, 0, 1, 0, 0, 0]);
        (msix, told)
    }

    fn pending(msix: &Msix) -> u64 {
        let mut bits = [0xff; 8];
        msix.read_pending(0, &mut bits);
        u64::from_le_bytes(bits)
    }

    #[test]
    fn a_message_waits_as_long_as_it_is_masked() {
        let (mut msix, told) = msix();
        // Messages are off: lost.
        msix.trigger(9);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        assert_eq!((pending(&msix), take(&told)), (0, vec![]));
        msix.trigger(9);
        msix.trigger(9);
        assert_eq!((pending(&msix), take(&told)), (1 << 9, vec![]));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!((pending(&msix), take(&told)), (1 << 9, vec![]));
        msix.write_table(9 * ENTRY + 12, &[0; 4]);
        assert_eq!(take(&told), [(9, MESSAGE), (9, None)]);
        assert_eq!(pending(&msix), 0);
        msix.trigger(9);
        assert_eq!(take(&told), [(9, None)]);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        msix.trigger(9);
        assert_eq!((pending(&msix), take(&told)), (1 << 9, vec![]));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!((pending(&msix), take(&told)), (0, vec![(9, None)]));
    }

    #[test]
    fn a_message_waits_as_long_as_the_function_is_no_bus_master() {
        let (mut msix, told) = msix();
        msix.set_master(false);
        msix.set_control(CONTROL_ENABLE);
        msix.write_table(9 * ENTRY + 12, &[0; 4]);
        msix.trigger(9);
        msix.trigger(9);
        assert_eq!((pending(&msix), take(&told)), (1 << 9, vec![]));
        msix.set_master(true);
        assert_eq!(take(&told), [(9, MESSAGE), (9, None)]);
        assert_eq!(pending(&msix), 0);
        // Nor is it after a reset.
        msix.reset();
        msix.set_control(CONTROL_ENABLE);
        msix.write_table(9 * ENTRY + 12, &[0; 4]);
        msix.trigger(9);
        assert_eq!((pending(&msix), take(&told)), (1 << 9, vec![]));
    }

    #[test]
    fn a_message_that_changes_is_connected_anew() {
        let (mut msix, told) = msix();
        msix.set_control(CONTROL_ENABLE);
        msix.write_table(9 * ENTRY + 12, &[0; 4]);
        assert_eq!(take(&told), [(9, MESSAGE)]);
        // Masked, changed, unmasked; the lowest bits of an address are none.
        msix.write_table(9 * ENTRY + 12, &[1, 0, 0, 0]);
        msix.write_table(9 * ENTRY, &[0x03, 0x20, 0xe0, 0xfe]);
        msix.write_table(9 * ENTRY + 8, &[0x42, 0, 0, 0]);
        assert_eq!(take(&told), []);
        msix.write_table(9 * ENTRY + 12, &[0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(take(&told), [(9, Some((0xfee0_2000, 0x42)))]);
        msix.reset();
        msix.trigger(9);
        assert_eq!((pending(&msix), take(&told)), (0, vec![]));
        let mut control = [0; 4];
        msix.read_table(9 * ENTRY + 12, &mut control);
        assert_eq!(control, [1, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_there_reads_as_zero_and_is_not_written() {
        let (mut msix, told) = msix();
        msix.set_control(CONTROL_ENABLE);
        for index in [10, 11, u16::MAX] {
            msix.trigger(index);
        }
        let mut data = [0xff; 8];
        for offset in [10 * ENTRY, 1 << 20, u64::MAX - 7] {
            msix.write_table(offset / 4 * 4, &[0; 8]);
            msix.read_table(offset, &mut data);
            assert_eq!(data, [0; 8]);
            msix.read_pending(offset, &mut data);
            assert_eq!(data, [0; 8]);
        }
        // Parts of words, and across them.
        for (offset, len) in [(12, 1), (12, 2), (13, 4), (14, 8), (10, 4)] {
            msix.write_table(offset, &vec![0; len]);
        }
        assert_eq!(take(&told), []);
        // A write over the end of an entry is of two.
        msix.write_table(12, &[0; 8]);
        assert_eq!(take(&told), [(0, Some((0, 0)))]);
    }
}
