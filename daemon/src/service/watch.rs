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

use super::{Sender, errors, filter::Filter, selector::Selector};
use crate::{
    Daemon, convert,
    event_log::{Cursor, EventLog, ReadError},
};

/// How many events a reader may be behind that wants to be told of progress, before the next ones are read.
const PROGRESS: u64 = 256;

/// The log that is asked for.
pub(super) fn log_of(request: &WatchEventsRequest) -> fn(&Daemon) -> &EventLog {
    match request.audit {
        true => |daemon| &daemon.audit,
        false => |daemon| &daemon.events,
    }
}

/// Sends events from the log.
pub(super) async fn events(
    daemon: Arc<Daemon>,
    request: WatchEventsRequest,
    filter: Filter,
    sender: Sender<Event>,
) {
    let log = log_of(&request);
    let last = request.history_only.then(|| log(&daemon).newest());
    let mut cursor = Cursor::of(log, daemon, request.after_seq);
    // The number that the reader knows to go on from.
    let mut told = request.after_seq;
    while last.is_none_or(|last| cursor.seq < last) {
        let events = match next(&mut cursor, &sender).await {
            Ok(events) if events.is_empty() => return,
            Ok(events) => events,
            Err(error) => {
                // The reader may have gone as well.
                let _ = sender.send(Err(errors::unread(&error))).await;
                return;
            }
        };
        for event in events {
            if !filter.wants(&event) || last.is_some_and(|last| event.seq > last) {
                continue;
            }
            told = event.seq;
            if sender.send(Ok(event.as_ref().clone())).await.is_err() {
                return;
            }
        }
        let seq = last.map_or(cursor.seq, |last| cursor.seq.min(last));
        let is_end = last == Some(seq) && told < seq;
        if request.progress && (is_end || seq.saturating_sub(told) >= PROGRESS) {
            let progress = Event {
                seq,
                ..Default::default()
            };
            told = seq;
            if sender.send(Ok(progress)).await.is_err() {
                return;
            }
        }
    }
}

/// Sends every machine, then each that changes. What is sent is a machine's newest status, so nothing is lost to a
/// reader that falls behind: it misses states in between, and finds them in the event log if that still has them.
pub(super) async fn vms(
    daemon: Arc<Daemon>,
    name: String,
    selector: Selector,
    sender: Sender<WatchVmsResponse>,
) {
    let mut known = Known {
        daemon: daemon.clone(),
        name,
        selector,
        sent: HashMap::new(),
    };
    let mut cursor = Cursor::new(daemon.clone(), daemon.events.newest());
    let synced = Update::Synced(Synced {});
    let mut updates = known.all().await;
    updates.push(synced);
    let mut since = cursor.seq;
    loop {
        if send(&sender, updates, since, cursor.seq).await.is_err() {
            return;
        }
        since = cursor.seq;
        updates = match next(&mut cursor, &sender).await {
            Ok(events) if events.is_empty() => return,
            Ok(events) => known.after(&events).await,
            Err(ReadError::Lost(_)) => {
                // Too slow for the log: look at everything again.
                cursor.seq = daemon.events.newest();
                known.all().await
            }
            Err(error) => {
                let _ = sender.send(Err(errors::unread(&error))).await;
                return;
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
async fn next<T>(cursor: &mut Cursor, sender: &Sender<T>) -> Result<Vec<Arc<Event>>, ReadError> {
    loop {
        let events = cursor.read().await?;
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
    /// Which of them are wanted.
    selector: Selector,
    /// By id.
    sent: HashMap<String, v1::Vm>,
}

impl Known {
    /// What is new about all machines.
    async fn all(&mut self) -> Vec<Update> {
        let mut there = BTreeMap::new();
        for vm in self.daemon.registry.list() {
            if self.name.is_empty() || vm.record.name == self.name {
                let vm = convert::vm(&vm, &vm.stored_status().await);
                if self.selector.matches(&vm.labels) {
                    there.insert(vm.id.clone(), vm);
                }
            }
        }
        let gone = self.sent.extract_if(|id, _| !there.contains_key(id));
        let mut updates: Vec<_> = gone.map(|(_, vm)| Update::Deleted(vm)).collect();
        updates.extend(there.into_values().filter_map(|vm| self.update(vm)));
        updates
    }

    /// What is new about the machines that `events` are of.
    async fn after(&mut self, events: &[Arc<Event>]) -> Vec<Update> {
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
                let vm = convert::vm(&vm, &vm.stored_status().await);
                updates.extend(if self.selector.matches(&vm.labels) {
                    self.update(vm)
                } else {
                    self.sent.remove(&vm.id).map(Update::Deleted)
                });
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
