//! A machine's events, until they say that the run is over.

use std::io::{Write, stderr};

use super::{machine::Machine, verdict::Verdict};
use crate::{
    Error, EventStream,
    cli::failure::Failure,
    names::Spelled,
    v1::{Event, RunState, VmStatus, event::Kind},
};

/// Follows one machine.
pub(super) struct Follower<'a> {
    machine: &'a Machine,
    /// The terminal is in raw mode: it takes line feeds as they are.
    raw: bool,
    /// Its run state after the last event.
    state: RunState,
}

impl<'a> Follower<'a> {
    pub(super) fn new(machine: &'a Machine, raw: bool) -> Self {
        let state = RunState::Prelaunch;
        Self {
            machine,
            raw,
            state,
        }
    }

    /// Starts the guest, and says in which states it stops, until it has ended or cannot go on.
    pub(super) async fn run(mut self, mut events: EventStream) -> Result<Verdict, Failure> {
        self.machine.start().await?;
        let failed = Failure::call(format!("follow '{}'", self.machine.name));
        let error = loop {
            match events.next().await {
                Ok(Some(event)) => {
                    if let Some(verdict) = self.event(event) {
                        return Ok(verdict);
                    }
                }
                Ok(None) => break Error::Malformed("the stream of events ended by itself"),
                Err(error) if error.lost().is_some() => match self.machine.get().await {
                    Ok(vm) => {
                        let status = vm.and_then(|vm| vm.status);
                        let seq = status.as_ref().map_or(0, |status| status.seq);
                        if let Some(verdict) = self.status(status) {
                            return Ok(verdict);
                        }
                        events = self.machine.watch(seq).await?;
                    }
                    Err(error) => break error,
                },
                Err(error) => break error,
            }
        };
        Err(failed(error))
    }

    /// What an event says: of another machine of the name, nothing.
    fn event(&mut self, event: Event) -> Option<Verdict> {
        let state = event.state();
        match event.kind {
            _ if event.vm_id != self.machine.id => None,
            Some(Kind::Ended(ended)) => Some(Verdict::Ended(ended.end.unwrap_or_default())),
            Some(Kind::Deleted(_)) => Some(Verdict::Gone),
            _ => self.moved(state),
        }
    }

    /// What the machine's status says, in place of events that were missed.
    fn status(&mut self, status: Option<VmStatus>) -> Option<Verdict> {
        let Some(status) = status else {
            return Some(Verdict::Gone);
        };
        let state = status.state();
        match status.end {
            Some(end) => Some(Verdict::Ended(end)),
            None => self.moved(state),
        }
    }

    fn moved(&mut self, state: RunState) -> Option<Verdict> {
        if state == RunState::InternalError {
            return Some(Verdict::Stuck);
        }
        if state != self.state {
            self.state = state;
            if let Some(text) = stopped(&self.machine.name, state) {
                self.say(&text);
            }
        }
        None
    }

    /// Says something while the guest's output is on the screen. If nobody can read it, so be it.
    fn say(&self, text: &str) {
        let mut stderr = stderr().lock();
        let _ = if self.raw {
            write!(stderr, "\r\nvmctl: {text}\r\n")
        } else {
            writeln!(stderr, "vmctl: {text}")
        };
    }
}

/// What to say of a machine that is in this state, if its guest does not run in it.
fn stopped(name: &str, state: RunState) -> Option<String> {
    let way_on = match state {
        RunState::Running => return None,
        RunState::Suspended => format!("`vmctl wakeup {name}` wakes it"),
        RunState::Shutdown => {
            format!("`vmctl reset {name}`, and then `vmctl cont {name}`, starts it again")
        }
        _ => format!("`vmctl cont {name}` goes on"),
    };
    let state = state.spelling().unwrap_or("unknown");
    Some(format!("'{name}' is in state {state}: {way_on}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_stops_is_told_with_what_leads_on() {
        let text = |state| stopped("a", state);
        assert_eq!(text(RunState::Running), None);
        assert_eq!(
            text(RunState::GuestPanicked).unwrap(),
            "'a' is in state guest-panicked: `vmctl cont a` goes on"
        );
        assert_eq!(
            text(RunState::Suspended).unwrap(),
            "'a' is in state suspended: `vmctl wakeup a` wakes it"
        );
        assert!(text(RunState::Shutdown).unwrap().contains("vmctl reset a"));
    }
}
