//! A driver, and a wire whose other end is the test's.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{io::unix::AsyncFd, sync::watch, task::JoinHandle, time::timeout};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::{
    super::{
        Device, DeviceError, Driver,
        interrupt::Interrupt,
        queue::{VirtQueue, register},
        worker::Gate,
    },
    Backend, Card, F_MQ, F_STATUS, HEADER, Net, NetConfig, QUEUE_SIZE,
    buffer::{fill, total},
};

/// Bytes of guest memory.
pub(super) const MEMORY: u64 = 32 << 20;
/// Where the tests put what they send and receive.
pub(super) const DATA: u64 = 0x10_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

pub(super) const RECEIVE: u16 = 0;
pub(super) const SEND: u16 = 1;

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A descriptor: address, length, flags. The next is the one after it.
pub(super) type Part = (u64, u32, u16);

/// A wire.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) features: u64,
    pub(super) pairs: u16,
    pub(super) state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Frames with their headers, to be received by each pair.
    pub(super) coming: [VecDeque<Vec<u8>>; 2],
    /// Those that were sent.
    pub(super) sent: Vec<Vec<u8>>,
    /// How many more may be.
    pub(super) room: usize,
    /// The error of whatever comes next.
    pub(super) error: Option<ErrorKind>,
    /// What it was told, in order.
    pub(super) calls: Vec<String>,
    /// Those who wait for it.
    wakers: Vec<Waker>,
}

impl Wire {
    pub(super) fn new() -> Arc<Self> {
        Self::with(0, 1)
    }

    pub(super) fn with(features: u64, pairs: u16) -> Arc<Self> {
        let state = State {
            room: usize::MAX,
            ..Default::default()
        };
        Arc::new(Self {
            features,
            pairs,
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        })
    }

    /// Changes it, and wakes whoever waits for it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let result = change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
        drop(state);
        self.changed.send_replace(());
        result
    }

    /// A frame of `len` bytes comes, its header before it.
    pub(super) fn comes(&self, pair: usize, len: usize) -> Vec<u8> {
        let frame = frame(len);
        self.change(|state| state.coming[pair].push_back(frame.clone()));
        frame
    }

    /// Waits until its state is so.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !is_so(&self.state.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        };
        timeout(DEADLINE, wait).await.expect(what);
    }

    /// Waits until so many frames wait for the card.
    pub(super) async fn waits_with(&self, frames: usize) {
        self.until("waiting frames", |state| state.coming[0].len() == frames)
            .await;
    }

    pub(super) fn waiting(&self) -> usize {
        self.state.lock().unwrap().coming[0].len()
    }

    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    fn call(&self, call: String) -> io::Result<()> {
        self.change(|state| {
            state.calls.push(call);
            state.error.map_or(Ok(()), |error| Err(error.into()))
        })
    }

    fn poll(&self, ready: impl Fn(&State) -> bool, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock().unwrap();
        if ready(&state) || state.error.is_some() {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

/// A header and a frame, together of `len` bytes.
pub(super) fn frame(len: usize) -> Vec<u8> {
    let header = [0; HEADER].into_iter();
    header
        .chain((0..).map(|at: usize| (at % 251) as u8))
        .take(len)
        .collect()
}

impl Backend for Wire {
    fn features(&self) -> u64 {
        self.features
    }

    fn pairs(&self) -> u16 {
        self.pairs
    }

    fn start(&self, features: u64) -> io::Result<()> {
        self.call(format!("start {:x}", features & self.features))
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        self.call(format!("offloads {features:x}"))
    }

    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        self.call(format!("pairs {pairs}"))
    }

    fn poll_receive(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|state| !state.coming[usize::from(pair)].is_empty(), context)
    }

    fn receive(&self, pair: u16, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        self.change(|state| {
            if let Some(error) = state.error {
                return Err(error.into());
            }
            let frame = state.coming[usize::from(pair)].pop_front();
            let frame = frame.ok_or(ErrorKind::WouldBlock)?;
            fill(into, 0, &frame);
            Ok(frame.len())
        })
    }

    fn poll_send(&self, _: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|state| state.room > 0, context)
    }

    fn send(&self, _: u16, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.change(|state| {
            if let Some(error) = state.error {
                return Err(error.into());
            }
            state.room = state.room.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
            let mut frame = Vec::with_capacity(total(from));
            for slice in from {
                let mut bytes = vec![0; slice.len()];
                slice.copy_to(&mut bytes);
                frame.extend(bytes);
            }
            state.sent.push(frame);
            Ok(())
        })
    }
}

/// A device and its driver.
pub(super) struct Rig {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) gate: Gate,
    pub(super) card: Arc<Card>,
    pub(super) device: Net,
    kicks: Vec<Arc<EventFd>>,
    pub(super) interrupt: Arc<Interrupt>,
    interrupted: AsyncFd<Arc<EventFd>>,
    running: JoinHandle<Result<(), DeviceError>>,
    available: Vec<u16>,
    /// Where the next chain's first descriptor goes.
    next: Vec<u16>,
}

fn ring(queue: u16) -> u64 {
    0x1000 + 0x4000 * u64::from(queue)
}

fn available(queue: u16) -> u64 {
    ring(queue) + 0x1000
}

fn used(queue: u16) -> u64 {
    ring(queue) + 0x2000
}

pub(super) fn config(backend: Arc<dyn Backend>) -> NetConfig {
    NetConfig {
        backend,
        mac: MAC,
        mtu: None,
        link_down: false,
        limits: Default::default(),
    }
}

impl Rig {
    /// The gate is open.
    pub(super) fn new(wire: &Arc<Wire>, features: u64) -> Self {
        Self::of(config(wire.clone()), features)
    }

    pub(super) fn of(config: NetConfig, features: u64) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = Arc::new(memory.unwrap());
        let card = Card::new(config);
        let mut device = Net::new(card.clone());
        let count = match features & F_MQ {
            0 => 3,
            _ => device.queues().len() as u16,
        };
        let interrupt = Interrupt::new().unwrap();
        let (mut kicks, mut queues) = (Vec::new(), Vec::new());
        for number in 0..count {
            let mut queue = Queue::new(QUEUE_SIZE).unwrap();
            queue.set_size(QUEUE_SIZE);
            queue.set_desc_table_address(Some(ring(number) as u32), None);
            queue.set_avail_ring_address(Some(available(number) as u32), None);
            queue.set_used_ring_address(Some(used(number) as u32), None);
            queue.set_ready(true);
            let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            let queue = VirtQueue::new(
                number,
                queue,
                memory.clone(),
                kick.clone(),
                interrupt.clone(),
            );
            kicks.push(kick);
            queues.push(Some(queue.unwrap()));
        }
        let gate = Gate::default();
        gate.open();
        let running = tokio::spawn(device.run(Driver {
            features: features | F_STATUS,
            queues,
            gate: gate.clone(),
            blocking: Default::default(),
            interrupt: interrupt.clone(),
        }));
        Self {
            memory,
            gate,
            card,
            device,
            kicks,
            interrupted: register(Arc::new(interrupt.line().unwrap().try_clone().unwrap()))
                .unwrap(),
            interrupt,
            running,
            available: vec![0; usize::from(count)],
            next: vec![0; usize::from(count)],
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

    /// Writes descriptor `index` of a queue.
    pub(super) fn descriptor(&self, queue: u16, index: u16, part: Part, next: u16) {
        let (address, len, flags) = part;
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(&bytes, ring(queue) + 16 * u64::from(index));
    }

    /// Makes the chain that begins with descriptor `head` available, and says so.
    pub(super) fn kick(&mut self, queue: u16, head: u16) {
        let count = &mut self.available[usize::from(queue)];
        let slot = available(queue) + 4 + 2 * u64::from(*count % QUEUE_SIZE);
        *count += 1;
        let count = *count;
        self.write(&head.to_le_bytes(), slot);
        self.write(&count.to_le_bytes(), available(queue) + 2);
        self.kicks[usize::from(queue)].write(1).unwrap();
    }

    /// The same, of a chain of these parts. Its head.
    pub(super) fn submit(&mut self, queue: u16, parts: &[Part]) -> u16 {
        let count = parts.len() as u16;
        let next = &mut self.next[usize::from(queue)];
        if *next + count > QUEUE_SIZE {
            *next = 0;
        }
        let head = *next;
        *next += count;
        for (index, (address, len, flags)) in (head..).zip(parts.iter().copied()) {
            let more = if index + 1 < head + count { NEXT } else { 0 };
            self.descriptor(queue, index, (address, len, flags | more), index + 1);
        }
        self.kick(queue, head);
        head
    }

    /// Sends `frame`, which is put at [`DATA`].
    pub(super) fn send(&mut self, frame: &[u8]) {
        self.write(frame, DATA);
        self.submit(SEND, &[(DATA, frame.len() as u32, 0)]);
    }

    pub(super) fn used(&self, queue: u16) -> u16 {
        u16::from_le_bytes(self.read(used(queue) + 2, 2).try_into().unwrap())
    }

    /// Element `index` of those that came back: its head, and how much was written.
    pub(super) fn element(&self, queue: u16, index: u16) -> (u16, u32) {
        let at = used(queue) + 4 + 8 * u64::from(index % QUEUE_SIZE);
        let head = u32::from_le_bytes(self.read(at, 4).try_into().unwrap());
        let written = u32::from_le_bytes(self.read(at + 4, 4).try_into().unwrap());
        (head as u16, written)
    }

    /// Waits until so many chains came back, and no more.
    pub(super) async fn comes_back(&mut self, queue: u16, count: u16) {
        self.comes_back_at_least(queue, count).await;
        assert_eq!(self.used(queue), count);
    }

    /// Waits until so many chains came back.
    pub(super) async fn comes_back_at_least(&mut self, queue: u16, count: u16) {
        let all = async {
            while self.used(queue) < count {
                assert!(!self.running.is_finished(), "the device has stopped");
                let mut ready = self.interrupted.readable().await.unwrap();
                let _ = self.interrupt.line().unwrap().read();
                ready.clear_ready();
            }
        };
        timeout(DEADLINE, all).await.unwrap();
    }

    /// Waits until everything that was sent came back.
    pub(super) async fn sent(&mut self) {
        let count = self.available[usize::from(SEND)];
        self.comes_back(SEND, count).await;
    }

    /// Waits for an interrupt of the configuration's.
    pub(super) async fn reconfigured(&self) {
        let configuration = async {
            while self.interrupt.status() & 2 == 0 {
                let mut ready = self.interrupted.readable().await.unwrap();
                let _ = self.interrupt.line().unwrap().read();
                ready.clear_ready();
            }
        };
        timeout(DEADLINE, configuration).await.unwrap();
        self.interrupt.acknowledge(2);
    }

    /// Waits until the device gives its driver up.
    pub(super) async fn broken(&mut self) -> String {
        let ended = timeout(DEADLINE, &mut self.running).await;
        ended.unwrap().unwrap().unwrap_err().to_string()
    }

    /// Waits until all that was made available in `queue` came back, or the device has given up: whether it has.
    pub(super) async fn done_or_broken(&mut self, queue: u16) -> bool {
        let either = async {
            while self.used(queue) != self.available[usize::from(queue)] {
                tokio::select! {
                    ready = self.interrupted.readable() => {
                        let _ = self.interrupt.line().unwrap().read();
                        ready.unwrap().clear_ready();
                    }
                    _ = &mut self.running => return true,
                }
            }
            false
        };
        timeout(DEADLINE, either).await.unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.running.abort();
    }
}
