//! A driver that writes its own rings, for the tests of the devices.

use std::{sync::Arc, time::Duration};

use tokio::{io::unix::AsyncFd, task::JoinHandle, time::timeout};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    Device, DeviceError, Driver,
    interrupt::Interrupt,
    queue::{VirtQueue, register},
    worker::Gate,
};

/// Bytes of guest memory.
pub(super) const MEMORY: u64 = 4 << 20;
/// Descriptors of a queue.
pub(super) const SIZE: u16 = 16;
/// From here on memory is the test's.
pub(super) const FREE: u64 = 0x10_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A descriptor: address, length, flags. The next is the one after it.
pub(super) type Part = (u64, u32, u16);

/// A device and its driver.
pub(super) struct Rig {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) gate: Gate,
    pub(super) interrupt: Arc<Interrupt>,
    interrupted: AsyncFd<Arc<EventFd>>,
    running: JoinHandle<Result<(), DeviceError>>,
    queues: Vec<Ring>,
}

struct Ring {
    kick: Arc<EventFd>,
    /// The first descriptor that is free.
    descriptor: u16,
    available: u16,
    seen: u16,
}

const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Between the rings of two queues.
const STRIDE: u64 = 0x4000;

impl Rig {
    /// Every queue is set up; the gate is open.
    pub(super) fn new(device: &mut dyn Device, features: u64) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = Arc::new(memory.unwrap());
        let interrupt = Interrupt::new().unwrap();
        let mut rings = Vec::new();
        let mut queues = Vec::new();
        for number in 0..device.queues().len() {
            let base = STRIDE * number as u64;
            assert!(base + STRIDE <= FREE);
            let mut queue = Queue::new(SIZE).unwrap();
            queue.set_size(SIZE);
            queue.set_desc_table_address(Some((base + TABLE) as u32), None);
            queue.set_avail_ring_address(Some((base + AVAILABLE) as u32), None);
            queue.set_used_ring_address(Some((base + USED) as u32), None);
            queue.set_ready(true);
            let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            let (memory, interrupt) = (memory.clone(), interrupt.clone());
            let queue = VirtQueue::new(number as u16, queue, memory, kick.clone(), interrupt);
            queues.push(Some(queue.unwrap()));
            rings.push(Ring {
                kick,
                descriptor: 0,
                available: 0,
                seen: 0,
            });
        }
        let gate = Gate::default();
        gate.open();
        let running = tokio::spawn(device.run(Driver {
            features,
            queues,
            gate: gate.clone(),
            blocking: Default::default(),
            interrupt: interrupt.clone(),
        }));
        Self {
            memory,
            gate,
            interrupted: register(Arc::new(interrupt.line().unwrap().try_clone().unwrap()))
                .unwrap(),
            interrupt,
            running,
            queues: rings,
        }
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(super) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let from = GuestAddress(at);
        self.memory.read_slice(&mut bytes, from).unwrap();
        bytes
    }

    /// Makes a chain of these parts available, and says so.
    pub(super) fn submit(&mut self, queue: usize, parts: &[Part]) {
        let head = self.queues[queue].descriptor % SIZE;
        for (index, (address, len, flags)) in (0_u16..).zip(parts.iter().copied()) {
            let is_last = usize::from(index) + 1 == parts.len();
            let next = if is_last { 0 } else { NEXT };
            let at = (head + index) % SIZE;
            self.descriptor(queue, at, (address, len, flags | next), (at + 1) % SIZE);
        }
        self.queues[queue].descriptor = (head + parts.len() as u16) % SIZE;
        self.offer(queue, head);
    }

    /// Writes descriptor `index`.
    pub(super) fn descriptor(&self, queue: usize, index: u16, part: Part, next: u16) {
        let (address, len, flags) = part;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let table = STRIDE * queue as u64 + TABLE;
        self.write(&bytes, table + 16 * u64::from(index));
    }

    /// Makes the chain that begins with descriptor `head` available, and says so.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let place = STRIDE * queue as u64 + AVAILABLE;
        let slot = place + 4 + 2 * u64::from(ring.available % SIZE);
        ring.available = ring.available.wrapping_add(1);
        let (available, kick) = (ring.available, ring.kick.clone());
        self.write(&head.to_le_bytes(), slot);
        self.write(&available.to_le_bytes(), place + 2);
        kick.write(1).unwrap();
    }

    /// The next chain that the device has used, if there is one: its first descriptor's address, and how much was written.
    pub(super) fn try_used(&mut self, queue: usize) -> Option<(u64, u32)> {
        let place = STRIDE * queue as u64 + USED;
        let index = u16::from_le_bytes(self.read(place + 2, 2).try_into().unwrap());
        let seen = self.queues[queue].seen;
        if index == seen {
            return None;
        }
        self.queues[queue].seen = seen.wrapping_add(1);
        let slot = self.read(place + 4 + 8 * u64::from(seen % SIZE), 8);
        let head = u32::from_le_bytes(slot[..4].try_into().unwrap());
        let written = u32::from_le_bytes(slot[4..].try_into().unwrap());
        let table = STRIDE * queue as u64 + TABLE;
        let address = self.read(table + 16 * u64::from(head), 8);
        Some((u64::from_le_bytes(address.try_into().unwrap()), written))
    }

    /// The same; waits for it.
    pub(super) async fn used(&mut self, queue: usize) -> (u64, u32) {
        timeout(DEADLINE, async {
            loop {
                if let Some(used) = self.try_used(queue) {
                    return used;
                }
                self.interrupted().await;
            }
        })
        .await
        .unwrap()
    }

    /// Waits for an interrupt.
    pub(super) async fn interrupted(&mut self) {
        tokio::select! {
            ended = &mut self.running => panic!("the device has stopped: {ended:?}"),
            ready = self.interrupted.readable() => {
                let _ = self.interrupt.line().unwrap().read();
                ready.unwrap().clear_ready();
            }
        }
    }

    /// Waits until the device gives its driver up.
    pub(super) async fn broken(&mut self) -> String {
        let ended = timeout(DEADLINE, &mut self.running).await;
        ended.unwrap().unwrap().unwrap_err().to_string()
    }

    /// Whether the device has given its driver up.
    pub(super) fn is_broken(&self) -> bool {
        self.running.is_finished()
    }

    /// Resets the device.
    pub(super) async fn reset(mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.running.abort();
    }
}
