//! The MMIO transport (virtio 1.2, section 4.2): one device's registers.
//!
//! | offset | register | offset | register |
//! | --- | --- | --- | --- |
//! | 0x000 | magic value | 0x044 | queue ready |
//! | 0x004 | version: 2 | 0x050 | queue notify (an ioeventfd) |
//! | 0x008 | device id | 0x060 | interrupt status |
//! | 0x00c | vendor id | 0x064 | interrupt acknowledge |
//! | 0x010, 0x014 | device features, their selector | 0x070 | status; 0 resets |
//! | 0x020, 0x024 | driver features, their selector | 0x080-0x0a4 | addresses of the queue's three parts |
//! | 0x030 | queue selector | 0x0fc | configuration generation |
//! | 0x034, 0x038 | its largest size, its size | 0x100 | configuration space |

use std::sync::Arc;

use tokio::runtime::Handle;
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    Model,
    interrupt::Interrupt,
    transport::Function,
    worker::{Gate, Worker},
};

/// Bytes of a device's registers.
pub const SIZE: u64 = 0x200;
/// Where the driver writes the number of a queue that has requests.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"vmd ");
const CONFIG: u64 = 0x100;

/// One device behind its registers.
pub struct Mmio {
    function: Function,
    device_features_selector: u32,
    driver_features_selector: u32,
    queue_selector: u32,
}

impl Mmio {
    /// The device of `model`, reset. Its task runs on `runtime`, while `gate` is open.
    pub fn new(
        model: Model,
        memory: Arc<GuestMemoryMmap>,
        runtime: Handle,
        gate: Gate,
    ) -> std::io::Result<Self> {
        let interrupt = Interrupt::new()?;
        Ok(Self {
            function: Function::new(model, memory, interrupt, runtime, gate)?,
            device_features_selector: 0,
            driver_features_selector: 0,
            queue_selector: 0,
        })
    }

    /// What KVM is to write when the driver notifies each queue.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        self.function.kicks()
    }

    /// The device's interrupt.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        self.function.interrupt()
    }

    /// Reads registers from `offset` on.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.function.read_config(offset, data);
            return;
        }
        // The driver must read registers in whole (section 4.2.2.2).
        let value = match data.len() {
            4 => self.register(offset),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        let queue = self.function.queue(self.queue_selector);
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.function.id(),
            0x00c => VENDOR,
            0x010 => self.function.offered_half(self.device_features_selector),
            0x034 => queue.map_or(0, |queue| queue.max_size().into()),
            0x044 => queue.map_or(0, |queue| queue.ready().into()),
            0x060 => self.interrupt().status(),
            0x070 => self.function.status(),
            0x0fc => self.function.generation(),
            _ => 0,
        }
    }

    /// Writes registers from `offset` on. Not on a thread of the runtime: a reset waits for the device's task.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.function.write_config(offset, data);
            return;
        }
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            0x014 => self.device_features_selector = value,
            0x024 => self.driver_features_selector = value,
            0x020 => self
                .function
                .accept_half(self.driver_features_selector, value),
            0x030 => self.queue_selector = value,
            QUEUE_NOTIFY => self.function.notify(value),
            0x064 => self.interrupt().acknowledge(value),
            0x070 => {
                if !self.function.set_status(value) {
                    self.reset_selectors();
                }
            }
            _ => self.set_up_queue(offset, value),
        }
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        self.function
            .set_up_queue(self.queue_selector, |queue| match offset {
                // A size that is wrong leaves what was there.
                0x038 => queue.set_size(value.try_into().unwrap_or(0)),
                0x044 => queue.set_ready(value & 1 != 0),
                0x080 => queue.set_desc_table_address(Some(value), None),
                0x084 => queue.set_desc_table_address(None, Some(value)),
                0x090 => queue.set_avail_ring_address(Some(value), None),
                0x094 => queue.set_avail_ring_address(None, Some(value)),
                0x0a0 => queue.set_used_ring_address(Some(value), None),
                0x0a4 => queue.set_used_ring_address(None, Some(value)),
                _ => {}
            });
    }

    fn reset_selectors(&mut self) {
        self.device_features_selector = 0;
        self.driver_features_selector = 0;
        self.queue_selector = 0;
    }

    /// The device's task, if it has one; to be stopped before a reset.
    pub fn take_worker(&mut self) -> Option<Worker> {
        self.function.take_worker()
    }

    /// Puts the device into its state after power-on.
    pub fn reset(&mut self) {
        self.function.reset();
        self.reset_selectors();
    }
}

#[cfg(test)]
mod tests;
