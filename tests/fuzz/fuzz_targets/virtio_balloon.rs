//! Queues of the balloon, as any driver may use them.
#![no_main]

mod driver;

use libfuzzer_sys::fuzz_target;
use vmm::devices::virtio::balloon::{Balloon, BalloonConfig, BalloonDevice};

/// Statistics, free page reporting.
const FEATURES: u32 = 1 << 1 | 1 << 5;

fuzz_target!(|input: &[u8]| {
    let config = BalloonConfig {
        free_page_reporting: true,
        ..Default::default()
    };
    let memory = driver::memory_bytes();
    let balloon = Balloon::new(config, memory, Box::new(|_| ()));
    let device = Box::new(BalloonDevice::new(balloon.clone()));
    driver::drive(device, FEATURES, input, |size| {
        balloon.set_target(u64::from(size) << 12);
        assert!(balloon.actual() <= memory && balloon.target() <= memory);
    });
});
