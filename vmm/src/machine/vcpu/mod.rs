//! vCPUs: one thread each.
//!
//! ```text
//!        +---------------------------------------------------------+
//!        v                                                         |
//!   Control::wait --> KVM_RUN --> exit --> device, request --> KVM_RUN (completes the exit) --> ...
//!   (jobs, pause)        |                                         |
//!        ^               +-- EINTR: kicked, nothing to complete ---+
//!        +-------------------------------------------------------- +
//! ```
//! A vCPU obeys only where `KVM_RUN` came back with EINTR: an exit that was handled is completed by the next
//! `KVM_RUN`, and before that its registers must neither be read nor written (KVM API, KVM_RUN). A kick sets
//! `immediate_exit`, so that such a `KVM_RUN` completes the exit and returns without running the guest.

mod control;
mod exit;
mod kick;
mod state;
mod throttle;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use nix::unistd::gettid;
use tokio::sync::{Notify, oneshot};
use tracing::Span;

use self::{
    control::{Control, Hold, Wanted},
    exit::{Outcome, run_once},
    kick::ImmediateExit,
    state::PowerOn,
    throttle::Throttle,
};
use super::{BuildError, bus::PioBus};
use crate::{devices::timer::Timers, runstate::Requests};

/// A vCPU whose thread runs, paused at first.
pub(super) struct Vcpu {
    control: Arc<Control>,
    power_on: Arc<PowerOn>,
    thread_id: Arc<AtomicI32>,
    thread: Option<JoinHandle<()>>,
}

/// What a vCPU's thread works with.
pub(super) struct VcpuContext {
    pub(super) bus: Arc<PioBus>,
    pub(super) requests: Requests,
    pub(super) timers: Arc<Timers>,
    /// Of the thread's log lines.
    pub(super) span: Span,
    /// Told when a vCPU has parked or died.
    pub(super) parked: Arc<Notify>,
    /// Wakes whoever owns the machine when a thread dies.
    pub(super) died: Arc<dyn Fn() + Send + Sync>,
}

/// Creates vCPU `index` with the CPUID that the guest is to see.
pub(super) fn create(vm: &VmFd, index: u32, cpuid: &CpuId) -> Result<VcpuFd, BuildError> {
    kick::install_handler().map_err(BuildError::VcpuThread)?;
    let vcpu = vm
        .create_vcpu(index.into())
        .map_err(BuildError::kvm("KVM_CREATE_VCPU"))?;
    let mut cpuid = cpuid.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // Initial APIC id: Intel SDM, volume 2, CPUID leaves 1, 0BH and 1FH.
            0x1 => entry.ebx = (entry.ebx & 0x00ff_ffff) | (index << 24),
            0xb | 0x1f => entry.edx = index,
            _ => {}
        }
    }
    vcpu.set_cpuid2(&cpuid)
        .map_err(BuildError::kvm("KVM_SET_CPUID2"))?;
    Ok(vcpu)
}

impl Vcpu {
    /// Starts the thread of `vcpu`, paused.
    pub(super) fn spawn(
        vcpu: VcpuFd,
        name: String,
        context: VcpuContext,
    ) -> Result<Self, BuildError> {
        let power_on = PowerOn::read(&vcpu).map_err(BuildError::kvm("reading a vCPU's state"))?;
        let immediate_exit = ImmediateExit::new(&vcpu).map_err(BuildError::VcpuThread)?;
        let control = Arc::new(Control::new(immediate_exit, context.parked.clone()));
        let thread_id = Arc::new(AtomicI32::new(0));
        let thread = thread::Builder::new()
            .name(name)
            .stack_size(STACK_SIZE)
            .spawn({
                let (control, thread_id) = (control.clone(), thread_id.clone());
                move || {
                    thread_id.store(gettid().as_raw(), Ordering::Relaxed);
                    let _in_span = context.span.enter();
                    let _last_will = LastWill {
                        control: control.clone(),
                        died: context.died.clone(),
                    };
                    run(vcpu, &control, &context);
                }
            })
            .map_err(|error: io::Error| {
                BuildError::VcpuThread(nix::Error::from_raw(error.raw_os_error().unwrap_or(0)))
            })?;
        Ok(Self {
            control,
            power_on: Arc::new(power_on),
            thread_id,
            thread: Some(thread),
        })
    }

    /// The host's id of the thread; 0 until it has begun.
    pub(super) fn thread_id(&self) -> Arc<AtomicI32> {
        self.thread_id.clone()
    }

    /// Has the vCPU pause; [`Vcpu::is_parked`] tells when it has.
    pub(super) fn pause(&self) {
        self.want(Wanted::Pause);
    }

    /// Lets the vCPU run.
    pub(super) fn resume(&self) {
        self.want(Wanted::Run);
    }

    pub(super) fn is_parked(&self) -> bool {
        self.control.is_parked()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.control.is_dead()
    }

    /// Puts the vCPU, which is paused, into its power-on state.
    pub(super) fn reset(&self) -> oneshot::Receiver<Result<(), kvm_ioctls::Error>> {
        let power_on = self.power_on.clone();
        self.call(move |vcpu| power_on.restore(vcpu))
    }

    /// Sends the vCPU an NMI. Done by its own thread: from another the call would wait for the vCPU to leave the guest.
    pub(super) fn inject_nmi(&self) -> oneshot::Receiver<Result<(), kvm_ioctls::Error>> {
        self.call(|vcpu| vcpu.nmi())
    }

    /// The receiver fails if the thread is dead.
    fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut VcpuFd) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        let (reply, receiver) = oneshot::channel();
        let job = Box::new(move |vcpu: &mut VcpuFd| {
            // Whoever asked may have given up.
            let _ = reply.send(job(vcpu));
        });
        if self.control.push(job) {
            self.kick();
        }
        receiver
    }

    fn want(&self, wanted: Wanted) {
        if self.control.want(wanted) {
            self.kick();
        }
    }

    fn kick(&self) {
        self.control.immediate_exit.set(true);
        if let Some(thread) = &self.thread {
            kick::signal(thread);
        }
    }

    /// Has the thread end, without waiting for it.
    pub(super) fn end(&self) {
        self.want(Wanted::Exit);
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been told by its last will.
            let _ = thread.join();
        }
    }
}

/// A vCPU's thread only handles exits; the default of 2 MiB would be reserved per vCPU.
const STACK_SIZE: usize = 256 << 10;

/// Tells of the end of a vCPU's thread, also by a panic.
struct LastWill {
    control: Arc<Control>,
    died: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for LastWill {
    fn drop(&mut self) {
        self.control.die();
        (self.died)();
    }
}

fn run(mut vcpu: VcpuFd, control: &Control, context: &VcpuContext) {
    let VcpuContext {
        bus,
        requests,
        timers,
        ..
    } = context;
    let mut throttle = Throttle::new();
    let mut hold = Hold::No;
    while control.wait(&mut vcpu, hold) {
        hold = Hold::No;
        let runs = control.runs();
        loop {
            match run_once(&mut vcpu, bus, requests, timers) {
                Outcome::Handled => continue,
                Outcome::Interrupted => break,
                Outcome::Failed => {
                    hold = Hold::Runs(runs);
                    break;
                }
                Outcome::Raised => {}
            }
            if requests.stops_vcpu() {
                hold = Hold::Runs(runs);
            } else if let Some(time) = throttle.take(Instant::now()) {
                hold = Hold::Until(time);
            }
            if hold != Hold::No {
                // Complete the exit and come back.
                control.immediate_exit.set(true);
            }
        }
    }
}
