//! What is done in the demonstration, and what must come of it.

/// One step.
pub(super) struct Step {
    /// The command as one would type it, or what the guest does.
    pub(super) title: &'static str,
    /// What it shows.
    pub(super) about: &'static str,
    pub(super) act: Act,
    /// The events that must come, in order: name, data in the order of the interface, run state after it.
    pub(super) events: &'static [(&'static str, &'static str, &'static str)],
    /// What the guest must write.
    pub(super) console: &'static str,
    /// The run state at the end.
    pub(super) state: &'static str,
}

/// What is done.
#[derive(Clone, Copy)]
pub(super) enum Act {
    Create,
    Cont,
    /// `cont`, which must be refused with this text.
    ContRefused(&'static str),
    Stop,
    Reset,
    Powerdown,
    Wakeup,
    /// An action and its value.
    SetAction(&'static str, &'static str),
    /// A letter for the guest.
    Type(&'static str),
    Delete,
}

const GUEST_RESET: &str = "guest=true reason=guest-reset";
const HOST_RESET: &str = "guest=false reason=host-qmp-system-reset";
const GUEST_SHUTDOWN: &str = "guest=true reason=guest-shutdown";

macro_rules! step {
    ($title:literal, $about:literal, $act:expr, [$($event:expr),*], $console:literal, $state:literal) => {
        Step {
            title: $title,
            about: $about,
            act: $act,
            events: &[$($event),*],
            console: $console,
            state: $state,
        }
    };
}

const RESUME: (&str, &str, &str) = ("RESUME", "", "running");

/// The whole story.
pub(super) const STEPS: &[Step] = &[
    step!(
        "create demo --paused",
        "the machine exists, its vCPU waits",
        Act::Create,
        [("CREATED", "", "prelaunch")],
        "",
        "prelaunch"
    ),
    step!(
        "cont demo",
        "the guest starts and says so",
        Act::Cont,
        [RESUME],
        "!",
        "running"
    ),
    step!(
        "stop demo",
        "paused",
        Act::Stop,
        [("STOP", "", "paused")],
        "",
        "paused"
    ),
    step!(
        "stop demo",
        "once more: nothing happens",
        Act::Stop,
        [],
        "",
        "paused"
    ),
    step!(
        "cont demo",
        "resumed where it was",
        Act::Cont,
        [RESUME],
        "",
        "running"
    ),
    step!(
        "type R",
        "the guest writes to the reset port",
        Act::Type("R"),
        [("RESET", GUEST_RESET, "running")],
        "R!",
        "running"
    ),
    step!(
        "type T",
        "the guest makes a triple fault",
        Act::Type("T"),
        [("RESET", GUEST_RESET, "running")],
        "T!",
        "running"
    ),
    step!(
        "reset demo",
        "the operator resets",
        Act::Reset,
        [("RESET", HOST_RESET, "running")],
        "!",
        "running"
    ),
    step!(
        "type E",
        "the guest enables the power button",
        Act::Type("E"),
        [],
        "E",
        "running"
    ),
    step!(
        "powerdown demo",
        "pressed: what comes of it is the guest's decision",
        Act::Powerdown,
        [("POWERDOWN", "", "running")],
        "",
        "running"
    ),
    step!(
        "type S",
        "the guest suspends to RAM (ACPI S3)",
        Act::Type("S"),
        [("SUSPEND", "", "suspended")],
        "S",
        "suspended"
    ),
    step!(
        "wakeup demo",
        "woken, memory kept",
        Act::Wakeup,
        [("WAKEUP", "", "running")],
        "!",
        "running"
    ),
    step!(
        "type A",
        "the guest sets an RTC alarm that may wake it",
        Act::Type("A"),
        [],
        "A",
        "running"
    ),
    step!(
        "type S",
        "suspended, and woken by the alarm",
        Act::Type("S"),
        [("SUSPEND", "", "suspended"), ("WAKEUP", "", "running")],
        "S!",
        "running"
    ),
    step!(
        "set-action demo watchdog=pause",
        "",
        Act::SetAction("watchdog", "pause"),
        [],
        "",
        "running"
    ),
    step!(
        "type W",
        "the guest arms the watchdog and leaves it; 2 s",
        Act::Type("W"),
        [
            ("WATCHDOG", "action=pause", "running"),
            ("STOP", "", "watchdog")
        ],
        "W",
        "watchdog"
    ),
    step!("cont demo", "", Act::Cont, [RESUME], "", "running"),
    step!(
        "type C",
        "the guest crashes and handles that itself",
        Act::Type("C"),
        [("GUEST_CRASHLOADED", "action=run", "running")],
        "C",
        "running"
    ),
    step!(
        "set-action demo panic=pause",
        "",
        Act::SetAction("panic", "pause"),
        [],
        "",
        "running"
    ),
    step!(
        "type P",
        "the guest panics",
        Act::Type("P"),
        [
            ("GUEST_PANICKED", "action=pause", "running"),
            ("STOP", "", "guest-panicked")
        ],
        "P",
        "guest-panicked"
    ),
    step!("cont demo", "", Act::Cont, [RESUME], "", "running"),
    step!(
        "type I",
        "the guest goes where there is no memory",
        Act::Type("I"),
        [("STOP", "", "internal-error")],
        "I",
        "internal-error"
    ),
    step!(
        "cont demo",
        "refused: it cannot go on",
        Act::ContRefused("Resetting the Virtual Machine is required"),
        [],
        "",
        "internal-error"
    ),
    step!(
        "reset demo",
        "a machine that does not run waits after a reset",
        Act::Reset,
        [("RESET", HOST_RESET, "prelaunch")],
        "",
        "prelaunch"
    ),
    step!("cont demo", "", Act::Cont, [RESUME], "!", "running"),
    step!(
        "set-action demo shutdown=pause",
        "",
        Act::SetAction("shutdown", "pause"),
        [],
        "",
        "running"
    ),
    step!(
        "type O",
        "the guest powers off (ACPI S5), and is kept",
        Act::Type("O"),
        [
            ("SHUTDOWN", GUEST_SHUTDOWN, "running"),
            ("STOP", "", "shutdown")
        ],
        "O",
        "shutdown"
    ),
    step!(
        "reset demo",
        "",
        Act::Reset,
        [("RESET", HOST_RESET, "prelaunch")],
        "",
        "prelaunch"
    ),
    step!("cont demo", "", Act::Cont, [RESUME], "!", "running"),
    step!(
        "set-action demo shutdown=poweroff",
        "",
        Act::SetAction("shutdown", "poweroff"),
        [],
        "",
        "running"
    ),
    step!(
        "type 4",
        "the guest suspends to disk (ACPI S4): the machine ends",
        Act::Type("4"),
        [
            ("SUSPEND_DISK", "", "running"),
            ("SHUTDOWN", GUEST_SHUTDOWN, "running"),
            (
                "ENDED",
                "kind=shutdown cause=guest-shutdown exit_status=0",
                "shutdown"
            )
        ],
        "4",
        "shutdown"
    ),
    step!(
        "rm demo",
        "",
        Act::Delete,
        [("DELETED", "", "shutdown")],
        "",
        ""
    ),
];
