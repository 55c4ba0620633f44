use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    super::{
        clock::manual::ManualClock,
        testing::{Line, access_at_random, access_everything, read_byte, requests, timer},
        timer::{TimerId, Timers},
    },
    *,
};
use crate::runstate::{Request, WakeupReason};

const S: u64 = 1_000_000_000;
/// 2026-11-22 15:04:05 UTC, a Sunday.
const START_S: u64 = 1_795_359_845;
const WAKEUP: Request = Request::Wakeup(WakeupReason::Rtc);

struct Rig {
    rtc: Rtc,
    requests: Requests,
    clock: Arc<ManualClock>,
    timers: Arc<Timers>,
    irq: Arc<Line>,
    alarms: Arc<AtomicUsize>,
}

impl Rig {
    fn new() -> Self {
        let (timer, clock, timers) = timer(TimerId::Rtc);
        clock.advance(START_S * S);
        let (requests, irq) = (requests(), Arc::new(Line::default()));
        let alarms = Arc::new(AtomicUsize::new(0));
        let on_alarm = {
            let alarms = Arc::clone(&alarms);
            Box::new(move || {
                alarms.fetch_add(1, Ordering::Relaxed);
            })
        };
        Self {
            rtc: Rtc::new(requests.clone(), timer, irq.clone(), on_alarm),
            requests,
            clock,
            timers,
            irq,
            alarms,
        }
    }

    fn get(&mut self, register: u8) -> u8 {
        self.rtc.write(0, &[register]);
        read_byte(&mut self.rtc, 1)
    }

    fn set(&mut self, register: u8, value: u8) {
        // Index and data in one access.
        self.rtc.write(0, &[register, value]);
    }

    fn time(&mut self) -> [u8; 8] {
        TIME_REGISTERS.map(|register| self.get(register))
    }

    /// The deadline, in nanoseconds after [`START_S`].
    fn deadline(&self) -> Option<u64> {
        let deadline = self.timers.deadline(TimerId::Rtc);
        deadline.map(|at| at - START_S * S)
    }

    /// Advances to the deadline and expires.
    fn run_to_deadline(&mut self) {
        let deadline = self.timers.deadline(TimerId::Rtc).expect("is armed");
        self.clock.advance(deadline - self.clock_ns());
        self.rtc.expire();
    }

    fn clock_ns(&self) -> u64 {
        self.rtc.timer.now_ns()
    }
}

#[test]
fn it_starts_with_the_wall_clock() {
    let mut rig = Rig::new();
    let expected = [0x05, 0x04, 0x15, 0x01, 0x22, 0x11, 0x26, 0x20];
    assert_eq!(rig.time(), expected);
    let registers = [REG_A, REG_B, REG_C, REG_D].map(|register| rig.get(register));
    assert_eq!(registers, [0x26, 0x02, 0x00, 0x80]);
    assert_eq!(read_byte(&mut rig.rtc, 0), 0xff);
    rig.clock.advance(9 * 3600 * S);
    let next_day = [0x05, 0x04, 0x00, 0x02, 0x23, 0x11, 0x26, 0x20];
    assert_eq!(rig.time(), next_day);
}

#[test]
fn the_formats() {
    let mut rig = Rig::new();
    rig.set(REG_B, B_BINARY);
    assert_eq!(rig.time(), [5, 4, 0x83, 1, 22, 11, 26, 20]);
    rig.set(REG_B, B_BINARY | B_24_HOURS);
    assert_eq!(rig.time(), [5, 4, 15, 1, 22, 11, 26, 20]);
    rig.set(REG_B, 0);
    assert_eq!(rig.get(HOUR), 0x83);
}

#[test]
fn the_guest_sets_the_time() {
    let mut rig = Rig::new();
    rig.clock.advance(S / 4);
    rig.set(REG_B, B_SET | B_24_HOURS);
    for (register, value) in TIME_REGISTERS
        .iter()
        .zip([0x58, 0x59, 0x23, 0x07, 0x28, 0x02, 0x99, 0x19])
    {
        rig.set(*register, value);
    }
    rig.clock.advance(10 * S);
    assert_eq!(rig.get(SECOND), 0x58, "it stands still");
    rig.set(REG_B, B_24_HOURS);
    assert_eq!(rig.get(SECOND), 0x58);
    rig.clock.advance(2 * S);
    // 1999-03-01 was a Monday.
    let expected = [0x00, 0x00, 0x00, 0x02, 0x01, 0x03, 0x99, 0x19];
    assert_eq!(rig.time(), expected);
    // Without SET, at once.
    rig.set(CENTURY, 0x20);
    rig.set(YEAR, 0x26);
    let expected = [0x00, 0x00, 0x00, 0x01, 0x01, 0x03, 0x26, 0x20];
    assert_eq!(rig.time(), expected);
    // Before the epoch, too.
    rig.set(CENTURY, 0x18);
    rig.clock.advance(S);
    assert_eq!(rig.get(SECOND), 0x01);
    assert_eq!(rig.get(CENTURY), 0x18);
}

#[test]
fn uip_comes_before_the_update() {
    let mut rig = Rig::new();
    rig.clock.advance(S - 244_141);
    assert_eq!(rig.get(REG_A), 0x26);
    rig.clock.advance(1);
    assert_eq!(rig.get(REG_A), 0xa6);
    rig.set(REG_B, B_SET | B_24_HOURS);
    assert_eq!(rig.get(REG_A), 0x26);
    rig.set(REG_A, 0xff);
    assert_eq!(rig.get(REG_A), 0x7f);
}

#[test]
fn the_divider_starts_half_a_second_before_the_update() {
    let mut rig = Rig::new();
    rig.clock.advance(S / 10);
    rig.set(REG_A, 0x76);
    rig.clock.advance(5 * S);
    assert_eq!(rig.get(SECOND), 0x05);
    rig.set(REG_A, 0x26);
    rig.clock.advance(S / 2 - 1);
    assert_eq!(rig.get(SECOND), 0x05);
    rig.clock.advance(1);
    assert_eq!(rig.get(SECOND), 0x06);
}

#[test]
fn the_alarm_interrupts_and_wakes() {
    let mut rig = Rig::new();
    rig.set(SECOND_ALARM, 0x03);
    rig.set(MINUTE_ALARM, 0xff);
    rig.set(HOUR_ALARM, 0xc0);
    assert_eq!(rig.deadline(), None);
    rig.set(REG_B, ALARM | B_24_HOURS);
    assert_eq!(rig.deadline(), Some(58 * S));
    rig.clock.advance(57 * S);
    rig.rtc.expire();
    assert_eq!(rig.requests.take_raised(), []);
    assert_eq!(rig.deadline(), Some(58 * S), "not yet");
    rig.run_to_deadline();
    assert_eq!(rig.requests.take_raised(), [WAKEUP]);
    assert_eq!(rig.alarms.load(Ordering::Relaxed), 1);
    assert!(rig.irq.is_high());
    assert_eq!(rig.get(REG_C), C_IRQ | ALARM | UPDATE | PERIODIC);
    assert!(!rig.irq.is_high());
    assert_eq!(rig.get(REG_C), 0);
    assert_eq!(rig.deadline(), Some(118 * S));
}

#[test]
fn an_alarm_each_second_goes_on_waking_unread() {
    let mut rig = Rig::new();
    for register in [SECOND_ALARM, MINUTE_ALARM, HOUR_ALARM] {
        rig.set(register, 0xff);
    }
    rig.set(REG_B, ALARM | B_24_HOURS);
    for _ in 0..3 {
        rig.run_to_deadline();
        assert_eq!(rig.requests.take_raised(), [WAKEUP]);
    }
    assert_eq!(rig.irq.take_edges(), 1);
    // Late by an hour: once.
    rig.clock.advance(3600 * S);
    rig.rtc.expire();
    assert_eq!(rig.requests.take_raised(), [WAKEUP]);
}

#[test]
fn an_alarm_without_its_enable_bit_only_sets_the_flag() {
    let mut rig = Rig::new();
    rig.set(SECOND_ALARM, 0x06);
    rig.set(MINUTE_ALARM, 0x04);
    rig.set(HOUR_ALARM, 0x15);
    rig.clock.advance(2 * S);
    assert_eq!(rig.get(REG_C) & (C_IRQ | ALARM), ALARM);
    assert_eq!(rig.requests.take_raised(), []);
    assert_eq!(rig.alarms.load(Ordering::Relaxed), 0);
    rig.clock.advance(3600 * S);
    assert_eq!(rig.get(REG_C) & ALARM, 0);
    rig.clock.advance(23 * 3600 * S);
    assert_eq!(rig.get(REG_C) & ALARM, ALARM);
}

#[test]
fn an_impossible_alarm_never_comes() {
    let mut rig = Rig::new();
    rig.set(SECOND_ALARM, 0x7f);
    rig.set(REG_B, ALARM | B_24_HOURS);
    assert_eq!(rig.deadline(), None);
    rig.clock.advance(100 * 3600 * S);
    assert_eq!(rig.get(REG_C) & ALARM, 0);
}

#[test]
fn the_update_interrupt_comes_each_second_once_read() {
    let mut rig = Rig::new();
    rig.clock.advance(S / 3);
    rig.set(REG_B, UPDATE | B_24_HOURS);
    assert_eq!(rig.deadline(), Some(S));
    rig.run_to_deadline();
    assert_eq!(rig.irq.take_edges(), 1);
    assert_eq!(rig.deadline(), None);
    rig.clock.advance(5 * S / 2);
    assert_ne!(rig.get(REG_C) & UPDATE, 0);
    assert_eq!(rig.deadline(), Some(4 * S));
    // SET stops it and clears its enable bit.
    rig.set(REG_B, B_SET | UPDATE | B_24_HOURS);
    assert_eq!(rig.get(REG_B), B_SET | B_24_HOURS);
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.requests.take_raised(), []);
}

#[test]
fn the_periodic_interrupt_has_the_rate_of_register_a() {
    let mut rig = Rig::new();
    rig.set(REG_B, PERIODIC | B_24_HOURS);
    // Rate 6: 1,024 Hz.
    assert_eq!(rig.deadline(), Some(976_563));
    rig.run_to_deadline();
    assert!(rig.irq.is_high());
    assert_eq!(rig.deadline(), None, "until it is read");
    rig.clock.advance(S / 100);
    assert_eq!(rig.get(REG_C), C_IRQ | PERIODIC);
    assert!(!rig.irq.is_high());
    assert_eq!(rig.deadline(), Some(12 * 976_562 + 6));
    rig.set(REG_A, 0x2f);
    assert_eq!(rig.deadline(), Some(S / 2));
    rig.set(REG_A, 0x21);
    assert_eq!(rig.deadline(), Some(11_718_750));
    rig.set(REG_A, 0x20);
    assert_eq!(rig.deadline(), None);
    rig.set(REG_A, 0x66);
    assert_eq!(rig.deadline(), None, "the divider is held");
}

#[test]
fn a_flag_that_is_set_interrupts_when_it_is_enabled() {
    let mut rig = Rig::new();
    rig.clock.advance(2 * S);
    rig.set(REG_B, UPDATE | B_24_HOURS);
    assert!(rig.irq.is_high());
    rig.set(REG_B, B_24_HOURS);
    assert!(!rig.irq.is_high());
}

#[test]
fn a_wall_clock_that_is_set_back_fires_nothing() {
    let mut rig = Rig::new();
    rig.set(SECOND_ALARM, 0x10);
    rig.set(MINUTE_ALARM, 0xff);
    rig.set(HOUR_ALARM, 0xff);
    rig.set(REG_B, ALARM | B_24_HOURS);
    assert_eq!(rig.deadline(), Some(5 * S));
    // Back by an hour, just when the timer was to come.
    rig.clock.advance(0_u64.wrapping_sub(3600 * S));
    rig.rtc.expire();
    assert_eq!(rig.requests.take_raised(), []);
    assert!(!rig.irq.is_high());
    let deadline = rig.timers.deadline(TimerId::Rtc);
    assert_eq!(deadline, Some((START_S - 3600 + 5) * S));
    rig.run_to_deadline();
    assert_eq!(rig.requests.take_raised(), [WAKEUP]);
}

#[test]
fn reset_keeps_time_alarm_and_memory() {
    let mut rig = Rig::new();
    rig.set(CENTURY, 0x19);
    rig.set(SECOND_ALARM, 0x42);
    rig.set(0x7f, 0x99);
    rig.set(REG_B, PERIODIC | ALARM | UPDATE | B_SQWE | B_24_HOURS);
    rig.clock.advance(2 * S);
    rig.rtc.expire();
    assert!(rig.irq.is_high());
    let time = rig.time();
    rig.rtc.reset();
    assert!(!rig.irq.is_high());
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.get(REG_B), B_24_HOURS);
    assert_eq!(rig.get(REG_C), 0);
    assert_eq!(rig.time(), time);
    assert_eq!(rig.get(SECOND_ALARM), 0x42);
    assert_eq!(rig.get(0x7f), 0x99);
}

#[test]
fn the_index_has_seven_bits_and_suspend_leaves_a_mark() {
    let mut rig = Rig::new();
    rig.set(0x80 | 0x40, 0x77);
    assert_eq!(rig.get(0x40), 0x77);
    assert_eq!(rig.get(SHUTDOWN_STATUS), 0);
    rig.rtc.suspended();
    assert_eq!(rig.get(SHUTDOWN_STATUS), 0xfe);
    rig.rtc.reset();
    assert_eq!(rig.get(SHUTDOWN_STATUS), 0xfe);
}

#[test]
fn it_describes_the_machine() {
    const MIB: u64 = 1 << 20;
    // RAM below and above 4 GiB, vCPUs; then what the table in `cmos.rs` makes of that.
    let cases = [
        ((MIB, 0, 1), (640, 0, 0, 0, 0)),
        ((256 * MIB, 0, 2), (640, 0xffff, 0xf00, 0, 1)),
        ((12 * MIB, 0, 64), (640, 11 << 10, 0, 0, 63)),
        (
            (3072 * MIB, 5120 * MIB, 1),
            (640, 0xffff, 0xbf00, 0x1_4000, 0),
        ),
        (
            (3072 * MIB, u64::MAX, 1),
            (640, 0xffff, 0xbf00, 0xff_ffff, 0),
        ),
    ];
    for ((low, high, vcpus), expected) in cases {
        let mut rig = Rig::new();
        rig.rtc.describe_machine(low, high, vcpus);
        for _ in 0..2 {
            let mut word = |register| {
                let bytes = [rig.get(register), rig.get(register + 1)];
                u32::from(u16::from_le_bytes(bytes))
            };
            assert_eq!(word(0x30), word(0x17));
            let above_4_gib = word(0x5b) | (word(0x5d) & 0xff) << 16;
            let found = (word(0x15), word(0x30), word(0x34), above_4_gib);
            let found = (found.0, found.1, found.2, found.3, rig.get(0x5f));
            assert_eq!(found, expected, "{low:#x} {high:#x} {vcpus}");
            assert_eq!((rig.get(0x10), rig.get(0x14)), (0, 0x02));
            rig.rtc.reset();
        }
    }
}

#[test]
fn hostile_registers_are_harmless() {
    let mut rig = Rig::new();
    access_everything(&mut rig.rtc, &PORTS);
    for mode in [0, B_BINARY, B_24_HOURS, B_BINARY | B_24_HOURS] {
        for enabled in [0, PERIODIC | ALARM | UPDATE] {
            for value in 0..=u8::MAX {
                for set in [B_SET, 0] {
                    rig.set(REG_B, set | mode | enabled);
                    for register in 0..=CENTURY {
                        if !matches!(register, REG_A | REG_B) {
                            rig.set(register, value);
                        }
                    }
                    rig.set(REG_B, mode | enabled);
                    rig.clock.advance(S / 3);
                    rig.rtc.expire();
                    rig.time();
                    rig.get(REG_C);
                }
            }
        }
    }
}

#[test]
fn hostile_sequences_are_harmless() {
    let mut rig = Rig::new();
    let clock = Arc::clone(&rig.clock);
    access_at_random(&mut rig.rtc, &PORTS, 100_000, |device, random| {
        // Forth and back by up to about a day.
        clock.advance(random % (86_400 * S) * (random & 1));
        clock.advance(0_u64.wrapping_sub(random % (40_000 * S)));
        if random.is_multiple_of(777) {
            device.reset();
        }
    });
    rig.rtc.expire();
    rig.clock.advance(u64::MAX - rig.clock_ns());
    rig.rtc.expire();
    rig.set(REG_B, PERIODIC | ALARM | UPDATE);
    rig.set(CENTURY, 0xff);
    rig.rtc.expire();
}
