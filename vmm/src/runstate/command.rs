//! The commands: what a client asks of a machine, in any state (spec, section 5).

use super::{
    ActionChange, CommandError, Machine, MainLoop, RebootAction, Refusal, Request, RunState,
    ShutdownCause, WakeupReason,
    journal::Call,
    main_loop::{answered, failed},
};

/// A command. Its requests are served by the [`MainLoop::pass`] that must follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stop the vCPUs.
    Stop,
    /// Start the vCPUs.
    Cont,
    /// Reset the machine.
    SystemReset,
    /// Press the power button.
    SystemPowerdown,
    /// Wake the machine from S3.
    SystemWakeup,
    /// Send an NMI to the vCPUs.
    InjectNmi,
    /// Change the actions.
    SetAction(ActionChange),
    /// Write to an I/O port, as a guest would, but outside any vCPU.
    PortWrite {
        /// The port.
        port: u16,
        /// The value; its lowest `size` bytes are written.
        value: u32,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// End the machine.
    Quit,
    /// A terminating signal reached the daemon: end the machine.
    Kill,
}

impl<M: Machine> MainLoop<M> {
    /// Carries `command` out as far as its handler goes; the following pass serves what it raised. Both refusals and
    /// successes leave the reply to the caller, to be sent after that pass (spec, section 3.3).
    pub async fn command(&mut self, command: Command) -> Result<(), CommandError> {
        self.requests.called(Call::Command(command));
        let result = self.carry_out(command).await;
        self.requests
            .returned(|| result.as_ref().err().map(answered));
        result
    }

    async fn carry_out(&mut self, command: Command) -> Result<(), CommandError> {
        if self.requests.ended() {
            // The watchdog ended the machine; the following pass says so.
            return Ok(());
        }
        let state = self.requests.state();
        match command {
            Command::Stop if state == RunState::InMigrate => self.autostart = false,
            Command::Stop => {
                // QEMU's command ignores a failed flush, too: the guest is stopped either way.
                self.bring_down(RunState::Paused).await?;
            }
            Command::Cont => self.cont(state)?,
            Command::SystemReset => {
                // With reboot action `shutdown` no reset will happen, and a shutdown is legal anywhere.
                if self.requests.actions().reboot == RebootAction::Reset {
                    self.requests.check_reset().map_err(Refusal::from)?;
                }
                self.requests
                    .raise(Request::Reset(ShutdownCause::HostQmpSystemReset));
            }
            Command::SystemPowerdown => self.requests.raise(Request::Powerdown),
            Command::SystemWakeup if !self.wakeup_supported => {
                return Err(Refusal::WakeupUnsupported.into());
            }
            Command::SystemWakeup => self.requests.wake_up(WakeupReason::Other)?,
            Command::InjectNmi => {
                self.machine
                    .inject_nmi()
                    .await
                    .map_err(failed("inject an NMI"))?;
            }
            Command::SetAction(change) => self.requests.change_actions(change),
            Command::PortWrite { port, value, size } => {
                let bytes = value.to_le_bytes();
                let data = bytes.get(..size.into()).unwrap_or(&bytes);
                let panicked = self
                    .requests
                    .outside_vcpus(|| self.machine.port_write(port, data));
                if panicked {
                    // Not deferred: this is no vCPU's thread (spec, section 8).
                    self.bring_down(RunState::GuestPanicked).await?;
                }
            }
            Command::Quit => self.end(ShutdownCause::HostQmpQuit),
            Command::Kill => self.end(ShutdownCause::HostSignal),
        }
        Ok(())
    }

    fn cont(&mut self, state: RunState) -> Result<(), CommandError> {
        match state {
            _ if state.needs_reset() => Err(Refusal::ResetRequired.into()),
            RunState::Suspended => Ok(()),
            RunState::FinishMigrate => Err(Refusal::MigrationNotFinalized.into()),
            RunState::InMigrate => {
                self.autostart = true;
                Ok(())
            }
            _ => Ok(self.bring_up()?),
        }
    }

    fn end(&mut self, cause: ShutdownCause) {
        self.force_poweroff();
        self.requests.raise(Request::Shutdown(cause));
    }
}
