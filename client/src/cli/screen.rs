//! The terminal that output goes to: its size, and whether there is one.

use std::{
    io::{IsTerminal, Stdout, Write, stderr},
    os::fd::AsFd,
};

use rustix::termios::{Winsize, tcgetwinsize};

/// What a terminal has that does not tell its size.
const USUAL: (usize, usize) = (80, 24);

/// How many columns a line may have; `None` if `stream` is no terminal, so that nothing may be cut. `COLUMNS` comes before
/// what the terminal says.
pub(super) fn columns(stream: &(impl AsFd + IsTerminal)) -> Option<usize> {
    let asked = std::env::var("COLUMNS").ok();
    let asked = asked.and_then(|text| text.parse().ok());
    let terminal = stream.is_terminal();
    terminal.then(|| asked.filter(|&count| count > 0).unwrap_or(size(stream).0))
}

/// How many lines the terminal shows.
pub(super) fn rows(stdout: &Stdout) -> usize {
    size(stdout).1
}

fn size(stream: impl AsFd) -> (usize, usize) {
    match tcgetwinsize(stream) {
        Ok(Winsize { ws_col, ws_row, .. }) if ws_col > 0 && ws_row > 0 => {
            (ws_col.into(), ws_row.into())
        }
        _ => USUAL,
    }
}

/// Whether a line on stderr can be written over: it is a terminal that knows how.
pub(super) fn can_redraw() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stderr().is_terminal() && !dumb
}

/// Writes over the line on stderr. If nobody can read it, so be it.
pub(super) fn redraw(line: &str) {
    let mut stderr = stderr().lock();
    let _ = write!(stderr, "\r{line}\x1b[K");
    let _ = stderr.flush();
}
