//! Machines and events as JSON objects with stable field names, for scripts: messages in, one
//! [`Value`] each out. A value that is not there is `null`, never left out.

use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    names::{Spelled, event_data, event_name},
    v1::{
        Actions, BalloonDevice, CommandResponse, ConsolePort, CpuModel, CpuPin, DeviceAddResponse,
        Disk, DiskFormat, ErrorPolicy, Event, ExitKind, IoEngine, Net, PanicAction,
        QueryBalloonResponse, RateLimit, RebootAction, RestartMode, RestartPolicy, RunState,
        ShutdownAction, ShutdownCause, VirtioTransport, Vm, VmEnd, VmPhase, VmStats, VmStatus,
        Vsock, WatchdogAction, net, vm_end,
    },
};

/// A machine: `name`, `id`, `state`, `running`, `phase`, `seq`, `vm_seq`, `labels`, `etag`, `memory_bytes`, `vcpus`,
/// `firmware`, `kernel`, `initrd`, `cmdline`, `serial_socket`, `qmp_socket`, `cpu_model`, `cpu_template`,
/// `cpu_pins`, `cpu_weight`, `cpu_limit_millis`, `disks`, `nets`, `rng`, `vsock`, `balloon`, `console_ports`, `virtio_transport`, `create_time`, `actions`, `end`,
/// `restart`, `restarts`, `next_start_time`, `start_time`.
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
        "labels": vm.labels,
        "etag": filled(&vm.etag),
        "memory_bytes": definition.memory_bytes,
        "vcpus": definition.vcpus,
        "firmware": filled(&definition.firmware),
        "kernel": filled(&definition.kernel),
        "initrd": filled(&definition.initrd),
        "cmdline": filled(&definition.cmdline),
        "serial_socket": filled(&definition.serial_socket),
        "qmp_socket": filled(&definition.qmp_socket),
        "cpu_model": CpuModel::spelling_of(definition.cpu_model),
        "cpu_template": filled(&definition.cpu_template),
        "cpu_pins": definition.cpu_pins.iter().map(pin).collect::<Vec<_>>(),
        "cpu_weight": definition.cpu_weight,
        "cpu_limit_millis": definition.cpu_limit_millis,
        "disks": definition.disks.iter().map(disk).collect::<Vec<_>>(),
        "nets": definition.nets.iter().map(net).collect::<Vec<_>>(),
        "rng": definition.rng,
        "vsock": definition.vsock.as_ref().map(vsock),
        "balloon": definition.balloon.as_ref().map(balloon_device),
        "console_ports": definition.console_ports.iter().map(console_port).collect::<Vec<_>>(),
        "virtio_transport": VirtioTransport::spelling_of(definition.virtio_transport),
        "create_time": vm.create_time.as_ref().map(time),
        "actions": status.actions.as_ref().map(actions),
        "end": status.end.as_ref().map(end),
        "restart": definition.restart.as_ref().map(restart),
        "restarts": status.restarts,
        "next_start_time": status.next_start_time.as_ref().map(time),
        "start_time": status.start_time.as_ref().map(time),
    })
}

/// A restart policy: `mode`, `max` (0 is no limit), `backoff` and `max_backoff` in seconds.
pub fn restart(policy: &RestartPolicy) -> Value {
    let seconds = |time: &Option<prost_types::Duration>| {
        let time = std::time::Duration::try_from(time.unwrap_or_default()).unwrap_or_default();
        time.as_secs_f64()
    };
    json!({
        "mode": RestartMode::spelling_of(policy.mode),
        "max": policy.max_restarts,
        "backoff": seconds(&policy.initial_backoff),
        "max_backoff": seconds(&policy.max_backoff),
    })
}

/// A machine, and what it looks like from outside: what [`vm`] tells, `uptime` (nanoseconds by run state), `last_exit`
/// (of each vCPU), `cpu_time_nanos`, `console_tail`.
pub fn vm_with_stats(machine: &Vm, stats: &VmStats) -> Value {
    let mut told = vm(machine);
    let uptime = stats.state_times.iter().filter_map(|time| {
        let state = RunState::spelling_of(time.state)?;
        Some((state.to_owned(), json!(time.nanos)))
    });
    let exits = stats.last_exits.iter();
    let exits: Vec<_> = exits.map(|kind| ExitKind::spelling_of(*kind)).collect();
    if let Some(fields) = told.as_object_mut() {
        fields.insert("uptime".to_owned(), Value::Object(uptime.collect()));
        fields.insert("last_exit".to_owned(), json!(exits));
        fields.insert("cpu_time_nanos".to_owned(), json!(stats.cpu_time_nanos));
        fields.insert("console_tail".to_owned(), json!(stats.console_tail));
    }
    told
}

/// A disk: `path`, `read_only`, `serial`, `rerror`, `werror`, `format`, `queues`, `aio`,
/// `rate_limit`.
pub fn disk(disk: &Disk) -> Value {
    json!({
        "path": disk.path,
        "read_only": disk.read_only,
        "serial": filled(&disk.serial),
        "rerror": ErrorPolicy::spelling_of(disk.rerror),
        "werror": ErrorPolicy::spelling_of(disk.werror),
        "format": DiskFormat::spelling_of(disk.format),
        "queues": disk.queues,
        "aio": IoEngine::spelling_of(disk.io_engine),
        "rate_limit": disk.rate_limit.as_ref().map(rate_limit),
    })
}

/// A network card: `tap` or `passt`, `mac`, `mtu`, `queues`, `link_down`, `rx_rate_limit`, `tx_rate_limit`.
pub fn net(card: &Net) -> Value {
    let (tap, passt) = match &card.backend {
        Some(net::Backend::Tap(name)) => (Some(name), None),
        Some(net::Backend::Passt(path)) => (None, Some(path)),
        None => (None, None),
    };
    json!({
        "tap": tap,
        "passt": passt,
        "mac": filled(&card.mac),
        "mtu": card.mtu,
        "queues": card.queues,
        "link_down": card.link_down,
        "rx_rate_limit": card.rx_rate_limit.as_ref().map(rate_limit),
        "tx_rate_limit": card.tx_rate_limit.as_ref().map(rate_limit),
    })
}

/// A rate limit: `bps`, `bps_burst`, `iops`, `iops_burst`; 0 is none.
pub fn rate_limit(limit: &RateLimit) -> Value {
    json!({
        "bps": limit.bytes_per_second,
        "bps_burst": limit.bytes_burst,
        "iops": limit.ops_per_second,
        "iops_burst": limit.ops_burst,
    })
}

/// A port of a console device: `name`, `path`, `console`.
pub fn console_port(port: &ConsolePort) -> Value {
    json!({ "name": port.name, "path": port.path, "console": port.console })
}

/// A balloon of a definition: `size_bytes`, `stats_interval_seconds`, `deflate_on_oom`, `free_page_reporting`.
pub fn balloon_device(balloon: &BalloonDevice) -> Value {
    json!({
        "size_bytes": balloon.size_bytes,
        "stats_interval_seconds": balloon.stats_interval_seconds,
        "deflate_on_oom": balloon.deflate_on_oom,
        "free_page_reporting": balloon.free_page_reporting,
    })
}

/// What a balloon is at: `name`, `actual_bytes`, `target_bytes`, `stats` (`last_update`, and QEMU's names with `_`).
pub fn balloon(name: &str, balloon: &QueryBalloonResponse) -> Value {
    let stats = balloon.stats.as_ref().map(|stats| {
        json!({
            "last_update": stats.last_update.as_ref().map(time),
            "swap_in": stats.swap_in,
            "swap_out": stats.swap_out,
            "major_faults": stats.major_faults,
            "minor_faults": stats.minor_faults,
            "free_memory": stats.free_memory,
            "total_memory": stats.total_memory,
            "available_memory": stats.available_memory,
            "disk_caches": stats.disk_caches,
            "htlb_pgalloc": stats.htlb_pgalloc,
            "htlb_pgfail": stats.htlb_pgfail,
        })
    });
    json!({
        "name": name,
        "actual_bytes": balloon.actual_bytes,
        "target_bytes": balloon.target_bytes,
        "stats": stats,
    })
}

/// A socket device: `cid`, `path`.
pub fn vsock(vsock: &Vsock) -> Value {
    json!({ "cid": vsock.cid, "path": vsock.path })
}

/// A pinned vCPU: `vcpu`, `host_cpus`.
fn pin(pin: &CpuPin) -> Value {
    json!({ "vcpu": pin.vcpu, "host_cpus": pin.host_cpus })
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

/// A device that was added: what [`command`] tells, and `device`, what it is called.
pub fn device(name: &str, reply: &DeviceAddResponse) -> Value {
    let answer = CommandResponse {
        status: reply.status.clone(),
        seq: reply.seq,
    };
    let mut told = command(name, &answer);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("device".to_owned(), json!(reply.device));
    }
    told
}

/// An event: `seq`, `vm_seq`, `time`, `vm`, `vm_id`, `event`, `state`, `data`, `labels` (after the event).
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
        "labels": event.labels,
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
    use crate::v1::{StateTime, VmDefinition, event::Kind, event::Stop};

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
            r#"{"name":"","id":"","state":null,"running":false,"phase":null,"seq":0,"vm_seq":0,"labels":{},"etag":null,"memory_bytes":null,"vcpus":null,"firmware":null,"kernel":null,"initrd":null,"cmdline":null,"serial_socket":null,"qmp_socket":null,"cpu_model":null,"cpu_template":null,"cpu_pins":[],"cpu_weight":null,"cpu_limit_millis":null,"disks":[],"nets":[],"rng":false,"vsock":null,"balloon":null,"console_ports":[],"virtio_transport":null,"create_time":null,"actions":null,"end":null,"restart":null,"restarts":0,"next_start_time":null,"start_time":null}"#
        );
    }

    #[test]
    fn a_machine_with_stats_has_them_at_its_end() {
        let time = |state: RunState, nanos| StateTime {
            state: state.into(),
            nanos,
        };
        let stats = VmStats {
            state_times: vec![time(RunState::Running, 7), time(RunState::Paused, 8)],
            last_exits: vec![ExitKind::Io.into(), ExitKind::Unspecified.into()],
            console_tail: "a\u{1b}\n".to_owned(),
            cpu_time_nanos: 9,
        };
        let text = vm_with_stats(&Vm::default(), &stats).to_string();
        let end = r#""start_time":null,"uptime":{"running":7,"paused":8},"last_exit":["io",null],"cpu_time_nanos":9,"console_tail":"a\u001b\n"}"#;
        assert!(text.ends_with(end), "{text}");
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
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            kind: Some(Kind::Stop(Stop {})),
        };
        assert_eq!(
            event(&stop).to_string(),
            r#"{"seq":4,"vm_seq":3,"time":"1970-01-01T00:00:00.000000007Z","vm":"a","vm_id":"u","event":"STOP","state":"paused","data":{},"labels":{"env":"prod"}}"#
        );
    }
}
