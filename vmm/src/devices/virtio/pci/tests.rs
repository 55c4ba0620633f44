//! A driver's registers in a PCI function.

mod bus_master;

use std::{sync::mpsc, time::Instant};

use super::{
    super::transport::{
        DRIVER_OK, F_VERSION_1, FEATURES_OK,
        testing::{self, Registers, SIZE},
    },
    vectors::NO_VECTOR,
    *,
};

const BASE: u32 = 0xc000_8000;

/// Tells of each message that it is sent.
struct Told(u16, mpsc::Sender<u16>);

impl Vector for Told {
    fn connect(&self, _address: u64, _data: u32) {}

    fn fire(&self) {
        self.1.send(self.0).unwrap();
    }
}

/// Of the command register: it answers, and is a bus master.
const MEMORY: u16 = 2;
const MASTER: u16 = 4;

/// A function, and the messages that it has sent.
struct Pci {
    pci: VirtioPci,
    /// What its driver writes there.
    command: u16,
    sent: mpsc::Receiver<u16>,
}

type Bench = testing::Bench<Pci>;

fn bench() -> Bench {
    Bench::new(|model, memory, runtime, gate| {
        let (sender, sent) = mpsc::channel();
        let vector = |index| Box::new(Told(index, sender.clone())) as Box<dyn Vector>;
        let vectors = (0..VirtioPci::messages(&*model.device) as u16)
            .map(vector)
            .collect();
        let pci = VirtioPci::new(model, memory, runtime, gate, vectors, BASE).unwrap();
        Pci {
            pci,
            command: MEMORY | MASTER,
            sent,
        }
    })
}

impl Pci {
    fn read<const N: usize>(&mut self, offset: u32) -> u64 {
        let mut data = [0; 8];
        self.pci.read(offset, &mut data[..N]);
        u64::from_le_bytes(data)
    }

    fn write<const N: usize>(&mut self, offset: u32, value: u64) {
        self.pci.write(offset, &value.to_le_bytes()[..N]);
    }

    fn config(&mut self, register: u16) -> u32 {
        let mut data = [0; 4];
        self.pci.read_config(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Every capability: number, and where it is.
    fn capabilities(&mut self) -> Vec<(u8, u16)> {
        let mut capabilities = Vec::new();
        let mut at = self.config(0x34) as u16;
        while at != 0 {
            assert!(capabilities.len() < 16, "they do not end");
            let head = self.config(at);
            capabilities.push((head as u8, at));
            at = head as u16 >> 8;
        }
        capabilities
    }

    /// Where the capability of the vendor's own of this kind is.
    fn capability(&mut self, kind: u8) -> u16 {
        let vendors = self.capabilities().into_iter().filter(|it| it.0 == 9);
        let found = vendors.map(|it| it.1);
        let all: Vec<_> = found.collect();
        let is_it = |at: &u16| (self.config(*at) >> 24) as u8 == kind;
        all.into_iter().find(is_it).unwrap()
    }

    /// Writes the command register.
    fn command(&mut self, command: u16) {
        self.pci.write_config(0x04, &command.to_le_bytes());
    }

    /// Sets the control word of MSI-X.
    fn messages_on(&mut self, control: u16) {
        let (id, msix) = self.capabilities()[0];
        assert_eq!(id, 0x11);
        self.pci.write_config(msix + 2, &control.to_le_bytes());
    }
}

impl Registers for Pci {
    fn status(&mut self) -> u32 {
        self.read::<1>(0x14) as u32
    }

    fn set_status(&mut self, value: u32) {
        self.write::<1>(0x14, value.into());
    }

    fn accept(&mut self, half: u32, value: u32) {
        self.write::<4>(0x08, half.into());
        self.write::<4>(0x0c, value.into());
    }

    fn size(&mut self) -> u16 {
        self.write::<2>(0x16, 0);
        self.read::<2>(0x18) as u16
    }

    fn set_up(&mut self, size: u16, parts: [u64; 3]) {
        self.command(self.command);
        // Message 0 for the configuration, 1 for the queue; both unmasked.
        self.messages_on(1 << 15);
        self.write::<2>(0x10, 0);
        self.write::<2>(0x16, 0);
        self.write::<2>(0x18, size.into());
        self.write::<2>(0x1a, 1);
        assert_eq!((self.read::<2>(0x10), self.read::<2>(0x1a)), (0, 1));
        for entry in 0..2 {
            self.write::<8>(TABLE + entry * 16, 0xfee0_0000);
            self.write::<8>(TABLE + entry * 16 + 8, 0x40 + u64::from(entry));
        }
        for (register, address) in [0x20, 0x28, 0x30].into_iter().zip(parts) {
            self.write::<4>(register, address);
            self.write::<4>(register + 4, address >> 32);
            assert_eq!(self.read::<8>(register), address);
        }
        self.write::<2>(0x1c, 1);
        assert_eq!(self.read::<2>(0x1c), 1);
    }

    fn notify(&mut self) {
        self.write::<2>(NOTIFY, 0);
    }

    fn interrupted(&mut self, deadline: Instant) -> u32 {
        let rest = deadline.saturating_duration_since(Instant::now());
        let why = match self.sent.recv_timeout(rest).expect("no interrupt") {
            0 => 2,
            _ => 1,
        };
        // The reason is also there for a driver that looks; reading it takes it away.
        assert_eq!(self.read::<1>(ISR) as u32 & why, why);
        assert_eq!(self.read::<1>(ISR), 0);
        why
    }
}

#[test]
fn the_function_says_what_it_is() {
    let mut pci = bench().registers;
    assert_eq!(pci.config(0x00), 0x1044_1af4);
    assert_eq!(pci.config(0x08), 0xff00_0001);
    assert_eq!(pci.config(0x10), BASE);
    let common = pci.capability(1);
    assert_eq!((pci.config(common + 8), pci.config(common + 12)), (0, 0x38));
    let notify = pci.capability(2);
    let places = (pci.config(notify + 8), pci.config(notify + 12));
    assert_eq!(places, (NOTIFY, 4));
    assert_eq!(pci.config(notify + 16), 4, "the multiplier");
    let (isr, device) = (pci.capability(3), pci.capability(4));
    assert_eq!((pci.config(isr + 8), pci.config(device + 8)), (ISR, DEVICE));
    assert_eq!(pci.capabilities().len(), 6);
    // MSI-X: two messages, off; table and pending bits in base address 0.
    let msix = pci.capabilities()[0].1;
    assert_eq!(pci.config(msix) >> 16, 1);
    let places = (pci.config(msix + 4), pci.config(msix + 8));
    assert_eq!(places, (TABLE, PENDING));

    pci.write::<4>(0x00, 1);
    assert_eq!(pci.read::<4>(0x04), 1, "VIRTIO_F_VERSION_1");
    pci.write::<4>(0x00, 2);
    assert_eq!(pci.read::<4>(0x04), 0);
    assert_eq!((pci.read::<2>(0x12), pci.size()), (1, SIZE));
    pci.write::<2>(0x16, 1);
    assert_eq!(pci.read::<2>(0x18), 0, "there is one queue");
}

#[test]
fn features_are_agreed_on_once_and_anew_after_a_reset() {
    testing::features_are_agreed_on_once_and_anew_after_a_reset(&mut bench());
}

#[test]
fn requests_are_served_in_chains_and_indirect_ones() {
    testing::requests_are_served_in_chains_and_indirect_ones(&mut bench());
}

#[test]
fn a_driver_that_lies_stops_its_device_until_a_reset() {
    testing::a_driver_that_lies_stops_its_device_until_a_reset(&mut bench());
}

#[test]
fn nothing_is_touched_while_the_machine_is_paused() {
    testing::nothing_is_touched_while_the_machine_is_paused(&mut bench());
}

#[test]
fn messages_that_are_not_there_are_none() {
    let mut bench = bench();
    let pci = &mut bench.registers;
    for register in [0x10, 0x1a] {
        for vector in [2, 0x7ff, 0x8000, NO_VECTOR] {
            pci.write::<2>(register, 1);
            assert_eq!(pci.read::<2>(register), 1);
            pci.write::<2>(register, vector.into());
            assert_eq!(pci.read::<2>(register), u64::from(NO_VECTOR), "{vector}");
        }
    }
    // Of a queue that is not there.
    pci.write::<2>(0x16, 1);
    pci.write::<2>(0x1a, 1);
    assert_eq!(pci.read::<2>(0x1a), u64::from(NO_VECTOR));
    // A reset forgets them; the table stays the function's.
    pci.write::<2>(0x10, 1);
    pci.write::<4>(TABLE, 0xfee0_0000);
    pci.set_status(0);
    assert_eq!(pci.read::<2>(0x10), u64::from(NO_VECTOR));
    assert_eq!(pci.read::<4>(TABLE), 0xfee0_0000);
    pci.pci.reset();
    assert_eq!((pci.read::<4>(TABLE), pci.read::<4>(TABLE + 12)), (0, 1));
}

#[test]
fn a_masked_message_waits() {
    let mut bench = bench();
    bench.start(0);
    // All are masked, with messages on.
    bench.registers.messages_on(3 << 14);
    bench.offers_a_buffer();
    // The device has answered when it says why it would interrupt.
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    while bench.registers.read::<8>(PENDING) != 1 << 1 {
        assert!(Instant::now() < deadline, "the request is not answered");
        std::thread::yield_now();
    }
    assert!(bench.registers.sent.try_recv().is_err());
    bench.registers.messages_on(1 << 15);
    assert_eq!(bench.registers.interrupted(deadline), 1);
    assert_eq!(bench.registers.read::<8>(PENDING), 0);
}

#[test]
fn the_registers_are_reached_through_the_configuration_space_too() {
    let mut pci = bench().registers;
    let window = pci.capability(5);
    let aim = |pci: &mut Pci, bar: u8, offset: u32, length: u32| {
        pci.pci.write_config(window + 4, &[bar]);
        pci.pci.write_config(window + 8, &offset.to_le_bytes());
        pci.pci.write_config(window + 12, &length.to_le_bytes());
    };
    aim(&mut pci, 0, 0x14, 1);
    pci.pci.write_config(window + 16, &[3]);
    assert_eq!(pci.status(), 3);
    assert_eq!(pci.config(window + 16), 3);
    // Where there is nothing, or not in whole.
    for (bar, offset, length) in [
        (1, 0x14, 1),
        (0, BAR_SIZE, 4),
        (0, u32::MAX, 1),
        (0, 0x12, 4),
        (0, 0x14, 3),
        (0, 0x14, 0),
    ] {
        aim(&mut pci, bar, offset, length);
        pci.pci.write_config(window + 16, &[0; 4]);
        assert_eq!(pci.config(window + 16), 0);
        assert_eq!(pci.status(), 3, "{bar} {offset:#x} {length}");
    }
}

#[test]
fn a_queue_is_not_changed_while_it_is_used_nor_disabled() {
    let mut bench = bench();
    bench.start(0);
    let pci = &mut bench.registers;
    pci.write::<2>(0x1c, 0);
    pci.write::<2>(0x18, 8);
    pci.write::<8>(0x20, 0);
    let queue = (pci.read::<2>(0x1c), pci.read::<2>(0x18));
    assert_eq!(queue, (1, u64::from(SIZE)));
    assert_eq!(pci.read::<8>(0x20), testing::DESCRIPTORS);
    let ready = 1 | 2 | FEATURES_OK | DRIVER_OK;
    assert_eq!(pci.status(), ready);
    bench.gets_entropy();
    // Both halves of what was accepted are read back.
    bench.registers.write::<4>(0x08, 1);
    let high = bench.registers.read::<4>(0x0c);
    assert_eq!(high, F_VERSION_1 >> 32);
}

#[test]
fn every_access_of_every_width_is_harmless() {
    let mut bench = bench();
    for width in [1, 2, 3, 4, 8] {
        let mut data = vec![0xff; width];
        let pci = &mut bench.registers.pci;
        for offset in 0..BAR_SIZE + 8 {
            pci.write(offset, &data);
            pci.read(offset, &mut data);
            data.fill(0xff);
        }
        for register in 0..0x1000 {
            pci.write_config(register, &data);
            pci.read_config(register, &mut data);
            data.fill(0xff);
        }
    }
    bench.registers.pci.reset();
    while bench.registers.sent.try_recv().is_ok() {}
    bench.start(0);
    bench.gets_entropy();
}
