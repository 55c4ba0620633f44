//! A driver of a disk that does anything with its queue and the memory around it: by io_uring and on threads.
//!
//! The first byte of the input says how the I/O goes and which features were agreed on. The rest is a sequence of acts of
//! 8 bytes: what, a number, an address, a 32-bit value. The queue's rings are where they should be, and the first three
//! descriptors are a request to write a sector.
#![no_main]

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};
use vmm::{
    devices::virtio::{
        Device, Driver,
        block::{Backing, Block, BlockConfig, Engine, Policies},
        interrupt::Interrupt,
        queue::VirtQueue,
        worker::{Blocking, Gate},
    },
    runstate::{Actions, Requests, TransitionTable},
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Of the whole run: making one takes longer than an input. Events are looked for whenever a task yields.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_current_thread();
    builder.event_interval(1).enable_all().build().unwrap()
});

const MEMORY: usize = 1 << 16;
const TABLE: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEAD: u64 = 0x3000;
const SIZE: u64 = 64 * 512;
const F_FLUSH: u64 = 1 << 9;

/// A disk in a file.
#[derive(Debug)]
struct Image(File);

impl Backing for Image {
    fn size(&self) -> u64 {
        SIZE
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut at = offset;
        for slice in into {
            let mut bytes = vec![0; slice.len()];
            self.0.read_exact_at(&mut bytes, at)?;
            slice.copy_from(&bytes);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn write(&self, offset: u64, from: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut at = offset;
        for slice in from {
            let mut bytes = vec![0; slice.len()];
            slice.copy_to(&mut bytes);
            self.0.write_all_at(&bytes, at)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= SIZE));
        self.0.write_all_at(&vec![0; len as usize], offset)
    }

    fn file(&self) -> Option<&File> {
        Some(&self.0)
    }

    fn close(&self) {}
}

fn queue() -> Queue {
    let mut queue = Queue::new(128).unwrap();
    queue.set_size(128);
    queue.set_desc_table_address(Some(TABLE as u32), None);
    queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
    queue.set_used_ring_address(Some(USED as u32), None);
    queue.set_ready(true);
    queue
}

async fn drive(how: u8, acts: &[u8]) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let memory: Arc<GuestMemoryMmap> = Arc::new(memory);
    let put = |bytes: &[u8], at: u64| {
        // What is beyond the end of memory is not there.
        let _ = memory.write_slice(bytes, GuestAddress(at));
    };
    for (index, (address, len, flags)) in [(HEAD, 16_u32, 1_u16), (0x4000, 512, 1), (0x3010, 1, 2)]
        .into_iter()
        .enumerate()
    {
        let at = TABLE + 16 * index as u64;
        put(&address.to_le_bytes(), at);
        put(&len.to_le_bytes(), at + 8);
        put(&flags.to_le_bytes(), at + 12);
        put(&(index as u16 + 1).to_le_bytes(), at + 14);
    }
    put(&1_u32.to_le_bytes(), HEAD);

    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let config = BlockConfig {
        backing: Arc::new(Image(file.try_clone().unwrap())),
        serial: "fuzz".to_owned(),
        policies: Policies::default(),
        rate_limit: Default::default(),
        queues: 1,
        engine: if how & 1 == 0 {
            Engine::Auto
        } else {
            Engine::Threads
        },
    };
    let requests = Requests::new(TransitionTable::default(), Actions::default(), || ());
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let interrupt = Interrupt::new().unwrap();
    let queue = VirtQueue::new(0, queue(), memory.clone(), kick.clone(), interrupt.clone());
    let gate = Gate::default();
    gate.open();
    let mut block = Block::alone(config, requests);
    let running = tokio::spawn(block.run(Driver {
        features: if how & 2 == 0 { F_FLUSH } else { 0 },
        queues: vec![Some(queue.unwrap())],
        gate: gate.clone(),
        blocking: Blocking::default(),
        interrupt,
    }));
    let mut available = 0_u16;
    for act in acts.chunks_exact(8).take(256) {
        let &[what, number, low, high, a, b, c, d] = act else {
            return;
        };
        let place = u64::from(u16::from_le_bytes([low, high]));
        match what % 4 {
            0 => put(&[a, b, c, d], place),
            1 => block.read_config(place, &mut [0; 8]),
            // A chain that begins with some descriptor is available.
            2 => {
                put(
                    &u16::from(number).to_le_bytes(),
                    AVAILABLE + 4 + 2 * u64::from(available % 128),
                );
                available = available.wrapping_add(1);
                put(&available.to_le_bytes(), AVAILABLE + 2);
            }
            _ => {
                kick.write(1).unwrap();
                for _ in 0..number % 4 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    // All that was asked for is done, or the device has stopped: either way, a pause comes to its end.
    kick.write(1).unwrap();
    for _ in 0..4 {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        gate.close().await;
        gate.open();
    }
    running.abort();
    match running.await {
        Ok(ended) => drop(ended),
        Err(error) => assert!(error.is_cancelled(), "{error}"),
    }
    gate.close().await;
    assert_eq!(file.metadata().unwrap().len(), SIZE);
}

fuzz_target!(|input: &[u8]| {
    if let [how, acts @ ..] = input {
        RUNTIME.block_on(drive(*how, acts));
    }
});
