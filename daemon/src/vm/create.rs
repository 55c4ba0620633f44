//! Creating a machine.
//!
//! ```text
//!   Reserved -> Firmware -> Machine(Vm ... Threads) -> SerialSocket -> QmpSocket -> Registered -> [cont]
//! ```
//! What a step made is owned by a value that undoes it when it is dropped, so a creation that fails anywhere leaves
//! nothing: no name, no thread, no descriptor, no file.

use std::{sync::Arc, time::SystemTime};

use thiserror::Error;
use uuid::Uuid;
use vmm::{
    machine::{BuildError, BuildStep},
    runstate::Command,
};

use super::{
    Definition, FirmwareError, Record, Status, VmError, VmHandle, actor::Actor, live::Live,
};
use crate::{Daemon, listener::SocketError};

/// A step of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateStep {
    /// The name is taken.
    Reserved,
    /// The firmware was read.
    Firmware,
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
        [Self::Reserved, Self::Firmware]
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
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
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
    definition: Definition,
    paused: bool,
    fail_at: Option<CreateStep>,
) -> Result<(Arc<VmHandle>, Status), VmError> {
    let reservation = daemon
        .registry
        .reserve(name)
        .ok_or_else(|| CreateError::Exists(name.to_owned()))?;
    CreateStep::Reserved.check(fail_at)?;
    // Checked with the name taken: whoever ends the daemon sees either this name or no machine come of it.
    if daemon.is_ending() {
        return Err(CreateError::ShuttingDown.into());
    }

    let (handle, ends) = VmHandle::new(Arc::new(Record {
        id: Uuid::new_v4().to_string(),
        name: name.to_owned(),
        definition,
        created: SystemTime::now(),
    }));
    let live = Live::build(daemon, &handle, fail_at).await?;
    Actor::spawn(daemon.clone(), &handle, ends, live, reservation);

    let status = if paused {
        handle.status()
    } else {
        handle.command(Command::Cont).await?
    };
    Ok((handle, status))
}
