//! A journal that is not what was recorded is refused, with the place named.

use super::{
    golden::GOLDEN,
    rig::{Rig, entries, replays},
};
use crate::runstate::{
    Command, RunState,
    journal::{Divergence, Ending, JournalError, Tail, Transcript, line::Chain, replay},
};

fn refused(journal: &[u8]) -> JournalError {
    Transcript::read(journal).unwrap_err()
}

/// The line that byte `at` is in.
fn line_of(journal: &[u8], at: usize) -> usize {
    1 + journal[..at].iter().filter(|byte| **byte == b'\n').count()
}

#[test]
fn every_change_of_a_byte_is_refused_at_its_line() {
    let journal = GOLDEN.as_bytes();
    // The lines before are as they were: they are read once.
    let (mut before, mut start) = (Tail::new(), 0);
    for at in 0..journal.len() {
        if at > 0 && journal[at - 1] == b'\n' {
            before.follow(&journal[start..at]).unwrap();
            start = at;
        }
        let mut altered = journal.to_vec();
        for mask in [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0xff] {
            altered[at] = journal[at] ^ mask;
            let error = before.clone().follow(&altered[start..]).unwrap_err();
            assert_eq!(
                error.line(),
                line_of(journal, at),
                "byte {at}, {mask:#x}: {error}"
            );
        }
        if at % 16 == 0 {
            assert_eq!(refused(&altered).line(), line_of(journal, at));
        }
    }
}

#[test]
fn every_cut_is_refused_where_it_is() {
    let journal = GOLDEN.as_bytes();
    for length in 0..journal.len() {
        let cut = &journal[..length];
        let last = cut.split_inclusive(|byte| *byte == b'\n').count();
        assert_eq!(
            refused(cut),
            JournalError::Cut { line: last },
            "{length} bytes"
        );
    }
    assert_eq!(
        refused(b"").to_string(),
        "cut short: it goes no further than line 0, which is not its end"
    );
}

#[test]
fn lines_removed_swapped_repeated_or_added_are_refused() {
    let lines: Vec<_> = GOLDEN.split_inclusive('\n').collect();
    let last = lines.len() - 1;
    for at in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(at);
        let error = refused(removed.concat().as_bytes());
        let expected = if at == last { at } else { at + 1 };
        assert_eq!(error.line(), expected, "without line {}: {error}", at + 1);

        let mut repeated = lines.clone();
        repeated.insert(at, lines[at]);
        let error = refused(repeated.concat().as_bytes());
        assert_eq!(error, JournalError::Misplaced { line: at + 2 });

        for other in at + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            let error = refused(swapped.concat().as_bytes());
            assert_eq!(error, JournalError::Misplaced { line: at + 1 });
        }
    }
    for (more, line) in [("\n", last + 2), ("x", last + 2), ("end exit\n", last + 2)] {
        assert_eq!(refused(format!("{GOLDEN}{more}").as_bytes()).line(), line);
    }
    // Of another journal, from the same place.
    let mut rig = Rig::quiet(RunState::Running);
    rig.serve(Command::Stop);
    rig.serve(Command::Cont);
    let other = rig.end(Ending::Stopped);
    let mixed: String = lines[..5]
        .iter()
        .copied()
        .chain(other.split_inclusive('\n').skip(5))
        .collect();
    assert_eq!(refused(mixed.as_bytes()), JournalError::Altered { line: 6 });
}

/// `lines` (step, entry) with right numbers and checksums.
fn sealed<'a>(lines: impl IntoIterator<Item = (u64, &'a str)>) -> String {
    let mut chain = Chain::new();
    lines
        .into_iter()
        .map(|(step, entry)| chain.line(step, entry))
        .collect()
}

/// The golden journal's lines.
fn golden() -> Vec<(u64, &'static str)> {
    GOLDEN
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap().parse().unwrap())
        .zip(entries(GOLDEN))
        .collect()
}

#[test]
fn what_no_recording_writes_is_refused() {
    assert_eq!(sealed(golden()), GOLDEN);
    let with = |at: usize, entry: &'static str| {
        let mut lines = golden();
        lines[at].1 = entry;
        refused(sealed(lines).as_bytes())
    };
    for entry in [
        "",
        "raise",
        "raise reset",
        "raise reset  guest-reset",
        "raise debug ",
        "pass now",
        "collect +1",
        "collect 01",
        "command",
        "command set-action x=y",
        "machine pause",
        "machine pause ok ",
        "take suspend",
        "checkpoint 2 suspend",
        "state RUNNING",
        "event STOP",
        "event STOP x @running",
        "failed \\n",
        "failed \\u{d800}",
        "exit shutdown",
        "mask rtc=1 pmtimer=on",
        "exit shutdown none 256",
    ] {
        assert_eq!(
            with(4, entry),
            JournalError::Unknown { line: 5 },
            "{entry:?}"
        );
    }
    assert_eq!(
        with(0, "vmd-journal 2 a"),
        JournalError::Unknown { line: 1 }
    );
    assert_eq!(with(0, "pass"), JournalError::Misplaced { line: 1 });
    assert_eq!(with(1, "pass"), JournalError::Misplaced { line: 2 });
    assert_eq!(with(4, "end exit"), JournalError::Misplaced { line: 6 });
    assert_eq!(
        with(4, "vmd-journal 1 a"),
        JournalError::Misplaced { line: 5 }
    );
    let initial = golden()[1].1;
    let huge: &'static str = format!("{initial} waiting=18446744073709551615").leak();
    assert_eq!(with(1, huge), JournalError::Unknown { line: 2 });
    let mut back = golden();
    back[6].0 = 0;
    assert_eq!(
        refused(sealed(back).as_bytes()),
        JournalError::Misplaced { line: 7 }
    );
    // Neither ended nor begun.
    assert_eq!(Tail::new().end(Ending::Interrupted), None);
    let mut tail = Tail::new();
    tail.follow(GOLDEN.as_bytes()).unwrap();
    assert_eq!(
        (tail.is_ended(), tail.end(Ending::Interrupted)),
        (true, None)
    );
}

/// Whoever makes the checksums right again is found out by the replay, at the line.
#[test]
fn a_forged_journal_diverges_at_its_line() {
    let forged = |lines: Vec<(u64, &str)>| -> Divergence {
        let transcript = Transcript::read(sealed(lines).as_bytes()).unwrap();
        replay(&transcript).divergence.unwrap()
    };
    for (at, (step, entry)) in golden().into_iter().enumerate() {
        let is_output = ["state", "event", "checkpoint", "take", "refused", "exit"]
            .iter()
            .any(|word| entry.starts_with(word));
        if !is_output {
            continue;
        }
        let mut without = golden();
        without.remove(at);
        let line = forged(without).line;
        // Without its checkpoint a request stays pending, and what should come of it is missed.
        let late = usize::from(entry.starts_with("checkpoint"));
        assert!(
            (at + 1..=at + 1 + late).contains(&line),
            "without '{entry}': {line}"
        );
        let mut later = golden();
        for line in &mut later[at..] {
            line.0 += 1;
        }
        let divergence = forged(later);
        assert_eq!(divergence.line, at + 1, "'{entry}' a step later");
        assert_eq!(divergence.expected, format!("{} {entry}", step + 1));
    }
    let mut other = golden();
    let at = other
        .iter()
        .position(|(_, entry)| entry.starts_with("event RESET"))
        .unwrap();
    other[at].1 = "event RESET guest-panic @running";
    let divergence = forged(other);
    assert_eq!(divergence.line, at + 1);
    assert!(
        divergence
            .found
            .ends_with("event RESET guest-reset @running")
    );
    // A raise that was never served.
    let end = golden().len() - 1;
    let mut more = golden();
    more.insert(2, (0, "raise powerdown"));
    assert!(forged(more).line < end);
    replays(GOLDEN);
}
