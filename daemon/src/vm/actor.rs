//! The actor: the one task that owns a machine.
//!
//! ```text
//!   mailbox ----------+
//!   pending requests -+--> command --> MainLoop::pass --> events --> log, status --> reply
//!   timers -----------+                     |
//!                                           +--> exit or failure: the machine goes to the reaper, the record stays
//! ```

use std::{
    sync::{Arc, Weak},
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{Instrument, error, info, info_span};
use vmd_proto::v1::{Event, event::Kind};
use vmm::runstate::{
    Command, CommandError, Failure, Flow, Refusal, RunState, chain, journal::Ending,
};

use super::{
    End, EndKind, Ends, Message, Parts, Record, Status, VmError, VmHandle,
    catch::catch_panic,
    live::Live,
    recording::{LineSink, Lines},
};
use crate::{Daemon, convert, registry::Reservation};

/// Owns one machine, from its creation until it is deleted.
pub(super) struct Actor {
    daemon: Arc<Daemon>,
    record: Arc<Record>,
    /// Weak: the last other handle gone, the actor ends.
    vm: Weak<VmHandle>,
    /// `None` once the machine has ended.
    live: Option<Live>,
    status: watch::Sender<Status>,
    parts: watch::Sender<Parts>,
}

/// What made the actor act.
enum Wakeup {
    Message(Message),
    /// The daemon has ended.
    Orphaned,
    /// Something is pending, or a timer's time has come.
    Pending,
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
        reservation: Reservation,
    ) {
        ends.parts.send_replace(live.parts());
        let span = info_span!("machine", vm = %vm.record.name);
        let actor = Self {
            daemon: daemon.clone(),
            record: vm.record.clone(),
            vm: Arc::downgrade(vm),
            live: Some(live),
            status: ends.status,
            parts: ends.parts,
        };
        span.in_scope(|| {
            actor.publish_with(
                Kind::Created(Default::default()),
                RunState::Prelaunch,
                |_| reservation.fill(vm.clone()),
            );
        });
        daemon
            .actors
            .spawn(actor.run(ends.messages).instrument(span));
    }

    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        self.serve(&mut mailbox).await;
        // A message that is being sent at this moment would stay in the mailbox, and its sender wait for an answer for
        // ever: `recv` ends only when there is no such message any more. What is dropped is answered: gone.
        mailbox.close();
        while mailbox.recv().await.is_some() {}
    }

    async fn serve(&mut self, mailbox: &mut mpsc::Receiver<Message>) {
        loop {
            match self.wait(mailbox).await {
                Wakeup::Pending => {
                    // Nobody waits for an answer; a failure has been published.
                    let _ = self.turn(None).await;
                }
                Wakeup::Message(Message::Command { command, reply }) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.command(command).await);
                }
                Wakeup::Message(Message::Start { paused, reply }) => {
                    let _ = reply.send(self.start(paused).await);
                }
                Wakeup::Message(Message::Record { reply }) => {
                    // A recording that nobody takes ends with its first line.
                    let _ = reply.send(self.record());
                }
                Wakeup::Message(Message::Delete { force, reply }) => {
                    let deleted = self.delete(force).await;
                    let gone = deleted.is_ok();
                    let _ = reply.send(deleted);
                    if gone {
                        return;
                    }
                }
                Wakeup::Orphaned => return,
            }
        }
    }

    async fn wait(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> Wakeup {
        // `&mut`: a machine may be used by one thread at a time, and this one may move between threads.
        let ended = self.daemon.ended.cancelled();
        let Some(live) = &mut self.live else {
            return tokio::select! {
                biased;
                message = mailbox.recv() => message.map_or(Wakeup::Orphaned, Wakeup::Message),
                () = ended => Wakeup::Orphaned,
            };
        };
        let next_timer = live.main_loop.machine().next_timer();
        let timer = async {
            match next_timer {
                Some(time) => sleep_until(time.into()).await,
                None => std::future::pending().await,
            }
        };
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
                // Harmless if repeated.
                Command::Quit | Command::Kill => Ok(self.status()),
                _ => Err(VmError::Ended),
            };
        }
        match self.turn(Some(command)).await {
            Ok(()) => Ok(self.status()),
            Err(TurnError::Refused(refusal)) => Err(refusal.into()),
            Err(TurnError::Failed(why)) => Err(VmError::Failed(why)),
        }
    }

    /// One turn: the timers that have come, the command, a pass of the main loop, and what came of them.
    async fn turn(&mut self, command: Option<Command>) -> Result<(), TurnError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let turned = catch_panic(turn(live, command)).await;
        for emitted in live.requests.take_events() {
            self.publish(convert::event_kind(emitted.event), emitted.state);
        }
        let (refused, flow) = match turned {
            Ok(Ok(turned)) => turned,
            Ok(Err(failure)) => return Err(self.fail(chain(&failure))),
            Err(panic) => return Err(self.fail(panic)),
        };
        match flow {
            Flow::Continue => self.refresh(),
            Flow::Exit(exit) => self.end(exit.into()),
        }
        refused.map_or(Ok(()), |refusal| Err(TurnError::Refused(refusal)))
    }

    async fn start(&mut self, paused: bool) -> Result<Status, VmError> {
        if self.live.is_some() {
            return Err(VmError::NotEnded);
        }
        if self.daemon.is_ending() {
            return Err(super::CreateError::ShuttingDown.into());
        }
        let vm = self.vm.upgrade().ok_or(VmError::Gone)?;
        let live = Live::build(&self.daemon, &vm, None).await?;
        self.parts.send_replace(live.parts());
        self.live = Some(live);
        let anew = |status: &mut Status| {
            status.end = None;
            status.actions = vm.record.definition.actions;
        };
        self.publish_with(Kind::Started(Default::default()), RunState::Prelaunch, anew);
        if paused {
            Ok(self.status())
        } else {
            self.command(Command::Cont).await
        }
    }

    fn record(&mut self) -> Result<Lines, VmError> {
        let live = self.live.as_mut().ok_or(VmError::Ended)?;
        let (sink, lines) = LineSink::new();
        live.main_loop.record(&self.record.name, sink)?;
        Ok(lines)
    }

    async fn delete(&mut self, force: bool) -> Result<Status, VmError> {
        if self.live.is_some() && !force {
            return Err(VmError::NotEnded);
        }
        // A machine that fails to quit has ended all the same.
        let _ = self.command(Command::Quit).await;
        let forget = |_: &mut Status| {
            let Record { name, id, .. } = self.record.as_ref();
            self.daemon.registry.remove(name, id);
        };
        let state = self.status().state;
        self.publish_with(Kind::Deleted(Default::default()), state, forget);
        Ok(self.status())
    }

    /// Gives the machine up.
    fn fail(&mut self, why: String) -> TurnError {
        error!(why, "the machine has failed");
        self.end(EndKind::Failed(why.clone()));
        TurnError::Failed(why)
    }

    /// The machine has ended: everything of it goes, but for the record.
    fn end(&mut self, kind: EndKind) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        live.main_loop.end_recording(match kind {
            EndKind::Failed(_) => Ending::Failed,
            _ => Ending::Exit,
        });
        let state = live.requests.state();
        let end = End {
            kind,
            time: SystemTime::now(),
        };
        let ended = vmd_proto::v1::event::Ended {
            end: Some(convert::end(&end)),
        };
        self.publish_with(Kind::Ended(ended), state, |status| status.end = Some(end));
        self.parts.send_modify(|parts| parts.vcpu_threads.clear());
        self.daemon.reaper.close(live.close());
    }

    /// Puts an event into the log. The status after it is in place before anybody sees it.
    fn publish(&self, kind: Kind, state: RunState) {
        self.publish_with(kind, state, |_| ());
    }

    /// The same, for an event that goes with another change, of the status or of the registry: whoever has seen the
    /// event finds the change, and whoever finds the change finds the event's number.
    fn publish_with(&self, kind: Kind, state: RunState, change: impl FnOnce(&mut Status)) {
        let vm_seq = self.status.borrow().vm_seq + 1;
        let event = Event {
            seq: 0,
            vm_seq,
            time: Some(SystemTime::now().into()),
            vm_id: self.record.id.clone(),
            vm_name: self.record.name.clone(),
            state: convert::run_state(state),
            kind: Some(kind),
        };
        let name = event.kind.as_ref().map_or("", vmctl::names::event_name);
        let seq = self.daemon.events.append(event, |seq| {
            self.status.send_modify(|status| {
                status.seq = seq;
                status.vm_seq = vm_seq;
                status.state = state;
                change(status);
            });
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
