//! The memory balloon (virtio 1.2, section 5.5): memory that the guest gives back to the host, and takes again.
//!
//! | offset | configuration space |
//! | --- | --- |
//! | 0 | pages (of 4 KiB) that the guest is asked to give back |
//! | 4 | pages that it has given back, as it says |
//!
//! ```text
//!   owner -- Balloon::set_target --> configuration --> driver
//!   inflate queue:   pages given back        --> pages.rs: the host has them; they read as zero from here on
//!   deflate queue:   pages taken again       --> nothing: the host gives a page when it is touched
//!   reporting queue: pages that are free now --> pages.rs, the same; the guest takes them again without a word
//!   statistics queue: what the guest says of its memory, once at first and then at an interval --> Balloon::statistics
//! ```
//! What the driver says is believed only where it harms nobody else: pages have to be in the machine's RAM, and giving one
//! back that is in use costs the guest what was in it.

mod pages;
mod serve;
mod state;
mod statistics;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub use self::{
    state::{Balloon, OnChange},
    statistics::Statistics,
};
use super::{Device, Driver, Running};

const ID: u32 = 5;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
/// Queues are numbered without those of features that are not offered; as QEMU and Linux do it.
const REPORTING: usize = 3;
const QUEUE_SIZES: [u16; 4] = [128, 128, 2, 64];

// Section 5.5.3.
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Bytes of a page, whatever the guest's are.
pub const PAGE: u64 = 4096;

/// A balloon that a machine is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalloonConfig {
    /// Bytes of memory that the guest is to have at first; all of it if there is none.
    pub size: Option<u64>,
    /// How often the guest is asked for statistics; without, it tells them once.
    pub statistics_interval: Option<Duration>,
    /// Whether the guest may take memory again when it runs out of it.
    pub deflate_on_oom: bool,
    /// Whether the guest tells of pages that are free.
    pub free_page_reporting: bool,
}

/// The balloon device.
pub struct BalloonDevice(Arc<Balloon>);

impl BalloonDevice {
    /// The device of `balloon`.
    pub fn new(balloon: Arc<Balloon>) -> Self {
        Self(balloon)
    }
}

impl Device for BalloonDevice {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        let config = &self.0.config;
        let if_set = |set, feature| if set { feature } else { 0 };
        F_STATS_VQ
            | if_set(config.deflate_on_oom, F_DEFLATE_ON_OOM)
            | if_set(config.free_page_reporting, F_PAGE_REPORTING)
    }

    fn queues(&self) -> &[u16] {
        match self.0.config.free_page_reporting {
            true => &QUEUE_SIZES,
            false => QUEUE_SIZES.split_last().map_or(&[], |(_, others)| others),
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let space = self.0.space();
        let mut bytes = space.into_iter().skip(start);
        data.fill_with(|| bytes.next().unwrap_or(0));
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // The driver's half of the space (section 5.5.4), in whole.
        if let (4, Ok(pages)) = (offset, data.try_into()) {
            self.0.set_actual(u32::from_le_bytes(pages));
        }
    }

    fn run(&mut self, driver: Driver) -> Running {
        // At once: whoever sets a target from here on reaches this driver.
        let begun = self.0.begin(driver.interrupt.clone());
        Box::pin(serve::serve(begun, driver))
    }
}
