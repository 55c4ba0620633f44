//! What exists of a machine while it has not ended: the KVM machine and its main loop, and its sockets.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::Notify, task};
use vmm::{
    machine::{BuildStep, Firmware, Host, KvmMachine, MachineConfig},
    runstate::{MainLoop, Requests, TransitionTable},
};

use super::{
    CreateError, CreateStep, Definition, Parts, Record, VmHandle, definition::read_firmware,
    serial_socket,
};
use crate::{Daemon, listener::SocketServer, qmp};

/// A machine that has not ended.
pub(super) struct Live {
    pub(super) main_loop: MainLoop<KvmMachine>,
    pub(super) requests: Requests,
    /// Told when something is pending, a timer was armed, or a vCPU's thread died.
    pub(super) wake: Arc<Notify>,
    _serial_socket: Option<SocketServer>,
    _qmp_socket: Option<SocketServer>,
}

impl Live {
    /// Builds the machine that `vm` is the handle of. Nothing is left of one that fails.
    pub(super) async fn build(
        daemon: &Arc<Daemon>,
        vm: &Arc<VmHandle>,
        fail_at: Option<CreateStep>,
    ) -> Result<Self, CreateError> {
        let Record {
            name, definition, ..
        } = vm.record.as_ref();
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

        // The KVM calls take the better part of a millisecond, reading a file as long as it takes.
        let build = {
            let host = daemon.host.clone();
            let (name, definition, requests) = (name.clone(), definition.clone(), requests.clone());
            move || {
                build_machine(
                    &host,
                    name,
                    &definition,
                    requests,
                    Arc::new(notify),
                    fail_at,
                )
            }
        };
        let machine = task::spawn_blocking(build)
            .await
            .map_err(|error| CreateError::Interrupted(error.to_string()))??;

        let sockets = open_sockets(daemon, vm, &machine, fail_at);
        let (serial_socket, qmp_socket) = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                // Closing it takes tens of milliseconds, in which the runtime's thread has others to serve.
                let _ = task::spawn_blocking(move || drop(machine)).await;
                return Err(error);
            }
        };

        let main_loop = machine.into_main_loop(requests.clone());
        Ok(Self {
            main_loop,
            requests,
            wake,
            _serial_socket: serial_socket,
            _qmp_socket: qmp_socket,
        })
    }

    /// What others use of the machine.
    pub(super) fn parts(&self) -> Parts {
        let machine = self.main_loop.machine();
        Parts {
            console: machine.console().clone(),
            vcpu_threads: machine.vcpu_threads(),
        }
    }

    /// Takes the machine apart: what comes back is to be dropped where that may block. The sockets are gone; their
    /// clients are sent what is left.
    pub(super) fn close(self) -> impl Send + 'static {
        self.main_loop.machine().console().close();
        self.main_loop
    }
}

/// The serial port's and the QMP door's.
fn open_sockets(
    daemon: &Arc<Daemon>,
    vm: &Arc<VmHandle>,
    machine: &KvmMachine,
    fail_at: Option<CreateStep>,
) -> Result<(Option<SocketServer>, Option<SocketServer>), CreateError> {
    let definition = &vm.record.definition;
    let open = |path: &PathBuf| serial_socket::open(path, machine.console().clone());
    let serial_socket = definition.serial_socket.as_ref().map(open).transpose();
    let serial_socket = serial_socket.map_err(CreateError::SerialSocket)?;
    CreateStep::SerialSocket.check(fail_at)?;
    let open = |path: &PathBuf| qmp::open(path, daemon.clone(), Arc::downgrade(vm));
    let qmp_socket = definition.qmp_socket.as_ref().map(open).transpose();
    let qmp_socket = qmp_socket.map_err(CreateError::QmpSocket)?;
    CreateStep::QmpSocket.check(fail_at)?;
    Ok((serial_socket, qmp_socket))
}

fn build_machine(
    host: &Host,
    name: String,
    definition: &Definition,
    requests: Requests,
    wake: Arc<dyn Fn() + Send + Sync>,
    fail_at: Option<CreateStep>,
) -> Result<KvmMachine, CreateError> {
    let firmware = match &definition.firmware {
        Some(path) => read_firmware(path)?,
        None => Firmware::Probe,
    };
    CreateStep::Firmware.check(fail_at)?;
    let config = MachineConfig {
        name,
        memory_bytes: definition.memory_bytes,
        vcpus: definition.vcpus,
        firmware,
        fail_at: match fail_at {
            Some(CreateStep::Machine(step)) => Some(step),
            _ => None::<BuildStep>,
        },
    };
    Ok(KvmMachine::build(host, &config, requests, wake)?)
}
