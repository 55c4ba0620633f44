//! Everything there is to tell, as it stands at one moment.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::{MetricType, exemplar::Exemplar},
};
use vmm::{
    counters::{Counters, ExitKind, LATENCY_BOUNDS, Latency, NamedCounters},
    runstate::RunState,
};

use super::{devices::of_devices, process::Process};
use crate::{
    Daemon,
    limits::Usage,
    vm::{EndKind, Status, VmHandle},
};

/// Tells of one daemon and all its machines.
pub(super) struct Collect(pub(super) Weak<Daemon>);

impl fmt::Debug for Collect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collect")
    }
}

impl Collector for Collect {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(daemon) = self.0.upgrade() else {
            return Ok(());
        };
        let mut out = Families(encoder);
        let vms: Vec<_> = daemon.registry.list().into_iter().map(Vm::of).collect();
        of_daemon(&daemon, &mut out)?;
        of_limits(&daemon, &mut out)?;
        of_all(&daemon, &vms, &mut out)?;
        of_calls(&daemon, &mut out)?;
        of_process(&mut out)?;
        of_each(&vms, &mut out)?;
        of_devices(&vms, &mut out)
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families of metrics, one after the other.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        each(&mut Samples(
            self.0.encode_descriptor(name, help, None, kind)?,
        ))
    }

    /// `name` without its `_total`.
    pub(super) fn counters(
        &mut self,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(MetricType::Counter, name, help, each)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(MetricType::Gauge, name, help, each)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, |samples| samples.gauge(&[], value))
    }

    fn latencies(
        &mut self,
        name: &str,
        help: &str,
        each: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(MetricType::Histogram, name, help, each)
    }
}

/// The samples of one family.
pub(super) struct Samples<'a>(MetricEncoder<'a>);

type NoLabels = [(&'static str, &'static str); 0];

impl Samples<'_> {
    pub(super) fn counter(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        let none = None::<&Exemplar<NoLabels, f64>>;
        self.0.encode_family(&labels)?.encode_counter(&value, none)
    }

    /// One that counts seconds.
    pub(super) fn seconds(&mut self, labels: Labels<'_>, value: f64) -> fmt::Result {
        let none = None::<&Exemplar<NoLabels, f64>>;
        self.0.encode_family(&labels)?.encode_counter(&value, none)
    }

    fn gauge(&mut self, labels: Labels<'_>, value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    fn latency(&mut self, labels: Labels<'_>, latency: &Latency) -> fmt::Result {
        let counts = latency.buckets();
        let bounds = LATENCY_BOUNDS.iter().map(Duration::as_secs_f64);
        // The encoder writes the largest as +Inf.
        let buckets: Vec<_> = bounds.chain([f64::MAX]).zip(counts).collect();
        let (sum, count) = (latency.sum().as_secs_f64(), counts.iter().sum());
        let mut encoder = self.0.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabels>(sum, count, &buckets, None)
    }
}

/// A machine, and what of it is looked at more than once.
pub(super) struct Vm {
    handle: Arc<VmHandle>,
    status: Status,
    counters: Arc<Counters>,
    pub(super) devices: Arc<[NamedCounters]>,
}

impl Vm {
    fn of(handle: Arc<VmHandle>) -> Self {
        let counters = handle.counters();
        Self {
            status: handle.status(),
            devices: counters.devices(),
            counters,
            handle,
        }
    }

    /// Its labels, and others.
    pub(super) fn with<'a, const N: usize>(
        &'a self,
        others: [(&'a str, &'a str); N],
    ) -> Vec<(&'a str, &'a str)> {
        let record = &self.handle.record;
        let mut labels = vec![("vm", record.name.as_str()), ("id", record.id.as_str())];
        labels.extend(others);
        labels
    }

    fn phase(&self) -> &'static str {
        phase(self.status.end.is_some())
    }
}

fn phase(ended: bool) -> &'static str {
    if ended { "ended" } else { "live" }
}

fn of_daemon(daemon: &Daemon, out: &mut Families<'_>) -> fmt::Result {
    out.gauges("vmd_build_info", "The program that runs.", |samples| {
        samples.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1)
    })?;
    let (readers, slowest) = daemon.metrics.readers.slowest();
    // Read after the readers' places: none is ahead of it.
    let newest = daemon.events.newest();
    let lag = newest.saturating_sub(slowest.unwrap_or(newest));
    out.counters(
        "vmd_events",
        "Events of all machines; the newest one's number.",
        |samples| samples.counter(&[], newest),
    )?;
    let kept = daemon.events.kept();
    out.gauge(
        "vmd_events_kept",
        "Events that a reader can still ask for.",
        kept,
    )?;
    let help = "Streams of events and of machines, and QMP sessions.";
    out.gauge("vmd_event_readers", help, readers as u64)?;
    let help = "How many events the slowest reader has not taken yet.";
    out.gauge("vmd_event_reader_lag", help, lag)
}

/// What is used of the limits, and what they refused.
fn of_limits(daemon: &Daemon, out: &mut Families<'_>) -> fmt::Result {
    let usage = daemon.limits.usage();
    let each = |samples: &mut Samples<'_>, value: fn(&Usage) -> Option<u64>| {
        usage.iter().try_for_each(|usage| {
            let labels = [
                ("label", usage.group.as_deref().unwrap_or_default()),
                ("quota", usage.what),
            ];
            value(usage).map_or(Ok(()), |value| samples.gauge(&labels, value))
        })
    };
    let help = "What machines take of the daemon's quotas (no label) and of those of labels; memory in bytes.";
    out.gauges("vmd_quota_used", help, |samples| {
        each(samples, |usage| Some(usage.used))
    })?;
    let help = "How much they may take. A quota that is not set is not here.";
    out.gauges("vmd_quota_limit", help, |samples| {
        each(samples, |usage| usage.limit)
    })?;
    let help = "Calls, and starts by a restart policy, that a limit was in the way of, by reason.";
    out.counters("vmd_limit_refusals", help, |samples| {
        let mut refused = daemon.limits.refused().into_iter();
        refused.try_for_each(|(reason, count)| samples.counter(&[("reason", reason)], count))
    })
}

/// The machines together.
fn of_all(daemon: &Daemon, vms: &[Vm], out: &mut Families<'_>) -> fmt::Result {
    let help = "Machines, by phase and run state; of an ended machine, its last.";
    out.gauges("vmd_machines", help, |samples| {
        for ended in [false, true] {
            for state in RunState::ALL {
                let is_one =
                    |vm: &&Vm| vm.status.end.is_some() == ended && vm.status.state == *state;
                let count = vms.iter().filter(is_one).count() as u64;
                samples.gauge(&[("phase", phase(ended)), ("state", state.name())], count)?;
            }
        }
        Ok(())
    })?;
    let help = "Machines that are being created.";
    out.gauge("vmd_machines_creating", help, daemon.creations.len() as u64)?;
    let help = "Machines that have ended and still hold something of the host's.";
    out.gauge("vmd_machines_closing", help, daemon.closing() as u64)
}

fn of_calls(daemon: &Daemon, out: &mut Families<'_>) -> fmt::Result {
    let calls = &daemon.metrics.calls;
    out.counters(
        "vmd_grpc_calls",
        "Calls that came to their end, by code.",
        |samples| {
            for method in calls.methods() {
                for (code, count) in method.codes() {
                    let [service, name] = method.labels();
                    samples.counter(&[service, name, ("code", code)], count)?;
                }
            }
            Ok(())
        },
    )?;
    let help = "How long calls took until they were answered; a stream, until it began.";
    out.latencies("vmd_grpc_answer_seconds", help, |samples| {
        let answered = calls.methods().filter(|method| method.was_called());
        answered
            .into_iter()
            .try_for_each(|method| samples.latency(&method.labels(), &method.answer))
    })?;
    out.gauges(
        "vmd_grpc_open_calls",
        "Calls and streams under way.",
        |samples| {
            let open = calls.methods().filter(|method| method.was_called());
            open.into_iter()
                .try_for_each(|method| samples.gauge(&method.labels(), method.open()))
        },
    )
}

fn of_process(out: &mut Families<'_>) -> fmt::Result {
    let process = Process::read();
    let help = "Processor time of the daemon and its guests.";
    out.counters("process_cpu_seconds", help, |samples| {
        process
            .cpu_seconds
            .map_or(Ok(()), |time| samples.seconds(&[], time))
    })?;
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Memory in use.",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Address space in use.",
            process.virtual_bytes,
        ),
        (
            "process_threads",
            "Threads, those of vCPUs among them.",
            process.threads,
        ),
        (
            "process_open_fds",
            "Open file descriptors.",
            process.open_fds,
        ),
        ("process_max_fds", "Most file descriptors.", process.max_fds),
    ];
    for (name, help, value) in gauges {
        out.gauges(name, help, |samples| {
            value.map_or(Ok(()), |value| samples.gauge(&[], value))
        })?;
    }
    let help = "When the daemon was started, in seconds since 1970.";
    out.gauges("process_start_time_seconds", help, |samples| {
        let time = process.start_time.map(|time| samples.0.encode_gauge(&time));
        time.unwrap_or(Ok(()))
    })
}

/// Each machine.
fn of_each(vms: &[Vm], out: &mut Families<'_>) -> fmt::Result {
    let help = "1 for the run state that the machine is in, or was in last.";
    out.gauges("vmd_vm_state", help, |samples| {
        vms.iter().try_for_each(|vm| {
            let state = vm.status.state.name();
            samples.gauge(&vm.with([("phase", vm.phase()), ("state", state)]), 1)
        })
    })?;
    let help = "1 for how and by whom the machine was ended, if it has.";
    out.gauges("vmd_vm_end", help, |samples| {
        vms.iter().try_for_each(|vm| {
            let (kind, cause) = match vm.status.end.as_ref().map(|end| &end.kind) {
                None => return Ok(()),
                Some(EndKind::Shutdown { cause, .. }) => ("shutdown", cause.name()),
                Some(EndKind::Watchdog) => ("watchdog", ""),
                Some(EndKind::Lost) => ("lost", ""),
                Some(EndKind::Failed(_)) => ("failed", ""),
            };
            samples.gauge(&vm.with([("kind", kind), ("cause", cause)]), 1)
        })
    })?;
    let help = "How long the machine was in each run state.";
    out.counters("vmd_vm_state_seconds", help, |samples| {
        vms.iter().try_for_each(|vm| {
            vm.handle
                .meter
                .times()
                .into_iter()
                .try_for_each(|(state, time)| {
                    samples.seconds(&vm.with([("state", state.name())]), time.as_secs_f64())
                })
        })
    })?;
    let help = "How long its vCPUs used the host's processors.";
    out.counters("vmd_vm_cpu_seconds", help, |samples| {
        vms.iter()
            .try_for_each(|vm| samples.seconds(&vm.with([]), vm.handle.cpu_time().as_secs_f64()))
    })?;
    out.gauges("vmd_vm_vcpus", "vCPUs of the machine.", |samples| {
        let vcpus = |vm: &Vm| vm.handle.spec().definition.vcpus.into();
        vms.iter()
            .try_for_each(|vm| samples.gauge(&vm.with([]), vcpus(vm)))
    })?;
    out.gauges("vmd_vm_memory_bytes", "Memory of the machine.", |samples| {
        let memory = |vm: &Vm| vm.handle.spec().definition.memory_bytes;
        vms.iter()
            .try_for_each(|vm| samples.gauge(&vm.with([]), memory(vm)))
    })?;
    let help = "How often vCPUs left the guest, by KVM's reason; intr is the daemon's own doing.";
    out.counters("vmd_vm_exits", help, |samples| {
        vms.iter().try_for_each(|vm| {
            ExitKind::ALL.into_iter().try_for_each(|kind| {
                let vcpus = vm.counters.vcpus().iter();
                match vcpus.map(|vcpu| vcpu.exits(kind)).sum() {
                    0 => Ok(()),
                    count => samples.counter(&vm.with([("kind", kind.name())]), count),
                }
            })
        })
    })?;
    let help = "How long it took until every vCPU was paused and no device used guest memory.";
    out.latencies("vmd_vm_pause_seconds", help, |samples| {
        vms.iter()
            .try_for_each(|vm| samples.latency(&vm.with([]), &vm.counters.pause))
    })?;
    let help =
        "How long it took each vCPU from being let go until it was about to enter the guest.";
    out.latencies("vmd_vm_resume_seconds", help, |samples| {
        vms.iter()
            .try_for_each(|vm| samples.latency(&vm.with([]), &vm.counters.resume))
    })?;
    out.counters("vmd_vm_events", "Events of the machine.", |samples| {
        vms.iter().try_for_each(|vm| {
            let mut events = vm.handle.meter.events().into_iter();
            events
                .try_for_each(|(event, count)| samples.counter(&vm.with([("event", event)]), count))
        })
    })?;
    let help = "Commands that wait for the machine's main loop.";
    out.gauges("vmd_vm_mailbox_messages", help, |samples| {
        let waiting = |vm: &Vm| vm.handle.waiting_messages() as u64;
        vms.iter()
            .try_for_each(|vm| samples.gauge(&vm.with([]), waiting(vm)))
    })
}
