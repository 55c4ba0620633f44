//! The ACPI fixed hardware: the PM1a blocks and the power-management timer (ACPI specification 6.5, section 4.8.3).
//!
//! | port | register | bits |
//! | --- | --- | --- |
//! | 0x600 | PM1 status, 16 bits, write 1 to clear | TMR 0, GBL 5, PWRBTN 8, SLPBTN 9, RTC 10, WAK 15 |
//! | 0x602 | PM1 enable, 16 bits | TMR, GBL, PWRBTN, SLPBTN, RTC |
//! | 0x604 | PM1 control, 16 bits | SCI_EN 0 (always 1), BM_RLD 1, SLP_TYP 10..=12, SLP_EN 13 (reads 0) |
//! | 0x608 | PM timer, 32 bits, read only | 24 bits counting at 3.579545 MHz |
//!
//! The SCI is high while an enabled status bit is set. There is no SMI command port, so the hardware is in ACPI mode
//! from the start. SLP_TYP 0 is S5, 1 is S3, 2 is S4: the values in the DSDT.
//!
//! TMR_STS is set each time the top bit of the timer toggles, every 2.34 s. That is found out when the guest looks; the
//! host's timer is armed only while the toggle would raise an interrupt.

use std::{ops::RangeInclusive, sync::Arc};

use super::{
    IrqLine, PioDevice,
    timer::{TimedDevice, Timer},
};
use crate::runstate::{Request, Requests, ShutdownCause, WakeupMask, WakeupReason};

/// The ports of the fixed hardware.
pub const PORTS: RangeInclusive<u16> = 0x600..=0x60b;
/// The frequency of the PM timer, in Hz.
pub const TIMER_HZ: u64 = 3_579_545;

const STATUS: u16 = 0;
const ENABLE: u16 = 2;
const CONTROL: u16 = 4;

const TMR: u16 = 1 << 0;
const GBL: u16 = 1 << 5;
const PWRBTN: u16 = 1 << 8;
const SLPBTN: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const WAK: u16 = 1 << 15;
/// The events that can raise the SCI.
const EVENTS: u16 = TMR | GBL | PWRBTN | SLPBTN | RTC;

const SCI_EN: u16 = 1 << 0;
const BM_RLD: u16 = 1 << 1;
const SLP_TYP_SHIFT: u16 = 10;
const SLP_TYP: u16 = 7 << SLP_TYP_SHIFT;
const SLP_EN: u16 = 1 << 13;

const NS_PER_S: u128 = 1_000_000_000;
/// The bits of the counter below the top one.
const BELOW_TOP: u64 = 0x7f_ffff;

/// The ACPI fixed hardware.
pub struct AcpiPm {
    requests: Requests,
    timer: Timer,
    sci: Arc<dyn IrqLine>,
    status: u16,
    enable: u16,
    control: u16,
    /// The count of the PM timer, all 64 bits of it, at which its top bit toggles next.
    next_toggle: u64,
    /// What the host's timer is armed for, in nanoseconds of the virtual clock.
    armed_ns: Option<u64>,
    sci_high: bool,
}

impl AcpiPm {
    /// The hardware in its power-on state. `timer` is [`super::timer::TimerId::PmTimer`], `sci` is level-triggered.
    ///
    /// The wake-up mask stays as it is until the first reset or write of the enable register (spec, section 7).
    pub fn new(requests: Requests, timer: Timer, sci: Arc<dyn IrqLine>) -> Self {
        let mut device = Self {
            requests,
            timer,
            sci,
            status: 0,
            enable: 0,
            control: SCI_EN,
            next_toggle: 0,
            armed_ns: None,
            sci_high: false,
        };
        device.next_toggle = toggle_after(device.count());
        device
    }

    /// The power button was pressed. It counts only while the guest has enabled it, as in QEMU.
    pub fn power_button(&mut self) {
        if self.enable & PWRBTN != 0 {
            self.status |= PWRBTN;
        }
        self.update();
    }

    /// The guest was woken: tells it so and by what. A wake-up by command looks like the power button, as in QEMU.
    pub fn woken(&mut self, reason: WakeupReason) {
        self.status |= match reason {
            WakeupReason::None => 0,
            WakeupReason::Rtc => WAK | RTC,
            WakeupReason::PmTimer => WAK | TMR,
            WakeupReason::Other => WAK | PWRBTN,
        };
        self.update();
    }

    /// The alarm of the real-time clock went off.
    pub fn rtc_alarm(&mut self) {
        self.status |= RTC;
        self.update();
    }

    /// The PM timer's count since the start of the virtual clock.
    fn count(&self) -> u64 {
        let count = u128::from(self.timer.now_ns()) * u128::from(TIMER_HZ) / NS_PER_S;
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Sets TMR_STS if the top bit has toggled since the last look.
    fn look_at_timer(&mut self) {
        let count = self.count();
        if count >= self.next_toggle {
            self.next_toggle = toggle_after(count);
            self.status |= TMR;
            self.update();
        }
    }

    /// Drives the SCI and arms the timer, as the registers say now.
    fn update(&mut self) {
        let sci_high = self.status & self.enable & EVENTS != 0;
        if sci_high != self.sci_high {
            self.sci_high = sci_high;
            self.sci.set(sci_high);
        }
        let toggle_interrupts = self.enable & TMR != 0 && self.status & TMR == 0;
        let deadline_ns = toggle_interrupts.then(|| ns_of(self.next_toggle));
        if deadline_ns != self.armed_ns {
            self.armed_ns = deadline_ns;
            match deadline_ns {
                Some(deadline_ns) => self.timer.arm(deadline_ns),
                None => self.timer.disarm(),
            }
        }
    }

    fn set_wakeup_mask(&self) {
        self.requests.set_wakeup_mask(WakeupMask {
            rtc: self.enable & RTC != 0,
            pm_timer: self.enable & TMR != 0,
        });
    }

    fn sleep(&self) {
        let request = match (self.control & SLP_TYP) >> SLP_TYP_SHIFT {
            0 => Request::Shutdown(ShutdownCause::GuestShutdown),
            1 => Request::Suspend,
            2 => Request::SuspendDisk,
            _ => return,
        };
        self.requests.raise(request);
    }
}

impl PioDevice for AcpiPm {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.look_at_timer();
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        let [c0, c1] = self.control.to_le_bytes();
        let [t0, t1, t2, ..] = self.count().to_le_bytes();
        let registers = [s0, s1, e0, e1, c0, c1, 0xff, 0xff, t0, t1, t2, 0];
        data.fill(0xff);
        for (byte, register) in data
            .iter_mut()
            .zip(registers.iter().skip(usize::from(offset)))
        {
            *byte = *register;
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        self.look_at_timer();
        if let Some(written) = Written::to(STATUS, offset, data) {
            self.status &= !written.bits;
        }
        if let Some(written) = Written::to(ENABLE, offset, data) {
            self.enable = written.over(self.enable) & EVENTS;
            self.set_wakeup_mask();
        }
        self.update();
        if let Some(written) = Written::to(CONTROL, offset, data) {
            let control = written.over(self.control);
            self.control = (control & (SLP_TYP | BM_RLD)) | SCI_EN;
            if control & SLP_EN != 0 {
                self.sleep();
            }
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.enable = 0;
        self.control = SCI_EN;
        self.next_toggle = toggle_after(self.count());
        // The interrupt controllers may have forgotten the line: drive it whatever it was.
        self.sci_high = false;
        self.sci.set(false);
        self.update();
        self.set_wakeup_mask();
    }
}

impl TimedDevice for AcpiPm {
    fn expire(&mut self) {
        // Armed anew below if the toggle has not come yet.
        self.timer.disarm();
        self.armed_ns = None;
        self.look_at_timer();
        self.update();
        if self.status & TMR != 0 {
            self.requests.raise(Request::Wakeup(WakeupReason::PmTimer));
        }
    }
}

/// The bytes of an access that fall on one 16-bit register.
struct Written {
    bits: u16,
    mask: u16,
}

impl Written {
    /// What a write of `data` at `offset` writes to the register at `register`; `None` if nothing.
    fn to(register: u16, offset: u16, data: &[u8]) -> Option<Self> {
        let byte_at = |port: u16| {
            let index = port.checked_sub(offset)?;
            data.get(usize::from(index)).copied()
        };
        let (low, high) = (byte_at(register), byte_at(register + 1));
        let mask = [low, high].map(|byte| if byte.is_some() { 0xff } else { 0 });
        let written = Self {
            bits: u16::from_le_bytes([low.unwrap_or(0), high.unwrap_or(0)]),
            mask: u16::from_le_bytes(mask),
        };
        (written.mask != 0).then_some(written)
    }

    /// The register's value after the write, if it was `old`.
    fn over(&self, old: u16) -> u16 {
        (old & !self.mask) | self.bits
    }
}

/// The first count after `count` at which the top bit of the 24 toggles.
fn toggle_after(count: u64) -> u64 {
    (count | BELOW_TOP).saturating_add(1)
}

/// When the timer reaches `count`, in nanoseconds of the virtual clock.
fn ns_of(count: u64) -> u64 {
    let ns = (u128::from(count) * NS_PER_S).div_ceil(u128::from(TIMER_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
