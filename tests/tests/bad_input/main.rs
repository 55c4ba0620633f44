//! What clients get wrong: each mistake has its own answer, names the field, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::panic)]

mod disks;
mod kernels;
mod nets;
mod sockets;

use std::{collections::BTreeSet, fs, path::Path};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tonic::Code;
use vmctl::{Client, Error, v1};
use vmd_tests::{Daemon, Resources, soon};
use vmm::machine::Host;

const MIB: u64 = 1 << 20;

/// A request and what is wrong with it.
struct Mistake {
    what: &'static str,
    request: v1::CreateVmRequest,
    code: Code,
    reason: &'static str,
    /// The field at fault, as the answer names it; empty if it is none of the request's.
    field: &'static str,
    /// What the message says, beside the field.
    says: &'static str,
}

/// A good request.
fn good() -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        name: "new".into(),
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(MIB),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn name(what: &'static str, name: &str) -> Mistake {
    Mistake {
        what,
        request: v1::CreateVmRequest {
            name: name.to_owned(),
            ..good()
        },
        code: Code::InvalidArgument,
        reason: "INVALID_FIELD",
        field: "name",
        says: "1 to 63",
    }
}

fn definition(
    what: &'static str,
    reason: &'static str,
    field: &'static str,
    says: &'static str,
    change: impl FnOnce(&mut v1::VmDefinition),
) -> Mistake {
    let mut request = good();
    change(request.definition.as_mut().unwrap());
    Mistake {
        what,
        request,
        code: Code::InvalidArgument,
        reason,
        field,
        says,
    }
}

fn memory(bytes: u64, says: &'static str) -> Mistake {
    definition(
        "memory",
        "INVALID_FIELD",
        "definition.memory_bytes",
        says,
        |d| {
            d.memory_bytes = Some(bytes);
        },
    )
}

fn vcpus(count: u32) -> Mistake {
    definition(
        "vCPUs",
        "INVALID_FIELD",
        "definition.vcpus",
        "1 to 64",
        |d| {
            d.vcpus = Some(count);
        },
    )
}

fn firmware(what: &'static str, path: &Path, says: &'static str) -> Mistake {
    let reason = "FIRMWARE_UNUSABLE";
    definition(what, reason, "definition.firmware", says, |d| {
        d.firmware = path.to_str().unwrap().to_owned();
    })
}

fn template(what: &'static str, path: &Path, text: &str, says: &'static str) -> Mistake {
    let (reason, field) = ("CPU_TEMPLATE_UNUSABLE", "definition.cpu_template");
    if !text.is_empty() {
        fs::write(path, text).unwrap();
    }
    definition(what, reason, field, says, |d| {
        d.cpu_template = path.to_str().unwrap().to_owned();
    })
}

/// A machine of 2 vCPUs with these pins.
fn pins(what: &'static str, pins: &[(u32, &[u32])], says: &'static str) -> Mistake {
    let pins = pins.iter().map(|&(vcpu, host_cpus)| v1::CpuPin {
        vcpu,
        host_cpus: host_cpus.to_vec(),
    });
    definition(what, "INVALID_FIELD", "definition.cpu_pins", says, |d| {
        d.vcpus = Some(2);
        d.cpu_pins = pins.collect();
    })
}

fn serial(what: &'static str, path: &Path, says: &'static str) -> Mistake {
    let (reason, field) = ("SOCKET_UNUSABLE", "definition.serial_socket");
    definition(what, reason, field, says, |d| {
        d.serial_socket = path.to_str().unwrap().to_owned();
    })
}

fn action(field: &'static str, change: impl FnOnce(&mut v1::Actions)) -> Mistake {
    definition("action", "INVALID_FIELD", field, "does not accept", |d| {
        change(d.actions.insert(v1::Actions::default()));
    })
}

/// Every mistake that one can make with files in `directory`.
fn mistakes(directory: &Path) -> Vec<Mistake> {
    let path = |name: &str| directory.join(name);
    fs::write(path("empty"), "").unwrap();
    let large = fs::File::create(path("large")).unwrap();
    large.set_len(16 * MIB + 1).unwrap();
    fs::create_dir(path("directory")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    fs::write(path("file"), "precious").unwrap();
    std::os::unix::fs::symlink(path("circle"), path("circle")).unwrap();
    let long = path(&"x".repeat(120));
    let huge = fs::File::create(path("huge")).unwrap();
    huge.set_len(MIB + 1).unwrap();
    let allowed = Host::open().unwrap();
    let cpu = (0..1024).find(|&cpu| allowed.cpus().contains(cpu)).unwrap();
    let own: &[u32] = &[cpu];

    let relative = |what, field, change: fn(&mut v1::VmDefinition)| {
        definition(what, "INVALID_FIELD", field, "not an absolute path", change)
    };
    let mut mistakes = vec![
        name("empty name", ""),
        name("long name", &"x".repeat(300)),
        name("name with a slash", "a/b"),
        name("name in upper case", "Vm"),
        Mistake {
            code: Code::AlreadyExists,
            reason: "VM_EXISTS",
            says: "'taken' exists",
            ..name("taken name", "taken")
        },
        memory(0, "multiple of 4096"),
        memory(4096, "at least 1 MiB"),
        memory(4097, "multiple of 4096"),
        memory(1 << 50, "the host has"),
        vcpus(0),
        vcpus(65),
        action("definition.actions.reboot", |a| a.reboot = 77),
        action("definition.actions.shutdown", |a| a.shutdown = -1),
        action("definition.actions.panic", |a| a.panic = 77),
        action("definition.actions.watchdog", |a| a.watchdog = 77),
        firmware("missing firmware", &path("missing"), "No such file"),
        firmware("empty firmware", &path("empty"), "empty"),
        firmware("large firmware", &path("large"), "at most 16777216 bytes"),
        firmware(
            "firmware directory",
            &path("directory"),
            "not a regular file",
        ),
        firmware("firmware FIFO", &path("fifo"), "not a regular file"),
        // Root may read everything; a circle of links nobody can.
        firmware("unreadable firmware", &path("circle"), "symbolic links"),
        relative("relative firmware", "definition.firmware", |d| {
            d.firmware = "a.rom".into();
        }),
        definition(
            "CPU model",
            "INVALID_FIELD",
            "definition.cpu_model",
            "no CPU model 77",
            |d| d.cpu_model = 77,
        ),
        definition(
            "virtio transport",
            "INVALID_FIELD",
            "definition.virtio_transport",
            "no virtio transport 3",
            |d| d.virtio_transport = 3,
        ),
        template("missing template", &path("missing"), "", "No such file"),
        template("large template", &path("huge"), "", "at most 1048576"),
        template("template FIFO", &path("fifo"), "", "not a regular file"),
        template("broken", &path("t1"), "{", "EOF while parsing"),
        template(
            "unknown field",
            &path("t2"),
            r#"{"reg_modifiers": []}"#,
            "unknown field `reg_modifiers`",
        ),
        template(
            "unknown leaf",
            &path("t3"),
            r#"{"cpuid_modifiers": [{"leaf": "0x12345", "subleaf": "0", "flags": 0, "modifiers": []}]}"#,
            "cpuid_modifiers[0]: this host does not offer leaf 0x12345",
        ),
        template(
            "feature that no host has",
            &path("t4"),
            r#"{"cpuid_modifiers": [{"leaf": "1", "subleaf": "0", "flags": 0, "modifiers": [
                {"register": "ecx", "bitmap": "0b1_xxxx_xxxx_xxxx_xxxx"}]}]}"#,
            "does not offer bit 16",
        ),
        template(
            "unknown MSR",
            &path("t5"),
            r#"{"msr_modifiers": [{"addr": "0x4b564dff", "bitmap": "0b1"}]}"#,
            "MSR 0x4b564dff",
        ),
        template(
            "CPUID that KVM refuses",
            &path("t6"),
            r#"{"cpuid_modifiers": [{"leaf": "0x80000008", "subleaf": "0", "flags": 0, "modifiers": [
                {"register": "eax", "bitmap": "0b1111_1111_xxxx_xxxx"}]}]}"#,
            "KVM refuses",
        ),
        relative("relative template", "definition.cpu_template", |d| {
            d.cpu_template = "t.json".into();
        }),
        pins("vCPU that is not there", &[(2, own)], "no vCPU 2"),
        pins("vCPU pinned twice", &[(1, own), (1, own)], "named twice"),
        pins("no host CPU", &[(0, &[])], "vCPU 0 has no host CPU"),
        pins("host CPU twice", &[(0, &[cpu, cpu])], "named twice"),
        pins("unknown host CPU", &[(0, &[1023])], "no host CPU 1023"),
        pins("absurd host CPU", &[(1, &[u32::MAX])], "no host CPU"),
        serial("serial in no directory", &path("no/socket"), "No such file"),
        serial("serial on a file", &path("file"), "in use"),
        serial("serial with a long path", &long, "too long"),
        relative("relative serial", "definition.serial_socket", |d| {
            d.serial_socket = "socket".into();
        }),
    ];
    mistakes.extend(kernels::mistakes(directory));
    mistakes.extend(disks::mistakes(directory));
    mistakes.extend(nets::mistakes(directory));
    mistakes.extend(sockets::mistakes(directory));
    mistakes
}

/// Checks the answer to a mistake.
fn check(what: &str, error: &Error, code: Code, reason: &str, field: &str, says: &str) {
    let refusal = error
        .refusal()
        .unwrap_or_else(|| panic!("{what}: not refused, but {error}"));
    assert_eq!((refusal.code, &*refusal.reason), (code, reason), "{what}");
    assert!(refusal.message.contains(says), "{what}: {refusal:?}");
    let fields: Vec<_> = refusal.violations.iter().map(|v| &*v.field).collect();
    if field.is_empty() {
        assert!(fields.is_empty(), "{what}: {refusal:?}");
    } else {
        assert_eq!(fields, [field], "{what}: {refusal:?}");
        assert!(refusal.message.contains(field), "{what}: {refusal:?}");
    }
}

fn entries(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Nothing is held any more that was not `before`.
async fn nothing_left(daemon: &Daemon, what: &str, before: Resources) {
    let same = |now: &Resources| {
        (now.threads, now.descriptors, now.kvm) <= (before.threads, before.descriptors, before.kvm)
            && now.descriptors <= before.descriptors
            && now.kvm <= before.kvm
    };
    daemon.settle(what, same).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn every_mistake_in_a_creation_has_its_answer_and_leaves_nothing() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let _taken = daemon.guest("taken").await;
    let mistakes = mistakes(daemon.directory());
    let files = entries(daemon.directory());
    let before = daemon.settle("before", |_| true).await;
    let seq = client.list().await.unwrap().seq;

    for Mistake {
        what,
        request,
        code,
        reason,
        field,
        says,
    } in mistakes
    {
        let error = soon(what, client.create(request)).await.unwrap_err();
        check(what, &error, code, reason, field, says);
        assert_eq!(entries(daemon.directory()), files, "{what}");
    }

    nothing_left(&daemon, "mistakes", before).await;
    let list = client.list().await.unwrap();
    assert_eq!((list.vms.len(), list.seq), (1, seq), "no machine, no event");
    assert_eq!(fs::read_to_string(daemon.path("file")).unwrap(), "precious");
    // None of them has taken the name, and what they had right is.
    for request in [good(), kernels::good_kernel(daemon.directory())] {
        soon("create", client.create(request)).await.unwrap();
        client.delete("new", true).await.unwrap();
    }
}

/// Every call that needs a machine.
async fn every_call(client: &Client, name: &str) -> Vec<(&'static str, Result<(), Error>)> {
    vec![
        ("cont", client.cont(name).await.map(drop)),
        ("stop", client.stop(name).await.map(drop)),
        ("reset", client.system_reset(name).await.map(drop)),
        ("powerdown", client.system_powerdown(name).await.map(drop)),
        ("wakeup", client.system_wakeup(name).await.map(drop)),
        ("nmi", client.inject_nmi(name).await.map(drop)),
        (
            "set-action",
            client
                .set_action(name, v1::Actions::default())
                .await
                .map(drop),
        ),
    ]
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn machines_that_are_gone_or_have_ended_say_so() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    client.create(good()).await.unwrap();
    let unknown = v1::Actions {
        reboot: 1,
        panic: 77,
        ..Default::default()
    };
    let error = client.set_action("new", unknown).await.unwrap_err();
    let field = "actions.panic";
    check(
        "actions",
        &error,
        Code::InvalidArgument,
        "INVALID_FIELD",
        field,
        "'77'",
    );

    let early = |error: &Error, what: &str| {
        check(
            what,
            error,
            Code::FailedPrecondition,
            "VM_NOT_ENDED",
            "",
            "'new' has",
        );
    };
    early(&client.delete("new", false).await.unwrap_err(), "delete");
    early(&client.start("new", false).await.unwrap_err(), "start");

    let before = daemon.settle("live", |_| true).await;
    client.quit("new").await.unwrap();
    for (what, result) in every_call(&client, "new").await {
        let error = result.unwrap_err();
        check(
            what,
            &error,
            Code::FailedPrecondition,
            "VM_ENDED",
            "",
            "'new' has",
        );
    }
    client.quit("new").await.unwrap();
    // What it was built from may be gone when it is started again; it stays as it ended.
    client.delete("new", false).await.unwrap();

    let mut calls = every_call(&client, "new").await;
    calls.push(("quit", client.quit("new").await.map(drop)));
    calls.push(("get", client.get("new").await.map(drop)));
    calls.push(("start", client.start("new", false).await.map(drop)));
    calls.push(("delete", client.delete("new", true).await.map(drop)));
    calls.push(("console", client.console("new", false).await.map(drop)));
    for (what, result) in calls {
        let error = result.unwrap_err();
        check(what, &error, Code::NotFound, "VM_NOT_FOUND", "", "'new'");
    }
    nothing_left(&daemon, "calls", before).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_machine_whose_firmware_has_gone_stays_as_it_ended() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let image = daemon.path("image");
    fs::write(&image, vmm::probe::image()).unwrap();
    let mut request = good();
    request.definition.as_mut().unwrap().firmware = image.to_str().unwrap().to_owned();
    client.create(request).await.unwrap();
    client.quit("new").await.unwrap();
    fs::remove_file(image).unwrap();
    let error = client.start("new", false).await.unwrap_err();
    let (code, reason) = (Code::InvalidArgument, "FIRMWARE_UNUSABLE");
    check(
        "start",
        &error,
        code,
        reason,
        "definition.firmware",
        "No such file",
    );
    let status = client.get("new").await.unwrap().status.unwrap();
    assert_eq!(status.phase(), v1::VmPhase::Ended);
    client.delete("new", false).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn messages_have_a_bound() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    let before = daemon.settle("before", |_| true).await;
    let mut request = good();
    request.name = "x".repeat(5 << 20);
    // gRPC's own answer: it never gets as far as the daemon.
    let error = soon("create", client.create(request)).await.unwrap_err();
    assert_eq!(
        error.refusal().map(|refusal| refusal.code),
        Some(Code::OutOfRange),
        "{error}"
    );
    assert!(
        error.to_string().contains("message length too large"),
        "{error}"
    );
    nothing_left(&daemon, "an oversized message", before).await;
}
