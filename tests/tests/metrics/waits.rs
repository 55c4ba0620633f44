//! A scrape waits for nothing: neither for a machine that is being built, nor for one that is busy, nor for a reader.

use std::sync::{Mutex, mpsc};

use tempfile::TempDir;
use tokio::sync::oneshot;
use vmctl::{Client, Endpoint, v1};
use vmd::{
    server::{self, Config},
    vm::OpenDisk,
};
use vmd_tests::{in_thread, request, soon};
use vmm::devices::virtio::block::open_disk;

use super::scrape::{Samples, Watched};

/// A daemon within this process, whose disks are opened when the test says so.
struct Held {
    directory: TempDir,
    client: Client,
    /// A disk is about to be opened.
    reached: Option<mpsc::Receiver<()>>,
    release: mpsc::Sender<()>,
}

impl Held {
    async fn start() -> (Self, oneshot::Sender<()>, impl Future<Output = ()>) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| Endpoint::unix(directory.path().join(name)).unwrap();
        let (reach, reached) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let open = move |disk: &vmd::vm::Disk| {
            reach.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            open_disk(&disk.path, disk.read_only, disk.format)
        };
        let config = Config {
            listen: vec![at("vmd.sock").into()],
            metrics: Some(at("metrics")),
            open_disk: OpenDisk::new(open),
            ..Config::default()
        };
        let bound = server::bind(config).await.unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve(async { drop(ended.await) }));
        let client = Client::connect(&at("vmd.sock")).await.unwrap();
        let held = Self {
            directory,
            client,
            reached: Some(reached),
            release,
        };
        let served = async {
            soon("the daemon's end", served).await.unwrap().unwrap();
        };
        (held, end, served)
    }

    async fn scrape(&self) -> Samples {
        Samples::of(&self.directory.path().join("metrics")).await
    }

    /// Waits until a disk is about to be opened.
    async fn reached(&mut self) {
        let reached = self.reached.take().unwrap();
        let wait = in_thread(move || {
            reached.recv().unwrap();
            reached
        });
        self.reached = Some(soon("a disk to be opened", wait).await);
    }

    /// Lets one be opened.
    fn release(&self) {
        self.release.send(()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_scrape_waits_for_no_machine_that_is_being_built() {
    let (mut held, end, served) = Held::start().await;
    let path = held.directory.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(4096).unwrap();
    let create = v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            disks: vec![v1::Disk {
                path: path.to_str().unwrap().to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..request("a")
    };
    let call = |client: Client| tokio::spawn(async move { client.create(create).await });
    let created = call(held.client.clone());
    held.reached().await;
    let seen = held.scrape().await;
    assert_eq!(seen.value("vmd_machines_creating", &[]), 1.0);
    assert_eq!(seen.get("vmd_vm_state", &[("vm", "a")]), None);
    assert_eq!(
        seen.value("vmd_grpc_open_calls", &[("method", "CreateVm")]),
        1.0
    );
    held.release();
    soon("create", created).await.unwrap().unwrap();
    assert_eq!(held.scrape().await.value("vmd_machines_creating", &[]), 0.0);

    // Built anew, the machine's own task waits for the disk, and a command for it.
    soon("quit", held.client.quit("a")).await.unwrap();
    let client = held.client.clone();
    let started = tokio::spawn(async move { client.start("a", false).await });
    held.reached().await;
    let client = held.client.clone();
    let stopped = tokio::spawn(async move { client.stop("a").await });
    let waiting = async {
        while held
            .scrape()
            .await
            .value("vmd_vm_mailbox_messages", &[("vm", "a")])
            != 1.0
        {}
    };
    soon("a command that waits", waiting).await;
    held.release();
    soon("start", started).await.unwrap().unwrap();
    soon("stop", stopped).await.unwrap().unwrap();
    let seen = held.scrape().await;
    assert_eq!(
        seen.value("vmd_vm_state", &[("vm", "a"), ("state", "paused")]),
        1.0
    );
    assert_eq!(
        seen.value("vmd_vm_events_total", &[("vm", "a"), ("event", "STARTED")]),
        1.0
    );
    assert_eq!(seen.value("vmd_vm_mailbox_messages", &[("vm", "a")]), 0.0);
    drop((held, end));
    served.await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn how_far_behind_the_slowest_reader_is() {
    let watched = Watched::start().await;
    let guest = watched.daemon.guest("a").await;
    // Nobody reads this stream, and little fits into its connection.
    let narrow = tonic::transport::Endpoint::from_static("http://vmd");
    let narrow = narrow.initial_stream_window_size(1024);
    let channel = watched.daemon.channel_of(narrow).await;
    let mut stalled = v1::vm_service_client::VmServiceClient::new(channel);
    let all = v1::WatchEventsRequest::default();
    let unread = soon("watch", stalled.watch_events(all)).await.unwrap();
    let behind = async {
        loop {
            guest.client.stop("a").await.unwrap();
            guest.client.cont("a").await.unwrap();
            let seen = watched.scrape().await;
            let lag = seen.value("vmd_event_reader_lag", &[]);
            if lag > 10.0 {
                assert!(lag < seen.value("vmd_events_total", &[]));
                assert!(seen.value("vmd_event_readers", &[]) >= 2.0);
                return;
            }
        }
    };
    soon("a reader that is behind", behind).await;
    drop((unread, stalled));
    let caught_up =
        async { while watched.scrape().await.value("vmd_event_reader_lag", &[]) > 1.0 {} };
    soon("the reader's end", caught_up).await;
}
