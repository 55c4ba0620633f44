//! Creating a machine.
//!
//! ```text
//!   Reserved -> Images -> Machine(Vm ... Threads) -> SerialSocket -> QmpSocket -> Registered -> [cont]
//! ```
//! What a step made is owned by a value that undoes it when it is dropped, so a creation that fails anywhere leaves
//! nothing: no name, no thread, no descriptor, no file.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use thiserror::Error;
use tracing::Instrument;
use uuid::Uuid;
use vmm::{
    devices::virtio::block::DiskError,
    machine::{BuildError, BuildStep},
    runstate::Command,
};

use super::{
    CpuTemplateError, FirmwareError, KernelError, NetError, Record, Spec, Status, VmError,
    VmHandle, actor::Actor, live::Live,
};
use crate::{Daemon, cpu_control::CpuControlError, listener::SocketError};

/// A step of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateStep {
    /// The name is taken.
    Reserved,
    /// The files were read: firmware or kernel, CPU template. The disks were opened, the network cards connected, and the devices' sockets made.
    Images,
    /// A step of the machine's own.
    Machine(BuildStep),
    /// The serial port's socket listens.
    SerialSocket,
    /// The QMP door's socket listens.
    QmpSocket,
}

impl CreateStep {
    /// Every step, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        let machine = BuildStep::ALL.into_iter().map(Self::Machine);
        [Self::Reserved, Self::Images]
            .into_iter()
            .chain(machine)
            .chain([Self::SerialSocket, Self::QmpSocket])
    }

    /// Fails if a test asked for that. The fault comes after the step, so that there is something to undo.
    pub(super) fn check(self, fail_at: Option<Self>) -> Result<(), CreateError> {
        if fail_at == Some(self) {
            Err(CreateError::Injected(self))
        } else {
            Ok(())
        }
    }
}

/// Why a machine could not be created. Nothing of it is left.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The name is taken.
    #[error("a machine called '{0}' exists")]
    Exists(String),
    /// The daemon is ending.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The firmware cannot be used.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The kernel cannot be booted.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The CPU template cannot be used.
    #[error(transparent)]
    CpuTemplate(#[from] CpuTemplateError),
    /// A disk cannot be used.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Its place among the machine's disks, from 0.
        index: usize,
        /// Its image.
        path: PathBuf,
        /// What is wrong.
        source: DiskError,
    },
    /// A network card cannot be connected.
    #[error("{source}")]
    Net {
        /// Its place among the machine's network cards, from 0.
        index: usize,
        /// What is wrong.
        source: NetError,
    },
    /// The socket device's socket cannot be made.
    #[error(transparent)]
    VsockSocket(SocketError),
    /// The socket of a console device's port cannot be made.
    #[error("{source}")]
    ConsoleSocket {
        /// Its place among the ports, from 0.
        index: usize,
        /// What is wrong.
        source: SocketError,
    },
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Its vCPUs cannot have their share of the processors.
    #[error(transparent)]
    CpuControl(#[from] CpuControlError),
    /// The serial port's socket cannot be made.
    #[error(transparent)]
    SerialSocket(SocketError),
    /// The QMP door's socket cannot be made.
    #[error(transparent)]
    QmpSocket(SocketError),
    /// The thread that built the machine did not come to an end.
    #[error("the creation was interrupted: {0}")]
    Interrupted(String),
    /// A test asked for it.
    #[error("failed at step {0:?}, as a test asked")]
    Injected(CreateStep),
}

/// Creates the machine `name` and, unless `paused`, starts its vCPUs. `fail_at` is for tests.
pub async fn create(
    daemon: &Arc<Daemon>,
    name: &str,
    spec: impl Into<Spec>,
    paused: bool,
    fail_at: Option<CreateStep>,
) -> Result<(Arc<VmHandle>, Status), VmError> {
    daemon.events.ready().await.map_err(VmError::NotReady)?;
    let reservation = daemon
        .registry
        .reserve(name)
        .ok_or_else(|| CreateError::Exists(name.to_owned()))?;
    CreateStep::Reserved.check(fail_at)?;
    // Checked with the name taken: whoever ends the daemon sees either this name or no machine come of it.
    if daemon.is_ending() {
        return Err(CreateError::ShuttingDown.into());
    }

    let record = Arc::new(Record {
        id: Uuid::new_v4().to_string(),
        name: name.to_owned(),
        created: SystemTime::now(),
    });
    let status = Status::new(spec.into());
    let (handle, ends) = VmHandle::new(record, status, daemon.events.clone());
    // Before the host is asked for anything.
    let account = daemon.limits.open(&handle.spec())?;
    let build = Live::build(daemon, &handle, fail_at);
    // What comes of it outlives the call that is under way, and its span.
    let live = build.instrument(handle.record.span()).await?;
    Actor::spawn(daemon.clone(), &handle, ends, live, account, reservation);

    let status = if paused {
        handle.stored(handle.status()).await?
    } else {
        handle.serve(Command::Cont).await?
    };
    Ok((handle, status))
}

/// Brings a machine back from the store; false if its name is taken.
pub(crate) fn recover(daemon: &Arc<Daemon>, record: Record, status: Status) -> bool {
    let Some(reservation) = daemon.registry.reserve(&record.name) else {
        return false;
    };
    let (handle, ends) = VmHandle::new(Arc::new(record), status, daemon.events.clone());
    Actor::recover(daemon.clone(), &handle, ends, reservation);
    true
}
