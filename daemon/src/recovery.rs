//! The machines that a store has, at the daemon's start: each comes back as ended, with its definition. A guest that ran
//! when the daemon died is lost, and its machine's policy says what follows.

use std::{path::Path, sync::Arc, time::SystemTime};

use tracing::error;
use vmctl::names::Spelled;
use vmd_proto::v1::{self, vm_end};
use vmm::runstate::{Actions, RunState, ShutdownCause};

use crate::{
    Daemon,
    access::Reach,
    convert,
    service::check::{self, Limits},
    store::{FILE, StoreError},
    vm::{self, End, EndKind, Record, Spec, Status},
};

/// A machine from the store.
pub(crate) struct Recovered {
    record: Record,
    status: Status,
}

/// Understands the machines of the store in `directory`, all or none.
pub(crate) fn read(directory: &Path, vms: Vec<v1::Vm>) -> Result<Vec<Recovered>, StoreError> {
    let read = |vm: v1::Vm| {
        let name = vm.name.clone();
        machine(vm).map_err(|problem| StoreError::Machine {
            path: directory.join(FILE),
            name,
            problem,
        })
    };
    vms.into_iter().map(read).collect()
}

/// Shows them to everybody.
pub(crate) fn recover(daemon: &Arc<Daemon>, machines: Vec<Recovered>) {
    for Recovered { record, status } in machines {
        let name = record.name.clone();
        if !vm::recover(daemon, record, status) {
            // The store has each name once.
            error!(name, "a machine of the store has a name that is taken");
        }
    }
}

fn machine(vm: v1::Vm) -> Result<Recovered, String> {
    let definition = vm.definition.unwrap_or_default();
    let reach = match vm.any_path {
        true => Reach::Anywhere,
        false => Reach::Roots,
    };
    let definition = check::definition(&Limits::NONE, reach, definition)
        .map_err(|refusal| refusal.message().to_owned())?;
    let spec =
        Spec::restored(definition, vm.labels, &vm.etag).ok_or("its etag is not understood")?;
    let status = vm.status.ok_or("it has no status")?;
    let status = read_status(status, spec).ok_or("its status is not understood")?;
    let record = Record {
        id: vm.id,
        name: vm.name,
        created: time(vm.create_time)?,
    };
    Ok(Recovered { record, status })
}

fn read_status(status: v1::VmStatus, spec: Spec) -> Option<Status> {
    let change = convert::action_change(&status.actions.unwrap_or_default()).ok()?;
    let end = match status.end {
        Some(end) => Some(End {
            kind: end_kind(&end)?,
            time: time(end.time).ok()?,
        }),
        None => None,
    };
    let next_start = match status.next_start_time {
        Some(next) => Some(time(Some(next)).ok()?),
        None => None,
    };
    Some(Status {
        state: spelled::<v1::RunState, RunState>(status.state)?,
        actions: Actions::default().with(change),
        seq: status.seq,
        vm_seq: status.vm_seq,
        end,
        started: time(status.start_time).ok()?,
        restarts: status.restarts,
        next_start,
        spec: Arc::new(spec),
    })
}

fn end_kind(end: &v1::VmEnd) -> Option<EndKind> {
    Some(match end.kind() {
        vm_end::Kind::Shutdown => EndKind::Shutdown {
            cause: spelled::<v1::ShutdownCause, ShutdownCause>(end.cause)?,
            exit_status: u8::try_from(end.exit_status).ok()?,
        },
        vm_end::Kind::Watchdog => EndKind::Watchdog,
        vm_end::Kind::Failed => EndKind::Failed(end.failure.clone()),
        vm_end::Kind::Lost => EndKind::Lost,
        vm_end::Kind::Unspecified => return None,
    })
}

/// The machine's value for one of the wire.
fn spelled<P: Spelled, M: std::str::FromStr>(value: i32) -> Option<M> {
    P::spelling_of(value)?.parse().ok()
}

fn time(time: Option<prost_types::Timestamp>) -> Result<SystemTime, String> {
    let time = time.ok_or("a time is missing")?;
    SystemTime::try_from(time).map_err(|error| error.to_string())
}
