//! Pinning: which host CPUs a vCPU's thread may run on.

use std::fmt;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use thiserror::Error;

use super::CpuError;

/// A vCPU that may run only on certain host CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPin {
    /// The vCPU, from 0.
    pub vcpu: u32,
    /// The host CPUs, as the kernel numbers them.
    pub host_cpus: Vec<u32>,
}

/// The host CPUs that this process may use.
#[derive(Clone, Copy)]
pub struct HostCpus(CpuSet);

impl HostCpus {
    /// Those that the calling thread may use now. None, if the host has more CPUs than can be asked for.
    pub fn allowed() -> Self {
        Self(sched_getaffinity(Pid::from_raw(0)).unwrap_or_default())
    }

    /// Whether `cpu` is one.
    pub fn contains(&self, cpu: u32) -> bool {
        usize::try_from(cpu).is_ok_and(|cpu| self.0.is_set(cpu).unwrap_or(false))
    }
}

impl fmt::Display for HostCpus {
    /// As in `0-3,6`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = u32::try_from(CpuSet::count()).unwrap_or(u32::MAX);
        let mut separator = "";
        let mut cpu = 0;
        while cpu < count {
            if !self.contains(cpu) {
                cpu += 1;
                continue;
            }
            let first = cpu;
            while self.contains(cpu + 1) {
                cpu += 1;
            }
            write!(f, "{separator}{first}")?;
            if cpu > first {
                write!(f, "-{cpu}")?;
            }
            separator = ",";
            cpu += 1;
        }
        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// What is wrong with the pins of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// There is no such vCPU.
    #[error("there is no vCPU {vcpu}: the machine has {vcpus}, counted from 0")]
    NoSuchVcpu {
        /// The number given.
        vcpu: u32,
        /// How many there are.
        vcpus: u32,
    },
    /// A vCPU is named more than once.
    #[error("vCPU {0} is named twice")]
    VcpuTwice(u32),
    /// A vCPU would have nowhere to run.
    #[error("vCPU {0} has no host CPU")]
    NoHostCpu(u32),
    /// A host CPU is named more than once for one vCPU.
    #[error("host CPU {host_cpu} is named twice for vCPU {vcpu}")]
    HostCpuTwice {
        /// The vCPU.
        vcpu: u32,
        /// The host CPU.
        host_cpu: u32,
    },
    /// The host has no such CPU, or this process may not use it.
    #[error("there is no host CPU {host_cpu} for vCPU {vcpu}: the daemon may use {allowed}")]
    NotAllowed {
        /// The vCPU.
        vcpu: u32,
        /// The host CPU.
        host_cpu: u32,
        /// What may be used.
        allowed: String,
    },
}

/// Checks the pins of a machine of `vcpus` vCPUs.
pub fn check_pins(pins: &[CpuPin], vcpus: u32, allowed: &HostCpus) -> Result<(), PinError> {
    let mut pinned = CpuSet::new();
    for &CpuPin {
        vcpu,
        ref host_cpus,
    } in pins
    {
        if vcpu >= vcpus {
            return Err(PinError::NoSuchVcpu { vcpu, vcpus });
        }
        if !is_new(&mut pinned, vcpu) {
            return Err(PinError::VcpuTwice(vcpu));
        }
        if host_cpus.is_empty() {
            return Err(PinError::NoHostCpu(vcpu));
        }
        let mut named = CpuSet::new();
        for &host_cpu in host_cpus {
            if !allowed.contains(host_cpu) {
                let allowed = allowed.to_string();
                return Err(PinError::NotAllowed {
                    vcpu,
                    host_cpu,
                    allowed,
                });
            }
            if !is_new(&mut named, host_cpu) {
                return Err(PinError::HostCpuTwice { vcpu, host_cpu });
            }
        }
    }
    Ok(())
}

/// Puts `number` into `seen`; returns whether it was not there.
fn is_new(seen: &mut CpuSet, number: u32) -> bool {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    let before = seen.is_set(number).unwrap_or(false);
    !before && seen.set(number).is_ok()
}

/// Binds the calling thread to these host CPUs.
pub(in crate::machine) fn pin_this_thread(host_cpus: &[u32]) -> Result<(), CpuError> {
    let mut set = CpuSet::new();
    for &cpu in host_cpus {
        let cpu = usize::try_from(cpu).unwrap_or(usize::MAX);
        set.set(cpu).map_err(CpuError::Pin)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(CpuError::Pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpus: &[usize]) -> HostCpus {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu).unwrap();
        }
        HostCpus(set)
    }

    fn pin(vcpu: u32, host_cpus: &[u32]) -> CpuPin {
        let host_cpus = host_cpus.to_vec();
        CpuPin { vcpu, host_cpus }
    }

    #[test]
    fn host_cpus_are_told_as_ranges() {
        assert_eq!(host(&[]).to_string(), "none");
        assert_eq!(host(&[0]).to_string(), "0");
        assert_eq!(host(&[0, 1, 2, 5, 7, 8]).to_string(), "0-2,5,7-8");
        let last = CpuSet::count() - 1;
        assert_eq!(host(&[last]).to_string(), last.to_string());
        assert!(!host(&[last]).contains(u32::MAX));
    }

    #[test]
    fn pins_name_each_vcpu_once_and_only_cpus_that_may_be_used() {
        let allowed = host(&[0, 1, 4]);
        let check = |pins: &[CpuPin]| check_pins(pins, 2, &allowed);
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[pin(1, &[4, 0]), pin(0, &[0])]), Ok(()));
        assert_eq!(
            check(&[pin(2, &[0])]),
            Err(PinError::NoSuchVcpu { vcpu: 2, vcpus: 2 })
        );
        assert_eq!(
            check(&[pin(1, &[0]), pin(1, &[1])]),
            Err(PinError::VcpuTwice(1))
        );
        assert_eq!(check(&[pin(0, &[])]), Err(PinError::NoHostCpu(0)));
        assert_eq!(
            check(&[pin(0, &[0, 1, 0])]),
            Err(PinError::HostCpuTwice {
                vcpu: 0,
                host_cpu: 0
            })
        );
        for host_cpu in [2, 1023, 1024, u32::MAX] {
            let error = check(&[pin(0, &[0, host_cpu])]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("there is no host CPU {host_cpu} for vCPU 0: the daemon may use 0-1,4")
            );
        }
    }

    #[test]
    fn a_thread_is_bound_to_what_it_asks_for() {
        std::thread::spawn(|| {
            let all = HostCpus::allowed();
            let first = (0..1024).find(|&cpu| all.contains(cpu)).unwrap();
            pin_this_thread(&[first]).unwrap();
            assert_eq!(HostCpus::allowed().to_string(), first.to_string());
            assert!(pin_this_thread(&[1023]).is_err() || all.contains(1023));
            assert!(pin_this_thread(&[1024]).is_err());
        })
        .join()
        .unwrap();
    }
}
