//! Reboot, power button, panic, NMI: what the guest does, and the events of it.
//! The numbers in brackets are those of the recordings of QEMU that say the same.

use vmctl::{Client, v1};
use vmd_tests::{Guest, LinuxHost, actions};

use crate::{GUEST_RESET, POWERED_OFF, RESUME, STOP};

/// Has `guest` set actions: nothing is heard of it.
async fn sets(guest: &mut Guest, text: &str) {
    let change = actions(text);
    guest
        .serves(
            async |client, name| client.set_action(name, change).await,
            &[],
        )
        .await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reboot_is_one_reset() {
    // Linux tries one way after the other until one works. [21]
    let host = LinuxHost::start().await;
    let mut guest = host.boot("a", host.definition("reboot")).await;
    let words = ["GUEST-UP", "GUEST-ACT reboot"];
    guest.console.says_all(&words).await;
    guest.events.expect(&[GUEST_RESET]).await;
    guest.console.says("GUEST-UP").await;
    guest.is("running").await;
    // [18]
    sets(&mut guest, "reboot=shutdown").await;
    guest.console.says("GUEST-ACT reboot").await;
    let events = [
        "SHUTDOWN guest=true reason=guest-reset -> running",
        "ENDED kind=shutdown cause=guest-reset exit_status=0 failure=null -> shutdown",
    ];
    guest.events.expect(&events).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_power_button_is_a_key_to_the_guest() {
    // [07]
    let host = LinuxHost::start().await;
    let definition = host.definition("button,button,poweroff");
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    for _ in 0..2 {
        let words = ["GUEST-ACT button", "GUEST-WAIT-BUTTON 1"];
        guest.console.says_all(&words).await;
        let pressed = ["POWERDOWN -> running"];
        guest.serves(Client::system_powerdown, &pressed).await;
        guest.console.says("GUEST-BUTTON KEY_POWER").await;
    }
    guest.events.expect(POWERED_OFF).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_panic_is_told_and_ends_the_machine() {
    // [30]
    let host = LinuxHost::start().await;
    let mut guest = host.boot("a", host.definition("panic")).await;
    guest
        .console
        .says_all(&["GUEST-UP", "GUEST-ACT panic"])
        .await;
    let events = [
        "GUEST_PANICKED action=poweroff -> running",
        "SHUTDOWN guest=true reason=guest-panic -> running",
        "ENDED kind=shutdown cause=guest-panic exit_status=0 failure=null -> shutdown",
    ];
    guest.events.expect(&events).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_panic_does_what_the_action_says() {
    let host = LinuxHost::start().await;
    let definition = host.definition("panic");
    let definition = v1::VmDefinition {
        actions: Some(actions("panic=none")),
        // Reboots at once when it has panicked.
        cmdline: format!("panic=-1 {}", definition.cmdline),
        ..definition
    };
    let mut guest = host.boot("a", definition).await;
    let words = ["GUEST-UP", "GUEST-ACT panic"];
    // [32]
    guest.console.says_all(&words).await;
    let events = ["GUEST_PANICKED action=run -> running", GUEST_RESET];
    guest.events.expect(&events).await;
    // [31]
    sets(&mut guest, "panic=pause").await;
    guest.console.reaches("Kernel panic").await;
    guest.console.says_all(&words).await;
    let events = [
        "GUEST_PANICKED action=pause -> running",
        "STOP -> guest-panicked",
    ];
    guest.events.expect(&events).await;
    guest.is("guest-panicked").await;
    // [33, 34]
    sets(&mut guest, "panic=exit-failure").await;
    let reset = "RESET guest=false reason=host-qmp-system-reset -> prelaunch";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.serves(Client::cont, &[RESUME]).await;
    guest.console.reaches("Kernel panic").await;
    guest.console.says_all(&words).await;
    let events = [
        "GUEST_PANICKED action=poweroff -> running",
        "SHUTDOWN guest=true reason=guest-panic -> running",
        "ENDED kind=shutdown cause=guest-panic exit_status=1 failure=null -> shutdown",
    ];
    guest.events.expect(&events).await;
    guest.is("ended").await;
    assert_eq!(guest.status().await.end.unwrap().exit_status, 1);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_nmi_reaches_every_cpu() {
    // [57]
    let host = LinuxHost::start().await;
    let definition = v1::VmDefinition {
        vcpus: Some(2),
        ..host.definition("cpus,nmi,echo,nmi,echo,nmi,poweroff")
    };
    let mut guest = host.boot("a", definition).await;
    let words = [
        "GUEST-UP",
        "GUEST-ACT cpus",
        "GUEST-CPUS 0-1",
        "GUEST-ACT nmi",
        "GUEST-NMI 0 0",
    ];
    guest.console.says_all(&words).await;
    for (stopped, count) in [(false, "GUEST-NMI 1 1"), (true, "GUEST-NMI 2 2")] {
        let words = ["GUEST-ACT echo", "GUEST-ECHO-READY"];
        guest.console.says_all(&words).await;
        if stopped {
            guest.serves(Client::stop, &[STOP]).await;
        }
        guest.serves(Client::inject_nmi, &[]).await;
        if stopped {
            guest.serves(Client::cont, &[RESUME]).await;
        }
        guest.send("quit\n").await;
        let words = ["GUEST-ECHO-QUIT", "GUEST-ACT nmi", count];
        guest.console.says_all(&words).await;
    }
    guest.console.says("GUEST-ACT poweroff").await;
    guest.events.expect(POWERED_OFF).await;
    guest.is("ended").await;
}
