//! Which recordings are not expected to hold, and why. All others are.

use std::ops::RangeInclusive;

/// What is expected of a recording.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Expected {
    /// vmd does as QEMU did.
    Holds,
    /// It needs what vmd does not have yet.
    Pending(&'static str),
    /// vmd does something else on purpose: what `instead/` has.
    Differs(&'static str),
}

const OUTGOING: &str = "needs outgoing migration";
const INCOMING: &str = "needs incoming migration";
const SNAPSHOTS: &str = "needs snapshots (`savevm`, `loadvm`)";
const DUMP: &str = "needs `dump-guest-memory`";
const DEBUGGER: &str = "needs the gdb server";

/// By the numbers that the recordings' names start with.
const PENDING: &[(RangeInclusive<u16>, &str)] = &[
    (63..=63, INCOMING),
    (64..=67, OUTGOING),
    (68..=73, INCOMING),
    (80..=84, SNAPSHOTS),
    (85..=87, DUMP),
    (88..=89, DEBUGGER),
    (
        93..=93,
        "needs a monitor before the machine is made (`--preconfig`); vmd makes a machine in one step",
    ),
    (200..=207, DEBUGGER),
    (208..=215, INCOMING),
    (240..=247, OUTGOING),
    (256..=263, SNAPSHOTS),
    (272..=278, DUMP),
];

const STRAY_CODE: &str = "the recorded guest ran through stray memory before the internal error, and that wrote `n` and \
                          0xC9 to the serial port; vmd's probe guest jumps straight to where there is no memory \
                          (spec, section 18: guest program). All of QMP is the same";

/// As [`PENDING`].
const DIFFERS: &[(RangeInclusive<u16>, &str)] = &[
    (90..=90, STRAY_CODE),
    (
        101..=101,
        "QEMU aborts; vmd drops the suspend request, counts it, and the machine goes on (spec, section 16, case 1)",
    ),
    (216..=223, STRAY_CODE),
];

/// What is expected of recording `number`.
pub(crate) fn expected(number: u16) -> Expected {
    let reason = |table: &[(RangeInclusive<u16>, &'static str)]| {
        let entry = table.iter().find(|(numbers, _)| numbers.contains(&number));
        entry.map(|(_, reason)| *reason)
    };
    match (reason(PENDING), reason(DIFFERS)) {
        (None, None) => Expected::Holds,
        (Some(reason), None) => Expected::Pending(reason),
        (None, Some(reason)) => Expected::Differs(reason),
        (Some(_), Some(_)) => panic!("{number} is in both tables"),
    }
}

/// The tables' entries that none of the recordings `numbers` belongs to.
pub(crate) fn unused(numbers: &[u16]) -> Vec<String> {
    let entries = PENDING.iter().chain(DIFFERS);
    entries
        .filter(|(entry, _)| !numbers.iter().any(|number| entry.contains(number)))
        .map(|(entry, reason)| format!("{entry:?}: {reason}"))
        .collect()
}
