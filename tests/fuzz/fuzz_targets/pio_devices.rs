//! A guest's accesses to the devices on the ports, of every width and at every offset, with time that passes and timers that
//! expire: nothing panics, and the machine's requests stay what a machine may have.
//!
//! The input is a sequence of acts of 8 bytes: what (device, width, direction), offset, a 32-bit value; and how much time
//! passes before it, as a power of two of nanoseconds.
#![no_main]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm::{
    devices::{
        IrqLine, PioDevice,
        acpi_pm::{self, AcpiPm},
        clock::Clock,
        console::Console,
        debugcon::{self, DebugCon},
        fw_cfg::{self, FwCfg, Items},
        i8042::{self, I8042},
        ib700::{self, Ib700},
        port92::{self, Port92},
        pvpanic::{self, PvPanic},
        reset_control::{self, ResetControl},
        rtc::{self, Rtc},
        serial::{self, Serial16550},
        timer::{TimedDevice, Timer, TimerId, Timers},
    },
    runstate::{Actions, Requests, TransitionTable, WakeupReason},
};

/// A clock that stands where it is put.
#[derive(Default)]
struct Manual(AtomicU64);

impl Clock for Manual {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Line;

impl IrqLine for Line {
    fn set(&self, _high: bool) {}
}

fuzz_target!(|input: &[u8]| {
    let clock = Arc::<Manual>::default();
    let timers = Timers::new(|| {});
    let timer = |id| Timer::new(id, timers.clone(), clock.clone());
    let requests = Requests::new(TransitionTable::default(), Actions::default(), || {});
    let console = Arc::<Console>::default();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();

    let mut pm = AcpiPm::new(requests.clone(), timer(TimerId::PmTimer), Arc::new(Line));
    let mut rtc = Rtc::new(
        requests.clone(),
        timer(TimerId::Rtc),
        Arc::new(Line),
        Box::new(|| ()),
    );
    let mut watchdog = Ib700::new(requests.clone(), timer(TimerId::Watchdog));
    let mut serial = Serial16550::new(console.clone(), Arc::new(Line));
    let mut others: [(&mut dyn PioDevice, _); 6] = [
        (&mut PvPanic::new(requests.clone()), pvpanic::PORTS),
        (&mut I8042::new(requests.clone()), i8042::PORTS),
        (&mut Port92::new(requests.clone()), port92::PORTS),
        (
            &mut ResetControl::new(requests.clone()),
            reset_control::PORTS,
        ),
        (&mut DebugCon::new(clock.clone()), debugcon::PORTS),
        (&mut FwCfg::new(memory, Items::default()), fw_cfg::PORTS),
    ];

    for act in input.chunks_exact(8) {
        let &[what, offset, passes, _, a, b, c, d] = act else {
            return;
        };
        clock.0.fetch_add(1 << (passes % 60), Ordering::Relaxed);
        for (id, device) in [
            (TimerId::PmTimer, &mut pm as &mut dyn TimedDevice),
            (TimerId::Rtc, &mut rtc),
            (TimerId::Watchdog, &mut watchdog),
        ] {
            if timers.deadline(id).is_some_and(|at| at <= clock.now_ns()) {
                device.expire();
            }
        }
        let (device, ports): (&mut dyn PioDevice, _) = match what & 0xf {
            0 => (&mut pm, acpi_pm::PORTS),
            1 => (&mut rtc, rtc::PORTS),
            2 => (&mut watchdog, ib700::PORTS),
            3 => (&mut serial, serial::PORTS),
            4 => {
                pm.power_button();
                continue;
            }
            5 => {
                pm.woken(WakeupReason::Rtc);
                continue;
            }
            6 => {
                rtc.suspended();
                continue;
            }
            7 => {
                serial.pump_input();
                continue;
            }
            other => match others.get_mut(usize::from(other - 8)) {
                Some((device, ports)) => (&mut **device, ports.clone()),
                None => continue,
            },
        };
        // As the bus has it: an access lies within the device.
        let width = 1 << ((what >> 4) % 3);
        let Some(last) = ports.len().checked_sub(width) else {
            continue;
        };
        let offset = u16::from(offset) % (last as u16 + 1);
        let mut data = [a, b, c, d];
        let data = &mut data[..width];
        match what >> 6 {
            0 => device.read(offset, data),
            3 if a == 0 => device.reset(),
            _ => device.write(offset, data),
        }
    }
});
