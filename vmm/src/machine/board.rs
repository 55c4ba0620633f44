//! The board: which devices a machine has, at which ports, on which lines.
//!
//! | ports | device | interrupt |
//! | --- | --- | --- |
//! | 0x060-0x064 | keyboard controller without a keyboard | |
//! | 0x070-0x071 | real-time clock and CMOS | 8 |
//! | 0x092 | port 92 (reset) | |
//! | 0x3f8-0x3ff | 16550, the console | 4 |
//! | 0x402 | debug console of firmware | |
//! | 0x441-0x443 | ib700 watchdog | |
//! | 0x505 | pvpanic | |
//! | 0x510-0x51b | firmware configuration (fw_cfg) | |
//! | 0x600-0x60b | ACPI PM1 event, control, PM timer | 9 (SCI) |
//! | 0x620-0x62f | ACPI hot-plug, if there is a PCI bus | 9 (SCI) |
//! | 0xcf8-0xcfb | reset control (0xcf9) | |
//!
//! The PICs (0x20, 0xa0, 0x4d0), the PIT (0x40, 0x61), the IOAPIC and the local APICs are KVM's own.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kvm_ioctls::VmFd;

use super::{
    bus::PioBus,
    irq::{GsiLine, SCI_GSI},
    memory::Memory,
};
use crate::{
    devices::{
        PioDevice,
        acpi_hotplug::{self, AcpiHotplug, Eject},
        acpi_pm::{self, AcpiPm},
        clock::{VirtualClock, WallClock},
        console::Console,
        debugcon::{self, DebugCon},
        fw_cfg::{self, FwCfg},
        i8042::{self, I8042},
        ib700::{self, Ib700},
        port92::{self, Port92},
        pvpanic::{self, PvPanic},
        reset_control::{self, ResetControl},
        rtc::{self, Rtc},
        serial::{self, Serial16550},
        shared_line::SharedLine,
        timer::{TimedDevice, Timer, TimerId, Timers},
    },
    runstate::{Keep, Notifiers, Requests},
};

/// The devices of one machine.
pub(super) struct Board {
    pub(super) console: Arc<Console>,
    pm: Arc<Mutex<AcpiPm>>,
    rtc: Arc<Mutex<Rtc>>,
    watchdog: Arc<Mutex<Ib700>>,
    hotplug: Option<Arc<Mutex<AcpiHotplug>>>,
    all: Vec<Arc<Mutex<dyn PioDevice>>>,
}

impl Board {
    /// Makes the devices and puts them on a bus. `items` is what firmware is told; `eject` takes PCI devices away, if there
    /// are any.
    pub(super) fn new(
        vm: &Arc<VmFd>,
        requests: &Requests,
        timers: &Arc<Timers>,
        clock: &Arc<VirtualClock>,
        memory: &Memory,
        items: fw_cfg::Items,
        eject: Option<Eject>,
    ) -> (Self, PioBus) {
        let line = |gsi| Arc::new(GsiLine::new(vm.clone(), gsi));
        let virtual_timer = |id| Timer::new(id, timers.clone(), clock.clone());

        let console = Arc::<Console>::default();
        let serial = shared(Serial16550::new(console.clone(), line(serial::IRQ)));
        console.set_input_hook({
            let serial = Arc::downgrade(&serial);
            move || with(&serial, Serial16550::pump_input)
        });
        let sci = SharedLine::new(line(SCI_GSI));
        let pm = shared(AcpiPm::new(
            requests.clone(),
            virtual_timer(TimerId::PmTimer),
            sci.input(0),
        ));
        let hotplug = eject.map(|eject| shared(AcpiHotplug::new(sci.input(1), eject)));
        let rtc = shared(Rtc::new(
            requests.clone(),
            Timer::new(TimerId::Rtc, timers.clone(), Arc::new(WallClock)),
            line(rtc::IRQ),
            {
                let pm = Arc::downgrade(&pm);
                Box::new(move || with(&pm, AcpiPm::rtc_alarm))
            },
        ));
        let watchdog = shared(Ib700::new(
            requests.clone(),
            virtual_timer(TimerId::Watchdog),
        ));

        let mut board = Self {
            console,
            pm: pm.clone(),
            rtc: rtc.clone(),
            watchdog: watchdog.clone(),
            hotplug: hotplug.clone(),
            all: Vec::new(),
        };
        let mut bus = PioBus::default();
        let mut plug = |ports: RangeInclusive<u16>, device: Arc<Mutex<dyn PioDevice>>| {
            board.all.push(device.clone());
            bus.add(ports, device);
        };
        plug(i8042::PORTS, shared(I8042::new(requests.clone())));
        plug(rtc::PORTS, rtc);
        plug(port92::PORTS, shared(Port92::new(requests.clone())));
        plug(serial::PORTS, serial);
        plug(debugcon::PORTS, shared(DebugCon::new(clock.clone())));
        plug(ib700::PORTS, watchdog);
        plug(pvpanic::PORTS, shared(PvPanic::new(requests.clone())));
        let fw_cfg = FwCfg::new(memory.ram().clone(), items);
        plug(fw_cfg::PORTS, shared(fw_cfg));
        plug(acpi_pm::PORTS, pm);
        if let Some(hotplug) = hotplug {
            plug(acpi_hotplug::PORTS, hotplug);
        }
        plug(
            reset_control::PORTS,
            shared(ResetControl::new(requests.clone())),
        );
        (board, bus)
    }

    /// Has the CMOS tell of the machine's memory and vCPUs.
    pub(super) fn describe_machine(&self, memory: &Memory, vcpus: u32) {
        let (low, high) = memory.low_and_high();
        lock(&self.rtc).describe_machine(low, high, vcpus);
    }

    /// Puts every device into its power-on state.
    pub(super) fn reset(&self) {
        for device in &self.all {
            lock(device).reset();
        }
    }

    /// Tells the guest that the slot of the PCI bus has a new device, or that it is to give its device back.
    pub(super) fn slot_changed(&self, slot: u8, is_new: bool) {
        let Some(hotplug) = &self.hotplug else {
            return;
        };
        if is_new {
            lock(hotplug).plugged(slot);
        } else {
            lock(hotplug).unplug(slot);
        }
    }

    /// Tells the device of timer `id` that its deadline has come.
    pub(super) fn expire(&self, id: TimerId) {
        match id {
            TimerId::Rtc => lock(&self.rtc).expire(),
            TimerId::PmTimer => lock(&self.pm).expire(),
            TimerId::Watchdog => lock(&self.watchdog).expire(),
        }
    }

    /// Lets the devices that take part in ACPI know of power button, suspend and wake-up.
    pub(super) fn attach(&self, notifiers: &mut Notifiers) {
        let pm = self.pm.clone();
        notifiers.powerdown.register(move |()| {
            lock(&pm).power_button();
            Keep::Yes
        });
        let rtc = self.rtc.clone();
        notifiers.suspend.register(move |()| {
            lock(&rtc).suspended();
            Keep::Yes
        });
        let pm = self.pm.clone();
        notifiers.wakeup.register(move |reason| {
            lock(&pm).woken(*reason);
            Keep::Yes
        });
    }
}

fn shared<D>(device: D) -> Arc<Mutex<D>> {
    Arc::new(Mutex::new(device))
}

fn lock<D: ?Sized>(device: &Mutex<D>) -> MutexGuard<'_, D> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Devices refer to each other weakly: none keeps a machine's memory.
fn with<D>(device: &Weak<Mutex<D>>, call: impl FnOnce(&mut D)) {
    if let Some(device) = device.upgrade() {
        call(&mut lock(&device));
    }
}
