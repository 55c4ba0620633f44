//! A driver that does anything to a PCI function: its configuration space, its registers (common configuration, ISR, device,
//! notify, MSI-X) and rings in guest memory, for the entropy device.
//!
//! The input is a sequence of acts of 8 bytes: what, width, where (16 bits), a 32-bit value.
#![no_main]

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::devices::{
    pci::msix::Vector,
    virtio::{
        Model,
        pci::{BAR_SIZE, NOTIFY, VirtioPci},
        rng::Rng,
        worker::Gate,
    },
};

/// Of the whole run: making one takes longer than an input.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
});

const MEMORY: usize = 1 << 16;
const BASE: u32 = 0xc000_8000;
/// Where the command is in the configuration space.
const COMMAND: u16 = 0x04;
/// Where the device status is among the registers.
const STATUS: u32 = 0x14;

/// Counts what is sent; nothing is sent before there is a message to send.
#[derive(Default)]
struct Sent {
    connected: AtomicU64,
}

struct Counted(Arc<Sent>);

impl Vector for Counted {
    fn connect(&self, _address: u64, _data: u32) {
        self.0.connected.fetch_add(1, Ordering::SeqCst);
    }

    fn fire(&self) {
        assert_ne!(self.0.connected.load(Ordering::SeqCst), 0);
    }
}

fuzz_target!(|input: &[u8]| {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let memory = Arc::new(memory);
    let gate = Gate::default();
    gate.open();
    let vectors = (0..VirtioPci::messages(&Rng)).map(|_| Box::new(Counted(Arc::default())) as _);
    let model = Model {
        device: Box::new(Rng),
        report: Arc::new(|_| ()),
    };
    let mut pci = VirtioPci::new(
        model,
        memory.clone(),
        RUNTIME.handle().clone(),
        gate.clone(),
        vectors.collect(),
        BASE,
    )
    .unwrap();
    // Most drivers get this far: it answers and is a bus master, and the features are agreed on.
    pci.write_config(COMMAND, &[6]);
    pci.write(STATUS, &[3]);
    pci.write(0x08, &1_u32.to_le_bytes());
    pci.write(0x0c, &1_u32.to_le_bytes());
    pci.write(STATUS, &[11]);

    for act in input.chunks_exact(8) {
        let &[what, width, low, high, a, b, c, d] = act else {
            return;
        };
        let place = u16::from_le_bytes([low, high]);
        let value = [a, b, c, d, a, b, c, d];
        let width = 1 << (width % 4);
        match what % 6 {
            0 => pci.write(u32::from(place) % BAR_SIZE, &value[..width]),
            1 => pci.read(u32::from(place) % BAR_SIZE, &mut [0; 8][..width]),
            2 => pci.write_config(place % 0x1000, &value[..width]),
            3 => pci.read_config(place % 0x1000, &mut [0; 8][..width]),
            4 => {
                // What is beyond the end of memory is not there.
                let _ = memory.write_slice(&value[..4], GuestAddress(place.into()));
            }
            _ => {
                pci.write(NOTIFY, &[0, 0]);
                RUNTIME.block_on(async {
                    gate.close().await;
                    gate.open();
                    tokio::task::yield_now().await;
                });
            }
        }
        // Whatever is written, it is this function, and its registers are where base address 0 can say.
        let mut identity = [0; 4];
        pci.read_config(0, &mut identity);
        assert_eq!(u32::from_le_bytes(identity), 0x1044_1af4);
        assert!(pci.base().is_none_or(|base| base % BAR_SIZE == 0));
    }
    // A reset makes the function start anew.
    pci.write(STATUS, &[0]);
    let mut status = [0xff];
    pci.read(STATUS, &mut status);
    assert_eq!(status, [0]);
    pci.reset();
    assert_eq!(pci.base(), None);
});
