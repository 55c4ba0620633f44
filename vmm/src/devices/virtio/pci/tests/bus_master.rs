//! What a function does that is a bus master, and one that is none.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{super::super::testing::DEADLINE, *};

fn deadline() -> Instant {
    Instant::now() + DEADLINE
}

impl Pci {
    fn sends_nothing(&mut self) {
        assert_eq!(self.sent.try_recv(), Err(mpsc::TryRecvError::Empty));
    }
}

/// The driver asks for something, and gets it once the function is a bus master.
fn is_served_once_it_is_master(bench: &mut Bench) {
    let before = bench.used();
    bench.offers_a_buffer();
    bench.has_its_turn(&bench.registers.pci.kicks()[0]);
    assert_eq!(bench.used(), before);
    assert_eq!(bench.registers.read::<1>(ISR), 0);
    bench.registers.sends_nothing();
    bench.registers.command(MEMORY | MASTER);
    assert_eq!(bench.registers.interrupted(deadline()), 1);
    assert_eq!(bench.used(), before + 1);
    bench.gets_entropy();
}

#[test]
fn it_uses_no_memory_until_it_is_bus_master() {
    let mut bench = bench();
    bench.registers.command = MEMORY;
    bench.start(0);
    is_served_once_it_is_master(&mut bench);
    // Waits for a kick, and not at its door.
    bench.ends_its_turn();
    bench.registers.command(MEMORY);
    is_served_once_it_is_master(&mut bench);
    // After power-on it is none; the driver's reset changes nothing of that.
    bench.registers.set_status(0);
    assert_eq!(bench.registers.config(0x04) as u16, MEMORY | MASTER);
    bench.registers.pci.reset();
    assert_eq!(bench.registers.config(0x04) as u16, 0);
    bench.start(0);
    is_served_once_it_is_master(&mut bench);
}

#[test]
fn a_reset_does_not_wait_for_it_to_be_bus_master() {
    let mut bench = bench();
    bench.registers.command = MEMORY;
    bench.start(0);
    bench.offers_a_buffer();
    bench.registers.set_status(0);
    assert_eq!(bench.registers.status(), 0);
    bench.registers.command = MEMORY | MASTER;
    bench.start(0);
    bench.gets_entropy();
    assert_eq!(bench.used(), 1);
}

#[test]
fn it_sends_no_message_until_it_is_bus_master() {
    let mut bench = bench();
    bench.registers.command = MEMORY;
    bench.start(0);
    let interrupt = bench.registers.pci.function.interrupt().clone();
    interrupt.configuration();
    bench.registers.sends_nothing();
    // It waits as one that is masked.
    assert_eq!(bench.registers.read::<8>(PENDING), 1);
    bench.registers.command(MEMORY | MASTER);
    assert_eq!(bench.registers.interrupted(deadline()), 2);
    assert_eq!(bench.registers.read::<8>(PENDING), 0);
    interrupt.configuration();
    assert_eq!(bench.registers.interrupted(deadline()), 2);
}

#[test]
fn it_has_ceased_once_the_bit_is_clear() {
    let mut bench = bench();
    bench.start(0);
    let gate = bench.registers.pci.gate.clone();
    let inside = bench.registers.pci.runtime.block_on(gate.enter());
    let is_done = Arc::new(AtomicBool::new(false));
    let interrupt = bench.registers.pci.function.interrupt().clone();
    let device = std::thread::spawn({
        let is_done = is_done.clone();
        move || {
            interrupt.used(0);
            is_done.store(true, Ordering::SeqCst);
            drop(inside);
        }
    });
    bench.registers.command(MEMORY);
    assert!(is_done.load(Ordering::SeqCst));
    // What was done before is told.
    assert_eq!(bench.registers.interrupted(deadline()), 1);
    device.join().unwrap();
}
