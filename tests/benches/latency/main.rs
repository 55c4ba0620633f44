//! How long a machine's owner waits, each time beside the floor: the same by raw KVM calls, measured turn by turn.
//!
//! | benchmark | from | to | floor |
//! | --- | --- | --- | --- |
//! | `create_to_first_byte` | `vm::create` | the guest's first byte in the serial model | raw calls to the first byte |
//! | `create_50` | 50 creations at once | the last one's first byte | 50 threads of raw calls |
//! | `stop` `cont` | the actor is asked | its answer | kick, acknowledged; resume, acknowledged |
//! | `reset` `reset_to_first_byte` | the actor is asked | its answer; the guest's next byte | kick, state set, resume |
//! | `boot_to_first_byte` `reboot_to_first_byte` | the same, with a kernel booted directly | its first byte | the same |
//! | `disk_...` | a guest's driver begins a number of requests | the last one is done | a thread of the host reads or writes the same file |
//! | `net_send` `net_send_1` | a guest's driver begins to send frames, many at a time or one after the other | the last one is done | a thread of the host, with a tap interface |
//! | `event` | the guest's byte before it writes to pvpanic | the event at a client | an eventfd wakes a thread |
//! | `rpc_...` | a client's call | its answer | the raw floor and an empty call |
//!
//! `cargo bench -p vmd-tests` measures, prints the ratios and writes them to `target/bench-ratios.txt`; it fails if one
//! that must hold does not. With `-- --test` everything runs once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]

mod daemon;
mod disk;
mod floor;
mod net;
mod report;

use std::{
    fs,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;
use vmctl::v1;
use vmd::vm::VmHandle;
use vmd_tests::Resources;
use vmm::runstate::Command;

use self::{
    daemon::{Daemon, Stamp},
    floor::Image,
    report::Report,
};

/// Creations at once.
const MANY: usize = 50;

/// The project's promise for the creation of a machine.
const CREATE_MOST: f64 = 1.5;

fn main() -> ExitCode {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let smoke = std::env::args().any(|argument| argument == "--test");
    let mut report = Report::default();
    let host = floor::Host::open();
    let daemon = Daemon::start();

    create(&mut criterion, &mut report, &host, &daemon);
    create_many(&mut criterion, &mut report, &host, &daemon);
    life(&mut criterion, &mut report, &host, &daemon);
    event(&mut criterion, &mut report, &host, &daemon);
    direct_boot(&mut criterion, &mut report, &host, &daemon);
    disk::disk(&mut criterion, &mut report, &daemon);
    // Last: it takes this thread to another network.
    net::net(&mut criterion, &mut report);
    criterion.final_summary();
    if report.finish(smoke) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn create(criterion: &mut Criterion, report: &mut Report, host: &floor::Host, vmd: &Daemon) {
    let raw = || {
        let start = Instant::now();
        let vm = floor::Vm::create(host, Image::Firmware);
        // Closing the VM is not measured.
        vm.expect(b'!') - start
    };
    report.measure(
        criterion,
        "create_to_first_byte",
        Some(CREATE_MOST),
        raw,
        || {
            let daemon = vmd.daemon.clone();
            let taken = vmd.run(async move {
                let start = Instant::now();
                daemon::create(&daemon, "a", None).await.1 - start
            });
            vmd.clear();
            taken
        },
    );
    report.measure(
        criterion,
        "rpc_create",
        None,
        || raw() + empty_call(vmd),
        || {
            let request = v1::CreateVmRequest {
                name: "a".into(),
                ..Default::default()
            };
            let (created, taken) = timed(|| vmd.call(vmd.client.create(request)));
            created.expect("create");
            vmd.clear();
            taken
        },
    );
}

fn empty_call(vmd: &Daemon) -> Duration {
    let (listed, taken) = timed(|| vmd.call(vmd.client.list()));
    listed.expect("list");
    taken
}

fn create_many(criterion: &mut Criterion, report: &mut Report, host: &floor::Host, vmd: &Daemon) {
    let raw = || {
        let start = Instant::now();
        let vms: Vec<_> = thread::scope(|scope| {
            let create = || {
                let vm = floor::Vm::create(host, Image::Firmware);
                let written = vm.expect(b'!');
                (vm, written)
            };
            let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(create)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let last = vms.iter().map(|(_, written)| *written).max();
        thread::scope(|scope| {
            for (vm, _) in vms {
                scope.spawn(|| drop(vm));
            }
        });
        last.expect("some") - start
    };
    report.measure(criterion, "create_50", None, raw, || {
        let taken = create_all(vmd);
        vmd.clear();
        taken
    });
    if let Some((floor, ours)) = report.medians("create_50") {
        let rate = |time: Duration| MANY as f64 / time.as_secs_f64();
        report.note(format!(
            "{MANY} creations at once: {:.0} VMs/s, floor {:.0} VMs/s",
            rate(ours),
            rate(floor)
        ));
        idle(report, vmd);
    }
}

/// Creates many machines at once; returns how long it took to the last one's first byte.
fn create_all(vmd: &Daemon) -> Duration {
    let daemon = vmd.daemon.clone();
    vmd.run(async move {
        let start = Instant::now();
        let create = |index| {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                daemon::create(&daemon, &format!("vm-{index}"), None)
                    .await
                    .1
            })
        };
        let creations: Vec<_> = (0..MANY).map(create).collect();
        let mut last = start;
        for creation in creations {
            last = last.max(creation.await.expect("no panic"));
        }
        last - start
    })
}

/// What an idle machine holds.
fn idle(report: &mut Report, vmd: &Daemon) {
    let pid = std::process::id();
    let before = (Resources::of(pid), private_memory());
    create_all(vmd);
    let after = (Resources::of(pid), private_memory());
    vmd.clear();
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / MANY as f64;
    report.note(format!(
        "an idle machine: {:.0} KiB of private memory, {:.1} threads, {:.1} descriptors, {:.1} mappings",
        each(after.1, before.1) / 1024.0,
        each(after.0.threads as u64, before.0.threads as u64),
        each(after.0.descriptors as u64, before.0.descriptors as u64),
        each(after.0.mappings as u64, before.0.mappings as u64),
    ));
}

/// This process's private memory, in bytes.
fn private_memory() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        * 1024
}

fn life(criterion: &mut Criterion, report: &mut Report, host: &floor::Host, vmd: &Daemon) {
    let raw = floor::Vm::create_resettable(host, Image::Firmware);
    raw.expect(b'!');
    let vm = vmd.guest("a", None);
    let command = |command| {
        let vm = vm.clone();
        vmd.run(async move {
            let start = Instant::now();
            vm.command(command).await.expect("obeys");
            start.elapsed()
        })
    };
    let client = &vmd.client;
    // A vCPU that was told to run takes a while to do so: the guest answers once it does.
    let raw_answers = || {
        raw.send(b'x');
        raw.expect(b'x');
    };
    let answers = || {
        vmd.call(async {
            let console = vm.console();
            let end = console.output_end();
            console.write_input(b"x").await.expect("input");
            console.wait_output(end).await;
        });
    };

    let raw_stop = || {
        raw_answers();
        let taken = timed(|| raw.pause()).1;
        raw.resume();
        taken
    };
    let raw_cont = || {
        raw_answers();
        raw.pause();
        timed(|| raw.resume()).1
    };
    report.measure(criterion, "stop", None, raw_stop, || {
        answers();
        let taken = command(Command::Stop);
        command(Command::Cont);
        taken
    });
    report.measure(criterion, "cont", None, raw_cont, || {
        answers();
        command(Command::Stop);
        command(Command::Cont)
    });
    report.measure(
        criterion,
        "rpc_stop",
        None,
        || raw_stop() + empty_call(vmd),
        || {
            answers();
            let (stopped, taken) = timed(|| vmd.call(client.stop("a")));
            stopped.expect("stop");
            vmd.call(client.cont("a")).expect("cont");
            taken
        },
    );
    report.measure(
        criterion,
        "rpc_cont",
        None,
        || raw_cont() + empty_call(vmd),
        || {
            vmd.call(client.stop("a")).expect("stop");
            let (resumed, taken) = timed(|| vmd.call(client.cont("a")));
            resumed.expect("cont");
            taken
        },
    );

    let raw_reset = || reset_raw(&raw);
    report.measure(
        criterion,
        "reset",
        None,
        || raw_reset().0,
        || reset(vmd, &vm).0,
    );
    report.measure(
        criterion,
        "reset_to_first_byte",
        None,
        || raw_reset().1,
        || reset(vmd, &vm).1,
    );
    report.measure(
        criterion,
        "rpc_reset",
        None,
        || raw_reset().0 + empty_call(vmd),
        || {
            let before = vm.console().output_end();
            let (reset, taken) = timed(|| vmd.call(client.system_reset("a")));
            reset.expect("reset");
            vmd.call(vm.console().wait_output(before));
            taken
        },
    );
    drop(vm);
    vmd.clear();
}

/// The floor of [`reset`].
fn reset_raw(raw: &floor::Vm) -> (Duration, Duration) {
    let start = Instant::now();
    raw.reset();
    let answer = start.elapsed();
    (answer, raw.expect(b'!') - start)
}

/// Resets the machine; returns how long it took to the answer and to the guest's next byte.
fn reset(vmd: &Daemon, vm: &Arc<VmHandle>) -> (Duration, Duration) {
    let vm = vm.clone();
    vmd.run(async move {
        let console = vm.console();
        let end = console.output_end();
        let start = Instant::now();
        let command = async {
            vm.command(Command::SystemReset).await.expect("resets");
            start.elapsed()
        };
        let (answer, written) = tokio::join!(command, daemon::output(&console, end));
        (answer, written - start)
    })
}

fn event(criterion: &mut Criterion, report: &mut Report, host: &floor::Host, vmd: &Daemon) {
    let raw = floor::Vm::create(host, Image::Firmware);
    raw.expect(b'!');
    let vm = vmd.guest("a", None);
    let console = vm.console();
    let seq = vm.status().seq;
    let mut events = vmd
        .call(vmd.client.watch_events(seq, Some("a"), false))
        .expect("watch");
    let raw_event = || {
        raw.send(b'C');
        raw.wait_panicked();
        let heard = Instant::now();
        heard - raw.expect(b'C')
    };
    report.measure(criterion, "event", None, raw_event, || {
        vmd.call(async {
            // The guest echoes its letter right before it writes to pvpanic. Nobody is woken by that: the time is all
            // that is wanted.
            let echoed = Arc::new(Stamp::default());
            let waker = Waker::from(echoed.clone());
            let mut echo = pin!(console.wait_output(console.output_end()));
            assert!(
                echo.as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            console.write_input(b"C").await.expect("input");
            let event = events.next().await.expect("the stream").expect("an event");
            let heard = Instant::now();
            assert!(
                matches!(event.kind, Some(v1::event::Kind::GuestCrashloaded(_))),
                "{event:?}"
            );
            heard - echoed.time().expect("an echo")
        })
    });
    drop(events);
    vmd.clear();
}

/// A kernel without firmware: its creation, and its reset, to its first instructions.
fn direct_boot(criterion: &mut Criterion, report: &mut Report, host: &floor::Host, vmd: &Daemon) {
    let kernel = vmd.kernel(vmm::probe::kernel());
    report.measure(
        criterion,
        "boot_to_first_byte",
        Some(CREATE_MOST),
        || {
            let start = Instant::now();
            let vm = floor::Vm::create(host, Image::Kernel);
            vm.expect(b'!') - start
        },
        || {
            let (daemon, kernel) = (vmd.daemon.clone(), kernel.clone());
            let taken = vmd.run(async move {
                let start = Instant::now();
                daemon::create(&daemon, "a", Some(kernel)).await.1 - start
            });
            vmd.clear();
            taken
        },
    );
    let raw = floor::Vm::create_resettable(host, Image::Kernel);
    raw.expect(b'!');
    let vm = vmd.guest("a", Some(kernel));
    report.measure(
        criterion,
        "reboot_to_first_byte",
        None,
        || reset_raw(&raw).1,
        || reset(vmd, &vm).1,
    );
    drop(vm);
    vmd.clear();
}
