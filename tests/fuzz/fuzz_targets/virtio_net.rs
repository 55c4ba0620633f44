//! A network card whose driver does anything, on a wire where any frame comes.
//!
//! The first byte of the input is the features that the driver takes; it has set up its queues then. The rest is a sequence
//! of acts of 8 bytes: what, a detail, where (an address of memory, a register, a length), a 32-bit value.
#![no_main]

use std::{
    io::{self, ErrorKind},
    sync::{Arc, LazyLock, Mutex},
    task::{Context, Poll, Waker},
};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use vmm::devices::virtio::{
    Model,
    mmio::{Mmio, QUEUE_NOTIFY},
    net::{Backend, HEADER, Net, NetConfig},
    worker::Gate,
};

/// Of the whole run: making one takes longer than an input.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

const MEMORY: usize = 1 << 16;
/// Two pairs, and the one for commands.
const QUEUES: u32 = 5;
/// Descriptors of a queue. Its table is at 0x1000 times its number, with the other parts behind it.
const SIZE: u32 = 16;
const AVAILABLE: u32 = 0x200;
const USED: u32 = 0x400;

/// Longest frame with its header.
const FRAME_MAX: usize = HEADER + 18 + 65535;

#[derive(Debug, Default)]
struct Wire(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The length of the next frame of each pair; 0 is none.
    coming: [usize; 2],
    /// How many frames may be sent.
    room: u32,
    wakers: Vec<Waker>,
}

impl Wire {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    fn poll(&self, ready: impl Fn(&State) -> bool, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        if ready(&state) {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

impl Backend for Wire {
    fn features(&self) -> u64 {
        // Checksums and segments.
        0x7f83
    }

    fn pairs(&self) -> u16 {
        2
    }

    fn start(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        assert!((1..=2).contains(&pairs));
        Ok(())
    }

    fn poll_receive(&self, pair: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|state| state.coming[usize::from(pair)] > 0, context)
    }

    fn receive(&self, pair: u16, into: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        let len = std::mem::take(&mut state.coming[usize::from(pair)]);
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let room: usize = into.iter().map(VolatileSlice::len).sum();
        assert!(len <= room, "a frame is always read in whole");
        for slice in into {
            slice.copy_from(&vec![0x5a_u8; slice.len()]);
        }
        Ok(len)
    }

    fn poll_send(&self, _: u16, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|state| state.room > 0, context)
    }

    fn send(&self, _: u16, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let len: usize = from.iter().map(VolatileSlice::len).sum();
        assert!(
            (HEADER + 14..=FRAME_MAX).contains(&len),
            "a frame of {len} bytes"
        );
        let mut state = self.0.lock().unwrap();
        state.room = state.room.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((features, acts)) = input.split_first() else {
        return;
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let memory = Arc::new(memory);
    let gate = Gate::default();
    gate.open();
    let wire = Arc::new(Wire::default());
    wire.change(|state| state.room = 8);
    let net = Net::of(NetConfig {
        backend: wire.clone(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: None,
        link_down: false,
        limits: Default::default(),
    });
    let model = Model {
        device: Box::new(net),
        report: Arc::new(|_| ()),
    };
    let handle = RUNTIME.handle().clone();
    let mut mmio = Mmio::new(model, memory.clone(), handle, gate.clone()).unwrap();
    let write = |mmio: &mut Mmio, register: u64, value: u32| {
        mmio.write(register, &value.to_le_bytes());
    };

    // Mergeable buffers, several pairs, indirect descriptors, event index; always commands and their offloads.
    let bits = [15, 22, 28, 29];
    let taken = bits
        .iter()
        .enumerate()
        .filter(|(at, _)| features & 1 << at != 0);
    let taken = taken.fold(1 << 17 | 0x7f87, |taken, (_, bit)| taken | 1_u32 << bit);
    write(&mut mmio, 0x070, 3);
    write(&mut mmio, 0x020, taken);
    write(&mut mmio, 0x024, 1);
    write(&mut mmio, 0x020, 1);
    write(&mut mmio, 0x070, 11);
    for queue in 0..QUEUES {
        let table = 0x1000 * queue;
        for (register, value) in [
            (0x030, queue),
            (0x038, SIZE),
            (0x080, table),
            (0x090, table + AVAILABLE),
            (0x0a0, table + USED),
            (0x044, 1),
        ] {
            write(&mut mmio, register, value);
        }
    }
    write(&mut mmio, 0x070, 15);

    for act in acts.chunks_exact(8) {
        let &[what, detail, low, high, a, b, c, d] = act else {
            return;
        };
        let place = u16::from_le_bytes([low, high]);
        let value = [a, b, c, d];
        match what % 6 {
            0 | 1 => {
                // What is beyond the end of memory is not there.
                let _ = memory.write_slice(&value, GuestAddress(place.into()));
            }
            2 => {
                // Makes a chain available.
                let queue = u32::from(detail) % QUEUES;
                let ring = GuestAddress((0x1000 * queue + AVAILABLE).into());
                let index: u16 = memory.read_obj(GuestAddress(ring.0 + 2)).unwrap();
                let slot = 4 + 2 * u64::from(u32::from(index) % SIZE);
                let head = place % SIZE as u16;
                memory.write_obj(head, GuestAddress(ring.0 + slot)).unwrap();
                let index = index.wrapping_add(1);
                memory.write_obj(index, GuestAddress(ring.0 + 2)).unwrap();
                write(&mut mmio, QUEUE_NOTIFY, queue);
            }
            3 => wire.change(|state| {
                let len = if detail & 2 == 0 {
                    place.into()
                } else {
                    FRAME_MAX
                };
                state.coming[usize::from(detail & 1)] = len;
                state.room = a.into();
            }),
            4 => mmio.write(u64::from(place) % 0x200, &value),
            _ => RUNTIME.block_on(async {
                gate.close().await;
                gate.open();
                tokio::task::yield_now().await;
            }),
        }
    }
    // Whatever the driver did, a reset makes the device start anew.
    write(&mut mmio, 0x070, 0);
    let mut status = [0xff; 4];
    mmio.read(0x070, &mut status);
    assert_eq!(status, [0; 4]);
});
