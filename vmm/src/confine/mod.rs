//! Threads that may make no more system calls than they need (seccomp(2)).
//!
//! ```text
//!   table of a thread's kind --> Filter::new, once --> Filter::enter, by each thread of the kind, for good
//!                                                        |
//!            a call that is on the table <---------------+---------------> one that is not
//!            the kernel does it                                            it fails with ENOSYS; a vCPU's thread
//!                                                                          also ends, and its machine with it
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
pub struct Filter(Arc<BpfProgram>);

impl Filter {
    /// That of these tables; other calls, if `mode` refuses them, fail with ENOSYS.
    pub fn new(tables: &[&[Group]], mode: Mode) -> Result<Self, ConfineError> {
        Self::compile(tables, mode, SeccompAction::Errno(libc::ENOSYS as u32))
    }

    /// That of a vCPU's thread, which ends at a call that is refused.
    pub fn of_vcpus(mode: Mode) -> Result<Self, ConfineError> {
        violation::install_handler().map_err(|errno| ConfineError::Handler(errno.into()))?;
        Self::compile(&[VCPU], mode, SeccompAction::Trap)
    }

    fn compile(
        tables: &[&[Group]],
        mode: Mode,
        refuse: SeccompAction,
    ) -> Result<Self, ConfineError> {
        let otherwise = match mode {
            Mode::Enforce => refuse,
            Mode::Log => SeccompAction::Log,
        };
        let rules = table::rules(tables)?;
        let filter =
            SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
        Ok(Self(Arc::new(filter.try_into()?)))
    }

    /// From now on the calling thread, and each that it makes, may do no more than this. There is no way back.
    pub fn enter(&self) -> Result<(), ConfineError> {
        Ok(apply_filter(&self.0)?)
    }
}

#[cfg(test)]
mod tests;
