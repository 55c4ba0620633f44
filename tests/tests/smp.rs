//! Machines with several vCPUs: started by the guest, stopped, resumed and reset together; and what they are told of the
//! processor.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;

use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, guests::smp, request, soon};

/// A machine of `vcpus` vCPUs with the guest for several.
fn machine(daemon: &Daemon, name: &str, vcpus: u32) -> v1::CreateVmRequest {
    let firmware = smp::write_to(daemon.directory());
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(1 << 20),
            vcpus: Some(vcpus),
            firmware: firmware.to_str().unwrap().to_owned(),
            ..Default::default()
        }),
        ..request(name)
    }
}

/// The threads of the vCPUs of `name`, by their number.
fn threads(daemon: &Daemon, name: &str) -> Vec<String> {
    let tasks = format!("/proc/{}/task", daemon.pid());
    let mut threads: Vec<_> = fs::read_dir(tasks)
        .unwrap()
        .filter_map(|task| {
            let task = task.unwrap().path();
            let comm = fs::read_to_string(task.join("comm")).ok()?;
            let number = comm
                .trim()
                .strip_prefix("vcpu")?
                .strip_suffix(&format!(":{name}"))?;
            let number: u32 = number.parse().unwrap();
            Some((number, task.to_str().unwrap().to_owned()))
        })
        .collect();
    threads.sort();
    threads.into_iter().map(|(_, task)| task).collect()
}

/// Whether all of these threads sleep: a vCPU that runs its guest is `R`, and all vCPUs of this guest always have
/// something to do.
fn all_sleep(threads: &[String]) -> bool {
    threads.iter().all(|task| {
        let stat = fs::read_to_string(format!("{task}/stat")).unwrap();
        // The name before it is in parentheses and may hold anything.
        let state = stat.rsplit(')').next().unwrap().trim_start();
        state.starts_with('S')
    })
}

/// Has the first vCPU start the others by `letter`: each says so.
async fn start_others(guest: &mut Guest, letter: &str, vcpus: usize) {
    // The echo comes before the interrupts are sent.
    guest.letter(letter).await;
    guest.console.expect(&".".repeat(vcpus - 1)).await;
}

async fn none_has_ticked(guest: &mut Guest) {
    guest.send("z").await;
    guest.console.expect("y").await;
}

/// None of the vCPUs runs while 20 calls are served.
async fn all_stand_still(daemon: &Daemon, guest: &Guest, vcpus: usize) {
    let threads = threads(daemon, &guest.name);
    assert_eq!(threads.len(), vcpus);
    let asleep = async || {
        guest.client.list().await.unwrap();
        all_sleep(&threads)
    };
    // A thread says that it is parked and then goes to sleep: the last of them may still be on their way.
    soon("sleep", async { while !asleep().await {} }).await;
    for _ in 0..20 {
        assert!(asleep().await, "a vCPU runs");
    }
}

/// The life of a machine of `vcpus` vCPUs.
async fn start_stop_reset(vcpus: u32) {
    let count = usize::try_from(vcpus).unwrap();
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_of(machine(&daemon, "smp", vcpus)).await;
    none_has_ticked(&mut guest).await;
    start_others(&mut guest, "i", count).await;
    guest.letter("t").await;

    for _ in 0..3 {
        guest.serves(Client::stop, &["STOP -> paused"]).await;
        all_stand_still(&daemon, &guest, count).await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
        guest.letter("t").await;
        assert!(!all_sleep(&threads(&daemon, &guest.name)));
    }

    // A reset while they run, another while they are stopped: the others wait to be started again.
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    none_has_ticked(&mut guest).await;
    start_others(&mut guest, "x", count).await;
    guest.letter("t").await;

    guest.serves(Client::stop, &["STOP -> paused"]).await;
    guest
        .serves(Client::system_reset, &["RESET -> prelaunch"])
        .await;
    all_stand_still(&daemon, &guest, count).await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!").await;
    none_has_ticked(&mut guest).await;
    // The xAPIC again: the x2APIC went with the reset.
    start_others(&mut guest, "i", count).await;
    guest.letter("t").await;

    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn two_vcpus_start_stop_and_reset_together() {
    start_stop_reset(2).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn sixty_four_vcpus_start_stop_and_reset_together() {
    start_stop_reset(64).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_right_after_the_start_leaves_nobody_running() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_of(machine(&daemon, "smp", 8)).await;
    for _ in 0..20 {
        // The interrupts are on their way, or will be, when the reset comes.
        guest.send("i").await;
        guest.client.system_reset(&guest.name).await.unwrap();
        guest.events.expect(&["RESET"]).await;
        // Dots of those that made it may come before.
        loop {
            let byte = guest.console.read(1).await;
            if byte == b"!" {
                break;
            }
            assert!(b"i.".contains(&byte[0]), "{byte:?}");
        }
    }
    // A letter that was typed before the last reset may be served after it.
    guest.send("q").await;
    while guest.console.read(1).await != b"q" {}
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    none_has_ticked(&mut guest).await;
    start_others(&mut guest, "i", 8).await;
}

/// ECX of leaf 1 and EAX of leaf 0x4000_0001, as the guest sees them.
async fn cpuid(guest: &mut Guest) -> (u32, u32) {
    guest.send("c").await;
    let text = String::from_utf8(guest.console.read(16).await).unwrap();
    let (leaf_1, kvm) = text.split_at(8);
    let number = |digits| u32::from_str_radix(digits, 16).unwrap();
    (number(leaf_1), number(kvm))
}

const CX16: u32 = 1 << 13;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;

/// Hosts that run the guest's kernel mode by emulation honour the bits that are tried here; others all.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn guests_see_the_model_and_the_template() {
    let daemon = Daemon::start().await;
    let template = daemon.path("template");
    let no_deadline = r#"{"cpuid_modifiers": [
        {"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "ecx", "bitmap": "0b0_xxxx_xxxx_xxxx_xxxx_xxxx_xxxx"}]},
        {"leaf": "0x40000001", "subleaf": "0x0", "flags": 0, "modifiers": [
            {"register": "eax", "bitmap": "0b0xx_xxxx"}]}]}"#;
    fs::write(&template, no_deadline).unwrap();
    let create = |name: &str, model: v1::CpuModel, template: &str| {
        let mut request = machine(&daemon, name, 1);
        let definition = request.definition.as_mut().unwrap();
        definition.set_cpu_model(model);
        definition.cpu_template = template.to_owned();
        daemon.guest_of(request)
    };

    let mut host = create("host", v1::CpuModel::Unspecified, "").await;
    let (host_1, host_kvm) = cpuid(&mut host).await;
    assert_eq!(host_1 & (X2APIC | TSC_DEADLINE), X2APIC | TSC_DEADLINE);

    let mut portable = create("portable", v1::CpuModel::Portable, "").await;
    let (leaf_1, kvm) = cpuid(&mut portable).await;
    assert_eq!(
        leaf_1 & (X2APIC | TSC_DEADLINE | CX16),
        X2APIC | TSC_DEADLINE
    );
    assert_eq!(kvm, 0x0100_006b);

    let path = template.to_str().unwrap();
    let mut masked = create("masked", v1::CpuModel::Host, path).await;
    let (leaf_1, kvm) = cpuid(&mut masked).await;
    assert_eq!(leaf_1, host_1 & !TSC_DEADLINE);
    assert_eq!(kvm, host_kvm & !(1 << 6));
    // It is the machine's own.
    assert_eq!(cpuid(&mut host).await, (host_1, host_kvm));

    let mut both = create("both", v1::CpuModel::Portable, path).await;
    let (leaf_1, kvm) = cpuid(&mut both).await;
    assert_eq!(leaf_1 & (X2APIC | TSC_DEADLINE), X2APIC);
    assert_eq!(kvm, 0x0100_002b);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_msr_of_a_template_has_its_value_at_power_on_and_after_a_reset() {
    let daemon = Daemon::start().await;
    let template = daemon.path("template");
    // The revision of the microcode: KVM lets its owner choose it.
    let text = r#"{"msr_modifiers": [{"addr": "0x8b", "bitmap": "0b0001_0010_0011_0100_0101_0110_0111_1000_0000_0000_0000_0000_0000_0000_0000_0000"}]}"#;
    fs::write(&template, text).unwrap();
    let mut request = machine(&daemon, "msr", 2);
    let definition = request.definition.as_mut().unwrap();
    definition.cpu_template = template.to_str().unwrap().to_owned();
    let mut guest = daemon.guest_of(request).await;
    for _ in 0..2 {
        guest.send("m").await;
        guest.console.expect("1234567800000000").await;
        guest.serves(Client::system_reset, &["RESET"]).await;
        guest.console.expect("!").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn fast_strings_are_on_at_power_on_and_after_a_reset() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_of(machine(&daemon, "fast", 1)).await;
    for expected in [1, 0] {
        assert_eq!(fast_strings(&mut guest).await, expected);
    }
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    assert_eq!(fast_strings(&mut guest).await, 1);
}

/// Bit 0 of IA32_MISC_ENABLE; the guest turns it off then.
async fn fast_strings(guest: &mut Guest) -> u32 {
    guest.send("f").await;
    let digits = String::from_utf8(guest.console.read(8).await).unwrap();
    u32::from_str_radix(&digits, 16).unwrap() & 1
}

/// The CPUs that a thread may run on, as the kernel tells them.
fn allowed(task: &str) -> String {
    let status = fs::read_to_string(format!("{task}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn pinned_vcpus_run_on_their_host_cpus() {
    let daemon = Daemon::start().await;
    let all = allowed("/proc/self");
    let first: u32 = all.split(['-', ',']).next().unwrap().parse().unwrap();
    let mut request = machine(&daemon, "pinned", 3);
    request.definition.as_mut().unwrap().cpu_pins = vec![v1::CpuPin {
        vcpu: 1,
        host_cpus: vec![first],
    }];
    let mut guest = daemon.guest_of(request).await;
    // A thread has its name once it has begun.
    start_others(&mut guest, "i", 3).await;
    let lists: Vec<_> = threads(&daemon, "pinned")
        .iter()
        .map(|t| allowed(t))
        .collect();
    assert_eq!(lists, [all.clone(), first.to_string(), all]);
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
    assert_eq!(allowed(&threads(&daemon, "pinned")[1]), first.to_string());
}
