//! The actor: the one task that owns a machine.
//!
//! ```text
//!   mailbox ----------+
//!   pending requests -+--> command --> MainLoop::pass --> events --> log, status --> reply
//!   timers -----------+                     |
//!                                           +--> exit or failure: cleanup --> ENDED; the machine goes to the reaper,
//!                                                the record stays
//!   time of the restart ----> built anew --> STARTED, or RESTART_FAILED and another time
//! ```

mod start;

use std::{
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Instrument, error, info};
use vmd_proto::v1::{
    Event,
    event::{self, Kind},
};
use vmm::{
    machine::DeviceCommand,
    runstate::{Command, CommandError, Failure, Flow, Refusal, RunState, chain, journal::Ending},
};

use super::{
    End, EndKind, Ends, Labels, Message, Parts, Record, RestartMode, Spec, Status, Update, VmError,
    VmHandle,
    catch::catch_panic,
    live::Live,
    recording::{LineSink, Lines},
};
use crate::{
    Daemon, convert,
    limits::Account,
    metrics::Meter,
    registry::Reservation,
    store::{Change, What},
};

/// Owns one machine, from its creation until it is deleted.
pub(super) struct Actor {
    daemon: Arc<Daemon>,
    record: Arc<Record>,
    /// Weak: the last other handle gone, the actor ends.
    vm: Weak<VmHandle>,
    /// `None` once the machine has ended.
    live: Option<Live>,
    /// What it takes; `None` once it is deleted.
    account: Option<Account>,
    /// When it is started again.
    next_start: Option<Instant>,
    status: watch::Sender<Status>,
    parts: watch::Sender<Parts>,
    meter: Arc<Meter>,
}

/// What made the actor act.
enum Wakeup {
    Message(Message),
    /// The daemon has ended.
    Orphaned,
    /// Something is pending, or a timer's time has come.
    Pending,
    /// It is time to start it again.
    Restart,
}

/// Why a machine's turn failed.
enum TurnError {
    Refused(Refusal),
    Failed(String),
}

impl Actor {
    /// Announces the machine, shows it to everybody, and starts its actor.
    pub(super) fn spawn(
        daemon: Arc<Daemon>,
        vm: &Arc<VmHandle>,
        ends: Ends,
        live: Live,
        account: Account,
        reservation: Reservation,
    ) {
        ends.parts.send_replace(live.parts());
        let (actor, messages) = Self::new(daemon.clone(), vm, ends, Some(live), account);
        vm.record.span().in_scope(|| {
            actor.publish_with(
                Kind::Created(Default::default()),
                RunState::Prelaunch,
                |_| reservation.fill(vm.clone()),
            );
        });
        daemon.actors.spawn(actor.run(messages));
    }

    /// Shows a machine from the store to everybody, and starts its actor. Its guest is gone, if it had one.
    pub(super) fn recover(
        daemon: Arc<Daemon>,
        vm: &Arc<VmHandle>,
        ends: Ends,
        reservation: Reservation,
    ) {
        let account = daemon.limits.recover(&vm.spec());
        let (mut actor, messages) = Self::new(daemon.clone(), vm, ends, None, account);
        // There is nothing to read, and nothing to come.
        actor.parts.borrow().console.close();
        reservation.fill(vm.clone());
        let status = actor.status();
        if status.end.is_none() {
            let lost = || actor.ended(EndKind::Lost, status.state);
            vm.record.span().in_scope(lost);
        } else if let Some(time) = status.next_start {
            let wait = time.duration_since(SystemTime::now()).unwrap_or_default();
            let wait = wait.min(status.spec.definition.restart.max_backoff);
            actor.next_start = Instant::now().checked_add(wait);
        }
        daemon.actors.spawn(actor.run(messages));
    }

    fn new(
        daemon: Arc<Daemon>,
        vm: &Arc<VmHandle>,
        ends: Ends,
        live: Option<Live>,
        account: Account,
    ) -> (Self, mpsc::Receiver<Message>) {
        let actor = Self {
            daemon,
            record: vm.record.clone(),
            vm: Arc::downgrade(vm),
            live,
            account: Some(account),
            next_start: None,
            status: ends.status,
            parts: ends.parts,
            meter: vm.meter.clone(),
        };
        (actor, ends.messages)
    }

    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        self.serve(&mut mailbox).await;
        // A message that is being sent at this moment would stay in the mailbox, and its sender wait for an answer for
        // ever: `recv` ends only when there is no such message any more. What is dropped is answered: gone.
        mailbox.close();
        while mailbox.recv().await.is_some() {}
    }

    async fn serve(&mut self, mailbox: &mut mpsc::Receiver<Message>) {
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue() {
            let wakeup = self.wait(mailbox).await;
            // Not for as long as the machine lives: there are many, and few act at a time.
            let span = self.record.span();
            flow = self.act(wakeup).instrument(span).await;
        }
    }

    async fn act(&mut self, wakeup: Wakeup) -> ControlFlow<()> {
        match wakeup {
            Wakeup::Pending => {
                // Nobody waits for an answer; a failure has been published.
                let _ = self.turn(None).await;
            }
            // Whoever asked has gone: nobody wants it any more.
            Wakeup::Message(message) if message.is_abandoned() => {}
            Wakeup::Message(Message::Command { command, reply }) => {
                // Whoever asked may go meanwhile.
                let _ = reply.send(self.command(command).await);
            }
            Wakeup::Message(Message::Device { command, reply }) => {
                let _ = reply.send(self.device(command).await);
            }
            Wakeup::Message(Message::Start { paused, reply }) => {
                let _ = reply.send(self.start(paused).await);
            }
            Wakeup::Message(Message::Record { reply }) => {
                // A recording that nobody takes ends with its first line.
                let _ = reply.send(self.record());
            }
            Wakeup::Message(Message::Update { update, reply }) => {
                let _ = reply.send(self.update(*update).await);
            }
            Wakeup::Message(Message::Delete { force, only, reply }) => {
                let deleted = self.delete(force, only).await;
                let gone = deleted.is_ok();
                let _ = reply.send(deleted);
                if gone {
                    return ControlFlow::Break(());
                }
            }
            Wakeup::Restart => self.restart().await,
            Wakeup::Orphaned => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    async fn wait(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Wakeup {
        // `&mut`: a machine may be used by one thread at a time, and this one may move between threads.
        let ended = self.daemon.ended.cancelled();
        let at = |time: Option<Instant>| async move {
            match time {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        let Some(live) = &mut self.live else {
            return tokio::select! {
                biased;
                message = mailbox.recv() => message.map_or(Wakeup::Orphaned, Wakeup::Message),
                () = ended => Wakeup::Orphaned,
                () = at(self.next_start) => Wakeup::Restart,
            };
        };
        let timer = at(live.main_loop.machine().next_timer().map(Into::into));
        tokio::select! {
            // What the guest did comes before what a client asks for next.
            biased;
            () = live.wake.notified() => Wakeup::Pending,
            message = mailbox.recv() => message.map_or(Wakeup::Orphaned, Wakeup::Message),
            () = timer => Wakeup::Pending,
            () = ended => Wakeup::Orphaned,
        }
    }

    /// Has the main loop serve a command; the answer is the status after it.
    async fn command(&mut self, command: Command) -> Result<Status, VmError> {
        if self.live.is_none() {
            return match command {
                Command::Quit => {
                    self.cancel_restart();
                    // Harmless if repeated.
                    Ok(self.status())
                }
                // What the daemon's end finds waiting waits for its next start.
                Command::Kill => Ok(self.status()),
                _ => Err(VmError::Ended),
            };
        }
        match self.turn(Some(command)).await {
            Ok(()) => Ok(self.status()),
            Err(TurnError::Refused(refusal)) => Err(refusal.into()),
            Err(TurnError::Failed(why)) => Err(VmError::Failed(why)),
        }
    }

    /// Has the devices do something; the answer is the status after it, and the name of the device.
    async fn device(&mut self, command: DeviceCommand) -> Result<(Status, String), VmError> {
        let live = self.live.as_mut().ok_or(VmError::Ended)?;
        match catch_panic(live.main_loop.machine_mut().device(command)).await {
            Ok(Ok(device)) => Ok((self.status(), device)),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => match self.fail(panic).await {
                TurnError::Failed(why) => Err(VmError::Failed(why)),
                TurnError::Refused(refusal) => Err(refusal.into()),
            },
        }
    }

    /// One turn: the timers that have come, the command, a pass of the main loop, and what came of them.
    async fn turn(&mut self, command: Option<Command>) -> Result<(), TurnError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let turned = catch_panic(turn(live, command)).await;
        let (events, state) = (live.requests.take_events(), live.requests.state());
        let gone = live.main_loop.machine_mut().devices_gone().await;
        for emitted in events {
            self.publish(convert::event_kind(emitted.event), emitted.state);
        }
        for device in gone {
            self.publish(convert::device_deleted(device), state);
        }
        let (refused, flow) = match turned {
            Ok(Ok(turned)) => turned,
            Ok(Err(failure)) => return Err(self.fail(chain(&failure)).await),
            Err(panic) => return Err(self.fail(panic).await),
        };
        match flow {
            Flow::Continue => self.refresh(),
            Flow::Exit(exit) => self.end(exit.into()).await,
        }
        refused.map_or(Ok(()), |refusal| Err(TurnError::Refused(refusal)))
    }

    fn record(&mut self) -> Result<Lines, VmError> {
        let live = self.live.as_mut().ok_or(VmError::Ended)?;
        let (sink, lines) = LineSink::new();
        live.main_loop.record(&self.record.name, sink)?;
        Ok(lines)
    }

    async fn update(&mut self, update: Update) -> Result<Status, VmError> {
        let Update {
            before,
            labels,
            definition,
            fields,
            only_ended,
        } = update;
        let now = self.status().spec;
        if !Arc::ptr_eq(&now, &before) {
            return Err(VmError::Updated);
        }
        if self.live.is_some()
            && let Some(field) = only_ended
        {
            return Err(VmError::NotChangeable(field));
        }
        if fields.is_empty() {
            return Ok(self.status());
        }
        let spec = Arc::new(Spec {
            definition,
            labels,
            revision: before.revision + 1,
        });
        if let Some(account) = &self.account {
            self.daemon.limits.relabel(account, &spec.labels)?;
        }
        let share = spec.definition.cpu_share;
        if let Some(live) = &mut self.live
            && share != before.definition.cpu_share
        {
            let set = live.share(&self.daemon, &self.record.id, share).await;
            if let Err(error) = set {
                if let Some(account) = &self.account {
                    account.keep_labels(&before.labels);
                }
                return Err(super::CreateError::from(error).into());
            }
        }
        let updated = event::Updated {
            fields,
            etag: spec.etag(&self.record.id),
            labels_before: before.labels.clone(),
        };
        let state = self.status().state;
        let event = self.event(Kind::Updated(updated), state, spec.labels.clone());
        let never = spec.definition.restart.mode == RestartMode::Never;
        self.append(event, state, |status| status.spec = spec);
        if never {
            self.cancel_restart();
        }
        Ok(self.status())
    }

    async fn delete(&mut self, force: bool, only: Option<Arc<Spec>>) -> Result<Status, VmError> {
        if only.is_some_and(|only| !Arc::ptr_eq(&only, &self.status.borrow().spec)) {
            return Err(VmError::Updated);
        }
        if self.live.is_some() && !force {
            return Err(VmError::NotEnded);
        }
        if self.live.is_some() {
            // A machine that fails to quit has ended all the same.
            let _ = self.command(Command::Quit).await;
        }
        self.account = None;
        let forget = |_: &mut Status| {
            let Record { name, id, .. } = self.record.as_ref();
            self.daemon.registry.remove(name, id);
        };
        let state = self.status().state;
        self.publish_with(Kind::Deleted(Default::default()), state, forget);
        Ok(self.status())
    }

    /// Gives the machine up.
    async fn fail(&mut self, why: String) -> TurnError {
        error!(why, "the machine has failed");
        self.end(EndKind::Failed(why.clone())).await;
        TurnError::Failed(why)
    }

    /// The machine has ended, and its last events are in the log: everything of it is closed in the cleanup's order and
    /// goes, but for the record.
    async fn end(&mut self, kind: EndKind) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        let ending = match kind {
            EndKind::Failed(_) => Ending::Failed,
            _ => Ending::Exit,
        };
        // Also of a machine that has panicked: its closers were not in use. What one of them leaves goes with the machine.
        if let Err(panic) = catch_panic(live.main_loop.clean_up(ending)).await {
            error!(panic, "the cleanup was cut short");
        }
        self.takes_nothing();
        // What is told of an ended machine does not change any more.
        self.parts.send_modify(|parts| {
            self.meter.cpu_time.end(&parts.vcpu_threads);
            parts.vcpu_threads.clear();
        });
        self.ended(kind, live.requests.state());
        // While the threads are there: they leave the group.
        let closed = (live.cpu_group, live.main_loop);
        self.daemon.reaper.close(&self.daemon, &self.record, closed);
    }

    /// What it took of the limits is free, but for its place.
    fn takes_nothing(&self) {
        if let Some(account) = &self.account {
            account.ended();
        }
    }

    /// Tells of the machine's end, and sees to its next start.
    fn ended(&mut self, kind: EndKind, state: RunState) {
        let time = SystemTime::now();
        let status = self.status();
        let next = if self.daemon.is_ending() {
            Err(status.restarts)
        } else {
            let policy = &status.spec.definition.restart;
            policy.after_end(&kind, &status, time)
        };
        let planned = self.plan(next);
        let end = End { kind, time };
        let ended = Kind::Ended(event::Ended {
            end: Some(convert::end(&end)),
        });
        self.publish_with(ended, state, |status| {
            status.end = Some(end);
            planned(status);
        });
    }

    /// Puts an event into the log. The status after it is in place before anybody sees it.
    fn publish(&self, kind: Kind, state: RunState) {
        self.publish_with(kind, state, |_| ());
    }

    /// The same, for an event that goes with another change, of the status or of the registry: whoever has seen the
    /// event finds the change, and whoever finds the change finds the event's number.
    fn publish_with(&self, kind: Kind, state: RunState, change: impl FnOnce(&mut Status)) {
        let labels = self.status.borrow().spec.labels.clone();
        self.append(self.event(kind, state, labels), state, change);
    }

    /// The machine's next event.
    fn event(&self, kind: Kind, state: RunState, labels: Labels) -> Event {
        Event {
            seq: 0,
            vm_seq: self.status.borrow().vm_seq + 1,
            time: Some(SystemTime::now().into()),
            vm_id: self.record.id.clone(),
            vm_name: self.record.name.clone(),
            state: convert::run_state(state),
            labels,
            kind: Some(kind),
        }
    }

    fn append(&self, event: Event, state: RunState, change: impl FnOnce(&mut Status)) {
        let vm_seq = event.vm_seq;
        let name = event.kind.as_ref().map_or("", vmctl::names::event_name);
        let deleted = matches!(event.kind, Some(Kind::Deleted(_)));
        let defined = matches!(event.kind, Some(Kind::Created(_) | Kind::Updated(_)));
        let watchdog = matches!(event.kind, Some(Kind::Watchdog(_))).then(|| event.clone());
        let seq = self.daemon.events.append(event, |seq| {
            // Whether monitors are told of it now or later is decided once, for all.
            self.parts.borrow().door.published(seq, watchdog);
            self.status.send_modify(|status| {
                status.seq = seq;
                status.vm_seq = vm_seq;
                status.state = state;
                change(status);
                self.meter.event(name, status);
            });
            self.daemon.events.store()?;
            let status = self.status.borrow();
            Some(Change {
                id: self.record.id.clone(),
                what: match (defined, deleted) {
                    (true, _) => What::Machine(Box::new(convert::record(&self.record, &status))),
                    (_, true) => What::Deleted,
                    _ => What::Status(convert::status(&status)),
                },
            })
        });
        info!(seq, %state, "{name}");
    }

    /// Shows what changed without an event.
    fn refresh(&self) {
        let Some(live) = &self.live else { return };
        let (state, actions) = (live.requests.state(), live.requests.actions());
        self.status.send_if_modified(|status| {
            let changed = (status.state, status.actions) != (state, actions);
            (status.state, status.actions) = (state, actions);
            self.meter.stands(status);
            changed
        });
    }

    fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}

async fn turn(
    live: &mut Live,
    command: Option<Command>,
) -> Result<(Option<Refusal>, Flow), Failure> {
    if let Some(failure) = live.main_loop.machine().failure() {
        return Err(Failure::Machine {
            action: "run the vCPUs",
            source: Box::new(failure),
        });
    }
    live.main_loop.machine_mut().run_timers();
    let mut refused = None;
    if let Some(command) = command {
        match live.main_loop.command(command).await {
            Ok(()) => {}
            Err(CommandError::Refused(refusal)) => refused = Some(refusal),
            Err(CommandError::Failed(failure)) => return Err(failure),
        }
    }
    Ok((refused, live.main_loop.pass().await?))
}
