//! What exists of a machine while it has not ended: the KVM machine and its main loop, and the serial socket.

use std::sync::Arc;

use tokio::{sync::Notify, task};
use vmm::{
    devices::console::Console,
    machine::{BuildStep, Firmware, Host, KvmMachine, MachineConfig},
    runstate::{MainLoop, Requests, TransitionTable},
};

use super::{
    CreateError, CreateStep, Definition, definition::read_firmware, serial_socket::SerialSocket,
};

/// A machine that has not ended.
pub(super) struct Live {
    pub(super) main_loop: MainLoop<KvmMachine>,
    pub(super) requests: Requests,
    /// Told when something is pending, a timer was armed, or a vCPU's thread died.
    pub(super) wake: Arc<Notify>,
    serial_socket: Option<SerialSocket>,
}

impl Live {
    /// Builds the machine called `name`. Nothing is left of one that fails.
    pub(super) async fn build(
        host: Arc<Host>,
        name: &str,
        definition: &Definition,
        fail_at: Option<CreateStep>,
    ) -> Result<Self, CreateError> {
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
            let (name, definition, requests) =
                (name.to_owned(), definition.clone(), requests.clone());
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

        let serial_socket = definition
            .serial_socket
            .as_deref()
            .map(|path| SerialSocket::open(path, machine.console().clone()))
            .transpose()
            .map_err(CreateError::from)
            .and_then(|socket| CreateStep::SerialSocket.check(fail_at).map(|()| socket));
        let serial_socket = match serial_socket {
            Ok(serial_socket) => serial_socket,
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
            serial_socket,
        })
    }

    /// The host side of the first serial port.
    pub(super) fn console(&self) -> &Arc<Console> {
        self.main_loop.machine().console()
    }

    /// Takes the machine apart: what comes back is to be dropped where that may block.
    pub(super) fn close(self) -> impl Send + 'static {
        self.console().close();
        drop(self.serial_socket);
        self.main_loop
    }
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
