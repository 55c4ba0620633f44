//! vmd under measurement: a daemon that is served in this process, on a runtime of its own, and a client of it on this
//! thread. Being in the same process, the benches can see when the guest's byte reaches the serial model.

use std::{
    fs,
    future::{self, poll_fn},
    path::Path,
    pin::pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::runtime;
use vmctl::{Client, Endpoint};
use vmd::{
    access::Reach,
    server::{self, Config},
    vm::{self, Definition, Kernel, VmHandle},
};
use vmm::{
    devices::console::Console,
    machine::{VirtioTransport, cpu::CpuModel},
    runstate::{Actions, Command},
};

use crate::floor::MEMORY;

/// A daemon and a client of it.
pub(crate) struct Daemon {
    /// What is served.
    pub(crate) daemon: Arc<vmd::Daemon>,
    /// A connection to it, to be used on `client_runtime`.
    pub(crate) client: Client,
    /// The client's runtime: the thread that calls.
    pub(crate) client_runtime: runtime::Runtime,
    /// The daemon's, with as many threads as there are processors.
    runtime: runtime::Runtime,
    directory: TempDir,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let endpoint = Endpoint::unix(directory.path().join("vmd.sock")).expect("a socket path");
        let runtime = runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("the daemon's runtime");
        let config = Config {
            listen: vec![endpoint.clone().into()],
            ..Config::default()
        };
        let bound = runtime.block_on(server::bind(config)).expect("the daemon");
        let daemon = bound.daemon().clone();
        // Until the runtime goes.
        runtime.spawn(bound.serve(future::pending()));
        let client_runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the client's runtime");
        let client = client_runtime
            .block_on(Client::connect(&endpoint))
            .expect("a connection");
        Self {
            daemon,
            client,
            client_runtime,
            runtime,
            directory,
        }
    }

    /// Runs `work` where the daemon's own tasks run.
    pub(crate) fn run<F>(&self, work: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let task = self.runtime.spawn(work);
        self.runtime.block_on(task).expect("no panic")
    }

    /// Runs a client's `work` on this thread.
    pub(crate) fn call<F: Future>(&self, work: F) -> F::Output {
        self.client_runtime.block_on(work)
    }

    /// A machine whose guest has started.
    pub(crate) fn guest(&self, name: &'static str, kernel: Option<Kernel>) -> Arc<VmHandle> {
        let daemon = self.daemon.clone();
        self.run(async move { create(&daemon, name, kernel).await.0 })
    }

    /// The same, of another machine.
    pub(crate) fn guest_of(&self, name: &'static str, definition: Definition) -> Arc<VmHandle> {
        let daemon = self.daemon.clone();
        self.run(async move { create_of(&daemon, name, definition).await.0 })
    }

    /// Where files may be.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A kernel, in a file.
    pub(crate) fn kernel(&self, image: &[u8]) -> Kernel {
        let path = self.directory.path().join("kernel");
        fs::write(&path, image).expect("a file");
        Kernel {
            path,
            initrd: None,
            cmdline: String::new(),
        }
    }

    /// Deletes every machine and waits until nothing is left of them.
    pub(crate) fn clear(&self) {
        let client = &self.client;
        self.call(async {
            for vm in client.list().await.expect("list").vms {
                client.delete(&vm.name, true).await.expect("delete");
            }
        });
        while self.daemon.closing() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Creates a machine with the probe guest, or with `kernel`; returns it and when its guest's first byte was in the console.
pub(crate) async fn create(
    daemon: &Arc<vmd::Daemon>,
    name: &str,
    kernel: Option<Kernel>,
) -> (Arc<VmHandle>, Instant) {
    create_of(daemon, name, definition(kernel)).await
}

/// A machine without devices, with the probe guest or with `kernel`.
pub(crate) fn definition(kernel: Option<Kernel>) -> Definition {
    Definition {
        reach: Reach::Anywhere,
        memory_bytes: MEMORY,
        vcpus: 1,
        firmware: None,
        kernel,
        actions: Actions::default(),
        serial_socket: None,
        qmp_socket: None,
        cpu_model: CpuModel::Host,
        cpu_template: None,
        cpu_pins: Vec::new(),
        cpu_share: Default::default(),
        disks: Vec::new(),
        rng: false,
        nets: Vec::new(),
        vsock: None,
        balloon: None,
        console_ports: Vec::new(),
        virtio_transport: VirtioTransport::default(),
        restart: Default::default(),
    }
}

async fn create_of(
    daemon: &Arc<vmd::Daemon>,
    name: &str,
    definition: Definition,
) -> (Arc<VmHandle>, Instant) {
    let (vm, _) = vm::create(daemon, name, definition, false, None)
        .await
        .expect("create");
    let written = output(&vm.console(), 0).await;
    (vm, written)
}

/// Stops a machine.
pub(crate) fn stop(vmd: &Daemon, vm: &Arc<VmHandle>) {
    let vm = vm.clone();
    vmd.run(async move { vm.command(Command::Stop).await.expect("stops") });
}

/// Has the guest's driver do a run, with `during` on another thread; how long it took. The guest, which waits for letters at
/// full speed, is stopped before and after: it must not slow down what is measured in between.
pub(crate) fn run_driver(
    vmd: &Daemon,
    vm: &Arc<VmHandle>,
    letter: u8,
    during: impl FnOnce() + Send,
) -> Duration {
    let vm = vm.clone();
    let console = vm.console();
    let end = console.output_end();
    let commanded = |command| {
        let vm = vm.clone();
        vmd.run(async move { vm.command(command).await.expect("obeys") });
    };
    commanded(Command::Cont);
    let taken = thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(during);
        let done = vmd.run({
            let console = console.clone();
            async move {
                console.write_input(&[letter]).await.expect("input");
                output(&console, end).await
            }
        });
        done - start
    });
    commanded(Command::Stop);
    assert_eq!(console.read_output(end).bytes, b".", "the guest's driver");
    taken
}

/// When there was output beyond `beyond`: the moment at which the vCPU's thread put it into the console, or now if it is
/// there already.
pub(crate) async fn output(console: &Console, beyond: u64) -> Instant {
    let stamp = Arc::new(Stamp::default());
    let mut wait = pin!(console.wait_output(beyond));
    poll_fn(|context| {
        let waker = Waker::from(Arc::new(StampThenWake {
            stamp: stamp.clone(),
            then: context.waker().clone(),
        }));
        match wait.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => Poll::Ready(stamp.time().unwrap_or_else(Instant::now)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The time at which it was first woken.
#[derive(Default)]
pub(crate) struct Stamp(OnceLock<Instant>);

impl Stamp {
    pub(crate) fn time(&self) -> Option<Instant> {
        self.0.get().copied()
    }
}

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        self.0.get_or_init(Instant::now);
    }
}

struct StampThenWake {
    stamp: Arc<Stamp>,
    then: Waker,
}

impl Wake for StampThenWake {
    fn wake(self: Arc<Self>) {
        self.stamp.clone().wake();
        self.then.wake_by_ref();
    }
}
