//! One machine of the daemon: its record, the actor that owns it, and the handle that everybody else has.
//!
//! ```text
//!   service --> VmHandle -- mailbox --> actor --> MainLoop<KvmMachine>
//!                  |                      |
//!                  +--- status <----------+--> event log
//! ```
//! The mailbox and the pending set are the only doors to a machine. Its status can be read at any time, without
//! waiting for the actor.

mod actor;
mod catch;
mod create;
mod definition;
mod live;
mod recording;
mod serial_socket;
mod status;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::SystemTime,
};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use vmm::{devices::console::Console, runstate::Command};

pub use self::{
    create::{CreateError, CreateStep, create},
    definition::{Definition, FirmwareError},
    recording::Lines,
    status::{End, EndKind, Status},
};

/// Commands that wait for one machine's main loop. Callers beyond them wait for a place.
const MAILBOX: usize = 64;

/// What does not change in a machine's life.
#[derive(Debug)]
pub struct Record {
    /// Unique for all time.
    pub id: String,
    /// Unique at any time.
    pub name: String,
    /// What the machine is built from.
    pub definition: Definition,
    /// When it was created.
    pub created: SystemTime,
}

/// What the rest of the daemon has of a machine.
pub struct VmHandle {
    /// Which machine it is.
    pub record: Arc<Record>,
    mailbox: mpsc::Sender<Message>,
    status: watch::Receiver<Status>,
    parts: watch::Receiver<Parts>,
}

/// What others use of a machine as long as it is not built anew.
#[derive(Clone, Default)]
struct Parts {
    /// The host side of the first serial port.
    console: Arc<Console>,
    /// The thread of each vCPU, in order.
    vcpu_threads: Vec<Arc<AtomicI32>>,
}

/// The actor's ends of what a [`VmHandle`] has.
struct Ends {
    messages: mpsc::Receiver<Message>,
    status: watch::Sender<Status>,
    parts: watch::Sender<Parts>,
}

/// What the actor is asked to do.
enum Message {
    Command {
        command: Command,
        reply: Reply,
    },
    Start {
        paused: bool,
        reply: Reply,
    },
    Delete {
        force: bool,
        reply: Reply,
    },
    Record {
        reply: oneshot::Sender<Result<Lines, VmError>>,
    },
}

type Reply = oneshot::Sender<Result<Status, VmError>>;

/// Why a machine did not do what it was asked.
#[derive(Debug, Error)]
pub enum VmError {
    /// There is no such machine any more.
    #[error("there is no such machine")]
    Gone,
    /// Only a live machine can do that.
    #[error("the machine has ended")]
    Ended,
    /// Only a machine that has ended can do that.
    #[error("the machine has not ended")]
    NotEnded,
    /// QEMU's rules forbid it in this state.
    #[error(transparent)]
    Refused(#[from] vmm::runstate::Refusal),
    /// There is a recording of it.
    #[error(transparent)]
    Recording(#[from] vmm::runstate::journal::Recording),
    /// The machine has failed, by this or before.
    #[error("the machine has failed: {0}")]
    Failed(String),
    /// It could not be built.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl VmHandle {
    /// A handle of a machine that is yet to be built.
    fn new(record: Arc<Record>) -> (Arc<Self>, Ends) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let (status_ends, status) = watch::channel(Status::new(record.definition.actions));
        let (parts_ends, parts) = watch::channel(Parts::default());
        let ends = Ends {
            messages,
            status: status_ends,
            parts: parts_ends,
        };
        let handle = Self {
            record,
            mailbox,
            status,
            parts,
        };
        (Arc::new(handle), ends)
    }

    /// The machine's status now. Never waits.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Waits until the machine has ended.
    pub async fn ended(&self) {
        // The actor gone means the same.
        let _ = self
            .status
            .clone()
            .wait_for(|status| status.end.is_some())
            .await;
    }

    /// The host side of its first serial port.
    pub fn console(&self) -> Arc<Console> {
        self.parts.borrow().console.clone()
    }

    /// The host's thread of each vCPU, in order; none once the machine has ended.
    pub fn vcpu_threads(&self) -> Vec<i32> {
        let parts = self.parts.borrow();
        let threads = parts.vcpu_threads.iter();
        threads.map(|id| id.load(Ordering::Relaxed)).collect()
    }

    /// Has the main loop serve `command`; returns the status after it.
    pub async fn command(&self, command: Command) -> Result<Status, VmError> {
        self.ask(|reply| Message::Command { command, reply }).await
    }

    /// Builds the machine, which has ended, anew.
    pub async fn start(&self, paused: bool) -> Result<Status, VmError> {
        self.ask(|reply| Message::Start { paused, reply }).await
    }

    /// Forgets the machine, which has ended or is quit first if `force`. Its name is free when this returns.
    pub async fn delete(&self, force: bool) -> Result<Status, VmError> {
        self.ask(|reply| Message::Delete { force, reply }).await
    }

    /// Begins to record the machine; the lines end when it does.
    pub async fn record(&self) -> Result<Lines, VmError> {
        self.ask(|reply| Message::Record { reply }).await
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, VmError>>) -> Message,
    ) -> Result<T, VmError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox
            .send(message(reply))
            .await
            .map_err(|_| VmError::Gone)?;
        answer.await.map_err(|_| VmError::Gone)?
    }
}
