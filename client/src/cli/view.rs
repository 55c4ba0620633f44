//! Machines and events for people: messages in, cells and lines out.

use serde_json::Value;

use super::table;
use crate::{
    json,
    names::{Spelled, event_data, event_name},
    v1::{Event, RunState, ShutdownCause, Vm, VmEnd, VmPhase, VmStatus, vm_end},
};

/// The headings of [`machine`].
pub(super) const MACHINE: [&str; 7] = ["NAME", "PHASE", "STATE", "VCPUS", "MEMORY", "SEQ", "END"];

const EVENT: [&str; 6] = ["SEQ", "TIME", "VM", "EVENT", "DATA", "STATE"];
const EVENT_WIDTHS: [usize; 6] = [6, 24, 12, 17, 40, 0];

/// A machine's row.
pub(super) fn machine(vm: &Vm) -> [String; 7] {
    let status = vm.status.clone().unwrap_or_default();
    let definition = vm.definition.clone().unwrap_or_default();
    [
        printable(&vm.name),
        word::<VmPhase>(status.phase).to_owned(),
        word::<RunState>(status.state).to_owned(),
        definition
            .vcpus
            .map_or_else(dash, |count| count.to_string()),
        definition.memory_bytes.map_or_else(dash, size),
        status.seq.to_string(),
        status.end.as_ref().map_or_else(dash, end),
    ]
}

/// Everything about a machine, a line each.
pub(super) fn details(vm: &Vm) -> Vec<String> {
    let [name, phase, state, vcpus, memory, seq, end] = machine(vm);
    let status = vm.status.clone().unwrap_or_default();
    let definition = vm.definition.clone().unwrap_or_default();
    let or_dash = |text: &str| {
        if text.is_empty() {
            dash()
        } else {
            printable(text)
        }
    };
    let firmware = match definition.firmware.as_str() {
        "" => "(built-in probe guest)".to_owned(),
        path => printable(path),
    };
    let actions = status
        .actions
        .as_ref()
        .map_or_else(dash, |set| words(&json::actions(set)));
    let state = match &status.end {
        Some(_) => format!("{state} (its last)"),
        None => state,
    };
    [
        ("name", name),
        ("id", or_dash(&vm.id)),
        ("phase", phase),
        ("state", state),
        ("end", end),
        ("vcpus", vcpus),
        ("memory", memory),
        ("firmware", firmware),
        ("serial", or_dash(&definition.serial_socket)),
        ("qmp", or_dash(&definition.qmp_socket)),
        ("actions", actions),
        (
            "created",
            vm.create_time.as_ref().map_or_else(dash, json::time),
        ),
        (
            "seq",
            format!("{seq} (the machine's own: {})", status.vm_seq),
        ),
    ]
    .iter()
    .map(|(key, value)| table::row(&[format!("{key}:"), value.clone()], &[9, 0]))
    .collect()
}

/// A machine's status in one line.
pub(super) fn status(name: &str, status: &VmStatus, seq: u64) -> String {
    let state = match &status.end {
        Some(how) => format!("ended ({})", end(how)),
        None => word::<RunState>(status.state).to_owned(),
    };
    format!("{}: {state}, event {seq}", printable(name))
}

/// The headings of [`event`].
pub(super) fn event_heads() -> String {
    table::row(&EVENT, &EVENT_WIDTHS)
}

/// An event's data without the time at which a machine ended: the line has it.
fn shown(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|key, value| key != "time" && !value.is_null());
    }
    data
}

/// An event in one line. The columns have fixed widths, as the lines to come are not known.
pub(super) fn event(event: &Event) -> String {
    let time = event.time.as_ref().map_or_else(dash, |time| {
        let full = json::time(time);
        let millis = full.len().saturating_sub("000000Z".len());
        format!("{}Z", full.get(..millis).unwrap_or_default())
    });
    let data = event
        .kind
        .as_ref()
        .map(|kind| words(&shown(event_data(kind))));
    let cells = [
        event.seq.to_string(),
        time,
        printable(&event.vm_name),
        event
            .kind
            .as_ref()
            .map_or("(unknown)", event_name)
            .to_owned(),
        data.filter(|text| !text.is_empty()).unwrap_or_else(dash),
        word::<RunState>(event.state).to_owned(),
    ];
    table::row(&cells, &EVENT_WIDTHS)
}

/// How a machine ended, in a few words.
fn end(end: &VmEnd) -> String {
    let how = match end.kind() {
        vm_end::Kind::Failed => format!("failed: {}", printable(&end.failure)),
        vm_end::Kind::Watchdog => "watchdog".to_owned(),
        vm_end::Kind::Shutdown => word::<ShutdownCause>(end.cause).to_owned(),
        vm_end::Kind::Unspecified => "unknown".to_owned(),
    };
    format!("{how}, exit {}", end.exit_status)
}

/// A flat object as `key=value` words; what is null is left out, and so is the time, which the
/// event has already.
fn words(object: &Value) -> String {
    let fields = object.as_object().into_iter().flatten();
    let words = fields.filter(|(key, value)| !value.is_null() && *key != "time");
    let words = words.map(|(key, value)| match value.as_str() {
        Some(text) => format!("{key}={}", printable(text)),
        None => format!("{key}={value}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Bytes in the largest unit that needs no fraction.
fn size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.into_iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn word<E: Spelled>(raw: i32) -> &'static str {
    E::spelling_of(raw).unwrap_or("unknown")
}

fn dash() -> String {
    "-".to_owned()
}

/// Text of others, with whatever could drive a terminal written out.
fn printable(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut safe, c| {
            match c.is_control() {
                true => safe.extend(c.escape_default()),
                false => safe.push(c),
            }
            safe
        })
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::v1::event::{Kind, Reset};

    #[test]
    fn an_event_is_one_aligned_line() {
        let line = event(&Event {
            seq: 7,
            time: Some(Timestamp {
                seconds: 0,
                nanos: 123_456_789,
            }),
            vm_name: "web".to_owned(),
            state: RunState::Running.into(),
            kind: Some(Kind::Reset(Reset {
                guest: true,
                reason: ShutdownCause::GuestReset.into(),
            })),
            ..Default::default()
        });
        let heads = event_heads();
        assert_eq!(
            line,
            "7       1970-01-01T00:00:00.123Z  web           RESET              guest=true reason=guest-reset             running"
        );
        assert_eq!(heads.find("STATE"), line.find("running"));
        assert_eq!(heads.find("EVENT"), line.find("RESET"));
    }

    #[test]
    fn an_end_is_told_in_a_few_words() {
        let failed = VmEnd {
            kind: vm_end::Kind::Failed.into(),
            failure: "vCPU 0 \u{1b}[2J".to_owned(),
            exit_status: 1,
            ..Default::default()
        };
        let ended = VmStatus {
            end: Some(failed),
            ..Default::default()
        };
        assert_eq!(
            status("a", &ended, 9),
            r"a: ended (failed: vCPU 0 \u{1b}[2J, exit 1), event 9"
        );
        let live = VmStatus {
            state: RunState::Paused.into(),
            ..Default::default()
        };
        assert_eq!(status("a", &live, 3), "a: paused, event 3");
    }

    #[test]
    fn sizes_have_the_largest_whole_unit() {
        for (bytes, text) in [(0, "0"), (4097, "4097"), (4096, "4K"), (256 << 20, "256M")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(3 << 30), "3G");
    }
}
