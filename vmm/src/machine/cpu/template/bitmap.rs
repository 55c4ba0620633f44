//! Bitmaps: `0b`, then `0`, `1` or `x` for each bit, the highest first.

/// Reads a bitmap of at most `width` bits: which bits are given, and their values.
pub(super) fn parse(text: &str, width: usize) -> Result<(u64, u64), String> {
    let bits = text
        .strip_prefix("0b")
        .ok_or_else(|| format!("{text:?} does not begin with 0b"))?;
    let (mut mask, mut value, mut count) = (0_u64, 0_u64, 0);
    for (position, bit) in bits.chars().enumerate() {
        let (given, set) = match bit {
            '_' => continue,
            'x' => (0, 0),
            '0' => (1, 0),
            '1' => (1, 1),
            other => {
                let column = position + 3;
                return Err(format!(
                    "character {column} is {other:?}: a bit is 0, 1 or x"
                ));
            }
        };
        count += 1;
        if count > width {
            return Err(format!("more than {width} bits"));
        }
        mask = mask << 1 | given;
        value = value << 1 | set;
    }
    if count == 0 {
        return Err("no bits".to_owned());
    }
    Ok((mask, value))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn bits_are_given_from_the_highest_on() {
        assert_eq!(parse("0b1", 32), Ok((1, 1)));
        assert_eq!(parse("0b10x", 32), Ok((6, 4)));
        assert_eq!(parse("0b1_0_x_", 32), Ok((6, 4)));
        assert_eq!(parse(&format!("0b{}", "x".repeat(32)), 32), Ok((0, 0)));
        let ones = format!("0b{}", "1".repeat(64));
        assert_eq!(parse(&ones, 64), Ok((u64::MAX, u64::MAX)));
        let long = format!("0b0{}", "_x".repeat(31));
        assert_eq!(parse(&long, 32), Ok((1 << 31, 0)));
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, problem) in [
            ("", r#""" does not begin with 0b"#),
            ("101", r#""101" does not begin with 0b"#),
            ("0x1", r#""0x1" does not begin with 0b"#),
            ("0b", "no bits"),
            ("0b__", "no bits"),
            ("0bX", "character 3 is 'X': a bit is 0, 1 or x"),
            ("0b01 ", "character 5 is ' ': a bit is 0, 1 or x"),
            ("0b1é", "character 4 is 'é': a bit is 0, 1 or x"),
        ] {
            assert_eq!(parse(text, 32), Err(problem.to_owned()), "{text}");
        }
        for width in [32, 64] {
            let text = format!("0b{}", "x".repeat(width + 1));
            assert_eq!(parse(&text, width), Err(format!("more than {width} bits")));
        }
    }
}
