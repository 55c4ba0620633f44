//! A bare virtio driver: a kernel that sets up the first virtio device behind MMIO, and then has it serve requests, polling
//! for their end at user privilege: such code runs at full speed everywhere.
//!
//! ```text
//!   kernel: letter 'a' + n --(SYSRET)--> user: run n, so many requests, some at a time, each used again once it is done
//!           '.', or 'E': an error <---(invalid opcode)-----+
//! ```
//! User code uses no ports: on a host without hardware virtualisation it may not, whatever its I/O privilege level.
//!
//! Everything but the loop itself is prepared here, as segments of the kernel's file:
//!
//! | address | what | address | what |
//! | --- | --- | --- | --- |
//! | 0x10_0000 | the code, `driver.s` | 0x12_0000 | the plan: registers to set; at 0x1000, the runs |
//! | 0x11_0000 | page tables: all is where it is | 0x13_0000 | the queues, 0x4000 each |
//! | 0x11_8000 | the end of the stack | 0x100_0000 | what is read and written |
//!
//! It says `!` when the device is ready.

use std::arch::global_asm;

use super::SIZE;
use crate::kernel_file::{elf, load, pvh_note};

global_asm!(include_str!("driver.s"), options(att_syntax));

unsafe extern "C" {
    static vmd_test_driver: [u8; SIZE];
}

const CODE: u64 = 0x10_0000;
const PAGES: u64 = 0x11_0000;
const PLAN: u64 = 0x12_0000;
const QUEUES: u64 = 0x13_0000;
const DATA: u64 = 0x100_0000;

/// The first device's registers.
const DEVICE: u64 = 0xd000_0000;
const NOTIFY: u64 = DEVICE + 0x50;

/// Descriptors of each queue.
const QUEUE_SIZE: usize = 128;
/// Of a queue: its memory, and where in it is what.
const QUEUE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADERS: u64 = 0x3000;
const STATUSES: u64 = 0x3800;
/// Most bytes of a request's header.
const HEADER: usize = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

/// A request: a chain of what it has of these.
pub struct Request {
    /// What the device reads first, at most 16 bytes.
    pub header: Vec<u8>,
    /// How many bytes of data follow.
    pub data: u32,
    /// Whether the device writes them.
    pub into: bool,
    /// Whether the device writes a status byte behind it all, which must be 0.
    pub status: bool,
}

/// A descriptor (virtio 1.2, section 2.7.5).
#[derive(Clone)]
pub struct Descriptor {
    /// Where the data is.
    pub address: u64,
    /// How much.
    pub len: u32,
    /// 1: another follows; 2: the device writes.
    pub flags: u16,
    /// The other.
    pub next: u16,
}

/// The kernel, in the making.
pub struct Driver {
    features: u64,
    queues: Vec<Queue>,
    runs: Vec<u8>,
    /// Where data was given out up to.
    data: u64,
}

#[derive(Default)]
struct Queue {
    descriptors: Vec<Descriptor>,
    headers: Vec<u8>,
    statuses: u64,
}

impl Driver {
    /// A driver that accepts `features` and uses the first `queues` queues.
    pub fn new(features: u64, queues: usize) -> Self {
        Self {
            features: features | F_EVENT_IDX | F_VERSION_1,
            queues: (0..queues).map(|_| Queue::default()).collect(),
            runs: Vec::new(),
            data: DATA,
        }
    }

    /// Adds a run of `total` requests in `queue`, these at a time. Returns its letter.
    pub fn run(&mut self, queue: usize, requests: &[Request], total: u32) -> u8 {
        let letter = b'a' + (self.runs.len() / 64) as u8;
        let at = QUEUES + QUEUE * queue as u64;
        let Queue {
            descriptors,
            headers,
            statuses,
        } = self.queues.get_mut(queue).expect("a queue of the driver");
        let first = descriptors.len();
        let status = at + STATUSES + *statuses;
        for request in requests {
            let mut parts = Vec::new();
            if !request.header.is_empty() {
                parts.push((at + HEADERS + headers.len() as u64, request.header.len(), 0));
                headers.extend(&request.header);
                headers.resize(headers.len().next_multiple_of(HEADER), 0);
            }
            if request.data > 0 {
                let flags = if request.into { WRITE } else { 0 };
                parts.push((self.data, request.data as usize, flags));
                self.data += u64::from(request.data.next_multiple_of(4096));
            }
            if request.status {
                parts.push((at + STATUSES + *statuses, 1, WRITE));
                *statuses += 1;
            }
            let last = parts.len() - 1;
            for (index, (address, len, flags)) in parts.into_iter().enumerate() {
                let next = if index < last { NEXT } else { 0 };
                descriptors.push(Descriptor {
                    address,
                    len: len as u32,
                    flags: flags | next,
                    next: descriptors.len() as u16 + 1,
                });
            }
        }
        let stride = (descriptors.len() - first) / requests.len();
        assert!(descriptors.len() <= QUEUE_SIZE, "the queue is full");
        for address in [at + AVAILABLE, at + USED, NOTIFY] {
            self.runs.extend(address.to_le_bytes());
        }
        for number in [
            queue,
            QUEUE_SIZE - 1,
            requests.len(),
            total as usize,
            first,
            stride,
        ] {
            self.runs.extend((number as u32).to_le_bytes());
        }
        self.runs.extend(status.to_le_bytes());
        let last_status = at + STATUSES + *statuses;
        self.runs.extend((last_status - status).to_le_bytes());
        letter
    }

    /// Has the driver lie: changes the last descriptor so far of `queue`.
    pub fn corrupt(&mut self, queue: usize, lie: impl FnOnce(&mut Descriptor)) {
        let queue = self.queues.get_mut(queue).expect("a queue of the driver");
        lie(queue.descriptors.last_mut().expect("a descriptor"));
    }

    /// The kernel's file.
    pub fn build(self) -> Vec<u8> {
        // SAFETY: `driver.s` defines the symbol as exactly SIZE bytes of read-only data, which live as long as the program.
        let code: &'static [u8] = unsafe { &vmd_test_driver };
        let mut plan = self.registers();
        plan.resize(0x1000, 0);
        plan.extend(&self.runs);
        let mut segments = vec![
            load(CODE, code, SIZE as u64),
            load(PAGES, &pages(), 0x8000),
            load(PLAN, &plan, plan.len() as u64),
            pvh_note(CODE as u32),
        ];
        for (queue, at) in self.queues.iter().zip((QUEUES..).step_by(QUEUE as usize)) {
            let mut memory = Vec::new();
            for descriptor in &queue.descriptors {
                memory.extend(descriptor.address.to_le_bytes());
                memory.extend(descriptor.len.to_le_bytes());
                memory.extend(descriptor.flags.to_le_bytes());
                memory.extend(descriptor.next.to_le_bytes());
            }
            memory.resize(HEADERS as usize, 0);
            memory.extend(&queue.headers);
            segments.push(load(at, &memory, QUEUE));
        }
        elf(CODE, &segments)
    }

    /// What is written to the device's registers (virtio 1.2, section 3.1.1): how many, then the address and value of each.
    fn registers(&self) -> Vec<u8> {
        let half = |value: u64, upper: bool| (value >> if upper { 32 } else { 0 }) as u32;
        let mut writes = vec![(0x70, 0), (0x70, 1), (0x70, 3)];
        for upper in [false, true] {
            writes.extend([(0x24, upper.into()), (0x20, half(self.features, upper))]);
        }
        writes.push((0x70, 11));
        for queue in 0..self.queues.len() {
            let at = QUEUES + QUEUE * queue as u64;
            writes.extend([(0x30, queue as u32), (0x38, QUEUE_SIZE as u32)]);
            for (register, address) in [(0x80, at), (0x90, at + AVAILABLE), (0xa0, at + USED)] {
                writes.extend([
                    (register, half(address, false)),
                    (register + 4, half(address, true)),
                ]);
            }
            writes.push((0x44, 1));
        }
        writes.push((0x70, 15));
        let count = [writes.len() as u32, 0];
        let writes = writes
            .into_iter()
            .flat_map(|(register, value)| [(DEVICE as u32) + register, value]);
        count
            .into_iter()
            .chain(writes)
            .flat_map(u32::to_le_bytes)
            .collect()
    }
}

/// Page tables: the first 4 GiB, in pages of 2 MiB, for everybody.
fn pages() -> Vec<u8> {
    const USER: u64 = 7;
    const LARGE: u64 = 0x80;
    let table = |number: u64| (PAGES + number * 0x1000) | USER;
    let mut pages = Vec::new();
    pages.extend(table(1).to_le_bytes());
    pages.resize(0x1000, 0);
    pages.extend((2..6).flat_map(|number| table(number).to_le_bytes()));
    pages.resize(0x2000, 0);
    pages.extend((0..2048_u64).flat_map(|page| (page << 21 | LARGE | USER).to_le_bytes()));
    pages
}
