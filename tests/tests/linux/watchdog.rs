//! The ib700 watchdog, armed by Linux's driver and left, under each action.
//! The numbers in brackets are those of the recordings of QEMU that say the same.

use vmctl::{Client, v1};
use vmd_tests::{Guest, LinuxHost, actions};

use crate::{GUEST_RESET, POWERED_OFF, RESUME};

async fn boot(host: &LinuxHost, act: &str, action: &str) -> Guest {
    let definition = v1::VmDefinition {
        actions: Some(actions(&format!("watchdog={action}"))),
        ..host.definition(act)
    };
    host.boot(action, definition).await
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn reset_starts_the_guest_again() {
    // [42]
    let host = LinuxHost::start().await;
    let mut guest = boot(&host, "wdt4", "reset").await;
    let words = ["GUEST-UP", "GUEST-ACT wdt4", "GUEST-WDT 4", "GUEST-IDLE"];
    guest.console.says_all(&words).await;
    let events = ["WATCHDOG action=reset -> running", GUEST_RESET];
    guest.events.expect(&events).await;
    guest.console.says("GUEST-UP").await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn shutdown_presses_the_power_button() {
    // [45]. It expires late enough for the guest to listen by then.
    let host = LinuxHost::start().await;
    let mut guest = boot(&host, "wdt8,button,poweroff", "shutdown").await;
    let words = [
        "GUEST-UP",
        "GUEST-ACT wdt8",
        "GUEST-WDT 8",
        "GUEST-ACT button",
        "GUEST-WAIT-BUTTON 1",
    ];
    guest.console.says_all(&words).await;
    let events = [
        "WATCHDOG action=shutdown -> running",
        "POWERDOWN -> running",
    ];
    guest.events.expect(&events).await;
    let words = ["GUEST-BUTTON KEY_POWER", "GUEST-ACT poweroff"];
    guest.console.says_all(&words).await;
    guest.events.expect(POWERED_OFF).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn poweroff_ends_the_machine() {
    // [46]: without SHUTDOWN.
    let host = LinuxHost::start().await;
    let mut guest = boot(&host, "wdt4", "poweroff").await;
    let words = ["GUEST-UP", "GUEST-ACT wdt4", "GUEST-WDT 4"];
    guest.console.says_all(&words).await;
    let events = [
        "WATCHDOG action=poweroff -> running",
        "ENDED kind=watchdog cause=null exit_status=0 failure=null -> running",
    ];
    guest.events.expect(&events).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_guest_goes_on_after_the_others() {
    // [43, 48, 49, 50], one after the other; a shell arms it anew each time, by a write.
    let host = LinuxHost::start().await;
    let initrd = &host.files().initramfs_busybox;
    let definition = v1::VmDefinition {
        initrd: initrd.to_str().unwrap().to_owned(),
        cmdline: "console=ttyS0 quiet ib700wdt.timeout=2".to_owned(),
        actions: Some(actions("watchdog=none")),
        ..host.definition("")
    };
    let mut guest = host.boot("a", definition).await;
    guest.console.says("GUEST-UP").await;
    guest.send("exec 3>/dev/watchdog\n").await;
    let mut nmis = 0;
    for action in ["none", "debug", "pause", "inject-nmi"] {
        if action != "none" {
            // The first runs since it was opened.
            let change = actions(&format!("watchdog={action}"));
            guest
                .serves(
                    async |client, name| client.set_action(name, change).await,
                    &[],
                )
                .await;
            guest.send("echo >&3\n").await;
        }
        let expired = format!("WATCHDOG action={action} -> running");
        guest.events.expect(&[&expired]).await;
        match action {
            "pause" => {
                guest.events.expect(&["STOP -> watchdog"]).await;
                guest.is("watchdog").await;
                guest.serves(Client::cont, &[RESUME]).await;
            }
            "inject-nmi" => nmis += 1,
            _ => {}
        }
        guest
            .send("echo GUEST-NMI $(grep NMI: /proc/interrupts)\n")
            .await;
        let counted = format!("GUEST-NMI NMI: {nmis}");
        guest.console.says(&counted).await;
        guest.is("running").await;
    }
}
