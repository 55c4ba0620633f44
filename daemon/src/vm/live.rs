//! What exists of a machine while it has not ended: the KVM machine and its main loop, and its sockets.
//!
//! The sockets belong to the main loop's closers, so that they are closed in the cleanup's order: the QMP door's with
//! the monitors, the serial port's and those of devices with the chardevs.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use tokio::{sync::Notify, task};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use vmm::{
    machine::{Boot, BuildStep, Firmware, KvmMachine, MachineConfig, cpu::CpuConfig},
    runstate::{Cleanup, Closers, MainLoop, Requests, TransitionTable},
};

use super::{
    CreateError, CreateStep, Definition, Parts, VmHandle,
    definition::{read_cpu_template, read_firmware},
    device_sockets, disks, serial_socket,
};
use crate::{
    Daemon,
    access::Beneath,
    cpu_control::{CpuControlError, CpuShare, Group},
    listener::{SocketFile, SocketServer},
    qmp::{self, Door},
};

/// A machine that has not ended.
pub(super) struct Live {
    pub(super) main_loop: MainLoop<KvmMachine>,
    pub(super) requests: Requests,
    /// Told when something is pending, a timer was armed, or a vCPU's thread died.
    pub(super) wake: Arc<Notify>,
    /// If it has a share of its own.
    pub(super) cpu_group: Option<Group>,
    door: Arc<Door>,
}

impl Live {
    /// Builds the machine that `vm` is the handle of. Nothing is left of one that fails.
    pub(super) async fn build(
        daemon: &Arc<Daemon>,
        vm: &Arc<VmHandle>,
        fail_at: Option<CreateStep>,
    ) -> Result<Self, CreateError> {
        let name = &vm.record.name;
        let spec = vm.spec();
        let definition = &spec.definition;
        let wake = Arc::new(Notify::new());
        let notify = {
            let wake = wake.clone();
            move || wake.notify_one()
        };
        let requests = Requests::new(
            TransitionTable::default(),
            definition.actions,
            notify.clone(),
        );

        let roots = daemon.access.policy().roots().clone();
        let paths = Beneath::new(definition.reach, roots);
        // The KVM calls take the better part of a millisecond, reading a file as long as it takes.
        let build = {
            let (daemon, paths) = (daemon.clone(), paths.clone());
            let (name, definition, requests) = (name.clone(), definition.clone(), requests.clone());
            let id = vm.record.id.clone();
            let span = Span::current();
            move || {
                let _in_span = span.enter();
                let wake = Arc::new(notify);
                let (machine, device_files) =
                    build_machine(&daemon, &paths, name, &definition, requests, wake, fail_at)?;
                let share = definition.cpu_share;
                if share != CpuShare::default() {
                    machine.wait_for_threads()?;
                }
                let cpu_group = group(&daemon, &id, share, &threads(&machine))?;
                Ok::<_, CreateError>((machine, device_files, cpu_group))
            }
        };
        let (machine, device_files, cpu_group) = task::spawn_blocking(build)
            .await
            .map_err(|error| CreateError::Interrupted(error.to_string()))??;

        let door = Arc::new(Door::default());
        let sockets = match open_sockets(daemon, &paths, vm, definition, &machine, &door, fail_at) {
            Ok(sockets) => sockets,
            Err(error) => {
                // Closing it takes tens of milliseconds, in which the runtime's thread has others to serve.
                let _ = task::spawn_blocking(move || drop((cpu_group, machine))).await;
                return Err(error);
            }
        };

        let mut main_loop = machine.into_main_loop(requests.clone());
        sockets.close_with(&mut main_loop.closers, &door);
        let closers = &mut main_loop.closers;
        closers.register(Cleanup::Chardevs, async move { drop(device_files) });
        Ok(Self {
            main_loop,
            requests,
            wake,
            cpu_group,
            door,
        })
    }

    /// Gives its vCPUs another share.
    pub(super) async fn share(
        &mut self,
        daemon: &Arc<Daemon>,
        id: &str,
        share: CpuShare,
    ) -> Result<(), CpuControlError> {
        let (daemon, id) = (daemon.clone(), id.to_owned());
        let threads = threads(self.main_loop.machine());
        let had = self.cpu_group.take();
        let set = move || match had {
            Some(group) => {
                let set = group.set(share);
                (Some(group), set)
            }
            None => match group(&daemon, &id, share, &threads) {
                Ok(group) => (group, Ok(())),
                Err(error) => (None, Err(error)),
            },
        };
        // It does not panic.
        let (group, set) = task::spawn_blocking(set)
            .await
            .unwrap_or((None, Err(CpuControlError::Unavailable)));
        self.cpu_group = group;
        set
    }

    /// What others use of the machine.
    pub(super) fn parts(&self) -> Parts {
        let machine = self.main_loop.machine();
        Parts {
            console: machine.console().clone(),
            previous_console: None,
            vcpu_threads: machine.vcpu_threads(),
            counters: machine.counters().clone(),
            door: self.door.clone(),
            balloon: machine
                .balloon()
                .as_ref()
                .map(Arc::downgrade)
                .unwrap_or_default(),
        }
    }
}

/// The host's threads of its vCPUs, all of which have begun.
fn threads(machine: &KvmMachine) -> Vec<i32> {
    let threads = machine.vcpu_threads();
    let ids = threads.iter().map(|id| id.load(Ordering::Relaxed));
    ids.collect()
}

/// The group of a machine with these threads; none if its share is what every machine has.
fn group(
    daemon: &Daemon,
    id: &str,
    share: CpuShare,
    threads: &[i32],
) -> Result<Option<Group>, CpuControlError> {
    if share == CpuShare::default() {
        return Ok(None);
    }
    let hierarchy = daemon.cpu_hierarchy.as_ref();
    let hierarchy = hierarchy.ok_or(CpuControlError::Unavailable)?;
    Group::new(hierarchy, id, share, threads).map(Some)
}

/// The sockets of a machine. Once closed, they take no new clients; those that there are get what is left.
struct Sockets {
    serial: Option<SocketServer>,
    qmp: Option<SocketServer>,
}

impl Sockets {
    fn close_with(self, closers: &mut Closers, door: &Door) {
        let Self { serial, qmp } = self;
        let sessions = door.keep_open();
        closers.register(Cleanup::Chardevs, async move { drop(serial) });
        closers.register(Cleanup::Monitors, async move {
            drop(qmp);
            drop(sessions);
        });
    }
}

fn open_sockets(
    daemon: &Arc<Daemon>,
    paths: &Beneath,
    vm: &Arc<VmHandle>,
    definition: &Definition,
    machine: &KvmMachine,
    door: &Arc<Door>,
    fail_at: Option<CreateStep>,
) -> Result<Sockets, CreateError> {
    let monitors_gone = CancellationToken::new();
    let monitors = monitors_gone.clone().drop_guard();
    let open = |path: &PathBuf| {
        let console = machine.console().clone();
        serial_socket::open(&daemon.clients, paths, path, console, monitors_gone)
    };
    let serial_socket = definition.serial_socket.as_ref().map(open).transpose();
    let serial_socket = serial_socket.map_err(CreateError::SerialSocket)?;
    CreateStep::SerialSocket.check(fail_at)?;
    let open = |path: &PathBuf| {
        let vm = Arc::downgrade(vm);
        qmp::open(paths, path, daemon.clone(), vm, door.clone(), monitors)
    };
    let qmp_socket = definition.qmp_socket.as_ref().map(open).transpose();
    let qmp_socket = qmp_socket.map_err(CreateError::QmpSocket)?;
    CreateStep::QmpSocket.check(fail_at)?;
    Ok(Sockets {
        serial: serial_socket,
        qmp: qmp_socket,
    })
}

fn build_machine(
    daemon: &Daemon,
    paths: &Beneath,
    name: String,
    definition: &Definition,
    requests: Requests,
    wake: Arc<dyn Fn() + Send + Sync>,
    fail_at: Option<CreateStep>,
) -> Result<(KvmMachine, Vec<SocketFile>), CreateError> {
    let boot = match (&definition.kernel, &definition.firmware) {
        (Some(kernel), _) => {
            Boot::Direct(daemon.images.load(paths, kernel, definition.memory_bytes)?)
        }
        (None, Some(path)) => Boot::Firmware(read_firmware(paths, path)?),
        (None, None) => Boot::Firmware(Firmware::Probe),
    };
    let template = definition.cpu_template.as_deref();
    let template = template
        .map(|path| read_cpu_template(paths, path))
        .transpose()?
        .map(Arc::new);
    let mut virtio = disks::devices(&daemon.open_disk, paths, definition)?;
    let device_files = device_sockets::open(paths, definition, &mut virtio)?;
    CreateStep::Images.check(fail_at)?;
    let config = MachineConfig {
        name,
        memory_bytes: definition.memory_bytes,
        vcpus: definition.vcpus,
        cpu: CpuConfig {
            model: definition.cpu_model,
            template,
            pins: definition.cpu_pins.clone(),
        },
        boot,
        virtio_transport: definition.virtio_transport,
        virtio,
        fail_at: match fail_at {
            Some(CreateStep::Machine(step)) => Some(step),
            _ => None::<BuildStep>,
        },
    };
    let machine = KvmMachine::build(&daemon.host, &config, requests, wake)?;
    Ok((machine, device_files))
}
