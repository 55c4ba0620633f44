//! Rate limits as typed on the command line, among a device's options: `bps=SIZE`, `bps-burst=SIZE`, `iops=N`,
//! `iops-burst=N`.

use crate::v1::RateLimit;

/// Puts option `key` with its value into `limit`; whether it is one of a rate limit.
pub(super) fn read(limit: &mut Option<RateLimit>, key: &str, value: &str) -> Result<bool, String> {
    let field: fn(&mut RateLimit) -> &mut u64 = match key {
        "bps" => |limit| &mut limit.bytes_per_second,
        "bps-burst" => |limit| &mut limit.bytes_burst,
        "iops" => |limit| &mut limit.ops_per_second,
        "iops-burst" => |limit| &mut limit.ops_burst,
        _ => return Ok(false),
    };
    let value = crate::parse_size(value).map_err(|problem| format!("{key}: {problem}"))?;
    *field(limit.get_or_insert_default()) = value;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_put_together() {
        let mut limit = None;
        assert_eq!(read(&mut limit, "serial", "1"), Ok(false));
        assert_eq!(limit, None);
        for (key, value) in [
            ("bps", "10M"),
            ("bps-burst", "64K"),
            ("iops", "500"),
            ("iops-burst", "1K"),
        ] {
            assert_eq!(read(&mut limit, key, value), Ok(true));
        }
        let all = RateLimit {
            bytes_per_second: 10 << 20,
            bytes_burst: 64 << 10,
            ops_per_second: 500,
            ops_burst: 1024,
        };
        assert_eq!(limit, Some(all));
        let error = read(&mut limit, "bps", "fast").unwrap_err();
        assert!(error.starts_with("bps: expected bytes"), "{error}");
    }
}
