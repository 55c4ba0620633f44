//! Many at once: each goes its way, whatever is done to another.

use std::time::Duration;

use tokio::task::JoinSet;
use vmctl::{Client, v1};
use vmd_tests::{Guest, LINUX_DEADLINE, LinuxHost, Resources};

use crate::{HOST_RESET, RESUME, STOP};

const GUESTS: usize = 20;
/// They share the cores; the last is as late as all of them take together.
const DEADLINE: Duration = LINUX_DEADLINE.saturating_mul(5);
/// What the C library keeps of threads that have gone (see the tests of many machines).
const MAPPINGS_KEPT: usize = 2 * 160 + 2 * 8 * 2;

/// Boots them all at the same time.
async fn boot(host: &LinuxHost) -> Vec<Guest> {
    let mut guests = Vec::new();
    for index in 0..GUESTS {
        let definition = host.definition("echo");
        let guest = host.boot(&format!("vm-{index}"), definition).await;
        guests.push(guest.patiently(DEADLINE));
    }
    guests
}

/// All of them say this, in this order.
async fn all_say(guests: Vec<Guest>, words: &'static [&'static str]) -> Vec<Guest> {
    let mut waiting = JoinSet::new();
    for mut guest in guests {
        waiting.spawn(async move {
            guest.console.says_all(words).await;
            guest
        });
    }
    waiting.join_all().await
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn twenty_at_once_do_not_disturb_each_other() {
    let host = LinuxHost::start_alone().await;
    let before = host.daemon.settle("before", |_| true).await;
    let mut guests = boot(&host).await;
    let mut stopped = guests.swap_remove(GUESTS / 2);
    let mut reset = guests.swap_remove(0);
    stopped.serves(Client::stop, &[STOP]).await;
    reset.serves(Client::system_reset, &[HOST_RESET]).await;

    let up = &["GUEST-UP", "GUEST-ACT echo", "GUEST-ECHO-READY"];
    guests = all_say(guests, up).await;
    reset.console.says_all(up).await;
    stopped.is("paused").await;
    stopped.serves(Client::cont, &[RESUME]).await;
    stopped.console.says_all(up).await;

    // And while they are up.
    stopped.serves(Client::stop, &[STOP]).await;
    reset.serves(Client::system_reset, &[HOST_RESET]).await;
    for guest in &guests {
        guest.send("hello\n").await;
    }
    stopped.send("hello\n").await;
    guests = all_say(guests, &["GUEST-ECHO hello"]).await;
    for guest in &mut guests {
        // Nothing but its own start.
        guest.is("running").await;
    }
    stopped.is("paused").await;
    stopped.serves(Client::cont, &[RESUME]).await;
    stopped.console.says("GUEST-ECHO hello").await;
    reset.console.says_all(up).await;
    stopped.is("running").await;
    reset.is("running").await;

    guests.extend([stopped, reset]);
    nothing_is_left(&host, guests, before).await;
}

async fn nothing_is_left(host: &LinuxHost, guests: Vec<Guest>, before: Resources) {
    for guest in guests {
        guest.client.delete(&guest.name, true).await.unwrap();
    }
    let settled = |now: &Resources| {
        now.threads <= before.threads
            && now.descriptors <= before.descriptors
            && now.kvm <= before.kvm
            && now.mappings <= before.mappings + MAPPINGS_KEPT
    };
    host.daemon
        .settle(&format!("before: {before:?}"), settled)
        .await;
    let left = host.daemon.client().await.list().await.unwrap().vms;
    assert_eq!(left, Vec::<v1::Vm>::new());
}
