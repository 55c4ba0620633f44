//! The streams of events and of machines. Each has a task that reads the event log at the reader's own pace, and ends
//! when the reader goes away, when events are lost to it, or when the daemon has ended and everything was sent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use vmd_proto::v1::{
    self, Event, WatchEventsRequest, WatchVmsResponse, event::Kind, watch_vms_response::Synced,
    watch_vms_response::Update,
};

use super::{Sender, errors};
use crate::{
    Daemon, convert,
    event_log::{Cursor, Lost},
};

/// Sends events from the log.
pub(super) async fn events(
    daemon: Arc<Daemon>,
    request: WatchEventsRequest,
    sender: Sender<Event>,
) {
    let last = request.history_only.then(|| daemon.events.newest());
    let mut cursor = Cursor::new(daemon, request.after_seq);
    while last.is_none_or(|last| cursor.seq < last) {
        let events = match next(&mut cursor, &sender).await {
            Ok(events) if events.is_empty() => return,
            Ok(events) => events,
            Err(lost) => {
                // The reader may have gone as well.
                let _ = sender.send(Err(errors::lost(&lost))).await;
                return;
            }
        };
        for event in events {
            let wanted = request.name.is_empty() || event.vm_name == request.name;
            if wanted
                && last.is_none_or(|last| event.seq <= last)
                && sender.send(Ok(event.as_ref().clone())).await.is_err()
            {
                return;
            }
        }
    }
}

/// Sends every machine, then each that changes. What is sent is a machine's newest status, so nothing is lost to a
/// reader that falls behind: it misses states in between, and finds them in the event log if that still has them.
pub(super) async fn vms(daemon: Arc<Daemon>, name: String, sender: Sender<WatchVmsResponse>) {
    let mut known = Known {
        daemon: daemon.clone(),
        name,
        sent: HashMap::new(),
    };
    let mut cursor = Cursor::new(daemon.clone(), daemon.events.newest());
    let synced = Update::Synced(Synced {});
    let mut updates = known.all();
    updates.push(synced);
    let mut since = cursor.seq;
    loop {
        if send(&sender, updates, since, cursor.seq).await.is_err() {
            return;
        }
        since = cursor.seq;
        updates = match next(&mut cursor, &sender).await {
            Ok(events) if events.is_empty() => return,
            Ok(events) => known.after(&events),
            Err(_) => {
                // Too slow for the log: look at everything again.
                cursor.seq = daemon.events.newest();
                known.all()
            }
        };
    }
}

/// Only the last of the updates brings the reader up to `seq`.
async fn send(
    sender: &Sender<WatchVmsResponse>,
    updates: Vec<Update>,
    since: u64,
    seq: u64,
) -> Result<(), ()> {
    let last = updates.len();
    for (index, update) in (1..).zip(updates) {
        let seq = if index == last { seq } else { since };
        let response = WatchVmsResponse {
            update: Some(update),
            seq,
        };
        sender.send(Ok(response)).await.map_err(drop)?;
    }
    Ok(())
}

/// The next events, waiting for them; none if there will be no more, or `sender`'s reader has gone.
async fn next<T>(cursor: &mut Cursor, sender: &Sender<T>) -> Result<Vec<Arc<Event>>, Lost> {
    loop {
        let events = cursor.read()?;
        if !events.is_empty() {
            return Ok(events);
        }
        let more = tokio::select! {
            more = cursor.changed() => more,
            () = sender.closed() => false,
        };
        if !more {
            return Ok(events);
        }
    }
}

/// What a reader has been sent.
struct Known {
    daemon: Arc<Daemon>,
    /// Of the only machine that is wanted; empty for all.
    name: String,
    /// By id.
    sent: HashMap<String, v1::Vm>,
}

impl Known {
    /// What is new about all machines.
    fn all(&mut self) -> Vec<Update> {
        let there: BTreeMap<_, _> = self
            .daemon
            .registry
            .list()
            .into_iter()
            .filter(|vm| self.name.is_empty() || vm.record.name == self.name)
            .map(|vm| (vm.record.id.clone(), convert::vm(&vm, &vm.status())))
            .collect();
        let gone = self.sent.extract_if(|id, _| !there.contains_key(id));
        let mut updates: Vec<_> = gone.map(|(_, vm)| Update::Deleted(vm)).collect();
        updates.extend(there.into_values().filter_map(|vm| self.update(vm)));
        updates
    }

    /// What is new about the machines that `events` are of.
    fn after(&mut self, events: &[Arc<Event>]) -> Vec<Update> {
        let mut updates = Vec::new();
        for event in events {
            if !self.name.is_empty() && event.vm_name != self.name {
                continue;
            }
            if let Some(Kind::Deleted(_)) = event.kind {
                updates.extend(self.sent.remove(&event.vm_id).map(Update::Deleted));
                continue;
            }
            // One that is gone, or replaced, has a DELETED to come.
            if let Some(vm) = self.daemon.find(&event.vm_name)
                && vm.record.id == event.vm_id
            {
                updates.extend(self.update(convert::vm(&vm, &vm.status())));
            }
        }
        updates
    }

    /// Tells of `vm`, unless the reader has its newest status.
    fn update(&mut self, vm: v1::Vm) -> Option<Update> {
        let seq = |vm: &v1::Vm| vm.status.as_ref().map(|status| status.seq);
        let new = self
            .sent
            .get(&vm.id)
            .is_none_or(|sent| seq(sent) < seq(&vm));
        new.then(|| {
            self.sent.insert(vm.id.clone(), vm.clone());
            Update::Vm(vm)
        })
    }
}
