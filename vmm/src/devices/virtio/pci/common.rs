//! The common configuration (virtio 1.2, section 4.1.4.3).
//!
//! | offset | register | offset | register |
//! | --- | --- | --- | --- |
//! | 0x00, 0x04 | selector of device features, these | 0x18 | the queue's size, 16 bits |
//! | 0x08, 0x0c | selector of driver features, these | 0x1a | its message, 16 bits |
//! | 0x10 | message for the configuration, 16 bits | 0x1c | enabled, 16 bits |
//! | 0x12 | number of queues, 16 bits | 0x1e | where to notify it, 16 bits |
//! | 0x14 | status, 8 bits; 0 resets | 0x20 | addresses of its three parts, 64 bits each |
//! | 0x15 | configuration generation, 8 bits | | |
//! | 0x16 | queue selector, 16 bits | | |

use virtio_queue::{Queue, QueueT};

use super::{VirtioPci, vectors::NO_VECTOR};

/// Bytes of the registers.
pub(super) const LEN: usize = 0x38;

impl VirtioPci {
    /// Reads registers from `offset` on; what is beyond them is zero.
    pub(super) fn read_common(&mut self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let registers = self.registers();
        let mut bytes = registers.iter().skip(start);
        data.fill_with(|| bytes.next().copied().unwrap_or(0));
    }

    fn registers(&mut self) -> Vec<u8> {
        let generation = self.function.generation();
        let function = &self.function;
        let index = self.queue_selector;
        let queue = function.queue(index.into());
        let queue_word = |of: fn(&Queue) -> u16| queue.map_or(0, of);
        let mut registers = Vec::with_capacity(LEN);
        for long in [
            self.device_features_selector,
            function.offered_half(self.device_features_selector),
            self.driver_features_selector,
            function.accepted_half(self.driver_features_selector),
        ] {
            registers.extend(long.to_le_bytes());
        }
        registers.extend(self.vectors.get(None).to_le_bytes());
        registers.extend((function.queue_count() as u16).to_le_bytes());
        registers.push(function.status() as u8);
        registers.push(generation as u8);
        for word in [
            index,
            queue_word(QueueT::size),
            queue.map_or(NO_VECTOR, |_| self.vectors.get(Some(index))),
            queue_word(|queue| queue.ready().into()),
            // Each queue is notified at a place of its own, in the queues' order.
            queue.map_or(0, |_| index),
        ] {
            registers.extend(word.to_le_bytes());
        }
        for address in [Queue::desc_table, Queue::avail_ring, Queue::used_ring] {
            registers.extend(queue.map_or(0, address).to_le_bytes());
        }
        registers
    }

    /// Writes a register, in whole; of addresses also a half (section 4.1.3.1). What else is written is lost.
    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [byte] if offset == 0x14 => {
                let goes_on = self.function.set_status(byte.into());
                if !goes_on {
                    self.forget_driver();
                }
            }
            [a, b] => self.write_word(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_long(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if matches!(offset, 0x20 | 0x28 | 0x30) => {
                self.write_long(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_long(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_word(&mut self, offset: u64, value: u16) {
        let selector = self.queue_selector;
        match offset {
            0x10 => self.vectors.set(None, value),
            0x16 => self.queue_selector = value,
            // A size that is wrong leaves what was there.
            0x18 => self
                .function
                .set_up_queue(selector.into(), |queue| queue.set_size(value)),
            0x1a => self.vectors.set(Some(selector), value),
            // The driver must not disable it again (section 4.1.4.3.2).
            0x1c if value == 1 => self
                .function
                .set_up_queue(selector.into(), |queue| queue.set_ready(true)),
            _ => {}
        }
    }

    fn write_long(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.device_features_selector = value,
            0x08 => self.driver_features_selector = value,
            0x0c => self
                .function
                .accept_half(self.driver_features_selector, value),
            _ => self
                .function
                .set_up_queue(self.queue_selector.into(), |queue| match offset {
                    0x20 => queue.set_desc_table_address(Some(value), None),
                    0x24 => queue.set_desc_table_address(None, Some(value)),
                    0x28 => queue.set_avail_ring_address(Some(value), None),
                    0x2c => queue.set_avail_ring_address(None, Some(value)),
                    0x30 => queue.set_used_ring_address(Some(value), None),
                    0x34 => queue.set_used_ring_address(None, Some(value)),
                    _ => {}
                }),
        }
    }
}
