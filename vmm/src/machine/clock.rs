//! kvmclock: the guest's own clock stands still while the machine is stopped.

use std::sync::Arc;

use kvm_ioctls::VmFd;
use tracing::warn;

use crate::runstate::Keep;

/// A change-state handler that reads the VM's clock when the vCPUs stop and sets it back to that when they start, so
/// that a guest does not find a jump after a stop (KVM API, KVM_GET_CLOCK and KVM_SET_CLOCK).
pub(super) fn kvmclock_handler(vm: Arc<VmFd>) -> impl FnMut(bool) -> Keep + Send + 'static {
    let mut stopped_at = None;
    move |running| {
        if !running {
            stopped_at = vm
                .get_clock()
                .inspect_err(|error| warn!(%error, "KVM_GET_CLOCK"))
                .ok();
        } else if let Some(mut clock) = stopped_at.take() {
            // The flags say how the kernel read it; only a plain set continues from that value.
            clock.flags = 0;
            if let Err(error) = vm.set_clock(&clock) {
                warn!(%error, "KVM_SET_CLOCK: the guest's clock will have jumped");
            }
        }
        Keep::Yes
    }
}
