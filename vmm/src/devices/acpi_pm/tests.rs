use super::{
    super::{
        clock::manual::ManualClock,
        testing::{
            Line, access_at_random, access_everything, read_byte, read_dword, read_word, requests,
            timer,
        },
        timer::{TimerId, Timers},
    },
    *,
};

const TIMER: u16 = 8;

struct Rig {
    pm: AcpiPm,
    requests: Requests,
    clock: Arc<ManualClock>,
    timers: Arc<Timers>,
    sci: Arc<Line>,
}

impl Rig {
    fn new() -> Self {
        let (timer, clock, timers) = timer(TimerId::PmTimer);
        let (requests, sci) = (requests(), Arc::new(Line::default()));
        Self {
            pm: AcpiPm::new(requests.clone(), timer, sci.clone()),
            requests,
            clock,
            timers,
            sci,
        }
    }

    fn write(&mut self, register: u16, value: u16) {
        self.pm.write(register, &value.to_le_bytes());
    }

    fn status(&mut self) -> u16 {
        read_word(&mut self.pm, STATUS)
    }

    fn deadline(&self) -> Option<u64> {
        self.timers.deadline(TimerId::PmTimer)
    }
}

#[test]
fn slp_en_sleeps_as_slp_typ_says() {
    let mut rig = Rig::new();
    let requests = [
        Some(Request::Shutdown(ShutdownCause::GuestShutdown)),
        Some(Request::Suspend),
        Some(Request::SuspendDisk),
    ];
    for typ in 0..8_u16 {
        rig.write(CONTROL, typ << 10);
        assert_eq!(rig.requests.take_raised(), [], "without SLP_EN");
        rig.write(CONTROL, SLP_EN | (typ << 10));
        let expected = requests.get(usize::from(typ)).copied().flatten();
        assert_eq!(rig.requests.take_raised(), Vec::from_iter(expected));
        assert_eq!(read_word(&mut rig.pm, CONTROL), SCI_EN | (typ << 10));
    }
    // By bytes: the high one alone sleeps, with what it says itself.
    rig.pm.write(CONTROL, &[0xff]);
    assert_eq!(rig.requests.take_raised(), []);
    rig.pm.write(CONTROL + 1, &[0x24]);
    assert_eq!(rig.requests.take_raised(), [Request::Suspend]);
    // A dword that starts at the enable register reaches control, too.
    rig.pm.write(ENABLE, &[0, 1, 0, 0x20]);
    let shutdown = Request::Shutdown(ShutdownCause::GuestShutdown);
    assert_eq!(rig.requests.take_raised(), [shutdown]);
    assert_eq!(read_word(&mut rig.pm, ENABLE), PWRBTN);
}

#[test]
fn the_power_button_needs_its_enable_bit() {
    let mut rig = Rig::new();
    rig.pm.power_button();
    assert_eq!(rig.status(), 0);
    rig.write(ENABLE, PWRBTN);
    assert!(!rig.sci.is_high());
    rig.pm.power_button();
    assert_eq!(rig.status(), PWRBTN);
    assert!(rig.sci.is_high());
    rig.pm.write(STATUS, &[0xff]);
    assert!(rig.sci.is_high(), "the low byte only");
    rig.pm.write(STATUS + 1, &[0x01]);
    assert!(!rig.sci.is_high());
    assert_eq!(rig.status(), 0);
}

#[test]
fn the_sci_follows_status_and_enable() {
    let mut rig = Rig::new();
    rig.pm.rtc_alarm();
    assert_eq!(rig.status(), RTC);
    assert!(!rig.sci.is_high());
    rig.write(ENABLE, RTC);
    assert!(rig.sci.is_high());
    rig.write(ENABLE, 0);
    assert!(!rig.sci.is_high());
    rig.write(ENABLE, 0xffff);
    assert_eq!(read_word(&mut rig.pm, ENABLE), EVENTS);
    assert!(rig.sci.is_high());
    // A dword: clears the status and disables.
    rig.pm.write(STATUS, &[0xff, 0xff, 0, 0]);
    assert_eq!(read_dword(&mut rig.pm, STATUS), 0);
    assert!(!rig.sci.is_high());
}

#[test]
fn the_enable_register_sets_the_wakeup_mask() {
    let mut rig = Rig::new();
    let mask = |rig: &Rig| {
        let mask = rig.requests.wakeup_mask();
        (mask.rtc, mask.pm_timer)
    };
    assert_eq!(mask(&rig), (true, true), "at creation");
    rig.write(ENABLE, PWRBTN);
    assert_eq!(mask(&rig), (false, false));
    rig.write(ENABLE, RTC);
    assert_eq!(mask(&rig), (true, false));
    rig.pm.write(ENABLE, &[0x01]);
    assert_eq!(mask(&rig), (true, true));
    rig.pm.reset();
    assert_eq!(mask(&rig), (false, false));
}

#[test]
fn the_timer_counts_24_bits() {
    let mut rig = Rig::new();
    assert_eq!(read_dword(&mut rig.pm, TIMER), 0);
    rig.clock.advance(1_000_000_000);
    assert_eq!(u64::from(read_dword(&mut rig.pm, TIMER)), TIMER_HZ);
    rig.pm.write(TIMER, &[0; 4]);
    rig.clock.advance(9_000_000_000);
    let expected = (10 * TIMER_HZ) & 0xff_ffff;
    assert_eq!(u64::from(read_dword(&mut rig.pm, TIMER)), expected);
    assert_eq!(u64::from(read_byte(&mut rig.pm, TIMER)), expected & 0xff);
}

#[test]
fn the_top_bit_sets_tmr_sts_and_wakes() {
    let mut rig = Rig::new();
    let toggle_ns = ns_of(0x80_0000);
    assert_eq!(rig.deadline(), None);
    rig.write(ENABLE, TMR);
    assert_eq!(rig.deadline(), Some(toggle_ns));
    rig.clock.advance(toggle_ns - 1);
    rig.pm.expire();
    assert_eq!(rig.deadline(), Some(toggle_ns), "too early");
    assert_eq!(rig.requests.take_raised(), []);
    rig.clock.advance(1);
    rig.pm.expire();
    assert!(rig.sci.is_high());
    assert_eq!(rig.deadline(), None);
    let wakeup = Request::Wakeup(WakeupReason::PmTimer);
    assert_eq!(rig.requests.take_raised(), [wakeup]);
    assert_eq!(read_dword(&mut rig.pm, TIMER), 0x80_0000);
    rig.write(STATUS, TMR);
    assert!(!rig.sci.is_high());
    assert_eq!(rig.deadline(), Some(ns_of(0x100_0000)));
}

#[test]
fn tmr_sts_is_found_without_the_host_timer() {
    let mut rig = Rig::new();
    rig.clock.advance(ns_of(0x80_0000));
    assert_eq!(rig.status(), TMR);
    assert_eq!(rig.deadline(), None);
    rig.write(STATUS, TMR);
    assert_eq!(rig.status(), 0);
    // Found by a read before the host's timer fired: the interrupt comes all the same.
    rig.write(ENABLE, TMR);
    rig.clock.advance(3_000_000_000);
    assert_eq!(rig.status(), TMR);
    assert!(rig.sci.is_high());
    assert_eq!(rig.deadline(), None);
}

#[test]
fn a_wakeup_tells_its_reason() {
    let bits = [0, WAK | RTC, WAK | TMR, WAK | PWRBTN];
    for (reason, expected) in WakeupReason::ALL.iter().zip(bits) {
        let mut rig = Rig::new();
        rig.pm.woken(*reason);
        assert_eq!(rig.status(), expected);
        assert!(!rig.sci.is_high());
    }
}

#[test]
fn reset_clears_everything_but_acpi_mode() {
    let mut rig = Rig::new();
    rig.write(ENABLE, EVENTS);
    rig.write(CONTROL, (5 << 10) | BM_RLD);
    rig.pm.power_button();
    rig.pm.reset();
    assert!(!rig.sci.is_high());
    assert_eq!(rig.deadline(), None);
    assert_eq!(read_dword(&mut rig.pm, STATUS), 0);
    assert_eq!(read_word(&mut rig.pm, CONTROL), SCI_EN);
}

#[test]
fn hostile_accesses_are_harmless() {
    let mut rig = Rig::new();
    access_everything(&mut rig.pm, &PORTS);
    let clock = Arc::clone(&rig.clock);
    access_at_random(&mut rig.pm, &PORTS, 50_000, |_, random| {
        clock.advance(random);
    });
    rig.clock.advance(u64::MAX / 2);
    access_at_random(&mut rig.pm, &PORTS, 1000, |_, _| {});
    rig.pm.expire();
}
