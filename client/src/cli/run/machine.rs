//! The machine of one run: created under a name that may be made up, and removed for certain.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
};

use super::verdict::Verdict;
use crate::{
    ByteInput, Client, ConsoleOutput, Error, EventStream,
    cli::{args::Run, console::Signals, failure::Failure},
    v1::{CreateVmRequest, CreateVmResponse, Vm, VmDefinition},
};

/// How many made-up names are tried.
const NAMES: usize = 8;

/// A machine that was created, and is paused.
pub(super) struct Machine {
    client: Client,
    pub(super) name: String,
    pub(super) id: String,
    /// The last event of its creation.
    pub(super) seq: u64,
}

/// What became of a machine that was left.
#[derive(Debug)]
pub(super) enum Removal {
    /// It is gone.
    Done,
    /// It stays, as was asked for.
    Kept,
    /// It may be there still.
    Failed(Failure),
}

impl Machine {
    /// Creates it, paused. A signal that comes meanwhile ends the run.
    pub(super) async fn create(
        client: &Client,
        run: Run,
        signals: &mut Signals,
    ) -> Result<Self, Failure> {
        let definition = run.machine.definition();
        let labels = run.labels.collect();
        let mut tries = if run.name.is_some() { 1 } else { NAMES };
        loop {
            tries -= 1;
            let name = run.name.clone().unwrap_or_else(make_up_name);
            match create(client, &name, definition.clone(), &labels, signals).await {
                Err(Failure::Call(_, error)) if tries > 0 && is(&error, "VM_EXISTS") => {}
                created => return created,
            }
        }
    }

    fn of(client: &Client, reply: CreateVmResponse) -> Self {
        let Vm { name, id, .. } = reply.vm.unwrap_or_default();
        Self {
            client: client.clone(),
            name,
            id,
            seq: reply.seq,
        }
    }

    /// Its name's events after `seq`.
    pub(super) async fn watch(&self, seq: u64) -> Result<EventStream, Failure> {
        let events = self.client.watch_events(seq, Some(&self.name), false).await;
        events.map_err(Failure::call(format!("follow '{}'", self.name)))
    }

    /// Its console, from the first byte on.
    pub(super) async fn console(&self) -> Result<(ByteInput, ConsoleOutput), Failure> {
        let console = self.client.console(&self.name, false).await;
        console.map_err(Failure::call(format!("use the console of '{}'", self.name)))
    }

    /// Starts its vCPUs. If it has ended meanwhile, its events say so.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        match self.client.cont(&self.name).await {
            Err(error) if !has_gone(&error) => {
                Err(Failure::Call(format!("start '{}'", self.name), error))
            }
            _ => Ok(()),
        }
    }

    /// The machine as it is; `None` if it is gone, even if another has its name.
    pub(super) async fn get(&self) -> Result<Option<Vm>, Error> {
        match self.client.get(&self.name).await {
            Ok(vm) => Ok(Some(vm).filter(|vm| vm.id == self.id)),
            Err(error) if is(&error, "VM_NOT_FOUND") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Quits and removes it, unless it is to be kept. A signal ends the wait if it takes long.
    pub(super) async fn leave(
        &self,
        keep: bool,
        verdict: &Verdict,
        signals: &mut Signals,
    ) -> Removal {
        if keep {
            return Removal::Kept;
        }
        let removed = tokio::select! {
            removed = self.remove() => removed,
            () = signals.impatience() => return Removal::Failed(may_be_left(&self.name)),
        };
        match removed {
            Ok(()) => Removal::Done,
            // Its machines go with a daemon; why it is gone is told by the verdict.
            Err(Error::Unreachable { .. }) if verdict.is_the_daemons_end() => Removal::Done,
            Err(error) => Removal::Failed(Failure::Call(format!("remove '{}'", self.name), error)),
        }
    }

    async fn remove(&self) -> Result<(), Error> {
        // Somebody may have removed it and taken the name.
        if self.get().await?.is_none() {
            return Ok(());
        }
        match self.client.delete(&self.name, true).await {
            Err(error) if !is(&error, "VM_NOT_FOUND") => Err(error),
            _ => Ok(()),
        }
    }
}

async fn create(
    client: &Client,
    name: &str,
    definition: VmDefinition,
    labels: &BTreeMap<String, String>,
    signals: &mut Signals,
) -> Result<Machine, Failure> {
    let request = CreateVmRequest {
        name: name.to_owned(),
        labels: labels.clone(),
        definition: Some(definition),
        paused: true,
        ..Default::default()
    };
    let creation = client.create(request);
    tokio::pin!(creation);
    let number = tokio::select! {
        reply = &mut creation => {
            let reply = reply.map_err(Failure::call(format!("create '{name}'")))?;
            return Ok(Machine::of(client, reply));
        }
        number = signals.next(None) => number,
    };
    // The daemon finishes it all the same: it is to be removed then.
    let verdict = Verdict::Signal(number);
    let removal = tokio::select! {
        reply = &mut creation => match reply {
            Ok(reply) => Machine::of(client, reply).leave(false, &verdict, signals).await,
            Err(_) => Removal::Done,
        },
        () = signals.impatience() => Removal::Failed(may_be_left(name)),
    };
    removal.tell();
    Err(Failure::Signal(number))
}

impl Removal {
    /// True if the machine is gone.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Says what failed.
    pub(super) fn tell(&self) {
        if let Self::Failed(failure) = self {
            failure.report();
        }
    }
}

fn may_be_left(name: &str) -> Failure {
    Failure::Told(format!("the removal of '{name}' was not waited for"))
}

/// True if `error` is a refusal for this reason.
fn is(error: &Error, reason: &str) -> bool {
    error.reason() == Some(reason)
}

/// True if a machine that cannot be driven any more is why.
fn has_gone(error: &Error) -> bool {
    ["VM_ENDED", "VM_NOT_FOUND", "VM_FAILED"]
        .iter()
        .any(|reason| is(error, reason))
}

/// A name that is hardly taken: `run-` and eight digits of random hexadecimals.
fn make_up_name() -> String {
    // Its keys are random in each process and differ in each call.
    let random = RandomState::new().build_hasher().finish();
    format!("run-{:08x}", random >> 32)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn made_up_names_differ_and_are_names() {
        let names: HashSet<_> = (0..100).map(|_| make_up_name()).collect();
        // Of 2^32, two of 100 are the same once in a million times.
        assert!(names.len() >= 99);
        for name in names {
            let digits = name.strip_prefix("run-").unwrap();
            assert_eq!(digits.len(), 8, "{name}");
            assert!(
                digits
                    .bytes()
                    .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            );
        }
    }
}
