//! One journal, as it was written when the format was made: it must be written so, and replay, for ever.

use super::rig::{Fault, Plan, Rig, planned, replays};
use crate::runstate::{
    ActionChange, Command, PanicAction, Request, RunState, ShutdownAction, ShutdownCause,
    WakeupMask, WakeupReason, journal::Ending,
};

pub(super) const GOLDEN: &str = include_str!("golden.journal");

#[test]
fn the_golden_journal_is_written_and_replays() {
    let plan = Plan::from([
        (
            "pause",
            Box::new(|requests: &crate::runstate::Requests| {
                requests.raise(Request::Powerdown);
                Ok(())
            }) as Box<_>,
        ),
        ("flush", Box::new(|_: &_| Err(Fault::new("full"))) as Box<_>),
    ]);
    let mut rig = Rig::new(RunState::Prelaunch, planned(plan));
    rig.record();
    rig.requests.set_wakeup_mask(WakeupMask {
        rtc: false,
        pm_timer: false,
    });
    rig.serve(Command::Cont);
    rig.requests
        .raise(Request::Reset(ShutdownCause::GuestReset));
    rig.pass().unwrap();
    rig.requests.raise(Request::Suspend);
    rig.pass().unwrap();
    rig.requests.raise(Request::Wakeup(WakeupReason::Rtc));
    rig.pass().unwrap();
    rig.serve(Command::SystemWakeup);
    rig.serve(Command::SystemWakeup);
    rig.serve(Command::SetAction(ActionChange {
        panic: Some(PanicAction::ExitFailure),
        shutdown: Some(ShutdownAction::Poweroff),
        ..Default::default()
    }));
    rig.serve(Command::Stop);
    rig.serve(Command::Cont);
    rig.requests.raise(Request::GuestPanicked);
    rig.pass().unwrap();
    let journal = rig.end(Ending::Exit);
    assert_eq!(journal, GOLDEN, "\n{journal}");
    replays(GOLDEN);
}
