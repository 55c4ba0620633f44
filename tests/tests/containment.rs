//! What the daemon denies itself: each thread's system calls, privileges and capabilities, and files that it was not told of.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    path::Path,
    sync::Arc,
    thread,
};

use nix::unistd::geteuid;
use tokio::sync::Notify;
use tonic::Code;
use vmctl::{Client, v1};
use vmd_tests::{Daemon, Guest, refusal, request, soon};
use vmm::{
    confine::{Filter, Mode},
    machine::{
        Boot, Firmware, Host, KvmMachine, MachineConfig, MachineError, VirtioTransport,
        cpu::CpuConfig,
    },
    runstate::{Actions, Command, MainLoop, Requests, TransitionTable},
};

/// `CAP_NET_ADMIN`'s bit.
const NET_ADMIN: u64 = 1 << 12;

/// What `/proc` says of a thread.
#[derive(Debug)]
struct Thread {
    name: String,
    status: BTreeMap<String, String>,
}

impl Thread {
    /// Every thread of the process; one that ends meanwhile is left out.
    fn all(pid: u32) -> Vec<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks
            .filter_map(|task| Self::of(&task.unwrap().path()))
            .collect()
    }

    fn of(task: &Path) -> Option<Self> {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        Some(Self {
            name: name.trim().to_owned(),
            status: lines
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect(),
        })
    }

    fn number(&self, key: &str) -> u64 {
        self.status[key].parse().unwrap()
    }

    fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(&self.status[set], 16).unwrap()
    }
}

fn disk(path: &Path) -> v1::Disk {
    File::create(path).unwrap().set_len(64 << 10).unwrap();
    v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        ..Default::default()
    }
}

fn with_disk(name: &str, path: &Path) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            vcpus: Some(2),
            disks: vec![disk(path)],
            rng: true,
            ..Default::default()
        }),
        ..request(name)
    }
}

/// A guest that has used its disk.
async fn busy_guest(daemon: &Daemon) -> Guest {
    let mut guest = daemon.guest_of(with_disk("a", &daemon.path("image"))).await;
    guest.letter("D").await;
    guest.console.expect("d").await;
    guest
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_thread_is_confined_by_its_kind() {
    let data_dir = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", data_dir.path().to_str().unwrap()];
    let daemon = Daemon::start_with(&arguments).await;
    let mut guest = busy_guest(&daemon).await;
    let threads = Thread::all(daemon.pid());
    for thread in &threads {
        assert_eq!(thread.number("NoNewPrivs"), 1, "{thread:?}");
        assert_eq!(thread.number("Seccomp"), 2, "{thread:?}");
        for none in ["CapInh", "CapAmb"] {
            assert_eq!(thread.capabilities(none), 0, "{none}: {thread:?}");
        }
        for few in ["CapEff", "CapPrm"] {
            let set = thread.capabilities(few);
            assert_eq!(set & !NET_ADMIN, 0, "{few}: {thread:?}");
        }
        if geteuid().is_root() {
            assert_eq!(thread.capabilities("CapBnd"), NET_ADMIN, "{thread:?}");
        }
    }
    for (kind, most, filters) in [
        ("vmd", usize::MAX, 1..=1),
        ("store", 1, 1..=1),
        ("vcpu", 2, 3..=3),
        ("vmd-devices", usize::MAX, 2..=3),
    ] {
        let ours = |thread: &&Thread| match kind {
            "vcpu" => thread.name.starts_with("vcpu"),
            whole => thread.name == whole,
        };
        let ours: Vec<_> = threads.iter().filter(ours).collect();
        assert!((1..=most).contains(&ours.len()), "{kind}: {threads:?}");
        for thread in ours {
            let has = thread.number("Seccomp_filters");
            assert!(filters.contains(&has), "{kind}: {thread:?}");
        }
    }
    guest.serves(Client::system_reset, &["RESET"]).await;
    guest.console.expect("!").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn the_configuration_says_what_is_denied() {
    const LISTEN: &str = "[[listen]]\naddress = \"unix:DIR/vmd.sock\"\n[containment]\n";
    for (section, seccomp, capabilities) in [
        ("seccomp = false\nkeep_capabilities = []", 0, 0),
        (
            "seccomp = \"log\"\nkeep_capabilities = [\"CAP_NET_ADMIN\", \"chown\"]",
            2,
            NET_ADMIN | 1,
        ),
    ] {
        let daemon = Daemon::start_configured(&format!("{LISTEN}{section}\n")).await;
        let _guest = busy_guest(&daemon).await;
        for thread in Thread::all(daemon.pid()) {
            assert_eq!(thread.number("NoNewPrivs"), 1, "{section}: {thread:?}");
            assert_eq!(thread.number("Seccomp"), seccomp, "{section}: {thread:?}");
            if geteuid().is_root() {
                let effective = thread.capabilities("CapEff");
                assert_eq!(effective, capabilities, "{section}: {thread:?}");
            }
        }
    }
}

/// With roots, landlock is on; whoever calls has no other files then.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn files_that_are_not_below_the_roots_are_out_of_reach() {
    let others = tempfile::tempdir().unwrap();
    let config = |more: &str| {
        let roots = "[[listen]]\naddress = \"unix:DIR/vmd.sock\"\n[paths]\nroots = [\"DIR\"]\n";
        format!("{roots}[daemon]\ndata_dir = \"DIR/data\"\n[containment]\n{more}\n")
    };
    let outside = others.path().join("image");
    let daemon = Daemon::start_configured(&config("")).await;
    if !daemon.log().contains("landlock: no other files") {
        eprintln!("skipped: this kernel has no landlock");
        return;
    }
    let _guest = busy_guest(&daemon).await;
    let client = daemon.client().await;
    let refused = refusal(client.create(with_disk("b", &outside)).await);
    assert_eq!(refused.code, Code::PermissionDenied, "{refused:?}");
    assert!(
        refused.message.contains("containment.landlock"),
        "{refused:?}"
    );

    // What it was told later it cannot reach.
    daemon.configure(&config("").replace("[\"DIR\"]", "[\"DIR\", \"/\"]"));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.logged("sections=\"paths\"", 1).await;
    let refused = refusal(client.create(with_disk("b", &outside)).await);
    assert_eq!(refused.code, Code::PermissionDenied, "{refused:?}");
    drop(daemon);

    let free = Daemon::start_configured(&config("landlock = false")).await;
    let client = free.client().await;
    soon("create", client.create(with_disk("b", &outside)))
        .await
        .unwrap();
}

/// A running probe guest whose vCPU threads are confined, and what wakes its owner. On such a thread that calls `act`.
async fn machine(
    host: &Host,
    name: &str,
    act: impl Fn() + Send + Sync + 'static,
) -> (MainLoop<KvmMachine>, Arc<Notify>) {
    let woken = Arc::new(Notify::new());
    let wake = {
        let woken = woken.clone();
        move || woken.notify_one()
    };
    let requests = Requests::new(TransitionTable::default(), Actions::default(), {
        let wake = wake.clone();
        move || {
            let thread = thread::current();
            if thread.name().is_some_and(|name| name.starts_with("vcpu")) {
                act();
            }
            wake();
        }
    });
    let config = MachineConfig {
        name: name.to_owned(),
        memory_bytes: 1 << 20,
        vcpus: 2,
        cpu: CpuConfig::default(),
        boot: Boot::Firmware(Firmware::Probe),
        virtio: Vec::new(),
        virtio_transport: VirtioTransport::default(),
        fail_at: None,
    };
    let machine = KvmMachine::build(host, &config, requests.clone(), Arc::new(wake)).unwrap();
    let mut main_loop = machine.into_main_loop(requests);
    main_loop.command(Command::Cont).await.unwrap();
    soon("the guest", main_loop.machine().console().wait_output(0)).await;
    (main_loop, woken)
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_vcpu_thread_that_calls_what_it_may_not_ends_its_machine_alone() {
    let filter = Filter::of_vcpus(Mode::Enforce).unwrap();
    let host = Host::open().unwrap().with_vcpu_filter(Some(filter));
    let (mut bad, woken) = machine(&host, "bad", || {
        assert!(TcpListener::bind("127.0.0.1:0").is_err());
    })
    .await;
    let (mut good, _) = machine(&host, "good", || ()).await;

    // Crash-loaded: a request that the guest raises.
    let console = bad.machine().console().clone();
    console.write_input(b"C").await.unwrap();
    while bad.machine().failure().is_none() {
        soon("the vCPU's last will", woken.notified()).await;
    }
    assert!(matches!(
        bad.machine().failure(),
        Some(MachineError::VcpuDied)
    ));
    assert!(soon("stop", bad.command(Command::Stop)).await.is_err());

    let console = good.machine().console().clone();
    console.write_input(b"C").await.unwrap();
    soon("echo", console.wait_output(1)).await;
    assert!(good.machine().failure().is_none());
    soon("stop", good.command(Command::Stop)).await.unwrap();
    for machine in [bad, good] {
        soon("close", tokio::task::spawn_blocking(move || drop(machine)))
            .await
            .unwrap();
    }
}
