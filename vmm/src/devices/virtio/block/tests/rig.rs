//! A driver, and an image in memory that fails when it is told to.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{io::unix::AsyncFd, sync::Notify, task::JoinHandle, time::timeout};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::{
    super::{
        Device, DeviceError, Driver,
        interrupt::Interrupt,
        queue::{VirtQueue, register},
        rate::RateLimit,
        worker::Gate,
    },
    Backing, Block, BlockConfig, Disk, Policies, ResizeError,
};
use crate::runstate::{Actions, Requests, TransitionTable};

/// Bytes of guest memory.
pub(super) const MEMORY: u64 = 32 << 20;
pub(super) const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
/// Where the tests put heads, data and status.
pub(super) const HEAD: u64 = 0x4000;
pub(super) const DATA: u64 = 0x5000;
pub(super) const STATUS: u64 = 0x4800;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

pub(super) const IN: u32 = 0;
pub(super) const OUT: u32 = 1;
pub(super) const FLUSH: u32 = 4;

/// Sectors of the image.
pub(super) const SECTORS: u64 = 64;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A descriptor: address, length, flags. The next is the one after it.
pub(super) type Part = (u64, u32, u16);

/// An image in memory.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) read_only: bool,
    /// Of the disk that it is in.
    pub(super) rate_limit: RateLimit,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bytes: Vec<u8>,
    /// The errors of the next calls, the last one first; 0 is none.
    pub(super) errors: Vec<i32>,
    /// The calls, but for those that failed.
    pub(super) calls: Vec<String>,
}

impl Image {
    pub(super) fn new() -> Arc<Self> {
        let image = Self::default();
        image.state.lock().unwrap().bytes = vec![0; SECTORS as usize * 512];
        Arc::new(image)
    }

    fn call<T>(&self, call: String, done: impl FnOnce(&mut Vec<u8>) -> T) -> io::Result<T> {
        let mut state = self.state.lock().unwrap();
        if let Some(errno) = state.errors.pop().filter(|errno| *errno != 0) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        state.calls.push(call);
        Ok(done(&mut state.bytes))
    }

    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub(super) fn fail(&self, errors: &[i32]) {
        self.state.lock().unwrap().errors = errors.to_vec();
    }
}

impl Backing for Image {
    fn size(&self) -> u64 {
        self.state.lock().unwrap().bytes.len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.call(format!("read {offset}"), |bytes| {
            let mut at = offset as usize;
            for slice in into {
                slice.copy_from(&bytes[at..at + slice.len()]);
                at += slice.len();
            }
        })
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.call(format!("write {offset}"), |bytes| {
            let mut at = offset as usize;
            for slice in from {
                slice.copy_to(&mut bytes[at..at + slice.len()]);
                at += slice.len();
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.call("flush".to_owned(), |_| ())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(format!("discard {offset} {len}"), |_| ())
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.call(format!("zero {offset} {len} {unmap}"), |_| ())
    }

    fn resize(&self, size: Option<u64>) -> Result<(), ResizeError> {
        let mut state = self.state.lock().unwrap();
        if let Some(errno) = state.errors.pop() {
            return Err(io::Error::from_raw_os_error(errno).into());
        }
        state.bytes.resize(size.unwrap_or(1 << 20) as usize, 0);
        Ok(())
    }

    fn close(&self) {}
}

/// A device and its driver.
pub(super) struct Rig {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) requests: Requests,
    told: Arc<Notify>,
    pub(super) gate: Gate,
    pub(super) disk: Arc<Disk>,
    pub(super) device: Block,
    kick: Arc<EventFd>,
    interrupted: AsyncFd<Arc<EventFd>>,
    pub(super) interrupt: Arc<Interrupt>,
    running: JoinHandle<Result<(), DeviceError>>,
    available: u16,
}

impl Rig {
    /// The gate is open.
    pub(super) fn new(image: &Arc<Image>, policies: Policies, features: u64) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = Arc::new(memory.unwrap());
        let mut queue = Queue::new(128).unwrap();
        queue.set_size(128);
        queue.set_desc_table_address(Some(TABLE as u32), None);
        queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let interrupt = Interrupt::new().unwrap();
        let queue = VirtQueue::new(0, queue, memory.clone(), kick.clone(), interrupt.clone());
        let gate = Gate::default();
        gate.open();
        let told = Arc::new(Notify::new());
        let requests = Requests::new(TransitionTable::Seed, Actions::default(), {
            let told = told.clone();
            move || told.notify_one()
        });
        let config = BlockConfig {
            backing: image.clone(),
            serial: "serial".to_owned(),
            policies,
            rate_limit: image.rate_limit,
            queues: 1,
            engine: Default::default(),
        };
        let disk = Disk::new(config, 3, requests.clone());
        let mut device = Block::new(disk.clone());
        let running = tokio::spawn(device.run(Driver {
            features,
            queues: vec![Some(queue.unwrap())],
            gate: gate.clone(),
            blocking: Default::default(),
            interrupt: interrupt.clone(),
        }));
        Self {
            memory,
            requests,
            told,
            gate,
            disk,
            device,
            kick,
            interrupted: register(Arc::new(interrupt.line().unwrap().try_clone().unwrap()))
                .unwrap(),
            interrupt,
            running,
            available: 0,
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

    /// Writes a request's head.
    pub(super) fn head(&self, kind: u32, sector: u64) {
        let mut head = kind.to_le_bytes().to_vec();
        head.extend([0; 4]);
        head.extend(sector.to_le_bytes());
        self.write(&head, HEAD);
        self.write(&[0xff], STATUS);
    }

    /// Writes descriptor `index`.
    pub(super) fn descriptor(&self, table: u64, index: u16, part: Part, next: u16) {
        let (address, len, flags) = part;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(&bytes, table + 16 * u64::from(index));
    }

    /// Makes the chain that begins with the first descriptor available, and says so.
    pub(super) fn kick(&mut self) {
        let slot = AVAILABLE + 4 + 2 * u64::from(self.available % 128);
        self.write(&[0, 0], slot);
        self.available += 1;
        self.write(&self.available.to_le_bytes(), AVAILABLE + 2);
        self.kick.write(1).unwrap();
    }

    /// The same, of a chain of these parts.
    pub(super) fn submit(&mut self, parts: &[Part]) {
        for (index, (address, len, flags)) in (0_u16..).zip(parts.iter().copied()) {
            let next = if usize::from(index) + 1 < parts.len() {
                NEXT
            } else {
                0
            };
            self.descriptor(TABLE, index, (address, len, flags | next), index + 1);
        }
        self.kick();
    }

    /// Waits until the device raises something.
    pub(super) async fn raises(&self) {
        let raised = timeout(DEADLINE, self.told.notified()).await;
        raised.unwrap();
    }

    pub(super) fn used(&self) -> u16 {
        u16::from_le_bytes(self.read(USED + 2, 2).try_into().unwrap())
    }

    /// Waits until all that was made available is used: how many bytes the last one says were written.
    pub(super) async fn done(&mut self) -> u32 {
        let all = async {
            while self.used() != self.available {
                assert!(!self.running.is_finished(), "the device has stopped");
                let mut ready = self.interrupted.readable().await.unwrap();
                let _ = self.interrupt.line().unwrap().read();
                ready.clear_ready();
            }
        };
        timeout(DEADLINE, all).await.unwrap();
        let last = USED + 4 + 8 * u64::from((self.available - 1) % 128);
        u32::from_le_bytes(self.read(last + 4, 4).try_into().unwrap())
    }

    /// Serves a request with its status in a part of its own: the status, and how much was written.
    pub(super) async fn serve(&mut self, data: &[Part]) -> (u8, u32) {
        let mut parts = vec![(HEAD, 16, 0)];
        parts.extend(data);
        parts.push((STATUS, 1, WRITE));
        self.submit(&parts);
        let written = self.done().await;
        (self.read(STATUS, 1)[0], written)
    }

    /// The driver goes away, as at a reset.
    pub(super) async fn leave(&mut self) {
        self.running.abort();
        assert!((&mut self.running).await.unwrap_err().is_cancelled());
    }

    /// Waits until the device gives its driver up.
    pub(super) async fn broken(&mut self) -> String {
        let ended = timeout(DEADLINE, &mut self.running).await;
        ended.unwrap().unwrap().unwrap_err().to_string()
    }

    /// Waits until all that was made available is used, or the device has given up: whether it has.
    pub(super) async fn done_or_broken(&mut self) -> bool {
        let either = async {
            while self.used() != self.available && !self.running.is_finished() {
                tokio::select! {
                    ready = self.interrupted.readable() => {
                        let _ = self.interrupt.line().unwrap().read();
                        ready.unwrap().clear_ready();
                    }
                    _ = &mut self.running => return true,
                }
            }
            self.running.is_finished()
        };
        timeout(DEADLINE, either).await.unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.running.abort();
    }
}
