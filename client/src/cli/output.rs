//! Standard output: lines in, written at once; a reader that has left ends the command quietly.

use std::io::{self, Stdout, Write};

use serde_json::Value;

use super::{args::Format, failure::Failure, screen};

/// Where results go.
pub(super) struct Output {
    format: Format,
    // Locked for each write alone: the console writes from a thread of its own.
    stdout: Stdout,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            stdout: io::stdout(),
        }
    }

    /// True if results are JSON objects.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// How many columns a line may have, if that is bounded: by a terminal.
    pub(super) fn columns(&self) -> Option<usize> {
        screen::columns(&self.stdout)
    }

    /// How many lines the terminal shows.
    pub(super) fn rows(&self) -> usize {
        screen::rows(&self.stdout)
    }

    /// Writes a result: the object in JSON mode, else the line.
    pub(super) fn show(
        &mut self,
        json: impl FnOnce() -> Value,
        line: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.line(&json().to_string()),
            Format::Table => self.line(&line()),
        }
    }

    /// Writes a line as it is.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stdout.write_all(bytes)?)
    }

    /// Makes sure that everything has been written.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}
