//! A driver by hand, for the entropy device behind any transport, and what must hold for it whatever the transport is.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    sync::{Arc, mpsc},
    time::Instant,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::runtime::{Builder, Handle, Runtime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::runstate::DeviceFault;

use super::{
    super::{Model, rng::Rng, testing::DEADLINE, worker::Gate},
    DRIVER_OK, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, FEATURES_OK, NEEDS_RESET,
};

pub(in super::super) const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const BUFFER: u64 = 0x8000;
const MEMORY: usize = 1 << 20;
pub(in super::super) const SIZE: u16 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What a driver does with a transport's registers.
pub(in super::super) trait Registers {
    fn status(&mut self) -> u32;

    fn set_status(&mut self, value: u32);

    /// Accepts the lower or the upper half of the features.
    fn accept(&mut self, half: u32, value: u32);

    /// The largest size of queue 0.
    fn size(&mut self) -> u16;

    /// Sets queue 0 up: its size, the addresses of its three parts, ready.
    fn set_up(&mut self, size: u16, parts: [u64; 3]);

    /// Notifies queue 0.
    fn notify(&mut self);

    /// Waits for an interrupt: 1 for used buffers, 2 for a change of the configuration.
    fn interrupted(&mut self, deadline: Instant) -> u32;
}

/// A device behind a transport, with a driver.
pub(in super::super) struct Bench<R> {
    pub(in super::super) registers: R,
    pub(in super::super) memory: Arc<GuestMemoryMmap>,
    gate: Gate,
    available: u16,
    runtime: Runtime,
    /// Why the device has stopped.
    reported: mpsc::Receiver<DeviceFault>,
}

impl<R: Registers> Bench<R> {
    /// The entropy device behind the transport that `make` makes.
    pub(in super::super) fn new(
        make: impl FnOnce(Model, Arc<GuestMemoryMmap>, Handle, Gate) -> R,
    ) -> Self {
        let mut runtime = Builder::new_multi_thread();
        // One thread, see `ends_its_turn`.
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let memory = Arc::new(memory);
        let gate = Gate::default();
        gate.open();
        let handle = runtime.handle().clone();
        let (faults, reported) = mpsc::channel();
        let model = Model {
            device: Box::new(Rng),
            report: Arc::new(move |fault| {
                let _ = faults.send(fault);
            }),
        };
        Self {
            registers: make(model, memory.clone(), handle, gate.clone()),
            memory,
            gate,
            available: 0,
            runtime,
            reported,
        }
    }

    /// Accepts `features`; whether the device agrees.
    pub(in super::super) fn negotiate(&mut self, features: u64) -> bool {
        let registers = &mut self.registers;
        registers.set_status(0);
        registers.set_status(1 | 2);
        for (half, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
            registers.accept(half, value);
        }
        registers.set_status(1 | 2 | FEATURES_OK);
        registers.status() & FEATURES_OK != 0
    }

    /// A driver that is ready, with nothing in its queue.
    pub(in super::super) fn start(&mut self, features: u64) {
        self.start_with(features, [DESCRIPTORS, AVAILABLE, USED]);
    }

    fn start_with(&mut self, features: u64, parts: [u64; 3]) {
        assert!(self.negotiate(F_VERSION_1 | features));
        let empty = vec![0; 0x3000];
        self.memory
            .write_slice(&empty, GuestAddress(DESCRIPTORS))
            .unwrap();
        self.available = 0;
        assert_eq!(self.registers.size(), SIZE);
        self.registers.set_up(SIZE, parts);
        self.registers.set_status(1 | 2 | FEATURES_OK | DRIVER_OK);
    }

    fn descriptor(&self, table: u64, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = GuestAddress(table + u64::from(index) * 16);
        let tail = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.write_obj(address, at).unwrap();
        self.memory.write_obj(tail, GuestAddress(at.0 + 8)).unwrap();
    }

    /// Offers the chain from `head` on, and tells the device.
    fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + u64::from(self.available % SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    fn set_available(&mut self, index: u16) {
        self.memory
            .write_obj(index, GuestAddress(AVAILABLE + 2))
            .unwrap();
        self.registers.notify();
    }

    /// Waits until the device's task has done what it can do for `kick`.
    pub(in super::super) fn has_its_turn(&self, kick: &EventFd) {
        let deadline = Instant::now() + DEADLINE;
        // SAFETY: the descriptor is the eventfd's, which is borrowed for longer.
        let kick = unsafe { BorrowedFd::borrow_raw(kick.as_raw_fd()) };
        let mut waits = [PollFd::new(kick, PollFlags::POLLIN)];
        while poll(&mut waits, PollTimeout::ZERO).unwrap() != 0 {
            assert!(Instant::now() < deadline, "the kick is not seen");
            std::thread::yield_now();
        }
        self.ends_its_turn();
    }

    /// Waits until the device's task waits for something, if it has begun: then the runtime's only thread has the next task.
    pub(in super::super) fn ends_its_turn(&self) {
        let next = self.runtime.spawn(async {});
        self.runtime.block_on(next).unwrap();
    }

    pub(in super::super) fn used(&self) -> u16 {
        self.memory.read_obj(GuestAddress(USED + 2)).unwrap()
    }

    /// Waits for the device to interrupt; why it did.
    fn interrupted(&mut self) -> u32 {
        let deadline = Instant::now() + DEADLINE;
        self.registers.interrupted(deadline)
    }

    /// The request that a good driver makes, answered.
    pub(in super::super) fn gets_entropy(&mut self) {
        let before = self.used();
        let zeroes = [0; 64];
        self.memory
            .write_slice(&zeroes, GuestAddress(BUFFER))
            .unwrap();
        self.offers_a_buffer();
        assert_eq!(self.interrupted(), 1);
        assert_eq!(self.used(), before.wrapping_add(1));
        let mut bytes = [0; 64];
        self.memory
            .read_slice(&mut bytes, GuestAddress(BUFFER))
            .unwrap();
        assert_ne!(bytes, zeroes);
    }

    /// A request for entropy.
    pub(in super::super) fn offers_a_buffer(&mut self) {
        self.descriptor(DESCRIPTORS, 0, BUFFER, 64, WRITE, 0);
        self.offer(0);
    }

    /// What the driver did makes the device stop, until it is reset.
    fn stops(&mut self, fault: DeviceFault) {
        assert_eq!(self.interrupted(), 2, "a change of the configuration");
        assert_ne!(self.registers.status() & NEEDS_RESET, 0);
        assert_eq!(self.used(), 0);
        assert_eq!(self.reported.recv_timeout(DEADLINE), Ok(fault));
        self.start(0);
        assert_eq!(self.registers.status() & NEEDS_RESET, 0);
        self.gets_entropy();
    }
}

pub(in super::super) fn features_are_agreed_on_once_and_anew_after_a_reset(
    bench: &mut Bench<impl Registers>,
) {
    assert!(!bench.negotiate(0), "without VIRTIO_F_VERSION_1");
    assert!(!bench.negotiate(F_VERSION_1 | 1), "more than was offered");
    assert!(bench.negotiate(F_VERSION_1));
    // Too late.
    bench.registers.accept(0, 0);
    bench.registers.accept(1, 0);
    bench.start(F_EVENT_IDX | F_INDIRECT_DESC);
    bench.gets_entropy();
    bench.start(0);
    bench.gets_entropy();
}

pub(in super::super) fn requests_are_served_in_chains_and_indirect_ones(
    bench: &mut Bench<impl Registers>,
) {
    bench.start(F_INDIRECT_DESC);
    bench.gets_entropy();
    bench.descriptor(TABLE, 0, BUFFER, 16, WRITE | NEXT, 1);
    bench.descriptor(TABLE, 1, BUFFER + 0x100, 16, WRITE, 0);
    bench.descriptor(DESCRIPTORS, 3, TABLE, 32, INDIRECT, 0);
    bench.offer(3);
    assert_eq!(bench.interrupted(), 1);
    let written: u32 = bench
        .memory
        .read_obj(GuestAddress(USED + 4 + 8 + 4))
        .unwrap();
    assert_eq!(written, 32);
}

/// What a driver does, and what that is called.
type Lie<R> = (DeviceFault, fn(&mut Bench<R>));

pub(in super::super) fn a_driver_that_lies_stops_its_device_until_a_reset<R: Registers>(
    bench: &mut Bench<R>,
) {
    let lies: [Lie<R>; 6] = [
        // A chain that loops.
        (DeviceFault::Chain, |bench| {
            bench.descriptor(DESCRIPTORS, 0, BUFFER, 16, WRITE | NEXT, 0)
        }),
        // One that leads out of its table.
        (DeviceFault::Chain, |bench| {
            bench.descriptor(DESCRIPTORS, 0, BUFFER, 16, WRITE | NEXT, SIZE)
        }),
        // A buffer outside memory, and one of a giant length.
        (DeviceFault::Rings, |bench| {
            bench.descriptor(DESCRIPTORS, 0, MEMORY as u64 - 8, 16, WRITE, 0)
        }),
        (DeviceFault::Rings, |bench| {
            bench.descriptor(DESCRIPTORS, 0, u64::MAX - 8, u32::MAX, WRITE, 0)
        }),
        // Nothing that the device may write.
        (DeviceFault::Request, |bench| {
            bench.descriptor(DESCRIPTORS, 0, BUFFER, 16, 0, 0)
        }),
        // An indirect table that is none.
        (DeviceFault::Chain, |bench| {
            bench.descriptor(DESCRIPTORS, 0, u64::MAX - 15, 16, INDIRECT, 0)
        }),
    ];
    for (fault, lie) in lies {
        bench.start(F_INDIRECT_DESC);
        lie(bench);
        bench.offer(0);
        bench.stops(fault);
    }
    // An index that runs ahead of the queue.
    bench.start(0);
    bench.set_available(SIZE + 1);
    bench.stops(DeviceFault::Rings);
    // A table of descriptors, or rings, that are not in memory.
    let faults = [DeviceFault::Chain, DeviceFault::Rings, DeviceFault::Rings];
    for (wrong, fault) in faults.into_iter().enumerate() {
        let mut parts = [DESCRIPTORS, AVAILABLE, USED];
        parts[wrong] |= 0xff << 32;
        bench.start_with(0, parts);
        bench.descriptor(DESCRIPTORS, 0, BUFFER, 16, WRITE, 0);
        bench.offer(0);
        bench.stops(fault);
    }
}

pub(in super::super) fn nothing_is_touched_while_the_machine_is_paused(
    bench: &mut Bench<impl Registers>,
) {
    bench.start(0);
    bench.gets_entropy();
    bench.runtime.block_on(bench.gate.close());
    bench.offer(0);
    // The kick has been seen by the task; what it may do for it is nothing.
    bench.runtime.block_on(tokio::task::yield_now());
    assert_eq!(bench.used(), 1);
    bench.gate.open();
    assert_eq!(bench.interrupted(), 1);
    assert_eq!(bench.used(), 2);
    // A reset of the device does not wait for the gate.
    bench.runtime.block_on(bench.gate.close());
    bench.offer(0);
    bench.registers.set_status(0);
    assert_eq!(bench.registers.status(), 0);
    bench.gate.open();
    assert_eq!(bench.used(), 2);
}
