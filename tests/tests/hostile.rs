//! Guests that mean harm. Beside each lives a well-behaved guest in the same daemon, which must not notice.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;
use vmctl::{Client, EventStream, v1};
use vmd_tests::{ANSWER, Daemon, Guest, Resources, answered, guests::Hostile, soon};

const MIB: u64 = 1 << 20;
/// How much more memory the daemon may hold after an enemy has done its worst: the console's history, the events that
/// are kept of the time of a test, and what the allocator does not give back.
const MEMORY_GROWTH: u64 = 8 * MIB;

/// A daemon with a well-behaved guest, `neighbour`, whose echo is tried all the time, and room for an `enemy`.
struct Street {
    daemon: Daemon,
    client: Client,
    neighbour: Neighbour,
    /// Before the enemy came.
    before: Resources,
}

struct Neighbour {
    done: Arc<AtomicBool>,
    task: JoinHandle<(Guest, u32, Duration)>,
}

impl Neighbour {
    fn live(mut guest: Guest) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let done = done.clone();
            async move {
                let (mut echoes, mut slowest) = (0, Duration::ZERO);
                for letter in ["x", "y", "z"].into_iter().cycle() {
                    if done.load(Ordering::Relaxed) && echoes > 0 {
                        break;
                    }
                    let sent = Instant::now();
                    guest.letter(letter).await;
                    slowest = slowest.max(sent.elapsed());
                    echoes += 1;
                }
                (guest, echoes, slowest)
            }
        });
        Self { done, task }
    }
}

impl Street {
    async fn new() -> Self {
        let daemon = Daemon::start().await;
        let neighbour = daemon.guest_of(request("neighbour", 16 * MIB)).await;
        let client = daemon.client().await;
        Self {
            neighbour: Neighbour::live(neighbour),
            before: daemon.settle("before", |_| true).await,
            daemon,
            client,
        }
    }

    /// Creates the enemy.
    async fn enemy(&self, guest: Hostile, actions: v1::Actions) {
        let mut request = request("enemy", MIB);
        let firmware = guest.write_to(self.daemon.directory());
        let definition = request.definition.as_mut().unwrap();
        definition.firmware = firmware.to_str().unwrap().to_owned();
        definition.actions = Some(actions);
        soon("create", self.client.create(request)).await.unwrap();
    }

    /// The enemy's run state; it must live.
    async fn state(&self) -> v1::RunState {
        let vm = answered("get", self.client.get("enemy")).await.unwrap();
        let status = vm.status.unwrap();
        assert_eq!(status.phase(), v1::VmPhase::Live, "{status:?}");
        status.state()
    }

    /// Has the enemy run again, whatever it has got itself into.
    async fn revive(&self) {
        let client = &self.client;
        // It does not stand still while it is looked at: what is refused has another reason the next time.
        for _ in 0..100 {
            let done = match self.state().await {
                v1::RunState::Running => return,
                v1::RunState::Suspended => answered("wakeup", client.system_wakeup("enemy")).await,
                v1::RunState::Prelaunch | v1::RunState::Paused => {
                    answered("cont", client.cont("enemy")).await
                }
                _ => answered("reset", client.system_reset("enemy")).await,
            };
            if let Err(refused) = done {
                assert_eq!(refused.reason(), Some("INVALID_STATE"), "{refused}");
            }
        }
        panic!("the enemy does not come back: {:?}", self.state().await);
    }

    /// Every command is answered in time and does what it says.
    async fn drive(&self, rounds: u32) {
        let client = &self.client;
        for _ in 0..rounds {
            let stopped = answered("stop", client.stop("enemy")).await.unwrap();
            assert!(!stopped.status.unwrap().running);
            self.revive().await;
            answered("reset", client.system_reset("enemy"))
                .await
                .unwrap();
            self.revive().await;
            answered("nmi", client.inject_nmi("enemy")).await.unwrap();
        }
    }

    /// Ends the enemy in each way there is, and looks at what is left.
    async fn leave(self) {
        let client = &self.client;
        let ended = answered("quit", client.quit("enemy")).await.unwrap();
        assert_eq!(ended.status.unwrap().phase(), v1::VmPhase::Ended);
        // Building a machine waits for the kernel's RCU, which may take its time while guests keep every core busy.
        soon("start", client.start("enemy", false)).await.unwrap();
        answered("delete", client.delete("enemy", true))
            .await
            .unwrap();
        let gone = answered("get", client.get("enemy")).await.unwrap_err();
        assert_eq!(gone.reason(), Some("VM_NOT_FOUND"));

        self.neighbour.done.store(true, Ordering::Relaxed);
        let (mut guest, echoes, slowest) =
            soon("the neighbour", self.neighbour.task).await.unwrap();
        assert!(slowest < ANSWER, "an echo took {slowest:?} ({echoes} came)");
        guest.client.stop("neighbour").await.unwrap();
        guest.client.cont("neighbour").await.unwrap();
        for (vm_seq, name) in [(3, "STOP"), (4, "RESUME")] {
            let event = guest.events.next().await;
            assert_eq!((event.vm_seq, event_name(&event)), (vm_seq, name));
        }
        let events = check_history(client).await;

        let before = self.before;
        let after = self
            .daemon
            .settle("what the enemy held", |now| {
                now.threads <= before.threads && now.descriptors <= before.descriptors
            })
            .await;
        let growth = after.anonymous.saturating_sub(before.anonymous);
        println!("{echoes} echoes, slowest {slowest:?}; {events} events; {growth} bytes more");
        assert!(growth < MEMORY_GROWTH, "{before:?}, then {after:?}");
    }
}

fn request(name: &str, memory_bytes: u64) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        name: name.to_owned(),
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(memory_bytes),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn event_name(event: &v1::Event) -> &'static str {
    vmctl::names::event_name(event.kind.as_ref().unwrap())
}

/// Everything that ever happened is still in the log, without a hole. Returns how much that is.
async fn check_history(client: &Client) -> u64 {
    let mut history = client.watch_events(0, None, true).await.unwrap();
    let mut count = 0;
    while let Some(event) = soon("history", history.next()).await.unwrap() {
        count += 1;
        assert_eq!(event.seq, count);
    }
    count
}

/// Actions with which nothing that a guest does ends it.
fn unending() -> v1::Actions {
    v1::Actions {
        shutdown: v1::ShutdownAction::Pause.into(),
        panic: v1::PanicAction::None.into(),
        ..Default::default()
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_spins() {
    let street = Street::new().await;
    street.enemy(Hostile::Spin, unending()).await;
    street.drive(5).await;
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_touches_what_is_not_there() {
    let street = Street::new().await;
    street.enemy(Hostile::Mmio, unending()).await;
    street.drive(5).await;
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_panics_all_the_time() {
    let street = Street::new().await;
    street.enemy(Hostile::Storm, unending()).await;
    street.drive(5).await;
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_resets_all_the_time() {
    let street = Street::new().await;
    street.enemy(Hostile::ResetStorm, unending()).await;
    street.drive(5).await;
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_whose_watchdog_expires_all_the_time() {
    let street = Street::new().await;
    let mut actions = unending();
    actions.watchdog = v1::WatchdogAction::None.into();
    street.enemy(Hostile::Bark, actions).await;
    street.drive(5).await;
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_writes_most_ports() {
    every_port(Hostile::MostPorts).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_writes_all_ports() {
    every_port(Hostile::AllPorts).await;
}

/// More events than a guest causes in a second, about 8, once its burst is over.
const EVENTS_PER_SECOND: f64 = 10.0;
/// Between two of its events, then.
const HELD_BACK: Duration = Duration::from_millis(50);
/// Of its events, when it is held back.
const MAX_UNDER_WAY: u32 = 2048;

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn guests_that_flood_the_log_leave_the_others_their_history() {
    for guest in [Hostile::Storm, Hostile::ResetStorm] {
        let street = Street::new().await;
        street.enemy(guest, unending()).await;
        street.daemon.logged("its vCPUs are held back", 1).await;
        let newest = street.client.get("enemy").await.unwrap();
        let newest = newest.status.unwrap().seq;
        let events = street.client.watch_events(newest, None, false).await;
        let mut events = events.unwrap();
        let mut next = async || {
            let event = soon("an event", events.next()).await.unwrap().unwrap();
            SystemTime::try_from(event.time.unwrap()).unwrap()
        };
        // Some were under way when the vCPUs were held back.
        let (mut first, mut under_way) = (next().await, 0);
        loop {
            let time = next().await;
            let apart = time.duration_since(first).unwrap_or_default();
            first = time;
            if apart > HELD_BACK {
                break;
            }
            under_way += 1;
            assert!(under_way < MAX_UNDER_WAY, "{guest:?} is not held back");
        }
        let count = 20;
        let mut last = first;
        for _ in 0..count {
            last = next().await;
        }
        let took = last.duration_since(first).unwrap();
        let rate = count as f64 / took.as_secs_f64();
        assert!(
            rate < EVENTS_PER_SECOND,
            "{guest:?}: {rate} events a second"
        );
        // It is slow, not stuck, and obeys as before.
        street.drive(2).await;
        street.leave().await;
    }
}

/// Goes on until the guest has been through all of them: its S4 tells.
async fn every_port(guest: Hostile) {
    let street = Street::new().await;
    street.enemy(guest, unending()).await;
    let events = street.client.watch_events(0, Some("enemy"), false).await;
    let round = tokio::spawn(round(events.unwrap()));
    while !round.is_finished() {
        street.drive(1).await;
    }
    round.await.unwrap();
    street.leave().await;
}

/// Ends with the S4 of a guest that goes through all ports; its events have no gap.
async fn round(mut events: EventStream) {
    let mut vm_seq = 0;
    loop {
        let event = soon("S4", events.next()).await.unwrap().unwrap();
        vm_seq += 1;
        assert_eq!(event.vm_seq, vm_seq);
        if event_name(&event) == "SUSPEND_DISK" {
            return;
        }
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_writes_without_end_and_a_client_that_never_reads() {
    let street = Street::new().await;
    street.enemy(Hostile::Chatter, unending()).await;
    // One that never reads, on the connection that is used for everything else.
    let _never_read = street.client.console("enemy", false).await.unwrap();
    let mut read = read_pattern(&street.client, MIB / 4).await;
    street.drive(5).await;
    // After a reset the pattern starts anew wherever it was, but each position still comes once and in order.
    let chunk = soon("console", read.1.next()).await.unwrap().unwrap();
    assert!(chunk.offset >= MIB / 4);
    street.leave().await;
}

/// Reads `count` bytes or more of the chatter's output and checks them; a reader that is too slow may miss some, and
/// can tell from the offset.
async fn read_pattern(client: &Client, count: u64) -> (vmctl::ByteInput, vmctl::ConsoleOutput) {
    let (input, mut output) = client.console("enemy", false).await.unwrap();
    let mut position = 0;
    while position < count {
        let chunk = soon("console", output.next()).await.unwrap().unwrap();
        assert!(chunk.offset >= position, "bytes were repeated");
        position = chunk.offset;
        for byte in chunk.output {
            assert_eq!(u64::from(byte), position % 256, "at {position}");
            position += 1;
        }
    }
    (input, output)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_guest_that_reads_nothing_and_a_client_that_sends_without_end() {
    let street = Street::new().await;
    street.enemy(Hostile::Deaf, unending()).await;
    let (input, mut output) = street.client.console("enemy", false).await.unwrap();
    let chunk = soon("console", output.next()).await.unwrap().unwrap();
    assert_eq!(chunk.output, b"!");
    // On the connection that is used for everything else: the flood must not stand in the others' way.
    let sent = Arc::new(AtomicU64::new(0));
    let flood = tokio::spawn({
        let sent = sent.clone();
        async move {
            while input.send(&[b'x'; 1 << 15]).await.is_ok() {
                sent.fetch_add(1 << 15, Ordering::Relaxed);
            }
        }
    });
    // Until it is held back: nothing more goes out while a hundred calls are answered.
    let (mut before, mut calls) = (0, 0);
    while calls < 100 {
        street.state().await;
        let now = sent.load(Ordering::Relaxed);
        calls = if now == before { calls + 1 } else { 0 };
        before = now;
    }
    assert!(before < 8 * MIB, "{before} bytes went nowhere");
    street.drive(5).await;
    assert!(!flood.is_finished(), "the flood is held back");
    answered("quit", street.client.quit("enemy")).await.unwrap();
    while soon("console", output.next()).await.unwrap().is_some() {}
    soon("the end of the flood", flood).await.unwrap();
    street.leave().await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_daemon_ends_although_a_client_never_reads() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut request = request("enemy", MIB);
    let firmware = Hostile::Chatter.write_to(daemon.directory());
    request.definition.as_mut().unwrap().firmware = firmware.to_str().unwrap().to_owned();
    client.create(request).await.unwrap();
    let _never_read = client.console("enemy", false).await.unwrap();
    // Read on another connection until the first can take no more.
    read_pattern(&daemon.client().await, MIB / 4).await;
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{status}:\n{log}");
}
