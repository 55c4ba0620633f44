//! Machines and events as JSON objects with stable field names, for scripts: messages in, one
//! [`Value`] each out. A value that is not there is `null`, never left out.

use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    names::{Spelled, event_data, event_name},
    v1::{
        Actions, CommandResponse, Event, PanicAction, RebootAction, RunState, ShutdownAction,
        ShutdownCause, Vm, VmEnd, VmPhase, VmStatus, WatchdogAction, vm_end,
    },
};

/// A machine: `name`, `id`, `state`, `running`, `phase`, `seq`, `vm_seq`, `memory_bytes`, `vcpus`,
/// `firmware`, `serial_socket`, `qmp_socket`, `create_time`, `actions`, `end`.
pub fn vm(vm: &Vm) -> Value {
    let status = vm.status.clone().unwrap_or_default();
    let definition = vm.definition.clone().unwrap_or_default();
    json!({
        "name": vm.name,
        "id": vm.id,
        "state": RunState::spelling_of(status.state),
        "running": status.running,
        "phase": VmPhase::spelling_of(status.phase),
        "seq": status.seq,
        "vm_seq": status.vm_seq,
        "memory_bytes": definition.memory_bytes,
        "vcpus": definition.vcpus,
        "firmware": filled(&definition.firmware),
        "serial_socket": filled(&definition.serial_socket),
        "qmp_socket": filled(&definition.qmp_socket),
        "create_time": vm.create_time.as_ref().map(time),
        "actions": status.actions.as_ref().map(actions),
        "end": status.end.as_ref().map(end),
    })
}

/// What a command left of a machine: `name`, `state`, `running`, `phase`, `seq` (the last event the
/// command caused), `vm_seq`, `actions`, `end`.
pub fn command(name: &str, reply: &CommandResponse) -> Value {
    let status: VmStatus = reply.status.clone().unwrap_or_default();
    json!({
        "name": name,
        "state": RunState::spelling_of(status.state),
        "running": status.running,
        "phase": VmPhase::spelling_of(status.phase),
        "seq": reply.seq,
        "vm_seq": status.vm_seq,
        "actions": status.actions.as_ref().map(actions),
        "end": status.end.as_ref().map(end),
    })
}

/// An event: `seq`, `vm_seq`, `time`, `vm`, `vm_id`, `event`, `state`, `data`.
pub fn event(event: &Event) -> Value {
    json!({
        "seq": event.seq,
        "vm_seq": event.vm_seq,
        "time": event.time.as_ref().map(time),
        "vm": event.vm_name,
        "vm_id": event.vm_id,
        "event": event.kind.as_ref().map(event_name),
        "state": RunState::spelling_of(event.state),
        "data": event.kind.as_ref().map_or_else(|| Value::Object(Map::new()), event_data),
    })
}

/// How a machine ended: `kind`, `cause`, `exit_status`, `failure`, `time`.
pub fn end(end: &VmEnd) -> Value {
    json!({
        "kind": vm_end::Kind::spelling_of(end.kind),
        "cause": ShutdownCause::spelling_of(end.cause),
        "exit_status": end.exit_status,
        "failure": filled(&end.failure),
        "time": end.time.as_ref().map(time),
    })
}

/// The actions in force: `reboot`, `shutdown`, `panic`, `watchdog`.
pub fn actions(actions: &Actions) -> Value {
    json!({
        "reboot": RebootAction::spelling_of(actions.reboot),
        "shutdown": ShutdownAction::spelling_of(actions.shutdown),
        "panic": PanicAction::spelling_of(actions.panic),
        "watchdog": WatchdogAction::spelling_of(actions.watchdog),
    })
}

/// A time in RFC 3339, in UTC, always with nine digits of a second.
pub fn time(time: &Timestamp) -> String {
    let mut normal = *time;
    normal.normalize();
    let nanos = std::mem::take(&mut normal.nanos);
    let whole = normal.to_string();
    format!("{}.{nanos:09}Z", whole.trim_end_matches('Z'))
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{VmDefinition, event::Kind, event::Stop};

    #[test]
    fn times_always_have_nine_digits() {
        let at = |seconds, nanos| time(&Timestamp { seconds, nanos });
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z");
        assert_eq!(
            at(1_709_164_800, 120_000_000),
            "2024-02-29T00:00:00.120000000Z"
        );
    }

    #[test]
    fn a_machine_has_every_field_even_if_nothing_is_known() {
        let text = vm(&Vm::default()).to_string();
        assert_eq!(
            text,
            r#"{"name":"","id":"","state":null,"running":false,"phase":null,"seq":0,"vm_seq":0,"memory_bytes":null,"vcpus":null,"firmware":null,"serial_socket":null,"qmp_socket":null,"create_time":null,"actions":null,"end":null}"#
        );
    }

    #[test]
    fn a_machine_that_ended_tells_how() {
        let ended = VmEnd {
            kind: vm_end::Kind::Shutdown.into(),
            cause: ShutdownCause::HostQmpQuit.into(),
            exit_status: 0,
            failure: String::new(),
            time: Some(Timestamp {
                seconds: 1,
                nanos: 2,
            }),
        };
        let status = VmStatus {
            phase: VmPhase::Ended.into(),
            state: RunState::Shutdown.into(),
            end: Some(ended),
            ..Default::default()
        };
        let definition = VmDefinition {
            memory_bytes: Some(4096),
            ..Default::default()
        };
        let shown = vm(&Vm {
            name: "a".to_owned(),
            status: Some(status),
            definition: Some(definition),
            ..Default::default()
        });
        assert_eq!(shown["phase"], "ended");
        assert_eq!(shown["memory_bytes"], 4096);
        let text = r#"{"kind":"shutdown","cause":"host-qmp-quit","exit_status":0,"failure":null,"time":"1970-01-01T00:00:01.000000002Z"}"#;
        assert_eq!(shown["end"].to_string(), text);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let stop = Event {
            seq: 4,
            vm_seq: 3,
            time: Some(Timestamp {
                seconds: 0,
                nanos: 7,
            }),
            vm_id: "u".to_owned(),
            vm_name: "a".to_owned(),
            state: RunState::Paused.into(),
            kind: Some(Kind::Stop(Stop {})),
        };
        assert_eq!(
            event(&stop).to_string(),
            r#"{"seq":4,"vm_seq":3,"time":"1970-01-01T00:00:00.000000007Z","vm":"a","vm_id":"u","event":"STOP","state":"paused","data":{}}"#
        );
    }
}
