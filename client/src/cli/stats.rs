//! What a machine looks like from outside, for people.

use std::time::Duration;

use super::{
    table,
    view::{dash, printable, word},
};
use crate::v1::{ExitKind, RunState, StateTime, VmStats};

/// Lines of the console that are shown.
const CONSOLE_LINES: usize = 5;

/// A line each.
pub(super) fn lines(stats: &VmStats) -> Vec<String> {
    let time = |time: &StateTime| {
        let seconds = Duration::from_nanos(time.nanos).as_secs_f64();
        format!("{}={seconds:.3}s", word::<RunState>(time.state))
    };
    let exit = |kind: &i32| match ExitKind::try_from(*kind) {
        Ok(ExitKind::Unspecified) => dash(),
        _ => word::<ExitKind>(*kind).to_owned(),
    };
    let cpu_time = Duration::from_nanos(stats.cpu_time_nanos).as_secs_f64();
    let mut rows = vec![
        ("uptime:", words(stats.state_times.iter().map(time))),
        ("cpu time:", format!("{cpu_time:.3}s")),
        ("exits:", words(stats.last_exits.iter().map(exit))),
    ];
    // The last are the first here.
    let written = stats.console_tail.lines().rev().take(CONSOLE_LINES);
    let mut console: Vec<_> = written.map(printable).collect();
    if console.is_empty() {
        console.push(dash());
    }
    let heads = ["console:"].into_iter().chain(std::iter::repeat(""));
    rows.extend(heads.zip(console.into_iter().rev()));
    rows.into_iter()
        .map(|(key, value)| table::row(&[key.to_owned(), value], &[9, 0]))
        .collect()
}

fn words(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.is_empty() {
        true => dash(),
        false => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_a_line_each_and_the_console_its_last() {
        let stats = VmStats {
            state_times: vec![
                StateTime {
                    state: RunState::Paused.into(),
                    nanos: 1_500_000,
                },
                StateTime {
                    state: RunState::Running.into(),
                    nanos: 61_000_000_000,
                },
            ],
            last_exits: vec![ExitKind::Io.into(), 0, ExitKind::InternalError.into()],
            cpu_time_nanos: 1_234_000_000,
            console_tail: "1\n2\n3\n4\n\u{1b}[2J\r\n6".to_owned(),
        };
        let expected = [
            "uptime:    paused=0.002s running=61.000s",
            "cpu time:  1.234s",
            "exits:     io - internal-error",
            "console:   2",
            "           3",
            "           4",
            r"           \u{1b}[2J",
            "           6",
        ];
        assert_eq!(lines(&stats), expected);
        let none = [
            "uptime:    -",
            "cpu time:  0.000s",
            "exits:     -",
            "console:   -",
        ];
        assert_eq!(lines(&VmStats::default()), none);
    }
}
