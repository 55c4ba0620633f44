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
    server::{self, Config},
    vm::{self, CreateError, CreateStep, Definition, VmError},
};
use vmd_tests::{Resources, settle, soon};
use vmm::{
    machine::{BuildError, Host},
    runstate::Actions,
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
        every_step(directory.path()).await;
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

async fn every_step(directory: &Path) {
    let daemon = Daemon::new(Host::open().unwrap(), 1 << 40, 100);
    let image = directory.join("image");
    fs::write(&image, vmm::probe::image()).unwrap();
    let sockets = [directory.join("serial"), directory.join("qmp")];
    let listen = |exists: bool| sockets.iter().all(|socket| socket.exists() == exists);
    let definition = Definition {
        memory_bytes: MIB,
        vcpus: 2,
        firmware: Some(image),
        actions: Actions::default(),
        serial_socket: Some(sockets[0].clone()),
        qmp_socket: Some(sockets[1].clone()),
    };
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
        same(&format!("{step:?}"), before).await;
    }
    let now = Resources::of(std::process::id()).mappings;
    // 60 creations; the C library keeps some of the threads' stacks.
    println!("mappings: {maps}, then {now}");
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
        listen: vec![endpoint.clone()],
        data_dir: None,
        events_kept: 10_000,
        grace: Duration::ZERO,
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
