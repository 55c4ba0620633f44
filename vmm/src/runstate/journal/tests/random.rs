//! Random machines, guests and clients: whatever they do, it replays.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use super::rig::{Fault, Lines, Rig, block_on, replays};
use crate::runstate::{
    ActionChange, Actions, BlockErrorAction, BlockIoError, BlockOperation, Command, CommandError,
    DeviceError, DeviceFault, DeviceId, DeviceKind, Flow, PanicAction, RebootAction, Request,
    Requests, RunState, ShutdownAction, ShutdownCause, TransitionTable, WakeupMask, WakeupReason,
    WatchdogAction,
    journal::{Ending, Tail, Transcript},
};

/// A small generator (splitmix64). Clones go on together.
#[derive(Clone)]
struct Dice(Arc<Mutex<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    fn below(&self, sides: usize) -> usize {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % sides as u64).unwrap()
    }

    fn one_in(&self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    fn of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn maybe<T: Copy>(&self, all: &[T]) -> Option<T> {
        self.one_in(2).then(|| self.of(all))
    }

    fn change(&self) -> ActionChange {
        ActionChange {
            reboot: self.maybe(RebootAction::ALL),
            // An end would be the end of most runs.
            shutdown: self.maybe(ShutdownAction::ALL).filter(|_| self.one_in(4)),
            panic: self.maybe(PanicAction::ALL),
            watchdog: self
                .maybe(WatchdogAction::ALL)
                .filter(|action| *action != WatchdogAction::Poweroff || self.one_in(8)),
        }
    }

    fn request(&self) -> Request {
        match self.below(15) {
            13 => Request::BalloonChange(self.below(1 << 20) as u64),
            12 => Request::DeviceError(DeviceError {
                device: DeviceId {
                    kind: self.of(DeviceKind::ALL),
                    index: 1,
                },
                fault: self.of(DeviceFault::ALL),
            }),
            11 => Request::BlockIoError(BlockIoError {
                disk: 0,
                operation: self.of(BlockOperation::ALL),
                action: self.of(BlockErrorAction::ALL),
                nospace: self.maybe(&[false, true]),
                errno: 5,
            }),
            0 => Request::Debug,
            1 | 2 => Request::Suspend,
            3 if self.one_in(4) => Request::SuspendDisk,
            4 => Request::Shutdown(self.of(ShutdownCause::ALL)),
            5 => Request::Reset(self.of(ShutdownCause::ALL)),
            6 => Request::Wakeup(self.of(WakeupReason::ALL)),
            7 => Request::Powerdown,
            8 => Request::VmStop(self.of(&[
                RunState::IoError,
                RunState::InternalError,
                RunState::Watchdog,
            ])),
            9 => Request::GuestPanicked,
            10 => Request::GuestCrashloaded,
            _ => Request::WatchdogExpired,
        }
    }

    /// What another thread does.
    fn meddle(&self, requests: &Requests) {
        match self.below(8) {
            0 => drop(requests.take_events()),
            1 => requests.set_wakeup_mask(WakeupMask {
                rtc: self.one_in(2),
                pm_timer: self.one_in(2),
            }),
            _ => requests.raise(self.request()),
        }
    }

    fn command(&self) -> Command {
        match self.below(16) {
            0..=2 => Command::Stop,
            3..=6 => Command::Cont,
            7 => Command::SystemReset,
            8 => Command::SystemPowerdown,
            9..=11 => Command::SystemWakeup,
            12 => Command::InjectNmi,
            13 | 14 => Command::SetAction(self.change()),
            _ if self.one_in(2) => Command::PortWrite {
                port: 0x505,
                value: 1,
                size: 1,
            },
            _ if self.one_in(5) => self.of(&[Command::Quit, Command::Kill]),
            _ => Command::Cont,
        }
    }
}

/// One life of a machine, as journaled.
fn journal(seed: u64) -> String {
    let dice = Dice::new(seed);
    let table = dice.of(&[TransitionTable::Seed, TransitionTable::Newest]);
    let pause = ActionChange {
        shutdown: Some(ShutdownAction::Pause),
        ..dice.change()
    };
    let state = if dice.one_in(2) {
        RunState::Running
    } else {
        dice.of(RunState::ALL)
    };
    let mut rig = Rig::with(table, Actions::default().with(pause), state, |requests| {
        let dice = dice.clone();
        move |call| {
            while dice.one_in(4) {
                dice.meddle(&requests);
            }
            // A failed flush or NMI does no harm; after others the machine is given up.
            let odds = if matches!(call, "flush") { 4 } else { 400 };
            if dice.one_in(odds) {
                return Err(Fault::new("no"));
            }
            Ok(())
        }
    });
    while dice.one_in(3) {
        dice.meddle(&rig.requests);
    }
    if dice.one_in(8) {
        rig.lines = Lines::new(2 + dice.below(200));
    }
    rig.record();
    let mut ending = Ending::Stopped;
    for _ in 0..60 {
        match run(&mut rig, &dice) {
            Some(it) => {
                ending = it;
                break;
            }
            None => while_between(&rig, &dice),
        }
    }
    while_between(&rig, &dice);
    rig.end(ending)
}

fn while_between(rig: &Rig, dice: &Dice) {
    while dice.one_in(2) {
        dice.meddle(&rig.requests);
    }
}

/// One turn of the machine's owner; how the machine ended, if it did.
fn run(rig: &mut Rig, dice: &Dice) -> Option<Ending> {
    let main_loop = &mut rig.main_loop;
    let is_failure = |error| matches!(error, CommandError::Failed(_));
    let failed = match dice.below(40) {
        0..=15 => block_on(main_loop.command(dice.command())).is_err_and(is_failure),
        16 => {
            block_on(main_loop.stop(dice.of(&[RunState::Paused, RunState::FinishMigrate]))).is_err()
        }
        // The table forbids it in few states.
        17 => main_loop.start().is_err_and(is_failure),
        18 => {
            main_loop.set_wakeup_supported(!dice.one_in(4));
            false
        }
        _ => match block_on(main_loop.pass()) {
            Ok(Flow::Continue) => false,
            Ok(Flow::Exit(_)) => return Some(Ending::Exit),
            Err(_) => true,
        },
    };
    failed.then_some(Ending::Failed)
}

const SEEDS: Range<u64> = 0..500;

#[test]
fn whatever_happens_replays_byte_for_byte() {
    let mut seen: Vec<&str> = Vec::new();
    let journals: Vec<_> = SEEDS.map(journal).collect();
    for text in &journals {
        replays(text);
        seen.push(text.lines().last().unwrap().rsplit(' ').next().unwrap());
    }
    let all: String = journals.concat();
    // The runs are worth something.
    for ending in ["exit", "failed", "stopped", "lost"] {
        let count = seen.iter().filter(|it| **it == ending).count();
        assert!(count > 8, "{ending}: {count}");
    }
    for part in [
        " checkpoint 2 reset ",
        " checkpoint 3 suspend",
        " take debug",
        " take shutdown ",
        " take wakeup ",
        " take powerdown",
        " take vmstop ",
        " take nmi",
        " dropped suspend",
        " dropped reset",
        " refused ",
        " failed ",
        " errno 28",
        " exit watchdog",
        " mask ",
        " raise-outside guest-panicked",
        " raise block-io-error ",
        " event BLOCK_IO_ERROR ",
        " collect ",
    ] {
        assert!(all.contains(part), "{part}");
    }
}

#[test]
fn wherever_a_recording_breaks_off_it_is_completed_and_replays() {
    for seed in SEEDS.step_by(25) {
        let text = journal(seed);
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        for count in 2..lines.len() {
            let cut = lines[..count].concat();
            Transcript::read(cut.as_bytes()).unwrap_err();
            let mut tail = Tail::new();
            tail.follow(cut.as_bytes()).unwrap();
            assert!(!tail.is_ended());
            replays(&(cut + &tail.end(Ending::Interrupted).unwrap()));
        }
    }
}
