//! The events a machine emits.

use std::fmt;

use super::{RunState, ShutdownCause, WatchdogAction, state::named_enum};

named_enum! {
    /// What is done about a panic, as told in the event (spec, section 2.3).
    GuestPanicAction, "guest panic action" {
        /// The machine stops.
        Pause = "pause",
        /// The machine shuts down.
        Poweroff = "poweroff",
        /// The guest goes on.
        Run = "run",
    }
}

named_enum! {
    /// What a disk was asked for when it failed.
    BlockOperation, "block operation" {
        /// To read.
        Read = "read",
        /// To write, flush, discard or write zeroes.
        Write = "write",
    }
}

named_enum! {
    /// What is done about an I/O error, as told in the event (spec, section 10).
    BlockErrorAction, "block error action" {
        /// The guest is told that the request succeeded.
        Ignore = "ignore",
        /// The guest is told of the error.
        Report = "report",
        /// The machine stops; the request is tried again when it goes on.
        Stop = "stop",
    }
}

/// An I/O error of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockIoError {
    /// The disk, by its place among the machine's disks, from 0.
    pub disk: u8,
    /// What it was asked for.
    pub operation: BlockOperation,
    /// What is done about it.
    pub action: BlockErrorAction,
    /// Whether the host had no space left; told only of disks that may stop the machine.
    pub nospace: Option<bool>,
    /// The host's error.
    pub errno: i32,
}

named_enum! {
    /// A sort of device that has a driver in the guest.
    DeviceKind, "device kind" {
        /// A disk.
        Disk = "disk",
        /// A network card.
        Net = "net",
        /// A source of entropy.
        Rng = "rng",
        /// Sockets between the guest and the host.
        Vsock = "vsock",
        /// A console.
        Console = "console",
        /// A memory balloon.
        Balloon = "balloon",
    }
}

/// A device, by its place among those of its kind, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// What it is.
    pub kind: DeviceKind,
    /// Its place.
    pub index: u8,
}

/// As users call it: `d0`, `n1`, `rng`.
impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Disk => write!(f, "d{}", self.index),
            DeviceKind::Net => write!(f, "n{}", self.index),
            // There is one of each.
            kind => f.write_str(kind.name()),
        }
    }
}

named_enum! {
    /// Why a device does not go on with its driver.
    DeviceFault, "device fault" {
        /// A queue's rings are not in memory, or an index in them runs ahead.
        Rings = "rings",
        /// A chain of descriptors does not end, or leads out of its table or of memory.
        Chain = "chain",
        /// A request is none that the device knows, or leads out of memory.
        Request = "request",
        /// A queue that is needed was not set up.
        Queue = "queue",
        /// The host failed.
        Host = "host",
        /// The device itself did: an error of vmd's.
        Panic = "panic",
    }
}

/// A device that stopped, until its driver resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceError {
    /// The device.
    pub device: DeviceId,
    /// What its driver did, or what happened to it.
    pub fault: DeviceFault,
}

/// A lifecycle event, named as in QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vCPUs were stopped.
    Stop,
    /// The vCPUs were started.
    Resume,
    /// Devices and vCPUs were reset.
    Reset(ShutdownCause),
    /// A shutdown request was served.
    Shutdown(ShutdownCause),
    /// The power button was pressed.
    Powerdown,
    /// The guest went to S3.
    Suspend,
    /// The guest went to S4.
    SuspendDisk,
    /// The guest left S3.
    Wakeup,
    /// The watchdog expired.
    Watchdog(WatchdogAction),
    /// The guest reported a panic.
    GuestPanicked(GuestPanicAction),
    /// The guest panicked and handles it itself.
    GuestCrashloaded,
    /// A disk failed.
    BlockIoError(BlockIoError),
    /// A device does not go on with its driver. Not one of QEMU's, which only logs it.
    DeviceError(DeviceError),
    /// The guest has given memory back by its balloon, or has taken some: bytes that it has now.
    BalloonChange(u64),
}

impl Event {
    /// QEMU's name of the event, if it has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Reset(_) => "RESET",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Powerdown => "POWERDOWN",
            Self::Suspend => "SUSPEND",
            Self::SuspendDisk => "SUSPEND_DISK",
            Self::Wakeup => "WAKEUP",
            Self::Watchdog(_) => "WATCHDOG",
            Self::GuestPanicked(_) => "GUEST_PANICKED",
            Self::GuestCrashloaded => "GUEST_CRASHLOADED",
            Self::BlockIoError(_) => "BLOCK_IO_ERROR",
            Self::DeviceError(_) => "DEVICE_ERROR",
            Self::BalloonChange(_) => "BALLOON_CHANGE",
        }
    }
}

/// An event and the run state it leaves the machine in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// What happened.
    pub event: Event,
    /// The run state after it.
    pub state: RunState,
}
