//! Every entry has a text of its own, and comes back from it.

use crate::runstate::{
    ActionChange, BlockErrorAction, BlockIoError, BlockOperation, Command, DeviceError,
    DeviceFault, DeviceId, DeviceKind, Emitted, Event, Exit, GuestPanicAction, PanicAction,
    RebootAction, Request, RunState, ShutdownAction, ShutdownCause, WakeupMask, WakeupReason,
    WatchdogAction,
    journal::{Answer, Call, Dropped, Ending, Entry, Input, MachineCall, Outcome, Taken},
};

fn all() -> Vec<Entry> {
    let texts = [
        "",
        " ",
        "a\nb\\c",
        "\u{0}\u{7f}\u{85}é'\"",
        "\\u{41}",
        "trailing ",
    ];
    let text = |text: &&str| (*text).to_owned();
    let mut entries: Vec<_> = texts.iter().map(text).map(Entry::Header).collect();
    entries.extend(
        texts
            .iter()
            .map(text)
            .map(Outcome::Failed)
            .map(Entry::Outcome),
    );
    entries.extend(
        texts
            .iter()
            .map(text)
            .map(Outcome::Refused)
            .map(Entry::Outcome),
    );
    for &call in MachineCall::ALL {
        let answers = [Answer::Ok, Answer::Errno(-5), Answer::Errno(28)];
        let failed = texts.iter().map(text).map(Answer::Failed);
        entries.extend(
            answers
                .into_iter()
                .chain(failed)
                .map(|it| Entry::Machine(call, it)),
        );
    }
    let mut requests = vec![
        Request::Debug,
        Request::Suspend,
        Request::SuspendDisk,
        Request::Powerdown,
        Request::GuestPanicked,
        Request::GuestCrashloaded,
        Request::WatchdogExpired,
    ];
    let mut taken = vec![Taken::Debug, Taken::Suspend, Taken::Powerdown, Taken::Nmi];
    let mut events = vec![
        Event::Stop,
        Event::Resume,
        Event::Powerdown,
        Event::Suspend,
        Event::SuspendDisk,
        Event::Wakeup,
        Event::GuestCrashloaded,
    ];
    for &cause in ShutdownCause::ALL {
        requests.extend([Request::Shutdown(cause), Request::Reset(cause)]);
        taken.extend([Taken::Shutdown(cause), Taken::Reset(cause)]);
        events.extend([Event::Shutdown(cause), Event::Reset(cause)]);
        for status in [0, 1, 255] {
            let exit = Exit::Shutdown { cause, status };
            entries.push(Entry::Outcome(Outcome::Exit(exit)));
        }
    }
    entries.push(Entry::Outcome(Outcome::Exit(Exit::Watchdog)));
    entries.push(Entry::Outcome(Outcome::Errno(28)));
    for &reason in WakeupReason::ALL {
        requests.push(Request::Wakeup(reason));
        taken.push(Taken::Wakeup(reason));
    }
    events.extend(
        GuestPanicAction::ALL
            .iter()
            .copied()
            .map(Event::GuestPanicked),
    );
    for &action in BlockErrorAction::ALL {
        for &operation in BlockOperation::ALL {
            for nospace in [None, Some(false), Some(true)] {
                let error = BlockIoError {
                    disk: 15,
                    operation,
                    action,
                    nospace,
                    errno: 28,
                };
                requests.push(Request::BlockIoError(error));
                events.push(Event::BlockIoError(error));
            }
        }
    }
    for &kind in DeviceKind::ALL {
        for &fault in DeviceFault::ALL {
            let device = DeviceId { kind, index: 255 };
            let error = DeviceError { device, fault };
            requests.push(Request::DeviceError(error));
            events.push(Event::DeviceError(error));
        }
    }
    for actual in [0, u64::MAX] {
        requests.push(Request::BalloonChange(actual));
        events.push(Event::BalloonChange(actual));
    }
    events.extend(WatchdogAction::ALL.iter().copied().map(Event::Watchdog));
    for &state in RunState::ALL {
        requests.push(Request::VmStop(state));
        taken.push(Taken::VmStop(state));
        entries.extend([Entry::State(state), Entry::Call(Call::Stop(state))]);
        let emitted = |event: &Event| Emitted {
            event: *event,
            state,
        };
        entries.extend(events.iter().map(emitted).map(Entry::Event));
    }
    let outside = requests.iter().copied().map(Input::RaiseOutside);
    entries.extend(outside.map(Entry::Input));
    entries.extend(requests.into_iter().map(Input::Raise).map(Entry::Input));
    entries.extend(taken.into_iter().map(Entry::Taken));
    entries.extend(Dropped::ALL.iter().copied().map(Entry::Dropped));
    entries.extend(Ending::ALL.iter().copied().map(Entry::End));
    entries.extend([0, 1, usize::MAX].map(Input::Collect).map(Entry::Input));
    let mut commands = vec![
        Command::Stop,
        Command::Cont,
        Command::SystemReset,
        Command::SystemPowerdown,
        Command::SystemWakeup,
        Command::InjectNmi,
        Command::PortWrite {
            port: 0xffff,
            value: u32::MAX,
            size: 4,
        },
        Command::Quit,
        Command::Kill,
        Command::SetAction(ActionChange::default()),
    ];
    let with = |change| Command::SetAction(change);
    for &panic in PanicAction::ALL {
        for &watchdog in WatchdogAction::ALL {
            let (panic, watchdog) = (Some(panic), Some(watchdog));
            commands.push(with(ActionChange {
                panic,
                watchdog,
                ..Default::default()
            }));
        }
    }
    for &shutdown in ShutdownAction::ALL {
        for &reboot in RebootAction::ALL {
            let (reboot, shutdown) = (Some(reboot), Some(shutdown));
            commands.push(with(ActionChange {
                reboot,
                shutdown,
                ..Default::default()
            }));
        }
    }
    entries.extend(commands.into_iter().map(Call::Command).map(Entry::Call));
    entries.extend([Entry::Call(Call::Pass), Entry::Call(Call::Start)]);
    for on in [false, true] {
        entries.push(Entry::Call(Call::WakeupSupported(on)));
        for pm_timer in [false, true] {
            let mask = WakeupMask { rtc: on, pm_timer };
            entries.push(Entry::Input(Input::Mask(mask)));
        }
    }
    entries
}

#[test]
fn every_entry_comes_back_from_its_text() {
    let mut texts = std::collections::HashSet::new();
    for entry in all() {
        let text = entry.to_string();
        assert!(!text.contains('\n'), "{text:?}");
        assert_eq!(Entry::parse(&text).as_ref(), Some(&entry), "{text:?}");
        assert!(texts.insert(text.clone()), "{text:?} twice");
    }
}

#[test]
fn entries_have_a_kind() {
    let kinds: std::collections::BTreeSet<_> = all().iter().map(Entry::kind).collect();
    let known = [
        "call", "end", "event", "input", "machine", "outcome", "start", "state", "take",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), known);
}
