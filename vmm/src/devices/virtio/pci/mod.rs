//! The PCI transport (virtio 1.2, section 4.1): one device as a PCI function, without the legacy interface.
//!
//! | offset from base address 0 | what | |
//! | --- | --- | --- |
//! | 0x0000 | common configuration | common.rs |
//! | 0x1000 | ISR status: why it interrupted, 8 bits, cleared when read | |
//! | 0x2000 | the device's configuration space | |
//! | 0x3000 | queue n is notified at 4 * n (ioeventfds) | |
//! | 0x4000 | MSI-X table | devices/pci/msix.rs |
//! | 0x6000 | MSI-X pending bits | |
//!
//! ```text
//!   ECAM ---> Config --- base address, MSI-X control ---+
//!               \--- window to the registers ---+       v
//!   MMIO ---> registers <-----------------------+   Msix <--- vectors.rs <--- Interrupt <--- the device's task
//!                 \--> Function (../transport.rs)
//! ```
//! Until the guest makes it a bus master the device uses no memory and sends no message (PCI 3.0, sections 6.2.2 and 6.8):
//! its task waits at its door. What it was notified of then, it does once it is one.
//!
//! There is a message for each queue and one for the configuration, and no interrupt pin: a driver without MSI-X has to
//! look at its queues by itself.

mod capabilities;
mod common;
#[cfg(test)]
mod tests;
mod vectors;

use std::sync::Arc;

use tokio::runtime::Handle;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use self::{
    capabilities::{CONTROL, Window},
    vectors::Vectors,
};
use super::{
    Device, Model,
    interrupt::Interrupt,
    transport::Function,
    worker::{Gate, Worker},
};
use crate::devices::pci::{
    config::Config,
    msix::{Msix, Vector},
};

/// Bytes of a function's registers; their alignment.
pub const BAR_SIZE: u32 = 0x8000;
/// Where in them the queues are notified.
pub const NOTIFY: u32 = 0x3000;
/// Bytes between the places where two queues are notified.
pub const NOTIFY_STRIDE: u32 = 4;

const COMMON: u32 = 0x0000;
const ISR: u32 = 0x1000;
const DEVICE: u32 = 0x2000;
const TABLE: u32 = 0x4000;
const PENDING: u32 = 0x6000;
/// Bytes of a page of registers.
const PAGE: u32 = 0x1000;

/// One device as a PCI function.
pub struct VirtioPci {
    function: Function,
    vectors: Arc<Vectors>,
    config: Config,
    /// Its door is open while the function is a bus master.
    gate: Gate,
    runtime: Handle,
    /// Where its capabilities are.
    msix: u16,
    window: Window,
    device_features_selector: u32,
    driver_features_selector: u32,
    queue_selector: u16,
}

impl VirtioPci {
    /// The device of `model`, reset, with its registers at `base` until the guest moves them. Its task runs on `runtime`, while `gate` is
    /// open. `vectors` carry its messages: as many as [`VirtioPci::messages`] says.
    pub fn new(
        model: Model,
        memory: Arc<GuestMemoryMmap>,
        runtime: Handle,
        gate: Gate,
        vectors: Vec<Box<dyn Vector>>,
        base: u32,
    ) -> std::io::Result<Self> {
        let vectors = Vectors::new(Msix::new(vectors), model.device.queues().len());
        let interrupt = Interrupt::messages(vectors.clone());
        let gate = gate.with_door();
        let function = Function::new(model, memory, interrupt, runtime.clone(), gate.clone())?;
        let (config, msix, window) = capabilities::config(&function, vectors.msix().len(), base)
            .ok_or_else(|| std::io::Error::other("its capabilities do not fit"))?;
        Ok(Self {
            function,
            vectors,
            config,
            gate,
            runtime,
            msix,
            window,
            device_features_selector: 0,
            driver_features_selector: 0,
            queue_selector: 0,
        })
    }

    /// How many messages `device` has.
    pub fn messages(device: &dyn Device) -> usize {
        device.queues().len() + 1
    }

    /// What KVM is to write when the driver notifies each queue.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        self.function.kicks()
    }

    /// Where the registers are, if the guest has turned them on.
    pub fn base(&self) -> Option<u32> {
        self.config.base()
    }

    /// Reads the PCI configuration space.
    pub fn read_config(&mut self, register: u16, data: &mut [u8]) {
        if let Some((offset, len)) = self.window.target(&self.config, register, data.len()) {
            let mut value = [0; 4];
            if let Some(value) = value.get_mut(..len) {
                self.read(offset, value);
            }
            self.window.show(&mut self.config, value);
        }
        self.config.read(register, data);
    }

    /// Writes the PCI configuration space. Not on a thread of the runtime: it may wait for the device's task.
    pub fn write_config(&mut self, register: u16, data: &[u8]) {
        let was_master = self.config.is_master();
        self.config.write(register, data);
        if self.config.is_master() != was_master {
            self.set_master(!was_master);
        }
        self.vectors
            .msix()
            .set_control(self.config.word(self.msix + CONTROL));
        if let Some((offset, len)) = self.window.target(&self.config, register, data.len()) {
            let value = self.window.value(&self.config);
            if let Some(value) = value.get(..len) {
                self.write(offset, value);
            }
        }
    }

    /// Lets the device use memory and send messages, or waits until it has ceased to.
    fn set_master(&mut self, is_master: bool) {
        if is_master {
            self.vectors.msix().set_master(true);
            self.gate.open_door();
        } else {
            self.gate.shut_door();
            self.runtime.block_on(self.gate.door_left());
            // Not before: what the device has answered, it tells.
            self.vectors.msix().set_master(false);
        }
    }

    /// Reads registers from `offset` on.
    pub fn read(&mut self, offset: u32, data: &mut [u8]) {
        let in_page = u64::from(offset % PAGE);
        match offset / PAGE * PAGE {
            COMMON => self.read_common(in_page, data),
            ISR if in_page == 0 => {
                data.fill(0);
                if let Some(byte) = data.first_mut() {
                    *byte = self.function.interrupt().take_status() as u8;
                }
            }
            DEVICE => self.function.read_config(in_page, data),
            TABLE.. if offset < PENDING => {
                let offset = u64::from(offset - TABLE);
                self.vectors.msix().read_table(offset, data);
            }
            PENDING => self.vectors.msix().read_pending(in_page, data),
            _ => data.fill(0),
        }
    }

    /// Writes registers from `offset` on. Not on a thread of the runtime: a reset waits for the device's task.
    pub fn write(&mut self, offset: u32, data: &[u8]) {
        let in_page = u64::from(offset % PAGE);
        match offset / PAGE * PAGE {
            COMMON => self.write_common(in_page, data),
            DEVICE => self.function.write_config(in_page, data),
            NOTIFY if in_page.is_multiple_of(NOTIFY_STRIDE.into()) => {
                // The place says which queue it is, whatever is written.
                self.function.notify(offset % PAGE / NOTIFY_STRIDE);
            }
            TABLE.. if offset < PENDING => {
                let offset = u64::from(offset - TABLE);
                self.vectors.msix().write_table(offset, data);
            }
            _ => {}
        }
    }

    /// The driver has reset the device. The function, and with it the messages, stays as it is.
    fn forget_driver(&mut self) {
        self.device_features_selector = 0;
        self.driver_features_selector = 0;
        self.queue_selector = 0;
        self.vectors.reset();
    }

    /// The device's task, if it has one; to be stopped before a reset.
    pub fn take_worker(&mut self) -> Option<Worker> {
        self.function.take_worker()
    }

    /// Puts the function into its state after power-on. Its task has been stopped, so nobody needs to be waited for.
    pub fn reset(&mut self) {
        self.gate.shut_door();
        self.function.reset();
        self.forget_driver();
        self.vectors.msix().reset();
        self.config.reset();
    }
}
