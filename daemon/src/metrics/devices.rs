//! What disks and network cards count.

use std::fmt;

use vmm::counters::{Counter, DeviceCounters, DiskCounters, Frames, NetCounters};

use super::collect::{Families, Vm};

type Read<T> = fn(&T) -> &Counter;

const DISK: [(&str, &str, Read<DiskCounters>); 6] = [
    ("vmd_vm_disk_reads", "Reads that were done.", |disk| {
        &disk.reads
    }),
    ("vmd_vm_disk_read_bytes", "Bytes that were read.", |disk| {
        &disk.read_bytes
    }),
    ("vmd_vm_disk_writes", "Writes that were done.", |disk| {
        &disk.writes
    }),
    (
        "vmd_vm_disk_written_bytes",
        "Bytes that were written.",
        |disk| &disk.written_bytes,
    ),
    ("vmd_vm_disk_flushes", "Flushes that were done.", |disk| {
        &disk.flushes
    }),
    (
        "vmd_vm_disk_discards",
        "Discards and writes of zeroes that were done.",
        |disk| &disk.discards,
    ),
];

const NET: [(&str, &str, Read<Frames>); 3] = [
    ("vmd_vm_net_frames", "Frames that got through.", |way| {
        &way.frames
    }),
    (
        "vmd_vm_net_bytes",
        "Bytes of frames that got through.",
        |way| &way.bytes,
    ),
    (
        "vmd_vm_net_dropped_frames",
        "Frames that were dropped.",
        |way| &way.dropped,
    ),
];

/// Both directions, as the guest sees them.
fn ways(net: &NetCounters) -> [(&'static str, &Frames); 2] {
    [("receive", &net.received), ("send", &net.sent)]
}

/// Each disk and each network card of each machine.
pub(super) fn of_devices(vms: &[Vm], out: &mut Families<'_>) -> fmt::Result {
    let disks = || vms.iter().flat_map(Vm::disks);
    for (name, help, read) in DISK {
        out.counters(name, help, |samples| {
            disks().try_for_each(|(vm, name, disk)| {
                samples.counter(&vm.with([("disk", name)]), read(disk).get())
            })
        })?;
    }
    out.counters(
        "vmd_vm_disk_errors",
        "How often the host failed.",
        |samples| {
            disks().try_for_each(|(vm, name, disk)| {
                let errors = [("read", &disk.read_errors), ("write", &disk.write_errors)];
                errors.into_iter().try_for_each(|(operation, count)| {
                    let labels = vm.with([("disk", name), ("operation", operation)]);
                    samples.counter(&labels, count.get())
                })
            })
        },
    )?;
    let help = "How long the disk's queues waited because of its rate limit.";
    out.counters("vmd_vm_disk_throttled_seconds", help, |samples| {
        disks().try_for_each(|(vm, name, disk)| {
            samples.seconds(&vm.with([("disk", name)]), seconds(&disk.throttled_ns))
        })
    })?;

    let nets = || vms.iter().flat_map(Vm::nets);
    let nets = || {
        nets().flat_map(|(vm, name, net)| ways(net).map(|(way, frames)| (vm, name, way, frames)))
    };
    for (name, help, read) in NET {
        out.counters(name, help, |samples| {
            nets().try_for_each(|(vm, name, way, frames)| {
                let labels = vm.with([("net", name), ("direction", way)]);
                samples.counter(&labels, read(frames).get())
            })
        })?;
    }
    let help = "How long the card's queues waited because of its rate limits.";
    out.counters("vmd_vm_net_throttled_seconds", help, |samples| {
        nets().try_for_each(|(vm, name, way, frames)| {
            let labels = vm.with([("net", name), ("direction", way)]);
            samples.seconds(&labels, seconds(&frames.throttled_ns))
        })
    })
}

fn seconds(nanos: &Counter) -> f64 {
    nanos.get() as f64 / 1e9
}

impl Vm {
    fn disks(&self) -> impl Iterator<Item = (&Self, &str, &DiskCounters)> {
        self.devices
            .iter()
            .filter_map(move |device| match &device.counters {
                DeviceCounters::Disk(disk) => Some((self, device.name.as_str(), disk.as_ref())),
                DeviceCounters::Net(_) => None,
            })
    }

    fn nets(&self) -> impl Iterator<Item = (&Self, &str, &NetCounters)> {
        self.devices
            .iter()
            .filter_map(move |device| match &device.counters {
                DeviceCounters::Net(net) => Some((self, device.name.as_str(), net.as_ref())),
                DeviceCounters::Disk(_) => None,
            })
    }
}
