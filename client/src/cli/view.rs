//! Machines and events for people: messages in, cells and lines out.

use prost_types::Timestamp;
use serde_json::Value;

use super::{
    restart,
    table::{self, Layout},
    tone::Tone,
};
use crate::{
    json,
    names::{Spelled, event_data, event_name},
    v1::{
        CpuModel, CpuPin, Event, RunState, ShutdownCause, VirtioTransport, Vm, VmEnd, VmPhase,
        VmStatus, vm_end,
    },
};

/// The headings of [`machine`].
pub(super) const MACHINE: [&str; 7] = ["NAME", "PHASE", "STATE", "VCPUS", "MEMORY", "SEQ", "END"];

const EVENT: [&str; 6] = ["SEQ", "TIME", "VM", "EVENT", "DATA", "STATE"];
const EVENT_WIDTHS: [usize; 6] = [6, TIME, 12, 17, 40, 0];
/// The same on a terminal, where DATA has what is left, but at least its part here.
const EVENT_FITS: [usize; 6] = [6, TIME, 12, 17, 20, 14];
/// On a narrow one: 80 columns, without dates.
const EVENT_NARROW: [usize; 6] = [6, CLOCK, 10, 14, 14, 14];
/// A time in milliseconds.
const TIME: usize = "2026-11-22T16:51:06.084Z".len();
/// The same without date and zone.
const CLOCK: usize = "16:51:06.084".len();

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
        definition
            .memory_bytes
            .map_or_else(dash, crate::format_size),
        status.seq.to_string(),
        match (&status.end, &status.next_start_time) {
            (Some(how), Some(time)) => format!("{}; starts at {}", end(how), millis(time)),
            (Some(how), None) => end(how),
            (None, _) => dash(),
        },
    ]
}

/// Where a machine is: its run state or, once it has ended, that.
pub(super) fn state(vm: &Vm) -> String {
    let status = vm.status.clone().unwrap_or_default();
    match &status.end {
        Some(how) => format!("ended ({})", end(how)),
        None => word::<RunState>(status.state).to_owned(),
    }
}

/// Everything about a machine, a line each.
pub(super) fn details(vm: &Vm) -> Vec<String> {
    let [name, phase, state, vcpus, memory, seq, _] = machine(vm);
    let status = vm.status.clone().unwrap_or_default();
    let definition = vm.definition.clone().unwrap_or_default();
    let or_dash = |text: &str| {
        if text.is_empty() {
            dash()
        } else {
            printable(text)
        }
    };
    let boot = match (definition.kernel.as_str(), definition.firmware.as_str()) {
        ("", "") => vec![("firmware", "(built-in probe guest)".to_owned())],
        ("", path) => vec![("firmware", printable(path))],
        (path, _) => vec![
            ("kernel", printable(path)),
            ("initrd", or_dash(&definition.initrd)),
            ("cmdline", or_dash(&definition.cmdline)),
        ],
    };
    let cpu = match definition.cpu_template.as_str() {
        "" => word::<CpuModel>(definition.cpu_model).to_owned(),
        path => {
            let model = word::<CpuModel>(definition.cpu_model);
            format!("{model}, with template {}", printable(path))
        }
    };
    let actions = status
        .actions
        .as_ref()
        .map_or_else(dash, |set| words(&json::actions(set)));
    let state = match &status.end {
        Some(_) => format!("{state} (its last)"),
        None => state,
    };
    let head = [
        ("name", name),
        ("id", or_dash(&vm.id)),
        ("labels", labels(vm)),
        ("etag", or_dash(&vm.etag)),
        ("phase", phase),
        ("state", state),
        ("end", status.end.as_ref().map_or_else(dash, end)),
        ("vcpus", vcpus),
        ("cpu", cpu),
        ("share", cpu_share(&definition)),
        ("pins", pins(&definition.cpu_pins)),
        ("memory", memory),
    ];
    let disks = definition.disks.iter().enumerate();
    let disks = disks.map(|(index, disk)| (format!("d{index}"), words(&json::disk(disk))));
    let nets = definition.nets.iter().enumerate();
    let nets = nets.map(|(index, net)| (format!("n{index}"), words(&json::net(net))));
    let rng = if definition.rng { "virtio" } else { "-" };
    let vsock = definition.vsock.as_ref();
    let vsock = vsock.map_or_else(dash, |vsock| words(&json::vsock(vsock)));
    let balloon = definition.balloon.as_ref();
    let balloon = balloon.map_or_else(dash, |balloon| words(&json::balloon_device(balloon)));
    let ports = definition.console_ports.iter();
    let ports = ports.map(|port| ("port".to_owned(), words(&json::console_port(port))));
    let restart = restart::shown(definition.restart.as_ref(), &status);
    let tail = [
        ("rng", rng.to_owned()),
        ("vsock", vsock),
        ("balloon", balloon),
        (
            "virtio",
            word::<VirtioTransport>(definition.virtio_transport).to_owned(),
        ),
        ("serial", or_dash(&definition.serial_socket)),
        ("qmp", or_dash(&definition.qmp_socket)),
        ("actions", actions),
        ("restart", restart),
        (
            "created",
            vm.create_time.as_ref().map_or_else(dash, json::time),
        ),
        (
            "started",
            status.start_time.as_ref().map_or_else(dash, json::time),
        ),
        (
            "seq",
            format!("{seq} (the machine's own: {})", status.vm_seq),
        ),
    ];
    let named = |(key, value): (&str, String)| (key.to_owned(), value);
    let (head, boot) = (head.into_iter().map(named), boot.into_iter().map(named));
    head.chain(boot)
        .chain(disks)
        .chain(ports)
        .chain(nets)
        .chain(tail.into_iter().map(named))
        .map(|(key, value)| table::row(&[format!("{key}:"), value], &[9, 0]))
        .collect()
}

/// A machine's labels, as `--label` takes them.
pub(super) fn labels(vm: &Vm) -> String {
    if vm.labels.is_empty() {
        return dash();
    }
    let labels = vm.labels.iter();
    let labels = labels.map(|(key, value)| format!("{}={}", printable(key), printable(value)));
    labels.collect::<Vec<_>>().join(",")
}

/// Pinned vCPUs, as `--pin` takes them.
fn pins(pins: &[CpuPin]) -> String {
    if pins.is_empty() {
        return dash();
    }
    let pin = |pin: &CpuPin| format!("{}={}", pin.vcpu, ranges(&pin.host_cpus));
    pins.iter().map(pin).collect::<Vec<_>>().join(" ")
}

/// Numbers with neighbours drawn together: `0-3,6`.
fn ranges(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// A machine's status in one line.
pub(super) fn status(name: &str, status: &VmStatus, seq: u64) -> String {
    let state = match &status.end {
        Some(how) => format!("ended ({})", end(how)),
        None => word::<RunState>(status.state).to_owned(),
    };
    format!("{}: {state}, event {seq}", printable(name))
}

/// The table of events. Its columns have fixed widths, as the lines to come are not known.
pub(super) struct Events {
    layout: Layout,
    /// There is no room for dates.
    clock: bool,
    colored: bool,
}

impl Events {
    /// In at most `columns`, if that is given.
    pub(super) fn new(columns: Option<usize>, colored: bool) -> Self {
        let Some(columns) = columns else {
            let layout = Layout::new(&EVENT_WIDTHS, None);
            return Self {
                layout,
                clock: false,
                colored,
            };
        };
        let taken = |widths: &[usize; 6]| widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        let clock = columns < taken(&EVENT_FITS);
        let mut widths = if clock { EVENT_NARROW } else { EVENT_FITS };
        let left = columns.saturating_sub(taken(&widths));
        let [_, _, _, _, data, _] = &mut widths;
        *data += left;
        Self {
            layout: Layout::new(&widths, Some(columns)),
            clock,
            colored,
        }
    }

    /// The headings.
    pub(super) fn heads(&self) -> String {
        self.layout.line(&EVENT)
    }

    /// An event in one line.
    pub(super) fn line(&self, event: &Event) -> String {
        let mut cells = self::event(event);
        if self.clock {
            let [_, time, ..] = &mut cells;
            let clock = time.split('T').next_back().unwrap_or_default();
            *time = clock.trim_end_matches('Z').to_owned();
        }
        if !self.colored {
            return self.layout.line(&cells);
        }
        let tone = event.kind.as_ref().map_or(Tone::Plain, Tone::of_event);
        let plain = Tone::Plain;
        let state = Tone::of_state(event.state());
        let tones = [Tone::Faint, Tone::Faint, plain, tone, plain, state];
        self.layout.painted(&cells, &tones)
    }
}

/// An event's data without the time at which a machine ended: the line has it.
fn shown(mut data: Value) -> Value {
    if let Some(fields) = data.as_object_mut() {
        fields.retain(|key, value| key != "time" && !value.is_null());
    }
    data
}

/// An event's cells: its number, time, machine, name, data, and the run state after it.
pub(super) fn event(event: &Event) -> [String; 6] {
    let time = event.time.as_ref().map_or_else(dash, millis);
    let kind = event.kind.as_ref();
    let data = kind.map(|kind| words(&shown(event_data(kind))));
    [
        event.seq.to_string(),
        time,
        printable(&event.vm_name),
        kind.map_or("(unknown)", event_name).to_owned(),
        data.filter(|text| !text.is_empty()).unwrap_or_else(dash),
        // A call of the audit trail leaves none.
        RunState::spelling_of(event.state).unwrap_or("-").to_owned(),
    ]
}

/// A time in milliseconds.
fn millis(time: &Timestamp) -> String {
    let full = json::time(time);
    let millis = full.len().saturating_sub("000000Z".len());
    format!("{}Z", full.get(..millis).unwrap_or_default())
}

/// How a machine ended, in a few words.
fn end(end: &VmEnd) -> String {
    let how = match end.kind() {
        vm_end::Kind::Failed => format!("failed: {}", printable(&end.failure)),
        vm_end::Kind::Watchdog => "watchdog".to_owned(),
        vm_end::Kind::Lost => "lost: the daemon died".to_owned(),
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

/// What a machine gets of the host's processors.
pub(super) fn cpu_share(definition: &crate::v1::VmDefinition) -> String {
    let weight = definition.cpu_weight.unwrap_or(100);
    match definition.cpu_limit_millis {
        Some(limit) => format!("weight={weight} limit={}", f64::from(limit) / 1000.0),
        None => format!("weight={weight}"),
    }
}

/// The spelling of a message's field.
pub(super) fn word<E: Spelled>(raw: i32) -> &'static str {
    E::spelling_of(raw).unwrap_or("unknown")
}

pub(super) fn dash() -> String {
    "-".to_owned()
}

/// Text of others, with whatever could drive a terminal written out.
pub(super) fn printable(text: &str) -> String {
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
    use super::*;
    use crate::v1::event::{Kind, Reset};

    #[test]
    fn an_event_is_one_aligned_line() {
        let event = Event {
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
        };
        let table = Events::new(None, false);
        let (heads, line) = (table.heads(), table.line(&event));
        assert_eq!(
            line,
            "7       1970-01-01T00:00:00.123Z  web           RESET              guest=true reason=guest-reset             running"
        );
        assert_eq!(heads.find("STATE"), line.find("running"));
        assert_eq!(heads.find("EVENT"), line.find("RESET"));

        let wide = Events::new(Some(132), false).line(&event);
        assert_eq!(
            wide,
            "7       1970-01-01T00:00:00.123Z  web           RESET              guest=true reason=guest-reset                      running"
        );
        let narrow = Events::new(Some(80), true).line(&event);
        assert_eq!(
            narrow,
            "\x1b[2m7\x1b[0m       \x1b[2m00:00:00.123\x1b[0m  web         \x1b[33mRESET\x1b[0m           \
             guest=true re…  \x1b[32mrunning\x1b[0m"
        );
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

        let mut vm = Vm {
            status: Some(VmStatus {
                next_start_time: Some(Timestamp::default()),
                end: Some(VmEnd {
                    kind: vm_end::Kind::Watchdog.into(),
                    exit_status: 1,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let [.., end] = machine(&vm);
        assert_eq!(end, "watchdog, exit 1; starts at 1970-01-01T00:00:00.000Z");
        vm.status = Some(live);
        let [.., end] = machine(&vm);
        assert_eq!(end, "-");
    }

    #[test]
    fn pins_are_shown_as_they_are_typed() {
        let pin = |vcpu, host_cpus: &[u32]| CpuPin {
            vcpu,
            host_cpus: host_cpus.to_vec(),
        };
        assert_eq!(pins(&[]), "-");
        let some = [
            pin(0, &[2]),
            pin(3, &[0, 1, 2, 6, 8, 7]),
            pin(1, &[u32::MAX]),
        ];
        assert_eq!(pins(&some), "0=2 3=0-2,6,8,7 1=4294967295");
    }

    #[test]
    fn sizes_have_the_largest_whole_unit() {
        for (bytes, text) in [(0, "0"), (4097, "4097"), (4096, "4K"), (256 << 20, "256M")] {
            assert_eq!(crate::format_size(bytes), text);
        }
        assert_eq!(crate::format_size(3 << 30), "3G");
    }
}
