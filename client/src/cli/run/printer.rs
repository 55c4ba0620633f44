//! What the guest writes, on its way to stdout in a task of its own.

use std::{
    future::pending,
    io::{IsTerminal, Write, stderr, stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::{
    ConsoleOutput,
    cli::{
        console::pumps::{self, OutputError},
        failure,
    },
    v1::ConsoleResponse,
};

/// Prints one machine's output.
pub(super) struct Printer {
    /// `None` once its end was seen.
    task: Option<JoinHandle<Result<(), OutputError>>>,
    seen: Arc<Seen>,
}

/// What the output was like.
#[derive(Default)]
struct Seen {
    /// Bytes that are missing.
    lost: AtomicU64,
    /// The last line has not ended.
    mid_line: AtomicBool,
}

impl Printer {
    /// Begins with the output's first byte.
    pub(super) fn start(output: ConsoleOutput) -> Self {
        let seen = Arc::new(Seen::default());
        let mut gaps = Gaps::default();
        let noted = seen.clone();
        let pieces = output.into_feed().map(move |piece| {
            let piece = piece?;
            let missing = gaps.before(&piece);
            noted.lost.fetch_add(missing, Ordering::Relaxed);
            if let Some(last) = piece.output.last() {
                noted.mid_line.store(*last != b'\n', Ordering::Relaxed);
            }
            Ok(piece.output)
        });
        Self {
            task: Some(tokio::spawn(pumps::pump_output(pieces))),
            seen,
        }
    }

    /// Waits until the stream has ended and everything is written.
    pub(super) async fn finished(&mut self) -> Result<(), OutputError> {
        let Some(task) = &mut self.task else {
            return Ok(());
        };
        let ended = task.await;
        self.task = None;
        // A task that panicked has said so itself.
        ended.unwrap_or(Ok(()))
    }

    /// Waits until printing fails: for ever if it ends in order.
    pub(super) async fn failed(&mut self) -> OutputError {
        match self.finished().await {
            Ok(()) => pending().await,
            Err(error) => error,
        }
    }

    /// Says whether there are gaps in what was printed. What is said now, and later, has a line of its own if the output
    /// is on the same terminal, as with `raw` it is taken to be.
    pub(super) fn tell(&self, raw: bool) {
        let shared = raw || (stdout().is_terminal() && stderr().is_terminal());
        if shared && self.seen.mid_line.load(Ordering::Relaxed) {
            // If nobody can read it, so be it.
            let _ = writeln!(stderr());
        }
        let lost = self.seen.lost.load(Ordering::Relaxed);
        if lost > 0 {
            failure::say(&format!(
                "{lost} bytes of output are missing: stdout took them too slowly"
            ));
        }
    }
}

/// Finds the gaps between pieces of output.
#[derive(Default)]
struct Gaps {
    /// Where the next byte should be.
    position: u64,
}

impl Gaps {
    /// How many bytes are missing before `piece`.
    fn before(&mut self, piece: &ConsoleResponse) -> u64 {
        let missing = piece.offset.saturating_sub(self.position);
        let length = u64::try_from(piece.output.len()).unwrap_or(u64::MAX);
        self.position = piece.offset.saturating_add(length);
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted() {
        let mut gaps = Gaps::default();
        let piece = |offset, length| ConsoleResponse {
            output: vec![0; length],
            offset,
        };
        assert_eq!(gaps.before(&piece(0, 3)), 0);
        assert_eq!(gaps.before(&piece(3, 1)), 0);
        assert_eq!(gaps.before(&piece(10, 2)), 6);
        assert_eq!(gaps.before(&piece(12, 1)), 0);
    }
}
