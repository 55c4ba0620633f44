//! Cuts a byte stream into JSON values. QMP has no framing: a value ends where its syntax ends, and the next may follow
//! at once. What is a value, and what is said of what is none, is QEMU's: strings may be in single quotes, a name may not
//! come twice, and after an error it goes on where there may be sense again.
//!
//! ```text
//!   bytes --> lexer --> tokens, until all that was opened is closed --> parser --> value or error
//! ```

mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use serde_json::Value;

use lexer::{Kind, Lexer};
use parser::Token;

/// Longest value, in bytes; QEMU's own commands stay far below.
const MAX_VALUE: usize = 1 << 20;

/// How deep a value may be. QEMU lets 1024 pass, at the cost of as much stack; a request has three.
const MAX_NESTING: i64 = 256;

/// Bytes that have come and values that have not been taken.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    /// How many of the bytes have been looked at.
    looked_at: usize,
    lexer: Lexer,
    value: Unfinished,
}

/// The tokens of a value that has not come to its end.
#[derive(Default)]
struct Unfinished {
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// How many are open; of one, fewer than none if it is closed once too often.
    braces: i64,
    brackets: i64,
}

impl Input {
    /// Adds bytes that have come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.looked_at.min(self.bytes.len()));
        self.looked_at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next value, if all of it has come; or QEMU's words for what is there instead.
    pub(super) fn next(&mut self) -> Option<Result<Value, String>> {
        while let Some(&byte) = self.bytes.get(self.looked_at) {
            let (taken, token) = self.lexer.look(byte);
            self.looked_at += usize::from(taken);
            if self.value.text.len() + self.lexer.token().len() > MAX_VALUE {
                self.value = Unfinished::default();
                self.lexer.give_up();
                return Some(Err("JSON token size limit exceeded".to_owned()));
            }
            if let Some(kind) = token {
                let result = self.value.add(kind, self.lexer.token());
                self.lexer.clear();
                if result.is_some() {
                    self.value = Unfinished::default();
                    return result;
                }
            }
        }
        None
    }
}

impl Unfinished {
    /// Adds a token. If there is nothing more to come, or nothing more should: what all of them are.
    fn add(&mut self, kind: Kind, bytes: &[u8]) -> Option<Result<Value, String>> {
        match kind {
            Kind::Mark(b'{') => self.braces += 1,
            Kind::Mark(b'}') => self.braces -= 1,
            Kind::Mark(b'[') => self.brackets += 1,
            Kind::Mark(b']') => self.brackets -= 1,
            Kind::Stray => {
                // A zero ends what QEMU writes.
                let shown = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                let shown = String::from_utf8_lossy(shown);
                return Some(Err(parse_error(&format!("stray '{shown}'"))));
            }
            _ => {}
        }
        if self.braces + self.brackets > MAX_NESTING {
            return Some(Err("JSON nesting depth limit exceeded".to_owned()));
        }
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        self.tokens.push(Token {
            kind,
            start,
            end: self.text.len(),
        });
        let is_open = self.braces > 0 || self.brackets > 0;
        if is_open && self.braces >= 0 && self.brackets >= 0 {
            return None;
        }
        let result = parser::parse(&self.tokens, &self.text);
        Some(result.map_err(|what| parse_error(&what)))
    }
}

fn parse_error(what: &str) -> String {
    format!("JSON parse error, {what}")
}
