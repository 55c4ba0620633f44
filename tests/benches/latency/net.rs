//! A guest's network card on a tap interface, beside another tap interface that a thread of the host uses.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Instant,
};

use criterion::Criterion;
use tokio::runtime::{self, Runtime};
use vm_memory::VolatileSlice;
use vmd::vm::{Definition, Net, NetBackend};
use vmd_tests::{
    NetNs,
    guests::driver::{Driver, Request},
};
use vmm::devices::virtio::net::{Backend, HEADER, Limits, Tap};

use crate::{
    daemon::{self, Daemon},
    report::Report,
};

/// Frames of a run, and at a time.
const FRAMES: u32 = 3200;
const FRAMES_AT_A_TIME: usize = 64;
/// Frames of a run that sends one after the other.
const SINGLE_FRAMES: u32 = 400;
/// Bytes of a frame, without the header that a card has before it.
const FRAME: usize = 1514;

/// The numbers of the two tap interfaces.
const OURS: u8 = 8;
const THEIRS: u8 = 9;

/// Makes a tap interface; its name.
fn tap(namespace: &NetNs, number: u8) -> String {
    let name = format!("tap{number}");
    namespace.run(&format!("ip tuntap add dev {name} mode tap vnet_hdr"));
    namespace.run(&format!("ip link set {name} addrgenmode none up"));
    name
}

/// Measures what is sent. Needs the right to make a network namespace, which this thread is in from then on.
pub(crate) fn net(criterion: &mut Criterion, report: &mut Report) {
    let Some(namespace) = NetNs::new() else {
        return;
    };
    namespace.enter();
    let (ours, theirs) = (tap(&namespace, OURS), tap(&namespace, THEIRS));
    let vmd = &Daemon::start();
    let frame = || Request {
        header: Vec::new(),
        data: (HEADER + FRAME) as u32,
        into: false,
        status: false,
    };
    let frames: Vec<_> = (0..FRAMES_AT_A_TIME).map(|_| frame()).collect();
    let mut driver = Driver::new(0, 2);
    let send = driver.run(1, &frames, FRAMES);
    let send_one = driver.run(1, &[frame()], SINGLE_FRAMES);
    let vm = vmd.guest_of(
        "a",
        Definition {
            nets: vec![Net {
                backend: NetBackend::Tap(ours),
                mac: [2, 0, 0, 0, 0, 2],
                mtu: None,
                queues: 1,
                link_down: false,
                limits: Limits::default(),
            }],
            ..daemon::definition(Some(vmd.kernel(&driver.build())))
        },
    );
    daemon::stop(vmd, &vm);

    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _in_runtime = runtime.enter();
    let tap = Tap::open(&theirs, 1).expect("the other tap interface");
    tap.start(0).expect("the other tap interface");
    let mut frame = vec![0; HEADER + FRAME];
    let frame = [VolatileSlice::from(frame.as_mut_slice())];
    // Throughput: many frames at a time. Latency: one after the other.
    for (name, letter, frames) in [
        ("net_send", send, FRAMES),
        ("net_send_1", send_one, SINGLE_FRAMES),
    ] {
        let host = || {
            let start = Instant::now();
            for _ in 0..frames {
                at_once(
                    &runtime,
                    |context| tap.poll_send(0, context),
                    || tap.send(0, &frame),
                );
            }
            start.elapsed()
        };
        let guest = || daemon::run_driver(vmd, &vm, letter, || ());
        report.measure(criterion, name, None, host, guest);
        report.rate(name, frames, FRAME as u32);
    }
    drop(vm);
    vmd.clear();
}

/// Does it as soon as it can be done; waits for that by `ready`.
fn at_once<T>(
    runtime: &Runtime,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    mut act: impl FnMut() -> io::Result<T>,
) -> T {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let waited = runtime.block_on(poll_fn(&mut ready));
                waited.expect("the tap interface");
            }
            done => return done.expect("a frame"),
        }
    }
}
