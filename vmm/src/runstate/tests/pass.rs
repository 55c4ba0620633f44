//! Section 3.2: all sets of requests that one pass can find, against the serving order.

use super::fake::{NOTHING, Rig};
use crate::runstate::{
    Request::{Debug, Powerdown, Reset, Shutdown, Suspend, VmStop, Wakeup},
    RunState::{GuestPanicked, IoError, Paused, Prelaunch, Running, Suspended},
    *,
};

const CAUSE: ShutdownCause = ShutdownCause::GuestShutdown;
const RESET: ShutdownCause = ShutdownCause::GuestReset;

/// In serving order.
const REQUESTS: [Request; 7] = [
    Debug,
    Suspend,
    Shutdown(CAUSE),
    Reset(RESET),
    Wakeup(WakeupReason::Rtc),
    Powerdown,
    VmStop(IoError),
];

fn shutdown_is(action: ShutdownAction) -> ActionChange {
    ActionChange {
        shutdown: Some(action),
        ..ActionChange::default()
    }
}

/// Section 3.2 as a list of steps, each of which adds its lines.
struct Model {
    state: RunState,
    lines: Vec<String>,
    dropped: u64,
}

impl Model {
    fn add(&mut self, lines: &[&str]) {
        self.lines.extend(lines.iter().map(ToString::to_string));
    }

    fn event(&mut self, event: &str) {
        self.lines.push(format!("{event} @{}", self.state));
    }

    fn stop(&mut self, target: RunState) {
        if self.state == Running {
            self.state = target;
            self.add(&["ticks off", "pause", &format!("handlers stop {target}")]);
            self.event("STOP");
        }
        self.add(&["flush"]);
    }

    fn suspend(&mut self) {
        // The states of these tests that may go to S3.
        if matches!(self.state, Running | RunState::Debug | Suspended) {
            self.add(&["pause", "told suspend"]);
            self.state = Suspended;
            self.event("SUSPEND");
        } else {
            self.dropped += 1;
        }
    }

    /// Whether the loop is left.
    fn shutdown(&mut self, action: ShutdownAction) -> bool {
        self.event("SHUTDOWN guest-shutdown");
        self.add(&["told shutdown guest-shutdown"]);
        if action == ShutdownAction::Pause {
            self.stop(RunState::Shutdown);
            return false;
        }
        if self.state == Running {
            self.state = RunState::Shutdown;
            self.add(&["ticks off", "pause", "handlers stop shutdown"]);
        }
        self.add(&["pause", "flush"]);
        true
    }

    fn reset(&mut self) {
        self.add(&["pause", "reset"]);
        if self.state == Running {
            self.event("RESET guest-reset");
            self.add(&["resume"]);
        } else {
            self.state = Prelaunch;
            self.event("RESET guest-reset");
        }
    }

    fn wake_up(&mut self) {
        self.add(&["pause", "wake up", "told wakeup rtc"]);
        if self.state == Running {
            self.add(&["resume"]);
        }
        self.event("WAKEUP");
    }

    /// One pass over what was raised. Returns whether the loop is left.
    fn pass(&mut self, raised: &[Request], action: ShutdownAction) -> bool {
        // Two raises look at the state, and a wake-up moves it.
        let (mut suspend, mut wakeup) = (false, false);
        for request in raised {
            match request {
                Suspend => suspend = self.state != Suspended,
                Wakeup(_) if self.state == Suspended => {
                    self.state = Running;
                    wakeup = true;
                }
                _ => {}
            }
        }
        if raised.contains(&Debug) {
            self.stop(RunState::Debug);
        }
        if suspend {
            self.suspend();
        }
        if raised.contains(&Shutdown(CAUSE)) && self.shutdown(action) {
            return true;
        }
        if raised.contains(&Reset(RESET)) {
            self.reset();
        }
        if wakeup {
            self.wake_up();
        }
        if raised.contains(&Powerdown) {
            self.event("POWERDOWN");
            self.add(&["told powerdown"]);
        }
        if raised.contains(&VmStop(IoError)) {
            self.stop(IoError);
        }
        false
    }
}

fn check(start: RunState, raised: &[Request], action: ShutdownAction) {
    let context = format!("{start}, {action}: {raised:?}");
    let mut rig = Rig::with(start, shutdown_is(action));
    rig.raise(raised.iter().copied());
    let flow = rig.pass();

    let mut model = Model {
        state: start,
        lines: Vec::new(),
        dropped: 0,
    };
    let expected = if model.pass(raised, action) {
        Flow::Exit(Exit::Shutdown {
            cause: CAUSE,
            status: 0,
        })
    } else {
        Flow::Continue
    };
    assert_eq!(rig.trace(), model.lines, "{context}");
    assert_eq!((flow, rig.state()), (expected, model.state), "{context}");
    assert_eq!(rig.requests.dropped(), model.dropped, "{context}");
    if flow == Flow::Continue {
        rig.pass();
        assert_eq!(rig.trace(), NOTHING, "{context}: served twice");
    }
}

#[test]
fn every_set_of_requests() {
    for start in [Running, Suspended, Paused] {
        for &action in ShutdownAction::ALL {
            for set in 0..1 << REQUESTS.len() {
                let bits = REQUESTS.iter().enumerate();
                let chosen = bits.filter(|(bit, _)| set >> bit & 1 == 1);
                let mut raised: Vec<_> = chosen.map(|(_, request)| *request).collect();
                check(start, &raised, action);
                // The serving order does not depend on the order of raising.
                raised.reverse();
                check(start, &raised, action);
            }
        }
    }
}

/// Raises all, makes one pass and returns the events and the final state.
fn one_pass(action: ShutdownAction, raised: &[Request]) -> (Vec<String>, RunState) {
    let mut rig = Rig::with(Running, shutdown_is(action));
    rig.raise(raised.iter().copied());
    rig.pass();
    let mut trace = rig.trace();
    trace.retain(|line| line.contains('@'));
    (trace, rig.state())
}

/// Measured with QEMU: the traces named in section 3.2.
#[test]
fn measured_consequences() {
    use ShutdownAction::{Pause, Poweroff};
    let both = [Shutdown(CAUSE), Reset(RESET)];
    let shutdown = "SHUTDOWN guest-shutdown @running";
    let rows: [(&str, _, &[Request], &[&str], _); 9] = [
        (
            "110",
            Pause,
            &both,
            &[shutdown, "STOP @shutdown", "RESET guest-reset @prelaunch"],
            Prelaunch,
        ),
        (
            "111",
            Pause,
            &[both[1], both[0]],
            &[shutdown, "STOP @shutdown", "RESET guest-reset @prelaunch"],
            Prelaunch,
        ),
        ("112", Poweroff, &both, &[shutdown], RunState::Shutdown),
        (
            "113",
            Poweroff,
            &[Suspend, both[1]],
            &["SUSPEND @suspended", "RESET guest-reset @prelaunch"],
            Prelaunch,
        ),
        (
            "114",
            Pause,
            &[Suspend, both[0]],
            &["SUSPEND @suspended", "SHUTDOWN guest-shutdown @suspended"],
            Suspended,
        ),
        (
            "115",
            Pause,
            &[both[0], both[0]],
            &[shutdown, "STOP @shutdown"],
            RunState::Shutdown,
        ),
        (
            "116",
            Poweroff,
            &[both[1], both[1]],
            &["RESET guest-reset @running"],
            Running,
        ),
        (
            "35",
            Pause,
            &[VmStop(GuestPanicked), both[0]],
            &[shutdown, "STOP @shutdown"],
            RunState::Shutdown,
        ),
        (
            "reset+vmstop",
            Pause,
            &[VmStop(IoError), both[1]],
            &["RESET guest-reset @running", "STOP @io-error"],
            IoError,
        ),
    ];
    for (name, action, raised, events, state) in rows {
        let (trace, final_state) = one_pass(action, raised);
        assert_eq!(trace, events, "{name}");
        assert_eq!(final_state, state, "{name}");
    }
}

#[test]
fn raised_while_a_step_runs() {
    // (raised first, the line during which, raised then, the events of this pass, of the next)
    let rows: [(_, _, _, &[&str], &[&str]); 6] = [
        // Its step is still to come.
        (
            Reset(RESET),
            "reset",
            Powerdown,
            &["RESET guest-reset @running", "POWERDOWN @running"],
            &[],
        ),
        (
            Powerdown,
            "told powerdown",
            VmStop(IoError),
            &["POWERDOWN @running", "STOP @io-error"],
            &[],
        ),
        (
            Suspend,
            "told suspend",
            Reset(RESET),
            &["SUSPEND @suspended", "RESET guest-reset @prelaunch"],
            &[],
        ),
        // Its step is over, or it is this one.
        (
            Reset(RESET),
            "reset",
            Reset(RESET),
            &["RESET guest-reset @running"],
            &["RESET guest-reset @running"],
        ),
        (
            VmStop(IoError),
            "pause",
            Powerdown,
            &["STOP @io-error"],
            &["POWERDOWN @io-error"],
        ),
        (
            Powerdown,
            "told powerdown",
            Suspend,
            &["POWERDOWN @running"],
            &["SUSPEND @suspended"],
        ),
    ];
    for (first, line, then, this_pass, next_pass) in rows {
        let mut rig = Rig::new(Running);
        rig.raise([first]);
        rig.raise_during(line, then);
        for expected in [this_pass, next_pass, &[]] {
            rig.pass();
            let mut trace = rig.trace();
            trace.retain(|line| line.contains('@'));
            assert_eq!(trace, expected, "{first:?}, then {then:?}");
        }
    }
}

#[test]
fn commands_with_their_passes_do_not_coalesce() {
    let mut rig = Rig::new(Running);
    for _ in 0..2 {
        rig.serve(Command::SystemReset);
        let reset = [
            "pause",
            "reset",
            "RESET host-qmp-system-reset @running",
            "resume",
        ];
        assert_eq!(rig.trace(), reset);
    }
}

#[test]
fn idle_pass_does_nothing() {
    for &state in RunState::ALL {
        let mut rig = Rig::new(state);
        assert_eq!((rig.pass(), rig.trace()), (Flow::Continue, vec![]));
    }
}
