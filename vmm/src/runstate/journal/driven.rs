//! The machine as the main loop drives it: each answer is journaled.

use super::{Answer, MachineCall};
use crate::runstate::{Machine, error::chain, requests::Serving};

/// A machine, and the journal's side of it. The same methods as [`Machine`].
pub(in crate::runstate) struct Driven<M> {
    pub(in crate::runstate) machine: M,
    requests: Serving,
}

impl<M: Machine> Driven<M> {
    pub(in crate::runstate) fn new(machine: M, requests: Serving) -> Self {
        Self { machine, requests }
    }

    pub(in crate::runstate) async fn pause_vcpus(&mut self) -> Result<(), M::Error> {
        let result = self.machine.pause_vcpus().await;
        self.told(MachineCall::Pause, result)
    }

    pub(in crate::runstate) fn resume_vcpus(&mut self) -> Result<(), M::Error> {
        let result = self.machine.resume_vcpus();
        self.told(MachineCall::Resume, result)
    }

    pub(in crate::runstate) fn set_ticks(&mut self, enabled: bool) {
        self.machine.set_ticks(enabled);
        let call = if enabled {
            MachineCall::TicksOn
        } else {
            MachineCall::TicksOff
        };
        self.requests.answered(call, || Answer::Ok);
    }

    pub(in crate::runstate) async fn reset(&mut self) -> Result<(), M::Error> {
        let result = self.machine.reset().await;
        self.told(MachineCall::Reset, result)
    }

    pub(in crate::runstate) async fn wake_up(&mut self) -> Result<(), M::Error> {
        let result = self.machine.wake_up().await;
        self.told(MachineCall::WakeUp, result)
    }

    pub(in crate::runstate) async fn inject_nmi(&mut self) -> Result<(), M::Error> {
        let result = self.machine.inject_nmi().await;
        self.told(MachineCall::InjectNmi, result)
    }

    pub(in crate::runstate) fn port_write(&mut self, port: u16, data: &[u8]) {
        self.machine.port_write(port, data);
        self.requests
            .answered(MachineCall::PortWrite, || Answer::Ok);
    }

    pub(in crate::runstate) async fn drain_and_flush(&mut self) -> Result<(), i32> {
        let result = self.machine.drain_and_flush().await;
        self.requests.answered(MachineCall::Flush, || match result {
            Ok(()) => Answer::Ok,
            Err(errno) => Answer::Errno(errno),
        });
        result
    }

    fn told(&self, call: MachineCall, result: Result<(), M::Error>) -> Result<(), M::Error> {
        self.requests.answered(call, || match &result {
            Ok(()) => Answer::Ok,
            Err(error) => Answer::Failed(chain(error)),
        });
        result
    }
}
