//! The human monitor's numbers, which are expressions: `0x600+4`. C's operators but without its order: products come
//! before `&`, `|` and `^`, those before sums.

/// Brackets and signs within each other: no number needs more, and more would cost stack.
const MAX_DEPTH: u32 = 64;

/// What is left of a line.
pub(super) struct Rest<'a> {
    pub(super) text: &'a str,
    depth: u32,
}

impl<'a> Rest<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut rest = Self { text, depth: 0 };
        rest.skip(0);
        rest
    }

    /// Takes so many bytes, and the space after them.
    fn skip(&mut self, count: usize) {
        let rest = self.text.get(count..).unwrap_or_default();
        self.text = rest.trim_ascii_start();
    }

    fn takes(&mut self, any_of: &[char]) -> Option<char> {
        let one = self.text.chars().next().filter(|c| any_of.contains(c))?;
        self.skip(one.len_utf8());
        Some(one)
    }

    /// Takes an expression; what is wrong is said in QEMU's words.
    pub(super) fn number(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.takes(&['+', '-']) {
            let other = self.logic()?;
            value = match operator {
                '+' => value.wrapping_add(other),
                _ => value.wrapping_sub(other),
            };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.takes(&['&', '|', '^']) {
            let other = self.product()?;
            value = match operator {
                '&' => value & other,
                '|' => value | other,
                _ => value ^ other,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.one()?;
        while let Some(operator) = self.takes(&['*', '/', '%']) {
            let other = self.one()?;
            let result = match operator {
                '*' => Some(value.wrapping_mul(other)),
                _ if other == 0 => None,
                '/' => Some(value.wrapping_div(other)),
                _ => Some(value.wrapping_rem(other)),
            };
            value = result.ok_or("division by zero")?;
        }
        Ok(value)
    }

    fn one(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("expression too deep".to_owned());
        }
        let value = match self.takes(&['+', '-', '~', '(', '\'', '$']) {
            Some('+') => self.one()?,
            Some('-') => self.one()?.wrapping_neg(),
            Some('~') => !self.one()?,
            Some('(') => {
                let value = self.number()?;
                self.takes(&[')']).ok_or("')' expected")?;
                value
            }
            Some('\'') => self.character()?,
            Some(_) => return Err("unknown register".to_owned()),
            None => self.literal()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn character(&mut self) -> Result<i64, String> {
        let one = self.text.bytes().next();
        let one = one.ok_or("character constant expected")?;
        self.skip(1);
        self.takes(&['\''])
            .ok_or("missing terminating ' character")?;
        Ok(i64::from(one))
    }

    /// Decimal, hexadecimal with `0x`, octal with `0`; as much of the text as is that.
    fn literal(&mut self) -> Result<i64, String> {
        let text = self.text;
        let (start, radix) = match text.as_bytes() {
            [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (2, 16),
            [b'0', ..] => (0, 8),
            _ => (0, 10),
        };
        let digits = text.get(start..).unwrap_or_default();
        let end = digits
            .find(|c: char| !c.is_digit(radix))
            .unwrap_or(digits.len());
        match text.chars().next() {
            None => return Err("unexpected end of expression".to_owned()),
            Some(other) if end == 0 => return Err(format!("invalid char '{other}' in expression")),
            _ => {}
        }
        let digits = digits.get(..end).unwrap_or_default();
        let value = u64::from_str_radix(digits, radix).map_err(|_| "number too large")?;
        self.skip(start + end);
        Ok(value.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_expressions() {
        for (text, value, left) in [
            ("17 x", 17, "x"),
            ("0x600+4 1", 0x604, "1"),
            ("010 1", 8, "1"),
            ("08", 0, "8"),
            ("0x", 0, "x"),
            ("(1+2)*3", 9, ""),
            ("1+2*3|8 ", 1 + (6 | 8), ""),
            ("7 - 2 - 1", 4, ""),
            ("5%3", 2, ""),
            ("5/2^1", 3, ""),
            ("6&3", 2, ""),
            ("~0", -1, ""),
            ("-+-1", 1, ""),
            ("'a' 1", 97, "1"),
            ("1e3", 1, "e3"),
            ("0xffffffffffffffff", -1, ""),
        ] {
            let mut rest = Rest::new(text);
            assert_eq!((rest.number(), rest.text), (Ok(value), left), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        let deep = "(".repeat(100_000);
        for (text, what) in [
            ("", "unexpected end of expression"),
            ("1&", "unexpected end of expression"),
            ("z", "invalid char 'z' in expression"),
            ("\u{e9}", "invalid char '\u{e9}' in expression"),
            ("()", "invalid char ')' in expression"),
            ("(1", "')' expected"),
            ("1/0", "division by zero"),
            ("1%0", "division by zero"),
            ("99999999999999999999", "number too large"),
            ("$foo", "unknown register"),
            ("'", "character constant expected"),
            ("'ab'", "missing terminating ' character"),
            (&deep, "expression too deep"),
        ] {
            assert_eq!(Rest::new(text).number(), Err(what.to_owned()), "{text}");
        }
    }
}
