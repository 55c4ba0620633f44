//! Sizes as text: bytes, or binary multiples with a letter.

/// Reads a size in bytes: `65536`, `64K`, `16M`, `2G`, `1T`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if !unit.is_ascii_digit() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(SIZE.to_owned()),
            };
            (text.get(..at).unwrap_or_default(), shift)
        }
        _ => (text, 0),
    };
    let count = number(digits).ok_or(SIZE)?.ok_or(TOO_LARGE)?;
    count
        .checked_mul(1 << shift)
        .ok_or_else(|| TOO_LARGE.to_owned())
}

const SIZE: &str = "expected bytes, or a number with K, M, G or T, for example 256M";
const TOO_LARGE: &str = "the size does not fit 64 bits";

/// Reads digits alone: outer `None` if there is anything else, inner if the number is too large.
pub(crate) fn number(digits: &str) -> Option<Option<u64>> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())
}

/// Bytes in the largest unit that needs no fraction.
pub fn format_size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.into_iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_binary_multiples() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64k"), Ok(65536));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("16777215T"), Ok(16777215 << 40));
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        for large in ["16777216T", "18446744073709551616"] {
            assert_eq!(parse_size(large), Err(TOO_LARGE.to_owned()));
        }
        for bad in [
            "", "M", "1.5G", "-1", "+1", " 1", "1MiB", "1X", "1 M", "0x10", "1é",
        ] {
            assert_eq!(parse_size(bad), Err(SIZE.to_owned()), "{bad}");
        }
    }
}
