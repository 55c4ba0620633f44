//! Between the machine's types and those on the wire. The enumerations are matched by QEMU's spellings.

use std::time::SystemTime;

use vmctl::names::Spelled;
use vmd_proto::v1::{self, event, event::Kind, vm_end};
use vmm::{
    devices::virtio::{
        balloon::{Balloon, BalloonConfig},
        block::{Engine, Format},
        rate::RateLimit,
    },
    machine::{
        VirtioTransport,
        cpu::{CpuModel, CpuPin},
    },
    runstate::{
        ActionChange, Actions, ErrorPolicy, Event, GuestPanicAction, RunState, ShutdownCause,
    },
};

use crate::{
    access::Reach,
    vm::{
        ConsolePort, Definition, Disk, End, EndKind, Net, NetBackend, Record, RestartMode,
        RestartPolicy, Status, VmHandle,
    },
};

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
        Event::BlockIoError(error) => Kind::BlockIoError(event::BlockIoError {
            device: String::new(),
            node_name: format!("d{}", error.disk),
            operation: field::<event::BlockOperation>(error.operation.name()),
            action: field::<event::BlockErrorAction>(error.action.name()),
            nospace: error.nospace,
            reason: strerror(error.errno),
        }),
        Event::DeviceError(error) => Kind::DeviceError(event::DeviceError {
            device: error.device.to_string(),
            fault: field::<event::DeviceFault>(error.fault.name()),
        }),
        Event::BalloonChange(actual) => Kind::BalloonChange(event::BalloonChange { actual }),
        Event::GuestCrashloaded => Kind::GuestCrashloaded(event::GuestCrashloaded {
            action: panic_action(GuestPanicAction::Run),
        }),
    }
}

/// A device is gone. QEMU tells also where it was in its tree of objects.
pub fn device_deleted(device: String) -> Kind {
    let path = format!("/machine/peripheral/{device}");
    Kind::DeviceDeleted(event::DeviceDeleted { device, path })
}

/// The C library's words for an error.
fn strerror(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    let number = format!(" (os error {errno})");
    text.strip_suffix(&number).unwrap_or(&text).to_owned()
}

/// What a disk's error does; `default` if it is unspecified, `None` if there is no such policy.
pub fn error_policy(value: i32, default: ErrorPolicy) -> Option<ErrorPolicy> {
    match value {
        0 => Some(default),
        _ => v1::ErrorPolicy::spelling_of(value)?.parse().ok(),
    }
}

/// What a disk's image is; `None` if there is no such format.
pub fn disk_format(value: i32) -> Option<Format> {
    let format = v1::DiskFormat::try_from(value).ok()?;
    Some(match format {
        v1::DiskFormat::Unspecified => Format::Unsaid,
        v1::DiskFormat::Raw => Format::Raw,
        v1::DiskFormat::Qcow2 => Format::Qcow2,
    })
}

/// How a disk's I/O is done; `None` if there is no such way.
pub fn io_engine(value: i32) -> Option<Engine> {
    let engine = v1::IoEngine::try_from(value).ok()?;
    Some(match engine {
        v1::IoEngine::Unspecified | v1::IoEngine::Auto => Engine::Auto,
        v1::IoEngine::IoUring => Engine::IoUring,
        v1::IoEngine::Threads => Engine::Threads,
    })
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

/// A CPU model; the default if it is unspecified, `None` if there is no such.
pub fn cpu_model(value: i32) -> Option<CpuModel> {
    v1::CpuModel::try_from(value).ok().map(|model| match model {
        v1::CpuModel::Unspecified => CpuModel::default(),
        v1::CpuModel::Host => CpuModel::Host,
        v1::CpuModel::Portable => CpuModel::Portable,
    })
}

/// How virtio devices are reached; the default if it is unspecified, `None` if there is no such way.
pub fn virtio_transport(value: i32) -> Option<VirtioTransport> {
    let transport = v1::VirtioTransport::try_from(value).ok()?;
    Some(match transport {
        v1::VirtioTransport::Unspecified => VirtioTransport::default(),
        v1::VirtioTransport::Mmio => VirtioTransport::Mmio,
        v1::VirtioTransport::Pci => VirtioTransport::Pci,
    })
}

/// Which vCPUs are bound to which host CPUs.
pub fn cpu_pins(pins: Vec<v1::CpuPin>) -> Vec<CpuPin> {
    let pin = |v1::CpuPin { vcpu, host_cpus }| CpuPin { vcpu, host_cpus };
    pins.into_iter().map(pin).collect()
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
        EndKind::Lost => v1::VmEnd {
            kind: vm_end::Kind::Lost.into(),
            exit_status: 1,
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
        restarts: status.restarts,
        next_start_time: status.next_start.map(timestamp),
        start_time: Some(timestamp(status.started)),
    }
}

/// A network card.
fn net(net: &Net) -> v1::Net {
    let backend = match &net.backend {
        NetBackend::Tap(name) => v1::net::Backend::Tap(name.clone()),
        NetBackend::Passt(path) => v1::net::Backend::Passt(path.to_string_lossy().into_owned()),
    };
    v1::Net {
        backend: Some(backend),
        mac: mac(net.mac),
        mtu: net.mtu.map(u32::from),
        queues: Some(net.queues.into()),
        link_down: net.link_down,
        rx_rate_limit: rate_limit(net.limits.receive),
        tx_rate_limit: rate_limit(net.limits.send),
    }
}

/// An address of Ethernet's, as people write it.
fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// What a machine is built from.
pub fn definition(definition: &Definition) -> v1::VmDefinition {
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let kernel = definition.kernel.as_ref();
    let pin = |pin: &CpuPin| v1::CpuPin {
        vcpu: pin.vcpu,
        host_cpus: pin.host_cpus.clone(),
    };
    let disk = |disk: &Disk| v1::Disk {
        path: disk.path.to_string_lossy().into_owned(),
        read_only: disk.read_only,
        serial: disk.serial.clone(),
        rerror: field::<v1::ErrorPolicy>(disk.policies.read.name()),
        werror: field::<v1::ErrorPolicy>(disk.policies.write.name()),
        format: match disk.format {
            Format::Unsaid => v1::DiskFormat::Unspecified.into(),
            Format::Raw => v1::DiskFormat::Raw.into(),
            Format::Qcow2 => v1::DiskFormat::Qcow2.into(),
        },
        io_engine: match disk.engine {
            Engine::Auto => v1::IoEngine::Auto.into(),
            Engine::IoUring => v1::IoEngine::IoUring.into(),
            Engine::Threads => v1::IoEngine::Threads.into(),
        },
        queues: Some(disk.queues.into()),
        rate_limit: rate_limit(disk.rate_limit),
    };
    v1::VmDefinition {
        memory_bytes: Some(definition.memory_bytes),
        vcpus: Some(definition.vcpus),
        firmware: path(&definition.firmware),
        actions: Some(actions(definition.actions)),
        serial_socket: path(&definition.serial_socket),
        qmp_socket: path(&definition.qmp_socket),
        kernel: path(&kernel.map(|kernel| kernel.path.clone())),
        initrd: path(&kernel.and_then(|kernel| kernel.initrd.clone())),
        cmdline: kernel
            .map(|kernel| kernel.cmdline.clone())
            .unwrap_or_default(),
        cpu_model: match definition.cpu_model {
            CpuModel::Host => v1::CpuModel::Host.into(),
            CpuModel::Portable => v1::CpuModel::Portable.into(),
        },
        cpu_template: path(&definition.cpu_template),
        cpu_pins: definition.cpu_pins.iter().map(pin).collect(),
        cpu_weight: Some(definition.cpu_share.weight),
        cpu_limit_millis: definition.cpu_share.limit_millis,
        disks: definition.disks.iter().map(disk).collect(),
        rng: definition.rng,
        nets: definition.nets.iter().map(net).collect(),
        vsock: definition.vsock.as_ref().map(|vsock| v1::Vsock {
            cid: vsock.cid,
            path: vsock.path.to_string_lossy().into_owned(),
        }),
        balloon: definition.balloon.as_ref().map(balloon),
        console_ports: definition.console_ports.iter().map(console_port).collect(),
        virtio_transport: match definition.virtio_transport {
            VirtioTransport::Mmio => v1::VirtioTransport::Mmio.into(),
            VirtioTransport::Pci => v1::VirtioTransport::Pci.into(),
        },
        restart: restart(&definition.restart),
    }
}

/// When a machine is started again; `None` if it never is.
pub fn restart(policy: &RestartPolicy) -> Option<v1::RestartPolicy> {
    let mode = match policy.mode {
        RestartMode::Never => return None,
        RestartMode::OnFailure => v1::RestartMode::OnFailure,
        RestartMode::Always => v1::RestartMode::Always,
    };
    Some(v1::RestartPolicy {
        mode: mode.into(),
        max_restarts: policy.max_restarts,
        initial_backoff: policy.initial_backoff.try_into().ok(),
        max_backoff: policy.max_backoff.try_into().ok(),
    })
}

/// How fast a device may be; `None` if nothing limits it.
pub fn rate_limit(limit: RateLimit) -> Option<v1::RateLimit> {
    let RateLimit { bytes, ops } = limit;
    (limit != RateLimit::default()).then_some(v1::RateLimit {
        bytes_per_second: bytes.per_second,
        bytes_burst: bytes.burst,
        ops_per_second: ops.per_second,
        ops_burst: ops.burst,
    })
}

fn console_port(port: &ConsolePort) -> v1::ConsolePort {
    v1::ConsolePort {
        name: port.name.clone(),
        path: port.path.to_string_lossy().into_owned(),
        console: port.is_console,
    }
}

fn balloon(config: &BalloonConfig) -> v1::BalloonDevice {
    let seconds = config.statistics_interval.map_or(0, |time| time.as_secs());
    v1::BalloonDevice {
        size_bytes: config.size,
        stats_interval_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        deflate_on_oom: config.deflate_on_oom,
        free_page_reporting: config.free_page_reporting,
    }
}

/// What a balloon is at.
pub fn balloon_state(balloon: &Balloon) -> v1::QueryBalloonResponse {
    let stats = balloon.statistics().map(|stats| v1::BalloonStats {
        last_update: Some(timestamp(stats.time)),
        swap_in: stats.swap_in,
        swap_out: stats.swap_out,
        major_faults: stats.major_faults,
        minor_faults: stats.minor_faults,
        free_memory: stats.free_memory,
        total_memory: stats.total_memory,
        available_memory: stats.available_memory,
        disk_caches: stats.disk_caches,
        htlb_pgalloc: stats.hugetlb_allocations,
        htlb_pgfail: stats.hugetlb_failures,
    });
    v1::QueryBalloonResponse {
        actual_bytes: balloon.actual(),
        target_bytes: balloon.target(),
        stats,
    }
}

/// A machine, with its status as given.
pub fn vm(vm: &VmHandle, its_status: &Status) -> v1::Vm {
    record(&vm.record, its_status)
}

/// The same, by its record.
pub fn record(record: &Record, its_status: &Status) -> v1::Vm {
    v1::Vm {
        id: record.id.clone(),
        name: record.name.clone(),
        definition: Some(definition(&its_status.spec.definition)),
        status: Some(status(its_status)),
        create_time: Some(timestamp(record.created)),
        labels: its_status.spec.labels.clone(),
        etag: its_status.spec.etag(&record.id),
        any_path: its_status.spec.definition.reach == Reach::Anywhere,
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
    fn errors_are_in_the_c_librarys_words() {
        assert_eq!(strerror(5), "Input/output error");
        assert_eq!(strerror(28), "No space left on device");
    }

    #[test]
    fn policies_come_back_as_they_went() {
        for &policy in ErrorPolicy::ALL {
            let sent = field::<v1::ErrorPolicy>(policy.name());
            assert_ne!(sent, 0);
            assert_eq!(error_policy(sent, ErrorPolicy::Report), Some(policy));
        }
        assert_eq!(error_policy(0, ErrorPolicy::Stop), Some(ErrorPolicy::Stop));
        assert_eq!(error_policy(9, ErrorPolicy::Stop), None);
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
