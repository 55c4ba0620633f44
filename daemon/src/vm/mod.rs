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
mod boot;
mod catch;
mod create;
mod definition;
mod device_sockets;
mod disks;
mod file;
mod live;
mod nets;
mod recording;
mod restart;
mod serial_socket;
mod spec;
mod status;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Span, info_span};
use vmm::{
    counters::Counters,
    devices::{console::Console, virtio::balloon::Balloon},
    machine::{DeviceCommand, DeviceCommandError},
    runstate::Command,
};

use crate::{
    event_log::EventLog, limits::OverLimit, metrics::Meter, qmp::Door, store::Unavailable,
};

pub(crate) use self::create::recover;
pub use self::{
    boot::{Images, Kernel, KernelError},
    create::{CreateError, CreateStep, create},
    definition::{ConsolePort, CpuTemplateError, Definition, FirmwareError, Vsock},
    disks::{Disk, OpenDisk},
    file::FileError,
    nets::{Net, NetBackend, NetError},
    recording::Lines,
    restart::{RestartMode, RestartPolicy},
    spec::{Labels, Spec, Update},
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
    /// When it was created.
    pub created: SystemTime,
}

impl Record {
    /// The span of what is done for it now, beside the call that is under way.
    pub(crate) fn span(&self) -> Span {
        info_span!(parent: None, "machine", vm = %self.name)
    }
}

/// What the rest of the daemon has of a machine.
pub struct VmHandle {
    /// Which machine it is.
    pub record: Arc<Record>,
    /// What is told of its life.
    pub(crate) meter: Arc<Meter>,
    mailbox: mpsc::Sender<Message>,
    status: watch::Receiver<Status>,
    parts: watch::Receiver<Parts>,
    events: Arc<EventLog>,
}

/// What others use of a machine as long as it is not built anew.
#[derive(Clone, Default)]
struct Parts {
    /// The host side of the first serial port.
    console: Arc<Console>,
    /// That of the machine as it was before it was built anew, if it was. It has ended.
    previous_console: Option<Arc<Console>>,
    /// The thread of each vCPU, in order.
    vcpu_threads: Vec<Arc<AtomicI32>>,
    /// What it counts.
    counters: Arc<Counters>,
    /// What its monitors share.
    door: Arc<Door>,
    /// Its balloon, as long as it has one.
    balloon: Weak<Balloon>,
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
    Device {
        command: DeviceCommand,
        reply: oneshot::Sender<Result<(Status, String), VmError>>,
    },
    Start {
        paused: bool,
        reply: Reply,
    },
    Update {
        update: Box<Update>,
        reply: Reply,
    },
    Delete {
        force: bool,
        only: Option<Arc<Spec>>,
        reply: Reply,
    },
    Record {
        reply: oneshot::Sender<Result<Lines, VmError>>,
    },
}

type Reply = oneshot::Sender<Result<Status, VmError>>;

impl Message {
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Command { reply, .. }
            | Self::Start { reply, .. }
            | Self::Update { reply, .. }
            | Self::Delete { reply, .. } => reply.is_closed(),
            Self::Device { reply, .. } => reply.is_closed(),
            Self::Record { reply } => reply.is_closed(),
        }
    }
}

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
    /// A live machine cannot change that of its definition.
    #[error("the machine has not ended: {0} cannot change")]
    NotChangeable(String),
    /// An update came between.
    #[error("the machine was updated meanwhile")]
    Updated,
    /// QEMU's rules forbid it in this state.
    #[error(transparent)]
    Refused(#[from] vmm::runstate::Refusal),
    /// Its devices cannot do that.
    #[error(transparent)]
    Device(#[from] DeviceCommandError),
    /// There is a recording of it.
    #[error(transparent)]
    Recording(#[from] vmm::runstate::journal::Recording),
    /// The machine has failed, by this or before.
    #[error("the machine has failed: {0}")]
    Failed(String),
    /// It could not be built.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// There is too much already.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// What it would change cannot be stored: nothing was done.
    #[error("nothing was done: {0}")]
    NotReady(#[source] Unavailable),
    /// It was done, and the store does not have it.
    #[error("done, but not stored yet: {0}")]
    NotStored(#[source] Unavailable),
}

impl VmHandle {
    /// A handle of a machine that is yet to be built, or is from the store.
    fn new(record: Arc<Record>, status: Status, events: Arc<EventLog>) -> (Arc<Self>, Ends) {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let (status_ends, status) = watch::channel(status);
        let (parts_ends, parts) = watch::channel(Parts::default());
        let ends = Ends {
            messages,
            status: status_ends,
            parts: parts_ends,
        };
        let handle = Self {
            record,
            meter: Arc::default(),
            mailbox,
            status,
            parts,
            events,
        };
        (Arc::new(handle), ends)
    }

    /// The machine's status now. Never waits.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// What it is to be, now.
    pub fn spec(&self) -> Arc<Spec> {
        self.status.borrow().spec.clone()
    }

    /// The status now, once it is stored. While the store does not work, the number is that of the newest event stored,
    /// from which a reader can go on.
    pub(crate) async fn stored_status(&self) -> Status {
        let mut status = self.status();
        if self.events.stored(status.seq).await.is_err() {
            status.seq = status.seq.min(self.events.newest());
        }
        status
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

    /// That of the machine before it was built anew; what it wrote can still be read.
    pub fn previous_console(&self) -> Option<Arc<Console>> {
        self.parts.borrow().previous_console.clone()
    }

    /// What its monitors share.
    pub(crate) fn door(&self) -> Arc<Door> {
        self.parts.borrow().door.clone()
    }

    /// The host's thread of each vCPU, in order; none once the machine has ended.
    pub fn vcpu_threads(&self) -> Vec<i32> {
        let parts = self.parts.borrow();
        let threads = parts.vcpu_threads.iter();
        threads.map(|id| id.load(Ordering::Relaxed)).collect()
    }

    /// How long its vCPUs have used the host's processors since its creation, up to now; of an ended machine, up to its
    /// end. It never falls. Never waits.
    pub(crate) fn cpu_time(&self) -> Duration {
        // As long as this is borrowed they are the machine's: the actor waits.
        let parts = self.parts.borrow();
        self.meter.cpu_time.read(&parts.vcpu_threads)
    }

    /// What it counts; of an ended machine, what it has counted. Never waits.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.parts.borrow().counters.clone()
    }

    /// How many messages wait for its actor.
    pub(crate) fn waiting_messages(&self) -> usize {
        self.mailbox.max_capacity() - self.mailbox.capacity()
    }

    /// Its balloon, if it is live and has one. Never waits.
    pub fn balloon(&self) -> Result<Arc<Balloon>, VmError> {
        if self.status().end.is_some() {
            return Err(VmError::Ended);
        }
        let balloon = self.parts.borrow().balloon.upgrade();
        Ok(balloon.ok_or(DeviceCommandError::NoBalloon)?)
    }

    /// Has the main loop serve `command`; returns the status after it.
    pub async fn command(&self, command: Command) -> Result<Status, VmError> {
        // What the daemon's own end does is done in any case.
        if !matches!(command, Command::Kill) {
            self.ready().await?;
        }
        self.serve(command).await
    }

    /// Has the machine's devices do something; returns the status after it, and the name of the device.
    pub async fn device(&self, command: DeviceCommand) -> Result<(Status, String), VmError> {
        self.ready().await?;
        let answer = self.ask(|reply| Message::Device { command, reply }).await;
        let (status, device) = answer?;
        Ok((self.stored(status).await?, device))
    }

    /// Builds the machine, which has ended, anew.
    pub async fn start(&self, paused: bool) -> Result<Status, VmError> {
        self.ready().await?;
        let answer = self.ask(|reply| Message::Start { paused, reply }).await;
        self.stored(answer?).await
    }

    /// Changes labels and definition.
    pub async fn update(&self, update: Update) -> Result<Status, VmError> {
        self.ready().await?;
        let update = Box::new(update);
        let answer = self.ask(|reply| Message::Update { update, reply });
        self.stored(answer.await?).await
    }

    /// Forgets the machine, which has ended or is quit first if `force`. Its name is free when this returns.
    pub async fn delete(&self, force: bool) -> Result<Status, VmError> {
        self.delete_if(force, None).await
    }

    /// The same, but only if it is still to be `only`.
    pub async fn delete_if(&self, force: bool, only: Option<Arc<Spec>>) -> Result<Status, VmError> {
        self.ready().await?;
        let answer = self.ask(|reply| Message::Delete { force, only, reply });
        self.stored(answer.await?).await
    }

    /// Begins to record the machine; the lines end when it does.
    pub async fn record(&self) -> Result<Lines, VmError> {
        self.ask(|reply| Message::Record { reply }).await
    }

    /// The same, as a part of a change that has begun.
    async fn serve(&self, command: Command) -> Result<Status, VmError> {
        let answer = self.ask(|reply| Message::Command { command, reply }).await;
        self.stored(answer?).await
    }

    async fn ready(&self) -> Result<(), VmError> {
        self.events.ready().await.map_err(VmError::NotReady)
    }

    /// The answer, once its last event is stored.
    async fn stored(&self, answer: Status) -> Result<Status, VmError> {
        let stored = self.events.stored(answer.seq).await;
        stored.map(|()| answer).map_err(VmError::NotStored)
    }

    /// Asks the actor. If the future is dropped before the actor has come to the message, nothing is done; afterwards
    /// what was asked for is done without anybody to take the answer.
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
