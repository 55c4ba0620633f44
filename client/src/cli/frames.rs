//! When to draw: soon after a change, and not more often than can be seen.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

/// The least time between two drawings.
const FRAME: Duration = Duration::from_millis(50);

/// What is shown, as it falls behind what is known.
#[derive(Default)]
pub(super) struct Frames {
    drawn: Option<Instant>,
    due: Option<Instant>,
}

impl Frames {
    /// What is shown is no longer true.
    pub(super) fn changed(&mut self) {
        let now = Instant::now();
        let next = self.drawn.map_or(now, |drawn| now.max(drawn + FRAME));
        self.due.get_or_insert(next);
    }

    /// Waits until it is time to draw: for ever, if nothing has changed.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => pending().await,
        }
    }

    /// Everything is shown as it is.
    pub(super) fn drawn(&mut self) {
        self.drawn = Some(Instant::now());
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_in_quick_succession_are_drawn_as_one() {
        let mut frames = Frames::default();
        tokio::select! {
            biased;
            () = frames.due() => unreachable!("nothing has changed"),
            () = std::future::ready(()) => {}
        }
        let began = Instant::now();
        frames.changed();
        frames.due().await;
        frames.drawn();
        frames.changed();
        frames.changed();
        frames.due().await;
        assert!(began.elapsed() >= FRAME);
        frames.drawn();
        assert!(frames.due.is_none());
    }
}
