//! `vmctl logs`: what a guest wrote to its first serial port, without a way back to it.

use serde_json::json;

use super::super::{
    args::Logs,
    failure::{self, Failure},
    output::Output,
};
use crate::{Client, v1::ConsoleRequest};

/// The longest line that becomes one object: a guest need not end its lines.
const LINE: usize = 64 << 10;

pub(super) async fn run(client: &Client, logs: &Logs, out: &mut Output) -> Result<(), Failure> {
    let doing = format!("read the log of '{}'", logs.name);
    let request = ConsoleRequest {
        name: logs.name.clone(),
        history_only: !logs.follow,
        tail_lines: logs.tail,
        previous: logs.previous,
        ..Default::default()
    };
    let output = client.logs(request).await;
    let mut output = output.map_err(Failure::call(doing.as_str()))?;
    let mut lines = Lines::default();
    let mut expected = None;
    loop {
        let next = output.next().await;
        let Some(piece) = next.map_err(Failure::call(doing.as_str()))? else {
            break;
        };
        let missed = piece.offset - expected.unwrap_or(piece.offset).min(piece.offset);
        if missed > 0 {
            lines.end(|line| print(&logs.name, line, out))?;
            failure::say(&format!("{missed} bytes are no longer kept"));
        }
        expected = Some(piece.offset + piece.output.len() as u64);
        if out.is_json() {
            lines.add(piece.offset, &piece.output, |line| {
                print(&logs.name, line, out)
            })?;
        } else {
            out.bytes(&piece.output)?;
            out.flush()?;
        }
    }
    lines.end(|line| print(&logs.name, line, out))
}

fn print(name: &str, line: Line<'_>, out: &mut Output) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(line.bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let object = json!({ "name": name, "offset": line.offset, "line": text });
    out.line(&object.to_string())
}

/// A line with its end, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line<'a> {
    offset: u64,
    bytes: &'a [u8],
}

/// Puts pieces together to lines.
#[derive(Default)]
struct Lines {
    offset: u64,
    begun: Vec<u8>,
}

impl Lines {
    fn add(
        &mut self,
        offset: u64,
        piece: &[u8],
        mut print: impl FnMut(Line<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut position = offset;
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.is_empty() {
                self.offset = position;
            }
            self.begun.extend_from_slice(part);
            position += part.len() as u64;
            if part.ends_with(b"\n") || self.begun.len() >= LINE {
                self.end(&mut print)?;
            }
        }
        Ok(())
    }

    /// Gives out what was begun.
    fn end(
        &mut self,
        mut print: impl FnMut(Line<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let bytes = std::mem::take(&mut self.begun);
        if bytes.is_empty() {
            return Ok(());
        }
        print(Line {
            offset: self.offset,
            bytes: &bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_with_their_offsets() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        let mut print = |line: Line<'_>| {
            seen.push((
                line.offset,
                String::from_utf8_lossy(line.bytes).into_owned(),
            ));
            Ok(())
        };
        lines.add(7, b"a", &mut print).unwrap();
        lines.add(8, b"b\r\n\nc", &mut print).unwrap();
        lines.end(&mut print).unwrap();
        lines.end(&mut print).unwrap();
        let long = vec![b'x'; LINE];
        lines.add(100, &long, &mut print).unwrap();
        lines.add(100 + LINE as u64, b"y", &mut print).unwrap();
        lines.end(&mut print).unwrap();
        let begins: Vec<_> = seen
            .iter()
            .map(|(at, text)| (*at, text.get(..1).unwrap(), text.len()))
            .collect();
        assert_eq!(
            begins,
            [
                (7, "a", 4),
                (11, "\n", 1),
                (12, "c", 1),
                (100, "x", LINE),
                (100 + LINE as u64, "y", 1)
            ]
        );
    }
}
