//! The entropy device (virtio 1.2, section 5.4): fills what the driver gives with random bytes of the host's.

use std::io::Write;

use super::{Device, DeviceError, Driver, Running, queue::QueueError};

const ID: u32 = 4;
const QUEUE: usize = 0;
/// Most bytes for one request: a driver asks for 64 or so, and may ask again.
const REQUEST_MAX: usize = 4096;

/// The entropy device.
#[derive(Default)]
pub struct Rng;

impl Device for Rng {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &[u16] {
        &[64]
    }

    fn run(&mut self, driver: Driver) -> Running {
        Box::pin(serve(driver))
    }
}

async fn serve(mut driver: Driver) -> Result<(), DeviceError> {
    let mut queue = driver.take(QUEUE)?;
    loop {
        queue.kicked().await?;
        loop {
            // For one request at a time: a driver that always has another must not keep the gate open.
            let _inside = driver.gate.enter().await;
            let Some(chain) = queue.pop()? else { break };
            let mut writer = queue.writer(&chain)?;
            let mut bytes = vec![0; writer.available_bytes().min(REQUEST_MAX)];
            if bytes.is_empty() {
                return Err(QueueError::Request("for entropy has no place for it").into());
            }
            getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
            writer.write_all(&bytes)?;
            drop(writer);
            queue.push(&chain, bytes.len() as u32)?;
        }
    }
}
