//! Cuts a byte stream into JSON values. QMP has no framing: a value ends where its syntax ends, and the next may follow
//! at once.

use serde_json::{Deserializer, Value};

/// Longest value, in bytes; QEMU's own commands stay far below.
const MAX_VALUE: usize = 1 << 20;

/// Bytes that have come and values that have not been taken.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// Up to here the bytes are part of an unfinished value; looked at again only when there is more.
    incomplete: usize,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InputError {
    /// They are not JSON. The line they are in is dropped.
    Syntax(String),
    /// A value is too long; there is no telling where the next begins.
    TooLong,
}

impl Input {
    /// Adds bytes that have come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next value, if all of it has come.
    pub(super) fn next(&mut self) -> Option<Result<Value, InputError>> {
        self.skip_space();
        // An unfinished value is looked at again when it has doubled, or may be complete: QMP's clients end a value
        // with a line's end or a brace. Otherwise many small pieces of a long value would cost their square.
        let enough = self.bytes.len() >= self.incomplete.saturating_mul(2)
            || self.bytes.len() > MAX_VALUE
            || matches!(self.bytes.last(), Some(b'}' | b']' | b'\n'));
        if self.bytes.is_empty() || self.bytes.len() == self.incomplete || !enough {
            return None;
        }
        let mut values = Deserializer::from_slice(&self.bytes).into_iter::<Value>();
        match values.next()? {
            Ok(value) => {
                let end = values.byte_offset();
                self.drop_front(end);
                Some(Ok(value))
            }
            Err(error) if error.is_eof() => {
                if self.bytes.len() > MAX_VALUE {
                    return Some(Err(InputError::TooLong));
                }
                self.incomplete = self.bytes.len();
                None
            }
            Err(error) => {
                // As QEMU does, go on after the line.
                let line = self.bytes.iter().position(|byte| *byte == b'\n');
                self.drop_front(line.map_or(self.bytes.len(), |end| end + 1));
                Some(Err(InputError::Syntax(error.to_string())))
            }
        }
    }

    fn skip_space(&mut self) {
        let space = self
            .bytes
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        if space > 0 {
            self.drop_front(space);
        }
    }

    fn drop_front(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        self.incomplete = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(input: &mut Input) -> Vec<Result<Value, InputError>> {
        std::iter::from_fn(|| input.next()).collect()
    }

    #[test]
    fn values_may_follow_each_other_at_once_or_come_byte_by_byte() {
        let text = br#"{"execute":"stop"}{"execute":"cont","id":[1,"}"]}  [1]
            {"a":{"b":"\""}}"#;
        let expected = [
            json!({"execute": "stop"}),
            json!({"execute": "cont", "id": [1, "}"]}),
            json!([1]),
            json!({"a": {"b": "\""}}),
        ];
        let mut whole = Input::default();
        whole.push(text);
        assert_eq!(values(&mut whole), expected.clone().map(Ok));

        let mut pieces = Input::default();
        let mut got = Vec::new();
        for byte in text {
            pieces.push(&[*byte]);
            got.extend(values(&mut pieces));
        }
        assert_eq!(got, expected.map(Ok));
    }

    #[test]
    fn bad_syntax_costs_its_line_only() {
        let mut input = Input::default();
        input.push(b"{\"execute\": foo}\n{\"execute\": \"stop\"}\n}}}\n{}\n");
        let got = values(&mut input);
        assert!(matches!(got[0], Err(InputError::Syntax(_))), "{got:?}");
        assert_eq!(got[1], Ok(json!({"execute": "stop"})));
        assert!(matches!(got[2], Err(InputError::Syntax(_))), "{got:?}");
        assert_eq!(got[3], Ok(json!({})));
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn a_value_without_end_is_refused() {
        let mut input = Input::default();
        input.push(b"{\"execute\": \"");
        assert_eq!(input.next(), None);
        let mut result = None;
        for _ in 0..40 {
            input.push(&[b'x'; 64 << 10]);
            result = result.or(input.next());
        }
        assert_eq!(result, Some(Err(InputError::TooLong)));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let mut input = Input::default();
        input.push(&vec![b'['; 100_000]);
        input.push(b"\n");
        assert!(matches!(input.next(), Some(Err(InputError::Syntax(_)))));
    }
}
