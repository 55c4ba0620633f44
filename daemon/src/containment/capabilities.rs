//! Capabilities (capabilities(7)): each thread has its own. Without the right to start programs none comes back.

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

use super::ContainmentError;

fn failed(what: &'static str) -> impl Fn(Errno) -> ContainmentError {
    move |errno| ContainmentError::Privileges { what, errno }
}

/// No program that is started would have more: no new privileges, and of capabilities at most those that are `kept`. What the
/// calling thread itself may do stays as it is.
pub(super) fn no_more(kept: CapabilitySet) -> Result<(), ContainmentError> {
    set_no_new_privs(true).map_err(failed("no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
    let own = capabilities(None).map_err(failed("capget"))?;
    // Others have none to lose but in this set, and may not change it.
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability)
                    .map_err(failed("bounding capabilities"))?;
            }
            Ok(_) => {}
            // The kernel has no more than these.
            Err(_) => break,
        }
    }
    Ok(())
}

/// The calling thread gives up those that are not `kept`, for good.
pub(super) fn give_up(kept: CapabilitySet) -> Result<(), ContainmentError> {
    let own = capabilities(None).map_err(failed("capget"))?;
    let left = CapabilitySets {
        effective: own.effective & kept,
        permitted: own.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, left).map_err(failed("capset"))
}
