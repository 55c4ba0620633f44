//! vmd under measurement: a daemon that is served in this process, on a runtime of its own, and a client of it on this
//! thread. Being in the same process, the benches can see when the guest's byte reaches the serial model.

use std::{
    future::{self, poll_fn},
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
    event_log::DEFAULT_CAPACITY,
    server::{self, Config},
    vm::{self, Definition, VmHandle},
};
use vmm::{devices::console::Console, runstate::Actions};

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
    _directory: TempDir,
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
            listen: vec![endpoint.clone()],
            data_dir: None,
            events_kept: DEFAULT_CAPACITY,
            grace: Duration::ZERO,
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
            _directory: directory,
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
    pub(crate) fn guest(&self, name: &'static str) -> Arc<VmHandle> {
        let daemon = self.daemon.clone();
        self.run(async move { create(&daemon, name).await.0 })
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

/// Creates a machine; returns it and when its guest's first byte was in the console.
pub(crate) async fn create(daemon: &Arc<vmd::Daemon>, name: &str) -> (Arc<VmHandle>, Instant) {
    let definition = Definition {
        memory_bytes: MEMORY,
        vcpus: 1,
        firmware: None,
        actions: Actions::default(),
        serial_socket: None,
        qmp_socket: None,
    };
    let (vm, _) = vm::create(daemon, name, definition, false, None)
        .await
        .expect("create");
    let written = output(&vm.console(), 0).await;
    (vm, written)
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
