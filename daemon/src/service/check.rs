//! What a request must look like. Every refusal names the field.

use std::path::{Path, PathBuf};

use tonic::Status as Refusal;
use vmd_proto::v1;
use vmm::{
    machine::{
        config::{check_memory, check_model_memory, check_vcpus},
        cpu::{HostCpus, check_pins},
    },
    runstate::{ActionChange, Actions},
};

use super::{
    balloon,
    console_ports::console_ports,
    disks::disks,
    errors::{access_denied, invalid_field, unauthenticated},
    nets::nets,
    restart::restart,
    vsock::vsock,
};
use crate::{
    Daemon,
    access::{Caller, Reach, Role},
    convert,
    cpu_control::{CpuShare, DEFAULT_WEIGHT, MAX_LIMIT, MAX_WEIGHT, MIN_LIMIT},
    vm::{Definition, Kernel},
};

const DEFAULT_MEMORY: u64 = 256 << 20;
const DEFAULT_VCPUS: u32 = 1;
/// Longest name, in characters.
pub(crate) const MAX_NAME: usize = 63;

/// A machine's name: `[a-z0-9]([-a-z0-9.]*[a-z0-9])?`.
pub(super) fn name(name: &str) -> Result<(), Refusal> {
    let end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: &u8| end(byte) || matches!(byte, b'-' | b'.');
    let bytes = name.as_bytes();
    let good = bytes.len() <= MAX_NAME
        && bytes.iter().all(inner)
        && bytes.first().is_some_and(end)
        && bytes.last().is_some_and(end);
    if good {
        return Ok(());
    }
    Err(invalid_field(
        "name",
        &format!(
            "a name has 1 to {MAX_NAME} of the characters a-z, 0-9, '-' and '.', and begins and ends with a letter or \
             a digit"
        ),
    ))
}

/// What a host can give a machine.
pub(crate) struct Limits<'a> {
    memory: u64,
    vcpus: u32,
    /// `None`: any CPU.
    cpus: Option<&'a HostCpus>,
}

impl<'a> Limits<'a> {
    /// Those of the daemon's host.
    pub(super) fn of(daemon: &'a Daemon) -> Self {
        Self {
            memory: daemon.host_memory,
            vcpus: daemon.host.max_vcpus(),
            cpus: Some(daemon.host.cpus()),
        }
    }

    /// None: for a machine that was defined before, perhaps on another host. It is checked again when it is built.
    pub(crate) const NONE: Self = Self {
        memory: u64::MAX,
        vcpus: u32::MAX,
        cpus: None,
    };
}

/// Whether `caller` may read the audit trail.
pub(super) fn may_audit(caller: Option<Caller>) -> Result<(), Refusal> {
    match caller {
        Some(Caller { peer, role }) if role != Some(Role::Admin) => {
            let what = "WatchEvents of the audit trail";
            Err(access_denied(what, Role::Admin, &peer, role))
        }
        Some(_) => Ok(()),
        None => Err(unauthenticated("it is not known who calls")),
    }
}

/// Where the paths that `caller` names may lead.
pub(super) fn reach(daemon: &Daemon, caller: Option<&Caller>) -> Reach {
    let reach = |caller: &Caller| daemon.access.policy().reach(&caller.peer);
    caller.map(reach).unwrap_or_default()
}

/// A definition, with the defaults put in.
pub(crate) fn definition(
    limits: &Limits<'_>,
    reach: Reach,
    definition: v1::VmDefinition,
) -> Result<Definition, Refusal> {
    let memory_bytes = definition.memory_bytes.unwrap_or(DEFAULT_MEMORY);
    let cpu_model = convert::cpu_model(definition.cpu_model).ok_or_else(|| {
        let problem = format!("there is no CPU model {}", definition.cpu_model);
        invalid_field("definition.cpu_model", &problem)
    })?;
    check_memory(memory_bytes, limits.memory)
        .and_then(|()| check_model_memory(memory_bytes, cpu_model))
        .map_err(|error| invalid_field("definition.memory_bytes", &error.to_string()))?;
    let vcpus = definition.vcpus.unwrap_or(DEFAULT_VCPUS);
    check_vcpus(vcpus, limits.vcpus)
        .map_err(|error| invalid_field("definition.vcpus", &error.to_string()))?;
    let cpu_pins = convert::cpu_pins(definition.cpu_pins);
    if let Some(cpus) = limits.cpus {
        check_pins(&cpu_pins, vcpus, cpus)
            .map_err(|error| invalid_field("definition.cpu_pins", &error.to_string()))?;
    }
    let change = actions(
        "definition.actions",
        &definition.actions.unwrap_or_default(),
    )?;
    let vsock = definition.vsock.map(vsock).transpose()?;
    let nets = nets(definition.nets)?;
    let balloon = definition.balloon;
    let balloon = balloon.map(|asked| balloon::balloon(asked, memory_bytes));
    let balloon = balloon.transpose()?;
    let console_ports = console_ports(definition.console_ports)?;
    let has_console = !console_ports.is_empty();
    let others = [
        definition.rng,
        vsock.is_some(),
        balloon.is_some(),
        has_console,
    ];
    let others = nets.len() + others.into_iter().filter(|has| *has).count();
    let virtio_transport =
        convert::virtio_transport(definition.virtio_transport).ok_or_else(|| {
            let problem = format!(
                "there is no virtio transport {}",
                definition.virtio_transport
            );
            invalid_field("definition.virtio_transport", &problem)
        })?;
    let disks = disks(definition.disks, others, virtio_transport, vcpus)?;
    let firmware = path("definition.firmware", definition.firmware)?;
    let kernel = kernel(definition.kernel, definition.initrd, definition.cmdline)?;
    if firmware.is_some() && kernel.is_some() {
        return Err(invalid_field(
            "definition.kernel",
            "a machine starts in firmware or in a kernel: give one of them",
        ));
    }
    Ok(Definition {
        reach,
        memory_bytes,
        vcpus,
        firmware,
        kernel,
        actions: Actions::default().with(change),
        serial_socket: path("definition.serial_socket", definition.serial_socket)?,
        qmp_socket: path("definition.qmp_socket", definition.qmp_socket)?,
        cpu_model,
        cpu_template: path("definition.cpu_template", definition.cpu_template)?,
        cpu_pins,
        cpu_share: cpu_share(definition.cpu_weight, definition.cpu_limit_millis)?,
        disks,
        rng: definition.rng,
        nets,
        vsock,
        balloon,
        console_ports,
        virtio_transport,
        restart: restart(definition.restart)?,
    })
}

fn cpu_share(weight: Option<u32>, limit_millis: Option<u32>) -> Result<CpuShare, Refusal> {
    let weight = weight.unwrap_or(DEFAULT_WEIGHT);
    if !(1..=MAX_WEIGHT).contains(&weight) {
        let problem = format!("{weight}: a weight is from 1 to {MAX_WEIGHT}");
        return Err(invalid_field("definition.cpu_weight", &problem));
    }
    if let Some(limit) = limit_millis
        && !(MIN_LIMIT..=MAX_LIMIT).contains(&limit)
    {
        let problem =
            format!("{limit}: a limit is from {MIN_LIMIT} to {MAX_LIMIT} thousandths of a CPU");
        return Err(invalid_field("definition.cpu_limit_millis", &problem));
    }
    Ok(CpuShare {
        weight,
        limit_millis,
    })
}

fn kernel(kernel: String, initrd: String, cmdline: String) -> Result<Option<Kernel>, Refusal> {
    let initrd = path("definition.initrd", initrd)?;
    let Some(path) = path("definition.kernel", kernel)? else {
        let orphan = match (&initrd, cmdline.as_str()) {
            (None, "") => return Ok(None),
            (Some(_), _) => "definition.initrd",
            (None, _) => "definition.cmdline",
        };
        return Err(invalid_field(
            orphan,
            "only a kernel takes one: give `kernel` too",
        ));
    };
    Ok(Some(Kernel {
        path,
        initrd,
        cmdline,
    }))
}

/// A change of actions, in the message `field`.
pub(super) fn actions(field: &str, actions: &v1::Actions) -> Result<ActionChange, Refusal> {
    convert::action_change(actions).map_err(|unknown| {
        invalid_field(
            &format!("{field}.{}", unknown.field),
            &format!(
                "Parameter '{}' does not accept value '{}'",
                unknown.field, unknown.value
            ),
        )
    })
}

/// A path on this host; `None` if it is empty. The daemon's working directory is nobody's business.
pub(super) fn path(field: &str, path: String) -> Result<Option<PathBuf>, Refusal> {
    if path.is_empty() {
        return Ok(None);
    }
    if !Path::new(&path).is_absolute() || path.contains('\0') {
        return Err(invalid_field(
            field,
            &format!("'{path}' is not an absolute path"),
        ));
    }
    Ok(Some(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["a", "0", "vm-1", "web.example-2", &"x".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            ".a",
            "a.",
            "A",
            "a/b",
            "a b",
            "ä",
            "a\0",
            "..",
            &"x".repeat(64),
            &"x".repeat(300),
        ] {
            let refusal = name(bad).unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{bad}");
            assert!(refusal.message().starts_with("name: "), "{refusal}");
        }
    }

    #[test]
    fn paths_are_absolute() {
        assert_eq!(path("f", String::new()).unwrap(), None);
        assert_eq!(path("f", "/a/b".into()).unwrap(), Some("/a/b".into()));
        for bad in ["a/b", "./a", "/a\0b"] {
            assert!(
                path("f", bad.into())
                    .unwrap_err()
                    .message()
                    .starts_with("f: ")
            );
        }
    }
}
