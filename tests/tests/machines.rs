//! Machines come and go: names, ids, definitions, ends, and being started again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use tonic::Code;
use vmctl::{Client, ConsoleOutput, Error, Refusal, v1};
use vmd_tests::{ConsoleReader, Daemon, EventReader, actions, refusal, request};
use vmm::machine::Host;

/// Writes how often it was started, as a digit, to the serial port, from a byte of its RAM; the first time it then goes
/// to S3.
const COUNTING_GUEST: &[u8] = &[
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xfe, 0x06, 0x00, 0x05, // inc byte [0x500]
    0xa0, 0x00, 0x05, // mov al, [0x500]
    0x04, 0x30, // add al, '0'
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xee, // out dx, al
    0x3c, 0x31, // cmp al, '1'
    0x75, 0x07, // jne halt
    0xba, 0x04, 0x06, // mov dx, 0x604
    0xb8, 0x00, 0x24, // mov ax, 0x2400
    0xef, // out dx, ax
    0xf4, // halt: hlt
    0xeb, 0xfd, // jmp halt
];

/// A ROM of 64 KiB that starts with `code`.
fn rom(code: &[u8]) -> Vec<u8> {
    let mut image = code.to_vec();
    image.resize(0xfff0, 0xff);
    image.extend([0xea, 0x00, 0x00, 0x00, 0xf0]); // jmp f000:0000
    image.resize(0x10000, 0xff);
    image
}

fn with_firmware(daemon: &Daemon, name: &str, image: &[u8]) -> v1::CreateVmRequest {
    let path = daemon.path(&format!("{name}.rom"));
    std::fs::write(&path, image).unwrap();
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            firmware: path.to_str().unwrap().to_owned(),
            ..Default::default()
        }),
        ..request(name)
    }
}

fn paused(name: &str) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        paused: true,
        ..request(name)
    }
}

async fn console(client: &Client, name: &str) -> ConsoleOutput {
    client.console(name, false).await.unwrap().1
}

/// Every call that takes a machine's name.
async fn each_call(client: &Client, name: &str) -> Vec<(&'static str, Result<(), Error>)> {
    let set = actions("panic=pause");
    vec![
        ("GetVm", client.get(name).await.map(drop)),
        ("Quit", client.quit(name).await.map(drop)),
        ("Cont", client.cont(name).await.map(drop)),
        ("Stop", client.stop(name).await.map(drop)),
        ("SystemReset", client.system_reset(name).await.map(drop)),
        (
            "SystemPowerdown",
            client.system_powerdown(name).await.map(drop),
        ),
        ("SystemWakeup", client.system_wakeup(name).await.map(drop)),
        ("InjectNmi", client.inject_nmi(name).await.map(drop)),
        ("SetAction", client.set_action(name, set).await.map(drop)),
    ]
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_machine_has_the_definition_that_was_asked_for_or_the_defaults() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let plain = client.create(paused("plain")).await.unwrap().vm.unwrap();
    let defaults = v1::VmDefinition {
        memory_bytes: Some(256 << 20),
        vcpus: Some(1),
        cpu_model: v1::CpuModel::Host.into(),
        virtio_transport: v1::VirtioTransport::Mmio.into(),
        actions: Some(actions(
            "reboot=reset,shutdown=poweroff,panic=shutdown,watchdog=reset",
        )),
        cpu_weight: Some(100),
        ..Default::default()
    };
    assert_eq!(plain.definition.as_ref(), Some(&defaults));
    assert!(plain.create_time.is_some());

    let template = daemon.path("template");
    std::fs::write(&template, "{}").unwrap();
    let host = Host::open().unwrap();
    let pin = v1::CpuPin {
        vcpu: 3,
        host_cpus: (0..1024).filter(|&cpu| host.cpus().contains(cpu)).collect(),
    };
    let asked = v1::VmDefinition {
        memory_bytes: Some(1 << 20),
        vcpus: Some(4),
        actions: Some(actions(
            "reboot=shutdown,shutdown=pause,panic=none,watchdog=debug",
        )),
        serial_socket: daemon.path("asked.sock").to_str().unwrap().to_owned(),
        cpu_model: v1::CpuModel::Portable.into(),
        virtio_transport: v1::VirtioTransport::Pci.into(),
        cpu_template: template.to_str().unwrap().to_owned(),
        cpu_pins: vec![pin],
        cpu_weight: Some(100),
        ..Default::default()
    };
    let create = v1::CreateVmRequest {
        definition: Some(asked.clone()),
        ..paused("asked")
    };
    let reply = client.create(create).await.unwrap();
    let vm = reply.vm.unwrap();
    assert_eq!(vm.definition.as_ref(), Some(&asked));
    let status = vm.status.clone().unwrap();
    assert_eq!(status.actions, asked.actions);
    assert_eq!(status.state(), v1::RunState::Prelaunch);
    assert_eq!(status.phase(), v1::VmPhase::Live);
    assert!(!status.running && status.end.is_none());
    assert_eq!((status.seq, status.vm_seq), (reply.seq, 1));

    // Each call tells the same.
    assert_eq!(client.get("asked").await.unwrap(), vm);
    let list = client.list().await.unwrap();
    assert_eq!(list.vms, [vm, plain], "ordered by name");
    assert_eq!(list.seq, reply.seq);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_paused_creation_waits_for_cont() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_of(paused("a")).await;
    guest.send("x").await;
    // What the guest would have written is not there even after others have started and written.
    daemon.guest("b").await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    guest.console.expect("!x").await;
    guest.is("running").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_name_is_taken_until_its_machine_is_deleted() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let client = guest.client.clone();
    let first = client.get("a").await.unwrap();
    let taken = |refusal: Refusal| {
        assert_eq!(refusal.code, Code::AlreadyExists);
        assert_eq!(refusal.reason, "VM_EXISTS");
        assert_eq!(refusal.metadata["name"], "a");
    };
    taken(refusal(client.create(request("a")).await));
    let live = refusal(client.delete("a", false).await);
    assert_eq!(
        (live.code, live.reason.as_str()),
        (Code::FailedPrecondition, "VM_NOT_ENDED")
    );
    guest.is_alive().await;
    guest.is("running").await;

    guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    taken(refusal(client.create(request("a")).await));
    let seq = client.delete("a", false).await.unwrap();
    guest.events.expect(&["DELETED -> shutdown"]).await;
    assert_eq!(guest.events.last_seq, seq);

    let mut again = daemon.guest("a").await;
    let second = client.get("a").await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(second.status.unwrap().vm_seq, 2, "its numbers start anew");
    again.is_alive().await;
    // By name, both are heard of.
    guest.events.expect(&["CREATED", "RESUME"]).await;

    let seq = client.delete("a", true).await.unwrap();
    let events = &[
        "SHUTDOWN guest=false reason=host-qmp-quit -> running",
        "ENDED cause=host-qmp-quit -> shutdown",
        "DELETED -> shutdown",
    ];
    again.events.expect(events).await;
    assert_eq!(again.events.last_seq, seq);
    assert_eq!(client.list().await.unwrap().vms, []);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn of_many_creations_of_a_name_one_succeeds() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        tasks.spawn(async move { client.create(request("a")).await });
    }
    let mut created = 0;
    while let Some(answer) = tasks.join_next().await {
        match answer.unwrap() {
            Ok(_) => created += 1,
            Err(error) => assert_eq!(error.reason(), Some("VM_EXISTS"), "{error}"),
        }
    }
    assert_eq!(created, 1);
    let events = client.watch_events(0, None, true).await.unwrap();
    let mut events = EventReader::of(events, 0);
    assert_eq!(
        events.rest().await,
        ["CREATED -> prelaunch", "RESUME -> running"]
    );
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_name_that_nobody_has_is_not_found() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let mut answers = each_call(&client, "nobody").await;
    answers.push(("DeleteVm", client.delete("nobody", false).await.map(drop)));
    answers.push(("DeleteVm", client.delete("nobody", true).await.map(drop)));
    answers.push(("StartVm", client.start("nobody", false).await.map(drop)));
    answers.push(("Console", client.console("nobody", false).await.map(drop)));
    for (call, answer) in answers {
        let refusal = refusal(answer);
        assert_eq!(refusal.code, Code::NotFound, "{call}");
        assert_eq!(refusal.reason, "VM_NOT_FOUND", "{call}");
        assert_eq!(refusal.metadata["name"], "nobody", "{call}");
        assert_eq!(refusal.message, "there is no machine called 'nobody'");
    }
    // Nothing was made and nothing happened.
    let list = client.list().await.unwrap();
    assert_eq!((list.vms, list.seq), (vec![], 0));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn errors_carry_the_domain() {
    use tonic_types::StatusExt;
    let daemon = Daemon::start().await;
    let mut service = daemon.raw_client().await;
    let get = v1::GetVmRequest { name: "a".into() };
    let status = service.get_vm(get).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.domain.as_str(), info.reason.as_str()),
        ("vmd", "VM_NOT_FOUND")
    );
    let status = service.create_vm(request("A")).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(
        (info.domain.as_str(), info.reason.as_str()),
        ("vmd", "INVALID_FIELD")
    );
    let bad = status.get_details_bad_request().unwrap();
    assert_eq!(bad.field_violations[0].field, "name");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_ended_machine_keeps_its_record_and_takes_no_commands() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest("a").await;
    let before = guest.client.get("a").await.unwrap();
    guest.letter("O").await;
    guest.events.expect(&["SHUTDOWN", "ENDED"]).await;
    let vm = guest.client.get("a").await.unwrap();
    assert_eq!(
        (&vm.id, &vm.definition, &vm.create_time),
        (&before.id, &before.definition, &before.create_time)
    );
    let status = vm.status.clone().unwrap();
    assert_eq!(status.phase(), v1::VmPhase::Ended);
    assert_eq!(status.state(), v1::RunState::Shutdown);
    assert!(!status.running);
    assert_eq!((status.seq, status.vm_seq), (guest.events.last_seq, 4));
    let end = status.end.unwrap();
    assert_eq!(end.kind(), v1::vm_end::Kind::Shutdown);
    assert_eq!(end.cause(), v1::ShutdownCause::GuestShutdown);
    assert_eq!((end.exit_status, end.failure.as_str()), (0, ""));
    assert!(end.time.is_some());

    for (call, answer) in each_call(&guest.client, "a").await {
        if matches!(call, "GetVm" | "Quit") {
            answer.unwrap();
            continue;
        }
        let refusal = refusal(answer);
        assert_eq!(refusal.code, Code::FailedPrecondition, "{call}");
        assert_eq!(refusal.reason, "VM_ENDED", "{call}");
        assert_eq!(refusal.metadata["name"], "a", "{call}");
    }
    assert_eq!(
        guest.client.get("a").await.unwrap(),
        vm,
        "nothing has changed"
    );
    guest.is("ended").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn an_ended_machine_is_started_anew_from_its_definition() {
    let daemon = Daemon::start().await;
    let mut guest = daemon.guest_with("a", "panic=exit-failure").await;
    let first = guest.client.get("a").await.unwrap();
    let live = refusal(guest.client.start("a", false).await);
    assert_eq!(
        (live.code, live.reason.as_str()),
        (Code::FailedPrecondition, "VM_NOT_ENDED")
    );
    // What was set later is not part of the definition.
    guest
        .client
        .set_action("a", actions("reboot=shutdown"))
        .await
        .unwrap();
    guest
        .types("P", &["GUEST_PANICKED", "SHUTDOWN", "ENDED exit_status=1"])
        .await;
    guest.console.expect_end().await;

    let events = &["STARTED -> prelaunch", "RESUME -> running"];
    let reply = guest
        .serves(async |client, name| client.start(name, false).await, events)
        .await;
    let status = reply.status.unwrap();
    assert!(status.running && status.end.is_none());
    assert_eq!(status.actions, first.definition.as_ref().unwrap().actions);
    let again = guest.client.get("a").await.unwrap();
    assert_eq!(
        (&again.id, &again.definition),
        (&first.id, &first.definition)
    );
    let mut serial = ConsoleReader::new(console(&guest.client, "a").await);
    serial.expect("!").await;
    let reset = guest.client.system_reset("a").await.unwrap();
    serial.expect("!").await;
    guest.events.expect(&["RESET -> running"]).await;
    assert_eq!(guest.events.last_seq, reset.seq);

    guest
        .serves(Client::quit, &["SHUTDOWN", "ENDED exit_status=0"])
        .await;
    serial.expect_end().await;
    let events = &["STARTED -> prelaunch"];
    guest
        .serves(async |client, name| client.start(name, true).await, events)
        .await;
    guest.is("prelaunch").await;
    guest.serves(Client::cont, &["RESUME -> running"]).await;
    let mut serial = ConsoleReader::new(console(&guest.client, "a").await);
    serial.expect("!").await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_replys_number_is_where_watching_goes_on() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let created = client.create(request("a")).await.unwrap();
    let stopped = client.stop("a").await.unwrap();
    let again = client.stop("a").await.unwrap();
    assert_eq!(again.seq, stopped.seq, "nothing new: the last event");
    let mut events = EventReader::new(&client, created.seq, "").await;
    events.expect(&["STOP -> paused"]).await;
    assert_eq!(events.last_seq, stopped.seq);
    let mut later = EventReader::new(&client, again.seq, "").await;
    let resumed = client.cont("a").await.unwrap();
    later.expect(&["RESUME -> running"]).await;
    assert_eq!(later.last_seq, resumed.seq);
    let deleted = client.delete("a", true).await.unwrap();
    later.expect(&["SHUTDOWN", "ENDED", "DELETED"]).await;
    assert_eq!(later.last_seq, deleted);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_have_up_to_64_vcpus() {
    let daemon = Daemon::start().await;
    for vcpus in [4, 64] {
        let name = format!("vm{vcpus}");
        let create = v1::CreateVmRequest {
            definition: Some(v1::VmDefinition {
                vcpus: Some(vcpus),
                ..Default::default()
            }),
            ..request(&name)
        };
        let mut guest = daemon.guest_of(create).await;
        let reset = "RESET guest=true reason=guest-reset -> running";
        guest.types("R", &[reset]).await;
        guest.console.expect("!").await;
        guest.serves(Client::stop, &["STOP -> paused"]).await;
        guest.serves(Client::inject_nmi, &[]).await;
        guest.serves(Client::cont, &["RESUME -> running"]).await;
        guest.is_alive().await;
        guest.serves(Client::quit, &["SHUTDOWN", "ENDED"]).await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn firmware_ends_at_4_gib_and_below_1_mib() {
    let daemon = Daemon::start().await;
    let probe = vmm::probe::image();
    let filler = |size: usize| vec![0xcc; size];
    for (name, image) in [
        ("as-it-is", probe.to_vec()),
        (
            "at-the-end-of-128k",
            [filler(64 << 10), probe.to_vec()].concat(),
        ),
        (
            "at-the-end-of-192k",
            [filler(128 << 10), probe.to_vec()].concat(),
        ),
        (
            "at-the-end-of-16m",
            [filler((16 << 20) - probe.len()), probe.to_vec()].concat(),
        ),
    ] {
        let mut guest = daemon.guest_of(with_firmware(&daemon, name, &image)).await;
        let reset = "RESET guest=true reason=guest-reset -> running";
        guest.types("T", &[reset]).await;
        guest.console.expect("!").await;
        guest.is("running").await;
    }
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn reset_and_wake_up_keep_the_memory_and_a_new_start_does_not() {
    let daemon = Daemon::start().await;
    let create = with_firmware(&daemon, "a", &rom(COUNTING_GUEST));
    let client = daemon.client().await;
    client.create(create).await.unwrap();
    let mut events = EventReader::new(&client, 0, "a").await;
    let mut serial = ConsoleReader::new(console(&client, "a").await);
    serial.expect("1").await;
    events.expect(&["CREATED", "RESUME", "SUSPEND"]).await;
    client.system_wakeup("a").await.unwrap();
    serial.expect("2").await;
    client.system_reset("a").await.unwrap();
    serial.expect("3").await;
    client.stop("a").await.unwrap();
    client.system_reset("a").await.unwrap();
    client.cont("a").await.unwrap();
    serial.expect("4").await;
    client.quit("a").await.unwrap();
    client.start("a", false).await.unwrap();
    let mut serial = ConsoleReader::new(console(&client, "a").await);
    serial.expect("1").await;
}
