//! How it starts: each boot protocol, and what may come in between.

use std::{
    fs,
    time::{Duration, Instant},
};

use vmctl::{Client, ConsoleOutput, v1};
use vmd_tests::{Guest, LinuxHost, soon};

use crate::{HOST_RESET, POWERED_OFF, RESUME, STOP};

/// It starts `definition`, which has `act=cpus,cmdline,poweroff`, sees its CPUs and powers itself off.
async fn starts_and_ends(host: &LinuxHost, definition: v1::VmDefinition, cpus: &str) {
    let cmdline = definition.cmdline.clone();
    let mut guest = host.boot("a", definition).await;
    let words = ["GUEST-UP", "GUEST-ACT cpus", cpus, "GUEST-ACT cmdline"];
    guest.console.says_all(&words).await;
    has_cmdline(&mut guest, &cmdline).await;
    guest.console.says("GUEST-ACT poweroff").await;
    guest.events.expect(POWERED_OFF).await;
    guest.is("ended").await;
}

/// Its `cmdline` is all that it was given; the kernel has more that is built in.
async fn has_cmdline(guest: &mut Guest, cmdline: &str) {
    let all = guest.console.says("GUEST-CMDLINE").await;
    assert!(all.ends_with(cmdline), "{all:?}");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_elf_kernel_with_a_pvh_note() {
    let host = LinuxHost::start().await;
    let definition = host.definition("cpus,cmdline,poweroff");
    starts_and_ends(&host, definition, "GUEST-CPUS 0").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_elf_kernel_without_one_by_the_64_bit_protocol() {
    let host = LinuxHost::start().await;
    let kernel = host.daemon.path("vmlinux");
    let mut elf = fs::read(&host.files().vmlinux).unwrap();
    take_away_notes(&mut elf);
    fs::write(&kernel, elf).unwrap();
    let definition = v1::VmDefinition {
        kernel: kernel.to_str().unwrap().to_owned(),
        vcpus: Some(2),
        cpu_model: v1::CpuModel::Portable.into(),
        ..host.definition("cpus,cmdline,poweroff")
    };
    starts_and_ends(&host, definition, "GUEST-CPUS 0-1").await;
}

/// Makes the note segments of an ELF file ones to be passed over.
fn take_away_notes(elf: &mut [u8]) {
    const PT_NULL: [u8; 4] = [0; 4];
    const PT_NOTE: [u8; 4] = 4u32.to_le_bytes();
    let field = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    let (size, count) = (field(54), field(56));
    let table = u64::from_le_bytes(elf[32..40].try_into().unwrap());
    let table = usize::try_from(table).unwrap();
    let mut found = 0;
    for header in (0..count).map(|index| table + index * size) {
        if elf[header..header + 4] == PT_NOTE {
            elf[header..header + 4].copy_from_slice(&PT_NULL);
            found += 1;
        }
    }
    assert!(found > 0, "there was no note");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_bzimage() {
    // It unpacks itself first, which takes several times as long as the rest where that is emulated.
    let host = LinuxHost::start().await;
    let definition = v1::VmDefinition {
        kernel: host.files().bzimage.to_str().unwrap().to_owned(),
        ..host.definition("cpus,cmdline,poweroff")
    };
    starts_and_ends(&host, definition, "GUEST-CPUS 0").await;
}

/// With the kernel's messages.
fn talkative(host: &LinuxHost, act: &str) -> v1::VmDefinition {
    let definition = host.definition(act);
    v1::VmDefinition {
        cmdline: definition.cmdline.replace("quiet ", ""),
        ..definition
    }
}

/// How far a guest's output is: a reader that begins now sees where that is when more comes.
async fn reader_from_here(client: &Client) -> ConsoleOutput {
    soon("console", client.console("a", true)).await.unwrap().1
}

async fn first_offset(mut output: ConsoleOutput) -> u64 {
    let chunk = soon("output", output.next()).await.unwrap();
    chunk.unwrap().offset
}

/// Waits for about two seconds, which another machine's watchdog counts.
async fn two_seconds(clock: &mut Guest) {
    clock.letter("W").await;
    clock.events.expect(&["WATCHDOG action=none"]).await;
}

/// Stops it for `seconds` at least; for how long it was. What is typed then makes it write again.
async fn is_stopped_for(
    guest: &mut Guest,
    clock: &mut Guest,
    seconds: u32,
    typed: &str,
) -> Duration {
    guest.serves(Client::stop, &[STOP]).await;
    let stop = Instant::now();
    let before = reader_from_here(&guest.client).await;
    for _ in 0..seconds / 2 {
        two_seconds(clock).await;
    }
    let after = reader_from_here(&guest.client).await;
    guest.is("paused").await;
    let stopped_for = stop.elapsed();
    guest.serves(Client::cont, &[RESUME]).await;
    guest.send(typed).await;
    let (before, after) = (first_offset(before).await, first_offset(after).await);
    assert_eq!(before, after, "it wrote while it was stopped");
    stopped_for
}

/// Ends an `echo` of its; the uptime when it has.
async fn uptime_after_echo(guest: &mut Guest, next: &str) -> f64 {
    guest.send("quit\n").await;
    guest.console.says("GUEST-ECHO-QUIT").await;
    guest.console.says(next).await.parse().unwrap()
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn stop_and_cont_in_the_middle_of_a_boot_and_after_it() {
    let host = LinuxHost::start().await;
    let mut clock = host.daemon.guest_with("clock", "watchdog=none").await;
    let mut guest = host.boot("a", talkative(&host, "echo,echo,cpus")).await;
    // Before it has written anything, and while it writes.
    for _ in 0..20 {
        guest.serves(Client::stop, &[STOP]).await;
        guest.serves(Client::cont, &[RESUME]).await;
    }
    guest.console.reaches("Linux version").await;
    is_stopped_for(&mut guest, &mut clock, 2, "").await;
    let words = ["GUEST-UP", "GUEST-ACT echo", "GUEST-ECHO-READY"];
    guest.console.says_all(&words).await;

    // Its clock stands still with it.
    let begin = Instant::now();
    let from = uptime_after_echo(&mut guest, "GUEST-ACT echo").await;
    guest.console.says("GUEST-ECHO-READY").await;
    let stopped_for = is_stopped_for(&mut guest, &mut clock, 4, "\n").await;
    guest.console.says("GUEST-ECHO").await;
    let passed = uptime_after_echo(&mut guest, "GUEST-ACT cpus").await - from;
    let ran_for = (begin.elapsed() - stopped_for).as_secs_f64();
    // It tells hundredths of a second.
    assert!(
        passed <= ran_for + 0.02,
        "{passed} s passed for the guest, which ran for {ran_for} s and was stopped for {stopped_for:?}"
    );
    guest.console.says("GUEST-CPUS 0").await;
    guest.console.says("GUEST-IDLE").await;
    guest.is("running").await;
}

/// It starts with `act=cmdline`.
async fn starts(guest: &mut Guest) {
    guest.console.reaches("Linux version").await;
    let words = ["GUEST-UP", "GUEST-ACT cmdline"];
    guest.console.says_all(&words).await;
    has_cmdline(guest, "console=ttyS0 act=cmdline").await;
    guest.console.says("GUEST-IDLE").await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reset_in_the_middle_of_a_boot_and_after_it_starts_again() {
    // The kernel has been at work in its images by then, and has given the memory of the initramfs to others.
    let host = LinuxHost::start().await;
    let mut guest = host.boot("a", talkative(&host, "cmdline")).await;
    guest.serves(Client::system_reset, &[HOST_RESET]).await;
    guest.console.reaches("Linux version").await;
    for _ in 0..2 {
        guest.serves(Client::system_reset, &[HOST_RESET]).await;
        starts(&mut guest).await;
    }
}
