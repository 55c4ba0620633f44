//! What the disks of a request must look like.

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::{
    devices::virtio::block::{Engine, Format, Policies, QUEUES_MAX, SERIAL_MAX},
    machine::VirtioTransport,
};

use super::{check::path, errors::invalid_field, rate_limit::rate_limit};
use crate::{convert, vm::Disk};

/// The disks of a definition, with the defaults put in. `others` is how many other virtio devices it has.
pub(super) fn disks(
    disks: Vec<v1::Disk>,
    others: usize,
    transport: VirtioTransport,
    vcpus: u32,
) -> Result<Vec<Disk>, Refusal> {
    let most = transport.max_devices();
    if disks.len() + others > most {
        let mut problem =
            format!("a machine has at most {most} virtio devices: its disks, and the others");
        if transport == VirtioTransport::Mmio {
            let pci = VirtioTransport::Pci.max_devices();
            problem.push_str(&format!("; over PCI (virtio_transport) it may have {pci}"));
        }
        return Err(invalid_field("definition.disks", &problem));
    }
    let disks = disks.into_iter().enumerate();
    let disks =
        disks.map(|(index, asked)| disk(&format!("definition.disks[{index}]"), asked, vcpus));
    disks.collect()
}

/// A disk, in the field `of`, of a machine with `vcpus` vCPUs.
pub(super) fn disk(of: &str, disk: v1::Disk, vcpus: u32) -> Result<Disk, Refusal> {
    let field = |name: &str| format!("{of}.{name}");
    let v1::Disk {
        path: image,
        read_only,
        serial,
        rerror,
        werror,
        format,
        queues,
        io_engine,
        rate_limit: limit,
    } = disk;
    let image = path(&field("path"), image)?
        .ok_or_else(|| invalid_field(&field("path"), "a disk has an image: give its path"))?;
    if serial.len() > SERIAL_MAX || !serial.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        let problem =
            format!("a serial number has at most {SERIAL_MAX} printable ASCII characters");
        return Err(invalid_field(&field("serial"), &problem));
    }
    let policy = |name: &str, value: i32, default| {
        convert::error_policy(value, default).ok_or_else(|| {
            let problem = format!("Parameter '{name}' does not accept value '{value}'");
            invalid_field(&field(name), &problem)
        })
    };
    let most = u16::try_from(vcpus).map_or(QUEUES_MAX, |vcpus| vcpus.min(QUEUES_MAX));
    let queues = u16::try_from(queues.unwrap_or(1)).unwrap_or(0);
    if queues == 0 || queues > most {
        let problem = format!(
            "a disk has a queue for each vCPU at most, and {QUEUES_MAX} in all: 1 to {most}"
        );
        return Err(invalid_field(&field("queues"), &problem));
    }
    let engine = convert::io_engine(io_engine).ok_or_else(|| {
        let problem = format!("there is no I/O engine {io_engine}");
        invalid_field(&field("io_engine"), &problem)
    })?;
    let format = convert::disk_format(format).ok_or_else(|| {
        let problem = format!("there is no disk format {format}");
        invalid_field(&field("format"), &problem)
    })?;
    if (engine, format) == (Engine::IoUring, Format::Qcow2) {
        let problem = "the I/O of a qcow2 image is done on threads";
        return Err(invalid_field(&field("io_engine"), problem));
    }
    let default = Policies::default();
    Ok(Disk {
        path: image,
        read_only,
        serial,
        policies: Policies {
            read: policy("rerror", rerror, default.read)?,
            write: policy("werror", werror, default.write)?,
        },
        format,
        engine,
        queues,
        rate_limit: rate_limit(&field("rate_limit"), limit)?,
    })
}

#[cfg(test)]
mod tests {
    use vmm::runstate::ErrorPolicy;

    use super::*;

    fn asked(path: &str) -> v1::Disk {
        v1::Disk {
            path: path.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn policies_have_defaults() {
        let default = disk("disk", asked("/d"), 1).unwrap();
        assert_eq!(default.policies, Policies::default());
        let stop = v1::Disk {
            rerror: v1::ErrorPolicy::Stop.into(),
            ..asked("/d")
        };
        let stop = disk("disk", stop, 1).unwrap().policies;
        assert_eq!(
            (stop.read, stop.write),
            (ErrorPolicy::Stop, ErrorPolicy::Enospc)
        );
    }

    #[test]
    fn the_disk_at_fault_is_named() {
        let mmio = VirtioTransport::Mmio;
        let bad = |disk: v1::Disk| disks(vec![asked("/d"), disk], 0, mmio, 1).unwrap_err();
        let serial = |serial: &str| v1::Disk {
            serial: serial.to_owned(),
            ..asked("/d")
        };
        let policy = v1::Disk {
            werror: 9,
            ..asked("/d")
        };
        for (disk, field) in [
            (asked(""), "path"),
            (asked("d"), "path"),
            (serial(&"x".repeat(21)), "serial"),
            (serial("\n"), "serial"),
            (serial("é"), "serial"),
            (policy, "werror"),
        ] {
            let refusal = bad(disk);
            let start = format!("definition.disks[1].{field}: ");
            assert!(refusal.message().starts_with(&start), "{refusal}");
        }
        for (transport, most) in [(mmio, 16), (VirtioTransport::Pci, 31)] {
            assert!(disks(vec![asked("/d"); most], 0, transport, 1).is_ok());
            assert!(disks(vec![asked("/d"); most], 1, transport, 1).is_err());
        }
    }
}
