//! Between the machine's types and those on the wire. The enumerations are matched by QEMU's spellings.

use std::time::SystemTime;

use vmctl::names::Spelled;
use vmd_proto::v1::{self, event, event::Kind, vm_end};
use vmm::runstate::{ActionChange, Actions, Event, GuestPanicAction, RunState, ShutdownCause};

use crate::vm::{Definition, End, EndKind, Status, VmHandle};

/// The wire's value that is spelled `name`, as a field holds it.
fn field<P: Spelled + Into<i32>>(name: &str) -> i32 {
    P::from_spelling(name).map_or(0, Into::into)
}

/// A run state.
pub fn run_state(state: RunState) -> i32 {
    field::<v1::RunState>(state.name())
}

fn cause(cause: ShutdownCause) -> i32 {
    field::<v1::ShutdownCause>(cause.name())
}

/// What an event says.
pub fn event_kind(event: Event) -> Kind {
    let panic_action = |action: GuestPanicAction| field::<event::GuestPanicAction>(action.name());
    match event {
        Event::Stop => Kind::Stop(event::Stop {}),
        Event::Resume => Kind::Resume(event::Resume {}),
        Event::Reset(reason) => Kind::Reset(event::Reset {
            guest: reason.is_guest(),
            reason: cause(reason),
        }),
        Event::Shutdown(reason) => Kind::Shutdown(event::Shutdown {
            guest: reason.is_guest(),
            reason: cause(reason),
        }),
        Event::Powerdown => Kind::Powerdown(event::Powerdown {}),
        Event::Suspend => Kind::Suspend(event::Suspend {}),
        Event::SuspendDisk => Kind::SuspendDisk(event::SuspendDisk {}),
        Event::Wakeup => Kind::Wakeup(event::Wakeup {}),
        Event::Watchdog(action) => Kind::Watchdog(event::Watchdog {
            action: field::<v1::WatchdogAction>(action.name()),
        }),
        Event::GuestPanicked(action) => Kind::GuestPanicked(event::GuestPanicked {
            action: panic_action(action),
        }),
        Event::GuestCrashloaded => Kind::GuestCrashloaded(event::GuestCrashloaded {
            action: panic_action(GuestPanicAction::Run),
        }),
    }
}

/// The actions in force.
pub fn actions(actions: Actions) -> v1::Actions {
    v1::Actions {
        reboot: field::<v1::RebootAction>(actions.reboot.name()),
        shutdown: field::<v1::ShutdownAction>(actions.shutdown.name()),
        panic: field::<v1::PanicAction>(actions.panic.name()),
        watchdog: field::<v1::WatchdogAction>(actions.watchdog.name()),
    }
}

/// An action field with a value that this daemon does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownAction {
    /// The field's name.
    pub field: &'static str,
    /// Its value.
    pub value: i32,
}

/// A change of the actions; what is unspecified stays. All values are checked before any is used.
pub fn action_change(actions: &v1::Actions) -> Result<ActionChange, UnknownAction> {
    /// The machine's value for a field; `None` if it is unspecified.
    fn value<P: Spelled, A: std::str::FromStr>(
        field: &'static str,
        value: i32,
    ) -> Result<Option<A>, UnknownAction> {
        if value == 0 {
            return Ok(None);
        }
        let known = P::spelling_of(value).and_then(|text| text.parse().ok());
        known.map(Some).ok_or(UnknownAction { field, value })
    }
    Ok(ActionChange {
        reboot: value::<v1::RebootAction, _>("reboot", actions.reboot)?,
        shutdown: value::<v1::ShutdownAction, _>("shutdown", actions.shutdown)?,
        panic: value::<v1::PanicAction, _>("panic", actions.panic)?,
        watchdog: value::<v1::WatchdogAction, _>("watchdog", actions.watchdog)?,
    })
}

/// How a machine ended.
pub fn end(end: &End) -> v1::VmEnd {
    let time = Some(end.time.into());
    match &end.kind {
        EndKind::Shutdown {
            cause: whose,
            exit_status,
        } => v1::VmEnd {
            kind: vm_end::Kind::Shutdown.into(),
            cause: cause(*whose),
            exit_status: (*exit_status).into(),
            time,
            ..Default::default()
        },
        EndKind::Watchdog => v1::VmEnd {
            kind: vm_end::Kind::Watchdog.into(),
            time,
            ..Default::default()
        },
        EndKind::Failed(why) => v1::VmEnd {
            kind: vm_end::Kind::Failed.into(),
            exit_status: 1,
            failure: why.clone(),
            time,
            ..Default::default()
        },
    }
}

/// A machine's status.
pub fn status(status: &Status) -> v1::VmStatus {
    let phase = if status.end.is_none() {
        v1::VmPhase::Live
    } else {
        v1::VmPhase::Ended
    };
    v1::VmStatus {
        phase: phase.into(),
        state: run_state(status.state),
        running: status.is_running(),
        seq: status.seq,
        vm_seq: status.vm_seq,
        actions: Some(actions(status.actions)),
        end: status.end.as_ref().map(end),
    }
}

fn definition(definition: &Definition) -> v1::VmDefinition {
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    v1::VmDefinition {
        memory_bytes: Some(definition.memory_bytes),
        vcpus: Some(definition.vcpus),
        firmware: path(&definition.firmware),
        actions: Some(actions(definition.actions)),
        serial_socket: path(&definition.serial_socket),
        qmp_socket: path(&definition.qmp_socket),
    }
}

/// A machine, with its status as given.
pub fn vm(vm: &VmHandle, its_status: &Status) -> v1::Vm {
    v1::Vm {
        id: vm.record.id.clone(),
        name: vm.record.name.clone(),
        definition: Some(definition(&vm.record.definition)),
        status: Some(status(its_status)),
        create_time: Some(timestamp(vm.record.created)),
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use vmm::runstate::{PanicAction, RebootAction, ShutdownAction, WatchdogAction};

    use super::*;

    #[test]
    fn every_value_of_the_machine_has_one_on_the_wire() {
        assert!(
            RunState::ALL
                .iter()
                .all(|state| run_state(*state) == *state as i32 + 1)
        );
        assert!(
            ShutdownCause::ALL
                .iter()
                .all(|whose| cause(*whose) == *whose as i32 + 1)
        );
    }

    #[test]
    fn actions_come_back_as_they_went() {
        for &reboot in RebootAction::ALL {
            for &shutdown in ShutdownAction::ALL {
                for &panic in PanicAction::ALL {
                    for &watchdog in WatchdogAction::ALL {
                        let sent = Actions {
                            reboot,
                            shutdown,
                            panic,
                            watchdog,
                        };
                        let change = action_change(&actions(sent)).unwrap();
                        assert_eq!(Actions::default().with(change), sent);
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_actions_are_named() {
        let sent = v1::Actions {
            reboot: 1,
            panic: 77,
            ..Default::default()
        };
        let unknown = UnknownAction {
            field: "panic",
            value: 77,
        };
        assert_eq!(action_change(&sent), Err(unknown));
        assert_eq!(
            action_change(&v1::Actions::default()),
            Ok(ActionChange::default())
        );
    }
}
