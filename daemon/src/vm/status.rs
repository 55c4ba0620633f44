//! Where a machine stands.

use std::{sync::Arc, time::SystemTime};

use vmm::runstate::{Actions, Exit, RunState, ShutdownCause};

use super::Spec;

/// Where a machine stands, as of its event `vm_seq`.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its run state; of an ended machine, the last.
    pub state: RunState,
    /// The actions in force.
    pub actions: Actions,
    /// The daemon-wide number of its last event.
    pub seq: u64,
    /// That event's number among its own.
    pub vm_seq: u64,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// When it was built last.
    pub started: SystemTime,
    /// How often in a row its policy has started it, or is about to.
    pub restarts: u32,
    /// When it will be started again.
    pub next_start: Option<SystemTime>,
    /// What it is to be.
    pub spec: Arc<Spec>,
}

impl Status {
    /// Of a machine without events.
    pub fn new(spec: Spec) -> Self {
        Self {
            state: RunState::Prelaunch,
            actions: spec.definition.actions,
            seq: 0,
            vm_seq: 0,
            end: None,
            started: SystemTime::now(),
            restarts: 0,
            next_start: None,
            spec: Arc::new(spec),
        }
    }

    /// Whether the guest executes.
    pub fn is_running(&self) -> bool {
        self.end.is_none() && self.state.is_running()
    }
}

/// How and when a machine ended.
#[derive(Clone, Debug)]
pub struct End {
    /// How.
    pub kind: EndKind,
    /// When.
    pub time: SystemTime,
}

/// How a machine ended.
#[derive(Clone, Debug)]
pub enum EndKind {
    /// A shutdown request was served with action `poweroff`.
    Shutdown {
        /// Whose it was.
        cause: ShutdownCause,
        /// 0, or 1.
        exit_status: u8,
    },
    /// The watchdog expired with action `poweroff`.
    Watchdog,
    /// The daemon could not go on with it.
    Failed(String),
    /// The daemon died, and the guest with it.
    Lost,
}

impl From<Exit> for EndKind {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Shutdown { cause, status } => Self::Shutdown {
                cause,
                exit_status: status,
            },
            Exit::Watchdog => Self::Watchdog,
        }
    }
}
