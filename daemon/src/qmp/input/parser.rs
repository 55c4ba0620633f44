//! Makes a value of the tokens of one. What is wrong is said in QEMU's words.

use std::slice;

use serde_json::{Map, Number, Value};

use super::lexer::Kind;

/// A token, and where its bytes begin and end among those of the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The value that the tokens are, whose bytes are in `text`; or what is wrong.
pub(super) fn parse(tokens: &[Token], text: &[u8]) -> Result<Value, String> {
    let tokens = tokens.iter();
    Parser { tokens, text }.value()
}

struct Parser<'a> {
    tokens: slice::Iter<'a, Token>,
    text: &'a [u8],
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<(Kind, &'a [u8]), String> {
        let token = self.tokens.next().ok_or("premature EOI")?;
        let bytes = self.text.get(token.start..token.end).unwrap_or_default();
        Ok((token.kind, bytes))
    }

    /// Whether the next token is this mark; then it is taken.
    fn takes(&mut self, mark: u8) -> bool {
        let next = self.tokens.as_slice().first();
        let is = next.is_some_and(|token| token.kind == Kind::Mark(mark));
        if is {
            self.tokens.next();
        }
        is
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.next()? {
            (Kind::Mark(b'{'), _) => self.object(),
            (Kind::Mark(b'['), _) => self.array(),
            (Kind::String, quoted) => string(quoted).map(Value::String),
            (Kind::Integer | Kind::Fraction, digits) => number(digits),
            (Kind::Keyword, b"true") => Ok(Value::Bool(true)),
            (Kind::Keyword, b"false") => Ok(Value::Bool(false)),
            (Kind::Keyword, b"null") => Ok(Value::Null),
            (Kind::Keyword, other) => {
                let word = String::from_utf8_lossy(other);
                Err(format!("invalid keyword '{word}'"))
            }
            (Kind::Mark(_) | Kind::Stray, _) => Err("expecting value".to_owned()),
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut members = Map::new();
        if self.takes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let Value::String(name) = self.value()? else {
                return Err("key is not a string in object".to_owned());
            };
            if self.next()?.0 != Kind::Mark(b':') {
                return Err("missing : in object pair".to_owned());
            }
            let value = self.value()?;
            if members.insert(name, value).is_some() {
                return Err("duplicate key".to_owned());
            }
            match self.next()?.0 {
                Kind::Mark(b'}') => return Ok(Value::Object(members)),
                Kind::Mark(b',') => {}
                _ => return Err("expected separator in dict".to_owned()),
            }
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        if self.takes(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            match self.next()?.0 {
                Kind::Mark(b']') => return Ok(Value::Array(items)),
                Kind::Mark(b',') => {}
                _ => return Err("expected separator in list".to_owned()),
            }
        }
    }
}

/// A whole number if it fits into 64 bits, signed or not; else as near as a fraction comes.
fn number(digits: &[u8]) -> Result<Value, String> {
    let text = String::from_utf8_lossy(digits);
    let whole = text.parse::<i64>().map(Number::from);
    let whole = whole.or_else(|_| text.parse::<u64>().map(Number::from));
    let number = whole
        .ok()
        .or_else(|| text.parse().ok().and_then(Number::from_f64));
    // QEMU takes it for infinity, which cannot be sent back.
    number
        .map(Value::Number)
        .ok_or_else(|| "number out of range".to_owned())
}

/// The text between quotes.
fn string(quoted: &[u8]) -> Result<String, String> {
    let mut text = String::with_capacity(quoted.len());
    // The last is the quote that ends it.
    let mut rest = quoted.get(1..).unwrap_or_default();
    while let [byte, after @ ..] = rest
        && !after.is_empty()
    {
        rest = match (*byte, after.split_first()) {
            (b'\\', Some((&escape, after))) => escaped(escape, after, &mut text)?,
            _ => {
                let (one, after) = character(rest).ok_or("invalid UTF-8 sequence in string")?;
                text.push(one);
                after
            }
        };
    }
    Ok(text)
}

/// The character at the beginning, and what follows.
fn character(bytes: &[u8]) -> Option<(char, &[u8])> {
    // How QEMU writes a zero where that would end a string.
    if let Some(after) = bytes.strip_prefix(b"\xc0\x80") {
        return Some(('\0', after));
    }
    let length = match bytes.first()? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let (one, after) = bytes.split_at_checked(length)?;
    let one = std::str::from_utf8(one).ok()?.chars().next()?;
    is_character(one).then_some((one, after))
}

/// Whether Unicode has it, or may one day.
fn is_character(one: char) -> bool {
    let code = u32::from(one);
    !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}

/// Adds what an escape stands for; returns what follows it.
fn escaped<'a>(escape: u8, after: &'a [u8], text: &mut String) -> Result<&'a [u8], String> {
    text.push(match escape {
        b'"' | b'\'' | b'\\' | b'/' => char::from(escape),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let (one, rest) = by_number(after).ok_or_else(|| {
                let digits = after.get(..4).unwrap_or(after);
                let digits = String::from_utf8_lossy(digits);
                format!("\\u{digits} is not a valid Unicode character")
            })?;
            text.push(one);
            return Ok(rest);
        }
        _ => return Err("invalid escape sequence in string".to_owned()),
    });
    Ok(after)
}

/// A character as four hexadecimal digits, or as two times as many if it is one of a pair; and what follows.
fn by_number(bytes: &[u8]) -> Option<(char, &[u8])> {
    let (first, after) = unit(bytes)?;
    if let Some(one) = char::from_u32(first) {
        return is_character(one).then_some((one, after));
    }
    let (second, after) = unit(after.strip_prefix(br"\u")?)?;
    let units = [u16::try_from(first).ok()?, u16::try_from(second).ok()?];
    let one = char::decode_utf16(units).next()?.ok()?;
    is_character(one).then_some((one, after))
}

fn unit(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = bytes.split_at_checked(4)?;
    let value = digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })?;
    Some((value, after))
}
