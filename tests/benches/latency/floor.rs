//! The floor: the KVM calls that a machine cannot do without, and as little else as possible.
//!
//! ```text
//!   bench thread                        vCPU thread
//!   Vm::create: VM, slots, irqchip, PIT, vCPU, CPUID --> KVM_RUN ... `!` --> bytes (with the time)
//!   pause: kick ----------------------> leaves the guest
//!                 <------- parked ----- waits
//!   reset: PIC, IOAPIC, PIT             registers, local APIC
//!   resume ---------------------------> KVM_RUN
//! ```
//! The shape is vmd's: the same memory slots, first of all, the same guest and the same in-kernel chips. What vmd has on
//! top, such as its other devices, run states, events, tasks and calls, is what the ratios show.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, kvm_irqchip, kvm_lapic_state,
    kvm_mp_state, kvm_pit_config, kvm_pit_state2, kvm_regs, kvm_run, kvm_segment, kvm_sregs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmd_tests::DEADLINE;
use vmm_sys_util::{
    eventfd::{EFD_CLOEXEC, EventFd},
    signal::{Killable, SIGRTMIN, register_signal_handler},
};

/// Guest memory of every machine measured here, in bytes: vmd's default.
pub(crate) const MEMORY: u64 = 256 << 20;

const SERIAL: u16 = 0x3f8;
const LINE_STATUS: u16 = SERIAL + 5;
const PVPANIC: u16 = 0x505;
const SERIAL_IRQ: u32 = 4;

/// Where the probe kernel is loaded, and where its start info is.
const KERNEL: usize = 1 << 20;
const START_INFO: usize = 0x6000;
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// What is the same for every VM.
pub(crate) struct Host {
    kvm: kvm_ioctls::Kvm,
    cpuid: CpuId,
}

impl Host {
    pub(crate) fn open() -> Self {
        extern "C" fn ignore(_: i32, _: *mut nix::libc::siginfo_t, _: *mut std::ffi::c_void) {}
        register_signal_handler(kick_signal(), ignore).expect("a signal handler");
        let kvm = kvm_ioctls::Kvm::new().expect("/dev/kvm");
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .expect("CPUID");
        Self { kvm, cpuid }
    }
}

/// A guest of the project's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Image {
    /// The probe guest: firmware.
    Firmware,
    /// The probe kernel, booted directly.
    Kernel,
}

/// A VM with one vCPU that runs one of the probes. Dropping it closes it.
pub(crate) struct Vm {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    bytes: mpsc::Receiver<(u8, Instant)>,
    chips: Option<Chips>,
    vm: Arc<VmFd>,
    ram: MmapRegion,
    _rom: Option<MmapRegion>,
    image: Image,
}

/// What the bench thread and the vCPU's thread share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    immediate_exit: ImmediateExit,
    panicked: EventFd,
}

#[derive(Default)]
struct State {
    wanted: Wanted,
    parked: bool,
    /// Set: the vCPU goes back to its power-on state; cleared when it has.
    reset: bool,
    input: VecDeque<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Run,
    Pause,
    Exit,
}

/// The flag of one vCPU, in memory that the kernel shares with it.
struct ImmediateExit(*mut u8);

// SAFETY: the pointer is only used for atomic accesses to a mapping that lives as long as the vCPU's thread.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn of(vcpu: &mut VcpuFd) -> Self {
        let run: *mut kvm_run = vcpu.get_kvm_run();
        // SAFETY: the field is within the mapped structure.
        Self(unsafe { &raw mut (*run).immediate_exit })
    }

    fn set(&self, on: bool) {
        // SAFETY: the byte is mapped: whoever calls this holds the vCPU's thread, which owns the mapping.
        unsafe { AtomicU8::from_ptr(self.0) }.store(on.into(), Ordering::SeqCst);
    }
}

/// The state of the chips before the guest ran.
struct Chips {
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

/// The state of the vCPU before the guest ran.
struct PowerOn {
    regs: kvm_regs,
    sregs: kvm_sregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
}

impl Vm {
    /// A VM whose guest runs.
    pub(crate) fn create(host: &Host, image: Image) -> Self {
        Self::build(host, image, false)
    }

    /// A VM whose guest runs, and which can be reset.
    pub(crate) fn create_resettable(host: &Host, image: Image) -> Self {
        Self::build(host, image, true)
    }

    fn build(host: &Host, image: Image, resettable: bool) -> Self {
        let vm = host.kvm.create_vm().expect("KVM_CREATE_VM");
        let ram = MmapRegion::new(MEMORY as usize).expect("RAM");
        set_slot(&vm, 0, 0, 0, &ram);
        let rom = (image == Image::Firmware).then(|| add_rom(&vm));
        load(&ram, image);
        vm.create_irq_chip().expect("KVM_CREATE_IRQCHIP");
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.create_pit2(pit).expect("KVM_CREATE_PIT2");
        let mut vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
        vcpu.set_cpuid2(&host.cpuid).expect("KVM_SET_CPUID2");

        if image == Image::Kernel {
            enter_kernel(&vcpu);
        }
        let power_on = resettable.then(|| PowerOn::read(&vcpu));
        let chips = resettable.then(|| Chips::read(&vm));
        let vm = Arc::new(vm);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            immediate_exit: ImmediateExit::of(&mut vcpu),
            panicked: EventFd::new(EFD_CLOEXEC).expect("an eventfd"),
        });
        let (sender, bytes) = mpsc::channel();
        let thread = thread::spawn({
            let (vm, shared) = (vm.clone(), shared.clone());
            move || run(vcpu, &vm, &shared, power_on.as_ref(), &sender)
        });
        Self {
            thread: Some(thread),
            shared,
            bytes,
            chips,
            vm,
            ram,
            _rom: rom,
            image,
        }
    }

    /// When the guest wrote its next byte, which must be `byte`.
    pub(crate) fn expect(&self, byte: u8) -> Instant {
        let (written, at) = self.bytes.recv_timeout(DEADLINE).expect("a byte");
        assert_eq!(char::from(written), char::from(byte), "the floor's guest");
        at
    }

    /// Stops the vCPU; returns when it has stopped.
    pub(crate) fn pause(&self) {
        let mut state = self.shared.lock();
        state.wanted = Wanted::Pause;
        self.kick();
        self.shared.wait(state, |state| state.parked);
    }

    /// Lets the vCPU run; returns when it is about to.
    pub(crate) fn resume(&self) {
        let mut state = self.shared.lock();
        state.wanted = Wanted::Run;
        self.shared.changed.notify_all();
        self.shared.wait(state, |state| !state.parked);
    }

    /// Resets the machine, which runs; returns when it runs again.
    pub(crate) fn reset(&self) {
        self.pause();
        let mut state = self.shared.lock();
        state.reset = true;
        self.shared.changed.notify_all();
        drop(state);
        self.chips.as_ref().expect("resettable").restore(&self.vm);
        load(&self.ram, self.image);
        self.shared.wait(self.shared.lock(), |state| !state.reset);
        self.resume();
    }

    /// Types a byte.
    pub(crate) fn send(&self, byte: u8) {
        self.shared.lock().input.push_back(byte);
        self.vm
            .set_irq_line(SERIAL_IRQ, true)
            .expect("KVM_IRQ_LINE");
    }

    /// Waits until the guest writes to pvpanic.
    pub(crate) fn wait_panicked(&self) {
        self.shared.panicked.read().expect("the eventfd");
    }

    fn kick(&self) {
        self.shared.immediate_exit.set(true);
        if let Some(thread) = &self.thread {
            thread.kill(kick_signal()).expect("the vCPU's thread");
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shared.lock().wanted = Wanted::Exit;
        self.shared.changed.notify_all();
        self.kick();
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic in the other thread")
    }

    fn wait(&self, state: MutexGuard<'_, State>, done: impl Fn(&State) -> bool) {
        let until = |state: &mut State| !done(state);
        drop(
            self.changed
                .wait_while(state, until)
                .expect("no panic in the other thread"),
        );
    }
}

/// Another than vmd's, which is SIGRTMIN.
fn kick_signal() -> i32 {
    SIGRTMIN() + 1
}

fn set_slot(vm: &VmFd, slot: u32, flags: u32, guest_phys_addr: u64, memory: &MmapRegion) {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr,
        memory_size: memory.size() as u64,
        userspace_addr: memory.as_ptr() as u64,
    };
    // SAFETY: the mapping is of this size, and `Vm` keeps it until the VM is closed.
    unsafe { vm.set_user_memory_region(region) }.expect("KVM_SET_USER_MEMORY_REGION");
}

/// The firmware, where the reset vector is.
fn add_rom(vm: &VmFd) -> MmapRegion {
    let image = vmm::probe::image();
    let rom = MmapRegion::new(image.len()).expect("ROM");
    let start = (1 << 32) - image.len() as u64;
    set_slot(vm, 1, KVM_MEM_READONLY, start, &rom);
    rom.as_volatile_slice()
        .write_slice(image, 0)
        .expect("the ROM fits");
    rom
}

/// Puts the firmware below 1 MiB, or the kernel where its only segment says, with the magic number that it looks for and
/// the zeroes that it expects.
fn load(ram: &MmapRegion, image: Image) {
    let ram = ram.as_volatile_slice();
    let write = |bytes: &[u8], at| ram.write_slice(bytes, at).expect("it fits");
    match image {
        Image::Firmware => {
            let image = vmm::probe::image();
            write(image, (1 << 20) - image.len());
        }
        Image::Kernel => {
            let image = vmm::probe::kernel();
            write(image, KERNEL);
            write(&[0; 0x2000], KERNEL + image.len());
            write(&START_INFO_MAGIC.to_le_bytes(), START_INFO);
        }
    }
}

/// Has the vCPU begin at the kernel's PVH entry point.
fn enter_kernel(vcpu: &VcpuFd) {
    let mut sregs = vcpu.get_sregs().expect("KVM_GET_SREGS");
    let flat = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 11,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.ss) = (flat, flat, flat);
    sregs.cr0 = 0x11;
    vcpu.set_sregs(&sregs).expect("KVM_SET_SREGS");
    let image = vmm::probe::kernel();
    // e_entry of the ELF header: the same place.
    let (_, entry) = image.split_at(24);
    let entry = *entry.first_chunk().expect("an ELF header");
    let regs = kvm_regs {
        rip: u64::from_le_bytes(entry),
        rbx: START_INFO as u64,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).expect("KVM_SET_REGS");
}

/// The vCPU's thread.
fn run(
    mut vcpu: VcpuFd,
    vm: &VmFd,
    shared: &Shared,
    power_on: Option<&PowerOn>,
    bytes: &mpsc::Sender<(u8, Instant)>,
) {
    loop {
        shared.immediate_exit.set(false);
        let mut state = shared.lock();
        loop {
            if state.reset {
                power_on.expect("resettable").restore(&vcpu);
                state.reset = false;
                shared.changed.notify_all();
            }
            match state.wanted {
                Wanted::Exit => return,
                Wanted::Run => break,
                Wanted::Pause if !state.parked => {
                    state.parked = true;
                    shared.changed.notify_all();
                }
                Wanted::Pause => {}
            }
            state = shared
                .changed
                .wait(state)
                .expect("no panic in the bench thread");
        }
        if state.parked {
            state.parked = false;
            shared.changed.notify_all();
        }
        drop(state);

        loop {
            match vcpu.run() {
                Ok(VcpuExit::IoOut(SERIAL, &[byte])) => {
                    // Nobody may be listening any more.
                    let _ = bytes.send((byte, Instant::now()));
                }
                Ok(VcpuExit::IoOut(PVPANIC, _)) => shared.panicked.write(1).expect("the eventfd"),
                Ok(VcpuExit::IoIn(LINE_STATUS, data)) => {
                    data.fill(0x60 | u8::from(!shared.lock().input.is_empty()));
                }
                Ok(VcpuExit::IoIn(SERIAL, data)) => {
                    data.fill(shared.lock().input.pop_front().unwrap_or_default());
                    vm.set_irq_line(SERIAL_IRQ, false).expect("KVM_IRQ_LINE");
                }
                Ok(VcpuExit::IoIn(_, data)) => data.fill(0xff),
                Ok(VcpuExit::IoOut(..)) => {}
                Ok(VcpuExit::Intr) => break,
                Err(error) if error.errno() == nix::libc::EINTR => break,
                exit => panic!("the floor's guest: {exit:?}"),
            }
        }
    }
}

impl PowerOn {
    fn read(vcpu: &VcpuFd) -> Self {
        Self {
            regs: vcpu.get_regs().expect("KVM_GET_REGS"),
            sregs: vcpu.get_sregs().expect("KVM_GET_SREGS"),
            lapic: vcpu.get_lapic().expect("KVM_GET_LAPIC"),
            mp_state: vcpu.get_mp_state().expect("KVM_GET_MP_STATE"),
        }
    }

    fn restore(&self, vcpu: &VcpuFd) {
        vcpu.set_sregs(&self.sregs).expect("KVM_SET_SREGS");
        vcpu.set_regs(&self.regs).expect("KVM_SET_REGS");
        vcpu.set_lapic(&self.lapic).expect("KVM_SET_LAPIC");
        vcpu.set_mp_state(self.mp_state).expect("KVM_SET_MP_STATE");
    }
}

impl Chips {
    fn read(vm: &VmFd) -> Self {
        let read = |chip_id| {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip).expect("KVM_GET_IRQCHIP");
            chip
        };
        Self {
            irqchips: [
                KVM_IRQCHIP_PIC_MASTER,
                KVM_IRQCHIP_PIC_SLAVE,
                KVM_IRQCHIP_IOAPIC,
            ]
            .map(read),
            pit: vm.get_pit2().expect("KVM_GET_PIT2"),
        }
    }

    fn restore(&self, vm: &VmFd) {
        for chip in &self.irqchips {
            vm.set_irqchip(chip).expect("KVM_SET_IRQCHIP");
        }
        vm.set_pit2(&self.pit).expect("KVM_SET_PIT2");
    }
}
