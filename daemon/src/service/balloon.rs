//! What the balloon of a request must look like.

use std::time::Duration;

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::devices::virtio::balloon::BalloonConfig;

use super::errors::invalid_field;

/// The balloon of a definition with so many bytes of memory.
pub(super) fn balloon(
    balloon: v1::BalloonDevice,
    memory_bytes: u64,
) -> Result<BalloonConfig, Refusal> {
    let v1::BalloonDevice {
        size_bytes,
        stats_interval_seconds,
        deflate_on_oom,
        free_page_reporting,
    } = balloon;
    if let Some(bytes) = size_bytes {
        size("definition.balloon.size_bytes", bytes)?;
        if bytes > memory_bytes {
            let problem = format!("the machine has only {memory_bytes} bytes of memory");
            return Err(invalid_field("definition.balloon.size_bytes", &problem));
        }
    }
    let interval = Duration::from_secs(stats_interval_seconds.into());
    Ok(BalloonConfig {
        size: size_bytes,
        statistics_interval: Some(interval).filter(|interval| !interval.is_zero()),
        deflate_on_oom,
        free_page_reporting,
    })
}

/// Bytes of memory that a guest is to have.
pub(super) fn size(field: &str, bytes: u64) -> Result<(), Refusal> {
    if bytes == 0 {
        return Err(invalid_field(
            field,
            "a guest has some memory: give its size",
        ));
    }
    Ok(())
}
