//! Lines: number, checksum, step, entry. Written one after the other, read all at once, completed by whoever has them.

use thiserror::Error;

use super::{Ending, Entry, Initial};

/// Why a journal is refused: it is not what was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// It ends before its end.
    #[error("cut short: it goes no further than line {line}, which is not its end")]
    Cut {
        /// The last line there is, maybe not all of it; 0 if there is none.
        line: usize,
    },
    /// A line is not what was written.
    #[error("altered: line {line} is not what was recorded")]
    Altered {
        /// The line.
        line: usize,
    },
    /// Another line belongs here.
    #[error("altered: at line {line} a line is missing, or too many, or out of place")]
    Misplaced {
        /// The line.
        line: usize,
    },
    /// A line is as it was written, and yet makes no sense here: another version's, or no journal at all.
    #[error("line {line} is not understood; was it recorded by another version?")]
    Unknown {
        /// The line.
        line: usize,
    },
}

impl JournalError {
    /// Where in the journal it is.
    pub const fn line(&self) -> usize {
        match *self {
            Self::Cut { line }
            | Self::Altered { line }
            | Self::Misplaced { line }
            | Self::Unknown { line } => line,
        }
    }
}

/// CRC-32 (the reflected polynomial 0xedb88320), so that any change of up to four bytes in a row is seen for sure.
#[derive(Clone, Copy, Debug)]
struct Crc(u32);

impl Crc {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = self.0 & 1;
                self.0 = (self.0 >> 1) ^ (carry * 0xedb8_8320);
            }
        }
    }
}

/// What the next line depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    lines: usize,
    crc: Crc,
}

impl Chain {
    pub(super) const fn new() -> Self {
        Self {
            lines: 0,
            crc: Crc(u32::MAX),
        }
    }

    /// The next line, with its line feed.
    pub(super) fn line(&mut self, step: u64, entry: &str) -> String {
        self.lines += 1;
        let number = self.lines;
        self.crc
            .update(format!("{number} {step} {entry}\n").as_bytes());
        let crc = !self.crc.0;
        format!("{number} {crc:08x} {step} {entry}\n")
    }

    /// Takes the next line, without its line feed, apart.
    fn read(&mut self, line: &[u8]) -> Result<Line, JournalError> {
        let at = self.lines + 1;
        let altered = JournalError::Altered { line: at };
        let text = std::str::from_utf8(line).map_err(|_| altered)?;
        let mut parts = text.splitn(4, ' ');
        let mut part = || parts.next().ok_or(altered);
        let (number, _crc, step, entry) = (part()?, part()?, part()?, part()?);
        let step = step.parse().map_err(|_| altered)?;
        let written = self.line(step, entry);
        if written.trim_end_matches('\n') != text {
            // A whole line of this journal's, elsewhere; or damaged.
            let elsewhere = number.parse().is_ok_and(|number: usize| number != at);
            return Err(if elsewhere {
                JournalError::Misplaced { line: at }
            } else {
                altered
            });
        }
        let parsed = Entry::parse(entry).filter(|parsed| parsed.to_string() == entry);
        let parsed = parsed.ok_or(JournalError::Unknown { line: at })?;
        Ok(Line {
            step,
            entry: parsed,
        })
    }
}

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) step: u64,
    pub(super) entry: Entry,
}

/// A journal that was read: whole, unaltered, from its first line to its end.
#[derive(Clone, Debug)]
pub struct Transcript {
    pub(super) name: String,
    pub(super) initial: Initial,
    pub(super) lines: Vec<Line>,
    pub(super) ending: Ending,
}

impl Transcript {
    /// Reads a journal.
    ///
    /// # Errors
    /// If it is not whole, or not as it was recorded; the error names the line.
    pub fn read(journal: &[u8]) -> Result<Self, JournalError> {
        let mut tail = Tail::new();
        let mut lines = Vec::new();
        for line in journal.split_inclusive(|byte| *byte == b'\n') {
            lines.push(tail.take(line)?);
        }
        let cut = JournalError::Cut { line: lines.len() };
        let mut entries = lines.iter().map(|line| &line.entry);
        let (Some(Entry::Header(name)), Some(Entry::Initial(initial)), Some(Entry::End(ending))) =
            (entries.next(), entries.next(), entries.next_back())
        else {
            return Err(cut);
        };
        Ok(Self {
            name: name.clone(),
            initial: initial.as_ref().clone(),
            ending: *ending,
            lines,
        })
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the recording ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }
}

/// The end of a journal, as far as it has come: whoever takes the lines can complete them.
#[derive(Clone, Debug)]
pub struct Tail {
    chain: Chain,
    step: u64,
    ended: bool,
}

impl Default for Tail {
    fn default() -> Self {
        Self::new()
    }
}

impl Tail {
    /// Of a journal without any line.
    pub const fn new() -> Self {
        Self {
            chain: Chain::new(),
            step: 0,
            ended: false,
        }
    }

    /// Goes on by whole lines.
    ///
    /// # Errors
    /// If they are not the next ones; then this is where it was before the first wrong one.
    pub fn follow(&mut self, lines: &[u8]) -> Result<(), JournalError> {
        lines
            .split_inclusive(|byte| *byte == b'\n')
            .try_for_each(|line| self.take(line).map(drop))
    }

    /// Whether the last line was the end.
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// The line that ends the journal here; none if it has ended, or not begun.
    pub fn end(&self, ending: Ending) -> Option<String> {
        let mut chain = self.chain;
        // Of fewer than two lines nothing can be made.
        let open = !self.ended && chain.lines >= 2;
        open.then(|| chain.line(self.step, &Entry::End(ending).to_string()))
    }

    fn take(&mut self, line: &[u8]) -> Result<Line, JournalError> {
        let at = self.chain.lines + 1;
        let line = line
            .strip_suffix(b"\n")
            .ok_or(JournalError::Cut { line: at })?;
        let mut chain = self.chain;
        let line = chain.read(line)?;
        let fits = match &line.entry {
            Entry::Header(_) => at == 1,
            Entry::Initial(_) => at == 2,
            _ => at > 2 && !self.ended && line.step >= self.step,
        };
        if !fits {
            return Err(JournalError::Misplaced { line: at });
        }
        self.chain = chain;
        self.step = line.step;
        self.ended = matches!(line.entry, Entry::End(_));
        Ok(line)
    }
}
