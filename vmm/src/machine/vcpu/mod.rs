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
pub(super) mod event_rate;
mod exit;
mod kick;
mod state;
mod throttle;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use nix::unistd::gettid;
use tokio::sync::{Notify, oneshot};
use tracing::error;

use self::{
    control::{Control, Hold, Wanted},
    event_rate::EventRate,
    exit::{Outcome, run_once},
    kick::ImmediateExit,
    state::PowerOn,
    throttle::Throttle,
};
use super::{
    BuildError,
    boot::entry::Start,
    bus::PioBus,
    cpu::{MsrMask, pin_this_thread, set_up_msrs},
    virtio::VirtioBus,
};
use crate::{
    confine::{Filter, take_violation},
    counters::{Counters, VcpuCounters},
    devices::timer::Timers,
    runstate::Requests,
};
pub(super) use state::is_reset;

/// A vCPU whose thread runs, paused at first.
pub(super) struct Vcpu {
    control: Arc<Control>,
    power_on: Arc<PowerOn>,
    thread_id: Arc<AtomicI32>,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread is as it should be, once.
    is_ready: Mutex<mpsc::Receiver<Result<(), BuildError>>>,
    /// Whether it has not run since power-on or reset.
    is_fresh: AtomicBool,
}

/// What a vCPU's thread works with.
pub(super) struct VcpuContext {
    pub(super) bus: Arc<PioBus>,
    pub(super) virtio: Arc<VirtioBus>,
    pub(super) requests: Requests,
    pub(super) timers: Arc<Timers>,
    /// The machine's.
    pub(super) event_rate: Arc<EventRate>,
    /// What is changed of the MSRs' values at power-on.
    pub(super) msrs: Arc<[MsrMask]>,
    /// The host CPUs that the thread is bound to; empty if it is not.
    pub(super) host_cpus: Vec<u32>,
    /// What the thread may do; anything if there is none.
    pub(super) filter: Option<Filter>,
    /// Told when a vCPU has parked or died.
    pub(super) parked: Arc<Notify>,
    /// The machine's.
    pub(super) counters: Arc<Counters>,
    /// Its own.
    pub(super) exits: Arc<VcpuCounters>,
    /// Wakes whoever owns the machine when a thread dies.
    pub(super) died: Arc<dyn Fn() + Send + Sync>,
}

/// Creates vCPU `index` with the CPUID that the guest is to see.
pub(super) fn create(vm: &VmFd, index: u32, cpuid: &CpuId) -> Result<VcpuFd, BuildError> {
    kick::install_handler().map_err(BuildError::VcpuThread)?;
    let vcpu = vm
        .create_vcpu(index.into())
        .map_err(BuildError::kvm("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(cpuid)
        .map_err(BuildError::kvm("KVM_SET_CPUID2"))?;
    Ok(vcpu)
}

impl Vcpu {
    /// Starts the thread of `vcpu`, paused; it is to begin at `start`.
    pub(super) fn spawn(
        vcpu: VcpuFd,
        start: Start,
        name: String,
        context: VcpuContext,
    ) -> Result<Self, BuildError> {
        let msrs = set_up_msrs(&vcpu, &context.msrs).map_err(BuildError::Cpu)?;
        let power_on =
            PowerOn::read(&vcpu, msrs).map_err(BuildError::kvm("reading a vCPU's state"))?;
        power_on
            .begin(&vcpu, start)
            .map_err(BuildError::kvm("writing a vCPU's state"))?;
        let immediate_exit = ImmediateExit::new(&vcpu).map_err(BuildError::VcpuThread)?;
        let control = Arc::new(Control::new(
            immediate_exit,
            context.parked.clone(),
            context.counters.clone(),
        ));
        let thread_id = Arc::new(AtomicI32::new(0));
        let (ready, is_ready) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(name)
            .stack_size(STACK_SIZE)
            .spawn({
                let (control, thread_id) = (control.clone(), thread_id.clone());
                move || {
                    thread_id.store(gettid().as_raw(), Ordering::Relaxed);
                    let _last_will = LastWill {
                        control: control.clone(),
                        died: context.died.clone(),
                    };
                    let result = prepare_this_thread(&context);
                    if let Err(error) = &result {
                        error!(%error, "a vCPU's thread is not as it should be: its machine ends");
                    }
                    let is_ready = result.is_ok();
                    // Whoever waits for this.
                    let _ = ready.send(result);
                    if is_ready {
                        run(vcpu, &control, &context);
                    }
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
            is_ready: Mutex::new(is_ready),
            is_fresh: AtomicBool::new(true),
        })
    }

    /// Waits until the thread has begun and is as it should be; it takes a guest's first steps only then. Blocks. To be asked
    /// once: it fails with what went wrong.
    pub(super) fn ready(&self) -> Result<(), BuildError> {
        let is_ready = self.is_ready.lock();
        // A thread that died without an answer is found by its owner.
        let answer = is_ready.unwrap_or_else(PoisonError::into_inner).recv();
        answer.unwrap_or(Ok(()))
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
        self.is_fresh.store(false, Ordering::Relaxed);
        self.want(Wanted::Run);
    }

    pub(super) fn is_parked(&self) -> bool {
        self.control.is_parked()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.control.is_dead()
    }

    /// Puts the vCPU, which is paused, into its power-on state, at `start`.
    pub(super) fn reset(&self, start: Start) -> oneshot::Receiver<Result<(), kvm_ioctls::Error>> {
        self.is_fresh.store(true, Ordering::Relaxed);
        let power_on = self.power_on.clone();
        self.call(move |vcpu| power_on.restore(vcpu, start))
    }

    /// Sends the vCPU an NMI. Done by its own thread: from another the call would wait for the vCPU to leave the guest.
    ///
    /// One that has not run yet takes none: NMIs come by the local APIC, which has them masked after reset, and there is
    /// no handler. Kept until it runs, the NMI would be its end.
    pub(super) fn inject_nmi(&self) -> oneshot::Receiver<Result<(), kvm_ioctls::Error>> {
        let is_fresh = self.is_fresh.load(Ordering::Relaxed);
        self.call(move |vcpu| if is_fresh { Ok(()) } else { vcpu.nmi() })
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

/// Binds the calling thread to its host CPUs and, after that, confines it.
fn prepare_this_thread(context: &VcpuContext) -> Result<(), BuildError> {
    if !context.host_cpus.is_empty() {
        pin_this_thread(&context.host_cpus).map_err(BuildError::Cpu)?;
    }
    match &context.filter {
        Some(filter) => filter.enter().map_err(BuildError::Confine),
        None => Ok(()),
    }
}

/// Runs the guest until the vCPU is to end, or has made a system call that it may not make: then its machine has an owner that
/// finds it dead.
fn run(mut vcpu: VcpuFd, control: &Control, context: &VcpuContext) {
    let VcpuContext {
        bus,
        virtio,
        requests,
        timers,
        event_rate,
        exits,
        ..
    } = context;
    let held_back = |caused| event_rate.hold_until(caused, Instant::now());
    let mut throttle = Throttle::new();
    let mut hold = Hold::No;
    while control.wait(&mut vcpu, hold) {
        let mut caused = requests.caused_by_guest();
        hold = held_back(caused).map_or(Hold::No, Hold::Until);
        if hold != Hold::No {
            continue;
        }
        let runs = control.runs();
        loop {
            let outcome = run_once(&mut vcpu, bus, virtio, requests, timers, exits);
            if let Some(call) = take_violation() {
                error!(
                    call,
                    "a vCPU's thread made a system call that it may not make: its machine ends"
                );
                return;
            }
            let before = std::mem::replace(&mut caused, requests.caused_by_guest());
            if caused != before && held_back(caused).is_some() {
                // Complete the exit and come back: the rest is seen to then.
                control.immediate_exit.set(true);
            }
            match outcome {
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
