//! The debug console at 0x402: firmware writes what it does there (SeaBIOS documentation, "Debugging").
//!
//! | port | read | write |
//! | --- | --- | --- |
//! | 0x402 | 0xe9: there is a debug console | a byte of a line |
//!
//! Each line becomes one of the daemon's log, at level debug with target `firmware`, on the thread of the vCPU that wrote its
//! end. A line has at most [`MAX_LINE`] bytes; a longer one is several. What is not printable ASCII is escaped. A guest
//! that writes more than [`BURST`] lines at once, or [`PER_SECOND`] on average, loses lines; the next one tells how many.

use std::{ops::RangeInclusive, sync::Arc};

use tracing::debug;

use super::{PioDevice, clock::Clock};

/// The port.
pub const PORTS: RangeInclusive<u16> = 0x402..=0x402;

/// What the port reads as.
const PRESENT: u8 = 0xe9;

/// The longest line, in bytes.
pub const MAX_LINE: usize = 256;
/// Lines that a guest may write at once. SeaBIOS has about 60 from reset to boot.
pub const BURST: u64 = 512;
/// Lines that it may write in a second, on average.
pub const PER_SECOND: u64 = 16;

const NS_PER_LINE: u64 = 1_000_000_000 / PER_SECOND;

/// The debug console.
pub struct DebugCon {
    clock: Arc<dyn Clock>,
    line: Vec<u8>,
    /// The lines that may be logged now.
    tokens: u64,
    /// The time up to which tokens were given.
    filled_ns: u64,
    lost: u64,
}

impl DebugCon {
    /// A console whose rate is counted on `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let filled_ns = clock.now_ns();
        Self {
            clock,
            line: Vec::new(),
            tokens: BURST,
            filled_ns,
            lost: 0,
        }
    }

    fn take_byte(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => {}
            _ => {
                self.line.push(byte);
                if self.line.len() >= MAX_LINE {
                    self.end_line();
                }
            }
        }
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        if self.may_log() {
            let lost = std::mem::take(&mut self.lost);
            let text = printable(&self.line);
            if lost == 0 {
                debug!(target: "firmware", "{text}");
            } else {
                debug!(target: "firmware", lost, "{text}");
            }
        } else {
            self.lost = self.lost.saturating_add(1);
        }
        self.line.clear();
    }

    /// Takes a token.
    fn may_log(&mut self) -> bool {
        let passed = self.clock.now_ns().saturating_sub(self.filled_ns);
        let new = passed / NS_PER_LINE;
        self.filled_ns += new * NS_PER_LINE;
        self.tokens = self.tokens.saturating_add(new).min(BURST);
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

/// The text of a line, with escapes for what a terminal would act on.
fn printable(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for byte in line {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.extend(byte.escape_ascii().map(char::from)),
        }
    }
    text
}

impl PioDevice for DebugCon {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(PRESENT);
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        for byte in data {
            self.take_byte(*byte);
        }
    }

    /// What was written of a line is logged as it is.
    fn reset(&mut self) {
        self.end_line();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            clock::manual::ManualClock,
            testing::{access_everything, read_byte},
        },
        *,
    };

    fn console() -> (DebugCon, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (DebugCon::new(clock.clone()), clock)
    }

    #[test]
    fn it_is_found_and_takes_lines_of_any_length() {
        let (mut console, _) = console();
        assert_eq!(read_byte(&mut console, 0), 0xe9);
        for _ in 0..3 * MAX_LINE {
            console.write(0, b"x");
            assert!(console.line.len() < MAX_LINE && console.line.capacity() <= MAX_LINE);
        }
        assert_eq!(console.tokens, BURST - 3);
        console.write(0, b"\n");
        console.write(0, b"\r\n");
        assert_eq!(console.tokens, BURST - 3, "empty lines are not logged");
        console.write(0, b"half a line");
        console.reset();
        assert_eq!((console.tokens, console.line.len()), (BURST - 4, 0));
        access_everything(&mut console, &PORTS);
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_what_is_lost_is_counted() {
        let (mut console, clock) = console();
        for _ in 0..BURST + 7 {
            console.write(0, b"x");
            console.write(0, b"\n");
        }
        assert_eq!((console.tokens, console.lost), (0, 7));
        clock.advance(NS_PER_LINE);
        console.write(0, b"x\n");
        assert_eq!((console.tokens, console.lost), (0, 0));
        clock.advance(1_000_000_000);
        console.write(0, b"x\n");
        assert_eq!(console.tokens, PER_SECOND - 1);
        clock.advance(u64::MAX / 2);
        console.write(0, b"x\n");
        assert_eq!(console.tokens, BURST - 1);
    }

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        let text = printable(b"SeaBIOS (\"1\")\x1b[2J\t\xff\0");
        assert_eq!(text, r#"SeaBIOS ("1")\x1b[2J\t\xff\x00"#);
    }
}
