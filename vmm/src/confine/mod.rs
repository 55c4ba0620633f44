//! Threads that may make no more system calls than they need (seccomp(2)).
//!
//! ```text
//!   table of a thread's kind --> Filter::new, once --> Filter::enter, by each thread of the kind, for good
//!                                                        |
//!            a call that is on the table <---------------+---------------> one that is not
//!            the kernel does it                                            it fails with ENOSYS; a vCPU's thread that
//!                                                                          would connect or start something ends,
//!                                                                          and its machine with it
//! ```
//! | thread | table | who enters it |
//! | --- | --- | --- |
//! | vCPU | `vcpu` | the thread, before the guest can run |
//! | of the runtime that the devices' tasks are on | `device` | the daemon, when the thread begins |
//! | any other | the daemon's own | the daemon, before it has more than one thread |
//!
//! A thread's filters all hold at the same time, and its children's are the same. Nothing kills: the process has other
//! people's machines. ENOSYS is what a kernel without the call would say, so that a C library that is newer than these tables
//! does as it does there.

mod device;
mod table;
mod vcpu;
mod violation;

use std::{io, sync::Arc};

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter,
};
use thiserror::Error;

use self::table::Rules;

pub(crate) use self::violation::take as take_violation;
pub use self::{
    device::DEVICE,
    table::{Call, Group, When},
    vcpu::VCPU,
};

/// What is done about a call that is not on a thread's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is done, and the kernel's audit log tells of it.
    Log,
}

/// Why a thread cannot be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// The table makes no filter.
    #[error("seccomp: the filter cannot be made: {0}")]
    Compile(#[from] BackendError),
    /// The kernel does not take the filter.
    #[error("seccomp: the filter is not taken: {0}")]
    Install(#[from] seccompiler::Error),
    /// The signal that tells of a refused call cannot be handled.
    #[error("seccomp: SIGSYS cannot be handled: {0}")]
    Handler(#[source] io::Error),
}

/// The system calls that a thread may make.
#[derive(Clone, Debug)]
pub struct Filter(Arc<[BpfProgram]>);

/// What a kernel without the call would say.
const REFUSED: SeccompAction = SeccompAction::Errno(libc::ENOSYS as u32);

impl Filter {
    /// That of these tables; other calls, if `mode` refuses them, fail with ENOSYS.
    pub fn new(tables: &[&[Group]], mode: Mode) -> Result<Self, ConfineError> {
        Ok(Self(Arc::new([allow(tables, mode)?])))
    }

    /// That of a vCPU's thread, which ends if it makes a call that nobody makes by accident.
    pub fn of_vcpus(mode: Mode) -> Result<Self, ConfineError> {
        let allowed = allow(&[VCPU], mode)?;
        if mode == Mode::Log {
            return Ok(Self(Arc::new([allowed])));
        }
        violation::install_handler().map_err(|errno| ConfineError::Handler(errno.into()))?;
        let told = violation::TOLD.iter().map(|call| (*call, Vec::new()));
        let tell = compile(told.collect(), SeccompAction::Allow, SeccompAction::Trap)?;
        // The last one forbids to take another.
        Ok(Self(Arc::new([tell, allowed])))
    }

    /// From now on the calling thread, and each that it makes, may do no more than this. There is no way back.
    pub fn enter(&self) -> Result<(), ConfineError> {
        for program in self.0.iter() {
            apply_filter(program)?;
        }
        Ok(())
    }
}

/// What is on these tables may be done.
fn allow(tables: &[&[Group]], mode: Mode) -> Result<BpfProgram, ConfineError> {
    let otherwise = match mode {
        Mode::Enforce => REFUSED,
        Mode::Log => SeccompAction::Log,
    };
    compile(table::rules(tables)?, otherwise, SeccompAction::Allow)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests;
