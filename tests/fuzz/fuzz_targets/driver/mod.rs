//! A driver that does anything to the queues of one device: chains of descriptors, rings, configuration space.
//!
//! The input is a sequence of acts of 16 bytes: which, queue, place, length, flags, and 9 bytes of data.

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, LazyLock},
};

use tokio::runtime::{Builder, Runtime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::devices::virtio::{
    Device, Model,
    mmio::{Mmio, QUEUE_NOTIFY},
    worker::Gate,
};

/// Of the whole run: making one takes longer than an input.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

/// Descriptor table, available ring and used ring of a queue; the data of all queues is after those of the last.
const STRIDE: u64 = 0x1000;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
const QUEUES: u64 = 8;
/// Where a chain's data is.
pub const DATA: u64 = QUEUES * STRIDE;
const MEMORY: u64 = DATA + (1 << 16);
const SIZE: u16 = 16;

/// Bytes of guest memory.
#[allow(dead_code, reason = "not every target asks")]
pub const fn memory_bytes() -> u64 {
    MEMORY
}

/// Lets go of those who wait for `listener`, which does not block: a device that has stopped takes nobody, and to connect to
/// a listener with many who wait blocks.
#[allow(dead_code, reason = "not every device has a listener")]
pub fn forget_waiting(listener: &UnixListener) {
    while listener.accept().is_ok() {}
}

/// Drives `device`, with `features` accepted, as `input` says. `between` is done now and then.
pub fn drive(device: Box<dyn Device>, features: u32, input: &[u8], mut between: impl FnMut(u8)) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let memory = Arc::new(memory);
    let gate = Gate::default();
    gate.open();
    let handle = RUNTIME.handle().clone();
    let queues = device.queues().len() as u64;
    assert!(queues <= QUEUES);
    let report = Arc::new(|_| ());
    let model = Model { device, report };
    let mut mmio = Mmio::new(model, memory.clone(), handle, gate.clone()).unwrap();
    let write = |mmio: &mut Mmio, register: u64, value: u32| {
        mmio.write(register, &value.to_le_bytes());
    };
    write(&mut mmio, 0x070, 3);
    write(&mut mmio, 0x024, 0);
    write(&mut mmio, 0x020, features);
    write(&mut mmio, 0x024, 1);
    write(&mut mmio, 0x020, 1);
    write(&mut mmio, 0x070, 11);
    for queue in 0..queues {
        let base = (queue * STRIDE) as u32;
        write(&mut mmio, 0x030, queue as u32);
        write(&mut mmio, 0x038, SIZE.into());
        write(&mut mmio, 0x080, base);
        write(&mut mmio, 0x090, base + AVAILABLE as u32);
        write(&mut mmio, 0x0a0, base + USED as u32);
        write(&mut mmio, 0x044, 1);
    }
    write(&mut mmio, 0x070, 15);

    // What is beyond the end of memory is not there.
    let poke = |bytes: &[u8], at: u64| drop(memory.write_slice(bytes, GuestAddress(at)));
    let settle = || {
        RUNTIME.block_on(async {
            for _ in 0..4 {
                gate.close().await;
                gate.open();
                tokio::task::yield_now().await;
            }
        });
    };
    let mut available = [0_u16; QUEUES as usize];
    for act in input.chunks_exact(16) {
        let &[
            what,
            queue,
            low,
            high,
            len_low,
            len_high,
            flags,
            ref data @ ..,
        ] = act
        else {
            return;
        };
        let queue = u64::from(queue) % queues;
        let place = u64::from(u16::from_le_bytes([low, high]));
        let len = u32::from(u16::from_le_bytes([len_low, len_high]));
        match what % 6 {
            0 => poke(data, DATA + place),
            1 => poke(data, queue * STRIDE + place % STRIDE),
            2 => {
                let mut descriptor = (DATA + place).to_le_bytes().to_vec();
                descriptor.extend(len.to_le_bytes());
                descriptor.extend([flags & 7, 0, data[1] % (SIZE as u8 + 1), 0]);
                poke(
                    &descriptor,
                    queue * STRIDE + 16 * u64::from(data[0] % SIZE as u8),
                );
            }
            3 => {
                let ring = queue * STRIDE + AVAILABLE;
                let next = &mut available[queue as usize];
                poke(
                    &[data[0] % SIZE as u8, 0],
                    ring + 4 + 2 * u64::from(*next % SIZE),
                );
                *next = next.wrapping_add(1);
                poke(&next.to_le_bytes(), ring + 2);
                write(&mut mmio, QUEUE_NOTIFY, queue as u32);
                settle();
            }
            4 => {
                let width = 1 << (flags % 3);
                mmio.write(0x100 + place % 16, &data[..width]);
                mmio.read(0x100 + place % 16, &mut [0; 4]);
            }
            _ => {
                between(flags);
                settle();
            }
        }
    }
    // Whatever the driver did, a reset makes the device start anew.
    write(&mut mmio, 0x070, 0);
    let mut status = [0xff; 4];
    mmio.read(0x070, &mut status);
    assert_eq!(status, [0; 4]);
}
