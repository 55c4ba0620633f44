//! Waiting for a machine to get somewhere: `WatchVms` pushes each change, so nothing is polled.

use crate::{
    Client, Error,
    v1::{self, watch_vms_response::Update},
};

impl Client {
    /// Follows a machine until `done` says so, and answers it as it was then.
    ///
    /// `done` sees the machine as it is now and after each change; changes in quick succession may
    /// come as one. Dropping the future ends the wait, so it combines with a timeout.
    ///
    /// # Errors
    /// [`Error::Gone`], or the daemon's own `VM_NOT_FOUND`, if there is no such machine;
    /// [`Error::Gone`] if it is deleted meanwhile; else see [`Client`].
    pub async fn wait(
        &self,
        name: &str,
        mut done: impl FnMut(&v1::Vm) -> bool,
    ) -> Result<v1::Vm, Error> {
        let gone = || Error::Gone {
            name: name.to_owned(),
        };
        let mut changes = self.watch_vms(Some(name)).await?;
        let mut found = false;
        while let Some(change) = changes.next().await? {
            match change.update {
                Some(Update::Vm(vm)) if done(&vm) => return Ok(vm),
                Some(Update::Vm(_)) => found = true,
                Some(Update::Deleted(vm)) if done(&vm) => return Ok(vm),
                Some(Update::Deleted(_)) => return Err(gone()),
                Some(Update::Synced(_)) if !found => return Err(gone()),
                Some(Update::Synced(_)) | None => {}
            }
        }
        Err(Error::Malformed("the stream of changes ended by itself"))
    }

    /// Waits until a machine that is live is in `state`.
    ///
    /// # Errors
    /// [`Error::Ended`] if the machine has ended, or ends; else as [`Client::wait`].
    pub async fn wait_for_state(&self, name: &str, state: v1::RunState) -> Result<v1::Vm, Error> {
        let vm = self
            .wait(name, |vm| has_ended(vm) || is_in(vm, state))
            .await?;
        if has_ended(&vm) {
            Err(Error::Ended { vm: Box::new(vm) })
        } else {
            Ok(vm)
        }
    }

    /// Waits until a machine has ended.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn wait_until_ended(&self, name: &str) -> Result<v1::Vm, Error> {
        self.wait(name, has_ended).await
    }
}

/// True if the machine's guest is gone.
pub(crate) fn has_ended(vm: &v1::Vm) -> bool {
    vm.status
        .as_ref()
        .is_some_and(|status| status.phase() == v1::VmPhase::Ended)
}

/// True if the machine's run state is `state`.
pub(crate) fn is_in(vm: &v1::Vm, state: v1::RunState) -> bool {
    vm.status
        .as_ref()
        .is_some_and(|status| status.state() == state)
}
