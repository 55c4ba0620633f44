//! A creation undoes itself at whatever step it fails, and one that is left alone or raced for ends as it should.
//!
//! One test only: it counts what its own process holds.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    cell::{Cell, RefCell},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use vmctl::{Client, Endpoint, v1};
use vmd::{
    Daemon,
    access::Reach,
    server::{self, Config},
    vm::{self, ConsolePort, CreateError, CreateStep, Definition, Disk, Kernel, VmError, Vsock},
};
use vmd_tests::{
    Resources,
    kernel_file::{HALT, elf, load, pvh_note},
    settle, soon,
};
use vmm::{
    machine::{
        BuildError, Host, VirtioTransport,
        cpu::{CpuModel, CpuPin},
    },
    runstate::{Actions, Command},
};

const MIB: u64 = 1 << 20;
const WORKERS: usize = 2;

#[test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
fn creations_leave_nothing_unless_they_succeed() {
    // Idle helper threads of the runtime's go at once, so that the machines' can be counted.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(Duration::from_millis(1))
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let [firmware, kernel] = definitions(directory.path());
        every_step("firmware", firmware).await;
        every_step("kernel", kernel.clone()).await;
        before_its_turn(kernel).await;
        over_the_wire(directory.path()).await;
    });
}

/// Waits until this process holds what it did `before`.
async fn same(what: &str, before: Resources) {
    // A task goes through the runtime meanwhile.
    let round_trip = async || tokio::spawn(tokio::task::yield_now()).await.unwrap();
    settle(what, std::process::id(), round_trip, |now| {
        now.threads == before.threads
            && now.descriptors == before.descriptors
            && now.kvm == before.kvm
    })
    .await;
}

/// A machine that starts in firmware, and one that starts in a kernel.
fn definitions(directory: &Path) -> [Definition; 2] {
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    // One that may be used, whatever this process is bound to.
    let host = Host::open().unwrap();
    let cpu = (0..1024).find(|&cpu| host.cpus().contains(cpu)).unwrap();
    let pin = |vcpu| CpuPin {
        vcpu,
        host_cpus: vec![cpu],
    };
    let firmware = Definition {
        reach: Reach::Anywhere,
        memory_bytes: MIB,
        vcpus: 2,
        firmware: Some(file("image", vmm::probe::image())),
        kernel: None,
        actions: Actions::default(),
        serial_socket: Some(directory.join("serial")),
        qmp_socket: Some(directory.join("qmp")),
        cpu_model: CpuModel::Portable,
        cpu_template: Some(file("template", br#"{"cpuid_modifiers": []}"#)),
        cpu_pins: vec![pin(0), pin(1)],
        cpu_share: Default::default(),
        disks: vec![Disk {
            path: file("disk", &[0; 512]),
            ..Default::default()
        }],
        rng: true,
        nets: Vec::new(),
        vsock: Some(Vsock {
            cid: 3,
            path: directory.join("vsock"),
        }),
        balloon: Some(Default::default()),
        console_ports: vec![ConsolePort {
            name: "port".to_owned(),
            path: directory.join("port"),
            is_console: false,
        }],
        virtio_transport: VirtioTransport::default(),
        restart: Default::default(),
    };
    let code = load(MIB, &HALT, 4096);
    let kernel = Definition {
        memory_bytes: 2 * MIB,
        firmware: None,
        kernel: Some(Kernel {
            path: file("kernel", &elf(MIB, &[code, pvh_note(MIB as u32)])),
            initrd: Some(file("initrd", b"initrd")),
            cmdline: "quiet".to_owned(),
        }),
        ..firmware.clone()
    };
    [firmware, kernel]
}

async fn every_step(what: &str, definition: Definition) {
    let daemon = Daemon::new(Host::open().unwrap(), 1 << 40, 100);
    let vsock = definition.vsock.as_ref().map(|vsock| vsock.path.clone());
    let Definition {
        serial_socket,
        qmp_socket,
        ..
    } = definition.clone();
    let port = definition.console_ports.first();
    let port = port.map(|port| port.path.clone());
    let sockets = [serial_socket, qmp_socket, vsock, port].map(Option::unwrap);
    let listen = |exists: bool| sockets.iter().all(|socket| socket.exists() == exists);
    let create = |fail_at| vm::create(&daemon, "vm", definition.clone(), true, fail_at);

    // Whatever is made once is made now: the signal handler, the C library's arenas.
    let (vm, status) = soon("create", create(None)).await.unwrap();
    assert_eq!(status.seq, 1);
    soon("delete", vm.delete(true)).await.unwrap();
    drop(vm);
    let round_trip = async || tokio::spawn(tokio::task::yield_now()).await.unwrap();
    let before = settle("a machine", std::process::id(), round_trip, |now| {
        // This thread, the one that waits for it, and the runtime's.
        now.kvm == 0 && now.threads == 2 + WORKERS
    })
    .await;
    let maps = Resources::of(std::process::id()).mappings;

    for step in CreateStep::all() {
        for _ in 0..5 {
            let error = soon("create", create(Some(step)))
                .await
                .map(drop)
                .unwrap_err();
            let injected = match &error {
                VmError::Create(CreateError::Injected(at)) => *at,
                VmError::Create(CreateError::Build(BuildError::Injected(at))) => {
                    CreateStep::Machine(*at)
                }
                other => panic!("{step:?}: {other}"),
            };
            assert_eq!(injected, step);
            assert!(daemon.find("vm").is_none(), "{step:?}");
            assert!(listen(false), "{step:?}");
        }
        same(&format!("{what}, {step:?}"), before).await;
    }
    let now = Resources::of(std::process::id()).mappings;
    // 60 creations; the C library keeps some of the threads' stacks.
    println!("{what}: mappings: {maps}, then {now}");
    assert!(now < maps + 55, "{now} mappings, {maps} before");

    // The name is free, and nothing was heard of the failures: the log goes on with the next number.
    let (vm, status) = soon("create", create(None)).await.unwrap();
    assert_eq!((status.seq, status.vm_seq), (5, 1));
    assert!(listen(true));
    drop(vm);
    soon("end", daemon.end(Duration::ZERO)).await;
    assert!(listen(false));
    drop(daemon);
    let before = Resources {
        descriptors: before.descriptors - 1,
        ..before
    };
    same("the daemon's end", before).await;
}

/// A call whose caller goes before the machine has come to it does nothing.
async fn before_its_turn(definition: Definition) {
    let daemon = Daemon::new(Host::open().unwrap(), 1 << 40, 100);
    let (vm, _) = soon("create", vm::create(&daemon, "vm", definition, true, None))
        .await
        .unwrap();
    soon("quit", vm.command(Command::Quit)).await.unwrap();
    // The actor builds the machine while the others wait in its mailbox.
    let start = vm.start(false);
    let powerdown = vm.command(Command::SystemPowerdown);
    tokio::pin!(start, powerdown);
    pending(&mut start).await;
    {
        let stop = vm.command(Command::Stop);
        tokio::pin!(stop);
        pending(&mut stop).await;
    }
    pending(&mut powerdown).await;
    let started = soon("start", start).await.unwrap();
    let after = soon("powerdown", powerdown).await.unwrap();
    assert!(started.is_running() && after.is_running());
    // POWERDOWN, and no STOP before it.
    assert_eq!(after.vm_seq, started.vm_seq + 1);
    soon("end", daemon.end(Duration::ZERO)).await;
}

/// Begins a call that has to wait.
async fn pending<F: Future + Unpin>(call: &mut F) {
    tokio::select! {
        biased;
        _ = call => panic!("it did not have to wait"),
        () = std::future::ready(()) => {}
    }
}

fn request(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        name: name.to_owned(),
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(MIB),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn over_the_wire(directory: &Path) {
    let endpoint = Endpoint::unix(directory.join("vmd.sock")).unwrap();
    let config = Config {
        listen: vec![endpoint.clone().into()],
        events_kept: 10_000,
        ..Config::default()
    };
    let bound = server::bind(config).await.unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(bound.serve(async { drop(ended.await) }));
    let client = Client::connect(&endpoint).await.unwrap();

    one_of_many_gets_the_name(&client).await;
    clients_that_go_away(&client, &endpoint).await;
    delete_among_commands(&client).await;
    many_commands_at_once(&client).await;

    assert!(client.list().await.unwrap().vms.is_empty());
    let events = client.list().await.unwrap().seq;
    let mut history = client.watch_events(0, None, true).await.unwrap();
    let mut seq = 0;
    while let Some(event) = history.next().await.unwrap() {
        seq += 1;
        assert_eq!(event.seq, seq);
    }
    assert_eq!(seq, events);
    drop((client, history));
    end.send(()).unwrap();
    soon("the server's end", server).await.unwrap().unwrap();
}

async fn one_of_many_gets_the_name(client: &Client) {
    let tries: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.create(request("one")).await })
        })
        .collect();
    let mut made = 0;
    for one in tries {
        match soon("create", one).await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.reason(), Some("VM_EXISTS"), "{error}"),
        }
    }
    assert_eq!(made, 1);
    client.delete("one", true).await.unwrap();
}

/// A machine whose creator has gone is whole or not there.
async fn clients_that_go_away(client: &Client, endpoint: &Endpoint) {
    let list = async || drop(client.list().await.unwrap());
    let before = settle("no machine", std::process::id(), list, |now| now.kvm == 0).await;
    for yields in 0..40 {
        let name = format!("left-{yields}");
        let creator = Client::connect(endpoint).await.unwrap();
        let create = tokio::spawn({
            let name = name.clone();
            async move { creator.create(request(&name)).await.map(drop) }
        });
        for _ in 0..yields {
            // One round trip of another client's is the measure of time.
            client.get("nobody").await.unwrap_err();
        }
        create.abort();
        let _ = create.await;
    }
    // The connections go, and those creations that began come to their end: a machine with one vCPU has two of KVM's
    // descriptors and two of its mappings, and all of them can be found.
    // One that has begun and holds nothing yet shows within some round trips.
    let (vms, rest) = (RefCell::new(Vec::new()), Cell::new(0));
    let list = async || {
        let listed = client.list().await.unwrap().vms;
        *vms.borrow_mut() = listed;
    };
    settle("creations left alone", std::process::id(), list, |now| {
        let at_rest = now.descriptors - now.kvm / 2 == before.descriptors
            && now.kvm == 4 * vms.borrow().len();
        rest.set(if at_rest { rest.get() + 1 } else { 0 });
        rest.get() == 50
    })
    .await;
    let names: Vec<_> = vms.into_inner().into_iter().map(|vm| vm.name).collect();
    println!(
        "{} of 40 machines were made without their creator",
        names.len()
    );
    for name in names {
        let status = client.get(&name).await.unwrap().status.unwrap();
        assert!(status.running, "{name}");
        client.delete(&name, true).await.unwrap();
    }
}

/// Whatever is under way when a machine is deleted is answered: done, or no such machine.
async fn delete_among_commands(client: &Client) {
    for _ in 0..10 {
        client.create(request("short")).await.unwrap();
        let calls: Vec<_> = (0..40)
            .map(|index| {
                let client = client.clone();
                tokio::spawn(async move {
                    match index {
                        20 => client.delete("short", true).await.map(drop),
                        _ if index % 2 == 0 => client.stop("short").await.map(drop),
                        _ => client.cont("short").await.map(drop),
                    }
                })
            })
            .collect();
        for call in calls {
            if let Err(error) = soon("a call", call).await.unwrap() {
                assert_eq!(error.reason(), Some("VM_NOT_FOUND"), "{error}");
            }
        }
        let gone = client.get("short").await.unwrap_err();
        assert_eq!(gone.reason(), Some("VM_NOT_FOUND"));
    }
}

/// A hundred commands of all kinds on one machine: each is served or refused by QEMU's rules, and it lives.
async fn many_commands_at_once(client: &Client) {
    let client = Arc::new(client.clone());
    client.create(request("busy")).await.unwrap();
    let calls: Vec<_> = (0..100)
        .map(|index| {
            let client = client.clone();
            tokio::spawn(async move {
                match index % 7 {
                    0 => client.stop("busy").await.map(drop),
                    1 => client.cont("busy").await.map(drop),
                    2 => client.system_reset("busy").await.map(drop),
                    3 => client.system_powerdown("busy").await.map(drop),
                    4 => client.system_wakeup("busy").await.map(drop),
                    5 => client.inject_nmi("busy").await.map(drop),
                    _ => client.get("busy").await.map(drop),
                }
            })
        })
        .collect();
    for call in calls {
        if let Err(error) = soon("a call", call).await.unwrap() {
            assert_eq!(error.reason(), Some("INVALID_STATE"), "{error}");
        }
    }
    client.cont("busy").await.unwrap();
    assert!(client.get("busy").await.unwrap().status.unwrap().running);
    client.delete("busy", true).await.unwrap();
}
