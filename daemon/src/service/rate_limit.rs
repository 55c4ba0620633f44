//! What a device's rate limit must look like.

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::devices::virtio::rate::{Rate, RateLimit};

use super::errors::invalid_field;

/// The rate limit in the message `field`. A burst says nothing without a rate.
pub(super) fn rate_limit(field: &str, limit: Option<v1::RateLimit>) -> Result<RateLimit, Refusal> {
    let limit = limit.unwrap_or_default();
    let rate = |what: &str, per_second: u64, burst: u64| {
        if burst > 0 && per_second == 0 {
            let problem = format!("a burst needs a rate: give `{what}_per_second` too");
            return Err(invalid_field(&format!("{field}.{what}_burst"), &problem));
        }
        Ok(Rate { per_second, burst })
    };
    Ok(RateLimit {
        bytes: rate("bytes", limit.bytes_per_second, limit.bytes_burst)?,
        ops: rate("ops", limit.ops_per_second, limit.ops_burst)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert;

    #[test]
    fn limits_come_back_as_they_went() {
        assert_eq!(rate_limit("f", None).unwrap(), RateLimit::default());
        assert_eq!(convert::rate_limit(RateLimit::default()), None);
        let sent = v1::RateLimit {
            bytes_per_second: 1,
            bytes_burst: 2,
            ops_per_second: 3,
            ops_burst: 4,
        };
        let limit = rate_limit("f", Some(sent)).unwrap();
        assert_eq!(convert::rate_limit(limit), Some(sent));
    }

    #[test]
    fn a_burst_needs_a_rate() {
        let bytes = v1::RateLimit {
            bytes_burst: 1,
            ops_per_second: 1,
            ..Default::default()
        };
        let refusal = rate_limit("definition.f", Some(bytes)).unwrap_err();
        let start = "definition.f.bytes_burst: a burst needs a rate";
        assert!(refusal.message().starts_with(start), "{refusal}");
        let ops = v1::RateLimit {
            ops_burst: 1,
            ..Default::default()
        };
        assert!(rate_limit("f", Some(ops)).is_err());
    }
}
