//! A line on stderr that says what is being waited for, and how long. It is there only on a terminal, never with JSON, only
//! once something takes its time, and gone before the result is printed.

use std::{io::stderr, time::Duration};

use tokio::time::{Instant, interval_at};

use super::{output::Output, screen, table};

/// What takes less needs no line.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long each frame is shown.
const FRAME: Duration = Duration::from_millis(100);

const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// Does `work`, and shows `what` meanwhile, as in `waiting for 'web'`.
pub(super) async fn during<T>(
    out: &Output,
    what: impl Fn() -> String,
    work: impl Future<Output = T>,
) -> T {
    if out.is_json() || !screen::can_redraw() {
        return work.await;
    }
    tokio::pin!(work);
    let began = Instant::now();
    let mut ticks = interval_at(began + PATIENCE, FRAME);
    let mut frames = FRAMES.into_iter().cycle();
    let mut line = Line { shown: false };
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => {
                let frame = frames.next().unwrap_or_default();
                line.show(&format!("{frame} {} ({})", what(), elapsed(began.elapsed())));
            }
        }
    }
}

/// The line, as long as it is shown.
struct Line {
    shown: bool,
}

impl Line {
    fn show(&mut self, text: &str) {
        self.shown = true;
        // The last column stays free: some terminals go on to the next line there.
        let columns = screen::columns(&stderr()).unwrap_or_default();
        screen::redraw(&table::cut(text, columns.saturating_sub(1)));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown {
            screen::redraw("");
        }
    }
}

/// A time in its two largest units: `12s`, `3m 05s`, `2h 07m`, `4d 11h`.
pub(super) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_units_at_most() {
        let shown = |seconds| elapsed(Duration::from_secs(seconds));
        assert_eq!(shown(0), "0s");
        assert_eq!(shown(59), "59s");
        assert_eq!(shown(60), "1m 00s");
        assert_eq!(shown(3_599), "59m 59s");
        assert_eq!(shown(7_640), "2h 07m");
        assert_eq!(shown(385_300), "4d 11h");
    }
}
