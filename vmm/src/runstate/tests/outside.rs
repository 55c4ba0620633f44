//! A port write that comes from no vCPU: what it raises is served in the pass that follows, and a panic stops the machine
//! at once (section 8).

use super::fake::Rig;
use crate::runstate::{RunState::*, *};

const WRITE: Command = Command::PortWrite {
    port: 0x505,
    value: 1,
    size: 1,
};
const LINE: &str = "port 0x505 [01]";
const STOPPED: [&str; 5] = [
    "ticks off",
    "pause",
    "handlers stop guest-panicked",
    "STOP @guest-panicked",
    "flush",
];

fn panics(state: RunState, panic: PanicAction, shutdown: ShutdownAction) -> Rig {
    let change = ActionChange {
        panic: Some(panic),
        shutdown: Some(shutdown),
        ..Default::default()
    };
    let rig = Rig::with(state, change);
    rig.raise_during(LINE, Request::GuestPanicked);
    rig
}

#[test]
fn sizes_take_the_lowest_bytes() {
    for (size, line) in [
        (1, "port 0x80 [04]"),
        (2, "port 0x80 [04, 03]"),
        (4, "port 0x80 [04, 03, 02, 01]"),
    ] {
        let mut rig = Rig::new(Running);
        let value = 0x0102_0304;
        rig.serve(Command::PortWrite {
            port: 0x80,
            value,
            size,
        });
        assert_eq!(rig.trace(), [line]);
    }
}

#[test]
fn a_panic_stops_before_it_shuts_down() {
    let mut rig = panics(Running, PanicAction::ExitFailure, ShutdownAction::Pause);
    assert_eq!(rig.serve(WRITE), Flow::Continue);
    let mut expected = vec![LINE, "GUEST_PANICKED poweroff @running"];
    expected.extend(STOPPED);
    expected.extend([
        "SHUTDOWN guest-panic @guest-panicked",
        "told shutdown guest-panic",
        "flush",
    ]);
    assert_eq!(rig.trace(), expected);
    assert_eq!(rig.state(), GuestPanicked);
}

#[test]
fn a_panic_that_pauses_only_stops() {
    let mut rig = panics(Running, PanicAction::Pause, ShutdownAction::Poweroff);
    assert_eq!(rig.serve(WRITE), Flow::Continue);
    let mut expected = vec![LINE, "GUEST_PANICKED pause @running"];
    expected.extend(STOPPED);
    assert_eq!(rig.trace(), expected);
}

#[test]
fn a_stopped_machine_that_panics_keeps_its_state() {
    let mut rig = panics(Paused, PanicAction::Pause, ShutdownAction::Poweroff);
    rig.serve(WRITE);
    assert_eq!(rig.trace(), [LINE, "GUEST_PANICKED pause @paused", "flush"]);
    assert_eq!(rig.state(), Paused);
}

#[test]
fn a_vcpu_that_panics_meanwhile_is_stopped_as_ever() {
    let mut rig = Rig::new(Running);
    let requests = rig.requests.clone();
    std::thread::scope(|scope| {
        rig.main_loop.requests.outside_vcpus(|| {
            scope
                .spawn(|| requests.raise(Request::GuestPanicked))
                .join()
                .unwrap();
        });
    });
    let exit = Exit::Shutdown {
        cause: ShutdownCause::GuestPanic,
        status: 0,
    };
    assert_eq!(rig.pass(), Flow::Exit(exit), "shutdown before the stop");
}

#[test]
fn what_else_it_raises_is_served_in_the_pass() {
    let mut rig = Rig::new(Paused);
    rig.raise_during(LINE, Request::Suspend);
    rig.serve(WRITE);
    assert_eq!(
        rig.trace(),
        [LINE],
        "dropped: paused -> suspended is illegal"
    );
    assert_eq!((rig.state(), rig.requests.dropped()), (Paused, 1));
}
