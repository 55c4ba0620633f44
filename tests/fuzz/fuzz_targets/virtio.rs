//! A virtio driver that does anything: registers of the MMIO transport and rings in guest memory, for the entropy device.
//!
//! The input is a sequence of acts of 8 bytes: where (a register, or an address of memory), width, a 32-bit value.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::devices::virtio::{
    Model,
    mmio::{Mmio, QUEUE_NOTIFY},
    rng::Rng,
    worker::Gate,
};

/// Of the whole run: making one takes longer than an input.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

const MEMORY: usize = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let memory = Arc::new(memory);
    let gate = Gate::default();
    gate.open();
    let handle = RUNTIME.handle().clone();
    let model = Model {
        device: Box::new(Rng),
        report: Arc::new(|_| ()),
    };
    let mut mmio = Mmio::new(model, memory.clone(), handle, gate.clone()).unwrap();
    let write = |mmio: &mut Mmio, register: u64, value: u32| {
        mmio.write(register, &value.to_le_bytes());
    };
    // Most drivers get this far.
    write(&mut mmio, 0x070, 3);
    write(&mut mmio, 0x024, 1);
    write(&mut mmio, 0x020, 1);
    write(&mut mmio, 0x070, 11);

    for act in input.chunks_exact(8) {
        let &[what, width, low, high, a, b, c, d] = act else {
            return;
        };
        let place = u64::from(u16::from_le_bytes([low, high]));
        let value = [a, b, c, d];
        match what % 4 {
            0 => {
                let width = 1 << (width % 3);
                mmio.write(place % 0x200, &value[..width]);
            }
            1 => mmio.read(place % 0x200, &mut [0; 4]),
            2 => {
                // What is beyond the end of memory is not there.
                let _ = memory.write_slice(&value, GuestAddress(place));
            }
            _ => {
                write(&mut mmio, QUEUE_NOTIFY as u64, 0);
                RUNTIME.block_on(async {
                    gate.close().await;
                    gate.open();
                    tokio::task::yield_now().await;
                });
            }
        }
    }
    // Whatever the driver did, a reset makes the device start anew.
    write(&mut mmio, 0x070, 0);
    let mut status = [0xff; 4];
    mmio.read(0x070, &mut status);
    assert_eq!(status, [0; 4]);
});
