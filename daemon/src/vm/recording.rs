//! A recording on its way out: the lines of a machine's journal, from whichever thread has the pending set, to the stream
//! that a client reads.
//!
//! The way never blocks: when a client is so slow that the way is full, the recording ends with a mark that says so, for
//! which a place is kept.

use tokio::sync::mpsc::{self, error::TrySendError};
use vmm::runstate::journal::Sink;

/// Lines that may wait for the client. A busy machine writes a few thousand in a second.
const WAITING_MAX: usize = 1 << 14;

/// The lines of a recording. It ends when these are dropped.
pub type Lines = mpsc::Receiver<String>;

/// Where the machine's main loop writes its journal.
pub(super) struct LineSink {
    lines: mpsc::Sender<String>,
    /// The place for the last line.
    last: Option<mpsc::OwnedPermit<String>>,
}

impl LineSink {
    pub(super) fn new() -> (Self, Lines) {
        Self::with_room(WAITING_MAX)
    }

    fn with_room(room: usize) -> (Self, Lines) {
        let (lines, receiver) = mpsc::channel(room + 1);
        // Nothing was sent yet, so there is a place.
        let last = lines.clone().try_reserve_owned().ok();
        (Self { lines, last }, receiver)
    }
}

impl Sink for LineSink {
    fn line(&mut self, line: String) -> bool {
        match self.lines.try_send(line) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        }
    }

    fn lost(&mut self, line: String) {
        if let Some(last) = self.last.take() {
            last.send(line);
        }
    }

    fn is_open(&self) -> bool {
        !self.lines.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_way_has_a_place_for_the_mark() {
        let (mut sink, mut lines) = LineSink::with_room(2);
        assert!(sink.line("1".into()) && sink.line("2".into()));
        assert!(!sink.line("3".into()));
        sink.lost("lost".into());
        drop(sink);
        let received: Vec<_> = std::iter::from_fn(|| lines.blocking_recv()).collect();
        assert_eq!(received, ["1", "2", "lost"]);
    }

    #[test]
    fn a_reader_that_left_closes_it() {
        let (mut sink, lines) = LineSink::with_room(2);
        assert!(sink.is_open());
        drop(lines);
        assert!(!sink.is_open() && !sink.line("1".into()));
        sink.lost("lost".into());
    }
}
