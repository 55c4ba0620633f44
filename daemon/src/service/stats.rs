//! What a machine looks like from outside. Read beside its actor, and its vCPUs.

use vmctl::names::Spelled;
use vmd_proto::v1;
use vmm::counters::VcpuCounters;

use crate::{convert, vm::VmHandle};

/// Most bytes of the guest's output that are shown.
const TAIL_MAX: usize = 1024;

/// Of one machine.
pub(super) fn of(vm: &VmHandle) -> v1::VmStats {
    let console = vm.console();
    let from = console.output_end().saturating_sub(TAIL_MAX as u64);
    let output = console.read_output(from);
    let times = vm.meter.times().into_iter();
    let times = times.map(|(state, time)| v1::StateTime {
        state: convert::run_state(state),
        nanos: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    });
    let counters = vm.counters();
    v1::VmStats {
        state_times: times.collect(),
        last_exits: counters
            .vcpus()
            .iter()
            .map(|vcpu| last_exit(vcpu))
            .collect(),
        console_tail: tail(&output.bytes, output.offset > 0),
        cpu_time_nanos: cpu_time_nanos(vm),
    }
}

/// How long a machine's vCPUs have used processors, in nanoseconds.
pub(super) fn cpu_time_nanos(vm: &VmHandle) -> u64 {
    vm.cpu_time().as_nanos().try_into().unwrap_or(u64::MAX)
}

fn last_exit(vcpu: &VcpuCounters) -> i32 {
    let kind = vcpu
        .last_exit()
        .and_then(|kind| v1::ExitKind::from_spelling(kind.name()));
    kind.map_or(0, Into::into)
}

/// The last lines of `output`, which has a beginning that is not there if it is `cut`.
fn tail(output: &[u8], cut: bool) -> String {
    // The guest may have written more since.
    let excess = output.len().saturating_sub(TAIL_MAX);
    let (before, mut last) = output.split_at(excess);
    let begins_within = cut || !before.is_empty();
    // A line that is not whole goes, unless it is all there is.
    let end = last.iter().position(|byte| *byte == b'\n');
    if let Some((_, rest)) = end.and_then(|end| last.split_at_checked(end + 1))
        && begins_within
        && !rest.is_empty()
    {
        last = rest;
    }
    String::from_utf8_lossy(last).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_whole_lines_if_there_are_some() {
        assert_eq!(tail(b"", false), "");
        assert_eq!(tail(b"a\nb", false), "a\nb");
        assert_eq!(tail(b"a\nb", true), "b");
        assert_eq!(tail(b"abc", true), "abc");
        assert_eq!(tail(b"abc\n", true), "abc\n");
        assert_eq!(tail(b"a\n\xffb\0", true), "\u{fffd}b\0");
        let long = [b'x'; 3 * TAIL_MAX];
        assert_eq!(tail(&long, false).len(), TAIL_MAX);
    }

    #[test]
    fn every_exit_has_a_name_on_the_wire() {
        for kind in vmm::counters::ExitKind::ALL {
            assert!(
                v1::ExitKind::from_spelling(kind.name()).is_some(),
                "{kind:?}"
            );
        }
    }
}
