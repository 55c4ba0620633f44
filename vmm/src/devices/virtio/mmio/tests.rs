//! A driver's registers in memory.

use std::time::{Duration, Instant};

use super::{
    super::transport::testing::{self, Registers, SIZE},
    *,
};

type Bench = testing::Bench<Mmio>;

fn bench() -> Bench {
    Bench::new(|model, memory, runtime, gate| Mmio::new(model, memory, runtime, gate).unwrap())
}

fn read(mmio: &mut Mmio, offset: u64) -> u32 {
    let mut data = [0; 4];
    mmio.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(mmio: &mut Mmio, offset: u64, value: u32) {
    mmio.write(offset, &value.to_le_bytes());
}

impl Registers for Mmio {
    fn status(&mut self) -> u32 {
        read(self, 0x070)
    }

    fn set_status(&mut self, value: u32) {
        write(self, 0x070, value);
    }

    fn accept(&mut self, half: u32, value: u32) {
        write(self, 0x024, half);
        write(self, 0x020, value);
    }

    fn size(&mut self) -> u16 {
        write(self, 0x030, 0);
        read(self, 0x034) as u16
    }

    fn set_up(&mut self, size: u16, parts: [u64; 3]) {
        write(self, 0x030, 0);
        write(self, 0x038, size.into());
        for (register, address) in [0x080, 0x090, 0x0a0].into_iter().zip(parts) {
            write(self, register, address as u32);
            write(self, register + 4, (address >> 32) as u32);
        }
        write(self, 0x044, 1);
    }

    fn notify(&mut self) {
        write(self, QUEUE_NOTIFY, 0);
    }

    fn interrupted(&mut self, deadline: Instant) -> u32 {
        let interrupt = self.interrupt().clone();
        let line = interrupt.line().unwrap();
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            assert!(!rest.is_zero(), "no interrupt");
            if wait_readable(line, rest) {
                line.read().unwrap();
                let why = read(self, 0x060);
                write(self, 0x064, why);
                return why;
            }
        }
    }
}

fn wait_readable(fd: &EventFd, rest: Duration) -> bool {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // SAFETY: the eventfd outlives this call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).unwrap() > 0
}

#[test]
fn the_device_says_what_it_is() {
    let mut mmio = bench().registers;
    assert_eq!(read(&mut mmio, 0x000), 0x7472_6976);
    assert_eq!((read(&mut mmio, 0x004), read(&mut mmio, 0x008)), (2, 4));
    write(&mut mmio, 0x014, 1);
    assert_eq!(read(&mut mmio, 0x010), 1, "VIRTIO_F_VERSION_1");
    write(&mut mmio, 0x014, 2);
    assert_eq!(read(&mut mmio, 0x010), 0);
    assert_eq!(mmio.size(), SIZE);
    write(&mut mmio, 0x030, 1);
    assert_eq!(read(&mut mmio, 0x034), 0, "there is one queue");
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
fn every_access_of_every_width_is_harmless() {
    let mut bench = bench();
    for offset in 0..super::SIZE {
        for width in [1, 2, 4, 8] {
            let mut data = vec![0xff; width];
            bench.registers.write(offset, &data);
            bench.registers.read(offset, &mut data);
        }
    }
    bench.start(0);
    bench.gets_entropy();
}
