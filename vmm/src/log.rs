//! Whose log lines are.
//!
//! What the daemon does for a machine is in a span with the machine's name. A vCPU's thread is in none: there are many, each
//! would be kept for as long as its machine lives, and few ever log a line. Its name tells whose it is.

use std::thread;

use tracing::{Span, info_span};

/// The name of the thread of vCPU `index` of `vm`.
pub(crate) fn vcpu_thread(index: u32, vm: &str) -> String {
    format!("vcpu{index}:{vm}")
}

/// Which vCPU's a thread with this name is: its index, and its machine's name.
pub fn vcpu_of(thread: &str) -> Option<(u32, &str)> {
    let (index, vm) = thread.strip_prefix("vcpu")?.split_once(':')?;
    Some((index.parse().ok()?, vm))
}

/// The span of a task that this thread starts: its own, or that of the machine whose vCPU it is.
pub(crate) fn span() -> Span {
    let current = Span::current();
    let thread = thread::current();
    match thread.name().and_then(vcpu_of) {
        Some((_, vm)) if current.is_none() => info_span!(parent: None, "machine", vm),
        _ => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_tells_whose_it_is() {
        assert_eq!(vcpu_of(&vcpu_thread(12, "a:b")), Some((12, "a:b")));
        for other in ["vmd", "vcpu", "vcpu1", "vcpux:a", "cpu0:a"] {
            assert_eq!(vcpu_of(other), None, "{other}");
        }
    }
}
