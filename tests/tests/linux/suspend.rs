//! S3: `echo mem > /sys/power/state`, and what ends it.
//! The numbers in brackets are those of the recordings of QEMU that say the same.

use vmctl::{Client, v1};
use vmd_tests::LinuxHost;

use crate::{POWERED_OFF, RESUME};

const SUSPEND: &str = "SUSPEND -> suspended";
const WAKEUP: &str = "WAKEUP -> running";

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn it_goes_on_when_it_is_woken_by_a_call_or_by_its_alarm() {
    // [22, 25, 27]. The alarm comes late enough for the guest to be asleep by then, and costs nothing while it sleeps.
    let host = LinuxHost::start().await;
    let definition = host.definition("suspend,wakealarm8,suspend,poweroff");
    let mut guest = host.boot("a", definition).await;
    let words = ["GUEST-UP", "GUEST-ACT suspend", "GUEST-SUSPEND mem"];
    guest.console.says_all(&words).await;
    guest.events.expect(&[SUSPEND]).await;
    guest.is("suspended").await;
    // All succeed, and nobody wakes.
    guest.serves(Client::stop, &[]).await;
    guest.serves(Client::cont, &[]).await;
    guest.is("suspended").await;
    guest.serves(Client::system_wakeup, &[WAKEUP]).await;
    let words = [
        "GUEST-RESUMED rc 0",
        "GUEST-ACT wakealarm8",
        "GUEST-WAKEALARM +8",
        "GUEST-ACT suspend",
        "GUEST-SUSPEND mem",
    ];
    guest.console.says_all(&words).await;
    guest.events.expect(&[SUSPEND, WAKEUP]).await;
    let words = ["GUEST-RESUMED rc 0", "GUEST-ACT poweroff"];
    guest.console.says_all(&words).await;
    guest.events.expect(POWERED_OFF).await;
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn two_cpus_sleep_and_wake_and_a_reset_of_sleepers_starts_them_again() {
    // [22, 23]
    let host = LinuxHost::start().await;
    let definition = v1::VmDefinition {
        vcpus: Some(2),
        ..host.definition("cpus,suspend,cpus,suspend")
    };
    let mut guest = host.boot("a", definition).await;
    let until_asleep = [
        "GUEST-UP",
        "GUEST-ACT cpus",
        "GUEST-CPUS 0-1",
        "GUEST-ACT suspend",
        "GUEST-SUSPEND mem",
    ];
    guest.console.says_all(&until_asleep).await;
    guest.events.expect(&[SUSPEND]).await;
    guest.serves(Client::system_wakeup, &[WAKEUP]).await;
    guest.console.says("GUEST-RESUMED rc 0").await;
    guest.console.says_all(&until_asleep[1..]).await;
    guest.events.expect(&[SUSPEND]).await;
    let reset = "RESET guest=false reason=host-qmp-system-reset -> prelaunch";
    guest.serves(Client::system_reset, &[reset]).await;
    guest.serves(Client::cont, &[RESUME]).await;
    guest.console.says_all(&until_asleep).await;
    guest.events.expect(&[SUSPEND]).await;
    guest.is("suspended").await;
}
