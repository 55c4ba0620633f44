//! What is known of one machine: what its calls were answered, and what they must be.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use vmctl::{
    names::Spelled,
    v1::{self, RunState, VmPhase},
};

/// What a command does in a state, by the spec's table.
struct Row {
    /// QEMU's refusal.
    error: Option<&'static str>,
    events: Vec<&'static str>,
    next_state: &'static str,
}

/// The table: operation and state, and what comes of it.
static TABLE: LazyLock<HashMap<(&str, &str), Row>> = LazyLock::new(|| {
    let table = include_str!("../../../vmm/src/runstate/tests/data/commands.csv");
    let rows = table.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let mut next = || fields.next();
        let (operation, state, reply) = (next()?, next()?, next()?);
        let (error, events, next_state) = (next()?, next()?, next()?);
        let row = Row {
            error: (reply == "error").then_some(error),
            events: events.split_whitespace().collect(),
            next_state,
        };
        Some(((operation, state), row))
    });
    rows.collect()
});

/// What a call must answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// Refused for this reason.
    Refused(&'static str),
    /// `INVALID_STATE`, with this text.
    Invalid(&'static str),
}

/// A machine, or the name of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(crate) name: String,
    /// `None`: there is none.
    pub(crate) machine: Option<Machine>,
    /// The events of all machines of this name, in order.
    pub(crate) events: Vec<&'static str>,
    /// The last creation that was answered.
    pub(crate) created: Option<Created>,
}

/// A creation that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) request_id: String,
    pub(crate) colour: String,
    /// The machine's, in the answer.
    pub(crate) vm_id: String,
}

/// A machine as it must be now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) state: RunState,
    pub(crate) ended: bool,
    /// How many events it has had.
    pub(crate) vm_seq: u64,
    /// The number of the last.
    pub(crate) seq: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) etag: String,
}

impl Book {
    /// What `operation` of the spec's table must answer, and the events and the state that must come of it.
    pub(crate) fn expect(&self, operation: &str) -> (Answer, Vec<&'static str>, Option<RunState>) {
        let Some(machine) = &self.machine else {
            return (Answer::Refused("VM_NOT_FOUND"), Vec::new(), None);
        };
        if machine.ended {
            // A quit of what has ended is harmless.
            let answer = match operation {
                "quit" => Answer::Done,
                _ => Answer::Refused("VM_ENDED"),
            };
            return (answer, Vec::new(), Some(machine.state));
        }
        let row = &TABLE[&(operation, machine.state.spelling().unwrap())];
        match row.error {
            Some(text) => (Answer::Invalid(text), Vec::new(), Some(machine.state)),
            None if row.next_state == "(exit)" => {
                // The spec, section 11: a running machine is in `shutdown` when it has ended.
                let last = match machine.state {
                    RunState::Running => RunState::Shutdown,
                    state => state,
                };
                let events = row.events.iter().copied().chain(["ENDED"]).collect();
                (Answer::Done, events, Some(last))
            }
            None => {
                let next = RunState::from_spelling(row.next_state).unwrap();
                (Answer::Done, row.events.clone(), Some(next))
            }
        }
    }

    /// These events came of a call that was served, and the machine's status is `status` now, as it must be.
    pub(crate) fn happened(
        &mut self,
        events: &[&'static str],
        state: RunState,
        status: &v1::VmStatus,
    ) {
        self.events.extend(events);
        let name = &self.name;
        let machine = self.machine.as_mut().unwrap();
        machine.vm_seq += events.len() as u64;
        machine.state = state;
        machine.ended = match events.last() {
            Some(&"ENDED") => true,
            Some(_) if events.contains(&"STARTED") => false,
            _ => machine.ended,
        };
        if !events.is_empty() {
            assert!(status.seq > machine.seq, "{name}: {status:?}, {machine:?}");
            machine.seq = status.seq;
        }
        machine.check(name, status);
    }

    /// The machine is as it must be; `vm` is what the daemon has of it.
    pub(crate) fn check(&self, vm: &v1::Vm) {
        let machine = self.machine.as_ref();
        let machine = machine.unwrap_or_else(|| panic!("{vm:?} is not gone"));
        assert_eq!(vm.name, self.name);
        machine.check(&self.name, vm.status.as_ref().unwrap());
        let labels: BTreeMap<_, _> = vm.labels.clone().into_iter().collect();
        assert_eq!(
            (&vm.id, &labels, &vm.etag),
            (&machine.id, &machine.labels, &machine.etag),
            "{}",
            self.name
        );
    }
}

impl Machine {
    /// As the daemon has it.
    pub(crate) fn new(vm: &v1::Vm) -> Self {
        let status = vm.status.as_ref().unwrap();
        Self {
            id: vm.id.clone(),
            state: status.state(),
            ended: status.phase() == VmPhase::Ended,
            vm_seq: status.vm_seq,
            seq: status.seq,
            labels: vm.labels.clone().into_iter().collect(),
            etag: vm.etag.clone(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.ended && self.state == RunState::Running
    }

    fn check(&self, name: &str, status: &v1::VmStatus) {
        let phase = match self.ended {
            true => VmPhase::Ended,
            false => VmPhase::Live,
        };
        assert_eq!(
            (
                status.phase(),
                status.state(),
                status.vm_seq,
                status.seq,
                status.running
            ),
            (phase, self.state, self.vm_seq, self.seq, self.is_running()),
            "phase, state, events, last event, running of {name}"
        );
    }
}
