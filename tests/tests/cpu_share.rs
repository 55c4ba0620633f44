//! CPU weights and limits: cgroups of vCPUs' threads, on hosts that have them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use tempfile::tempdir;
use vmctl::{Client, v1};
use vmd::cpu_control::Hierarchy;
use vmd_tests::{Daemon, binary, refusal, request, soon};

/// A cgroup for daemons, as a service manager makes one; it goes when this is dropped, after they have ended.
struct Slice(PathBuf);

impl Slice {
    /// `None` where there can be none: then there is nothing to be tested.
    fn new(name: &str) -> Option<Self> {
        let own = Hierarchy::find().map(|found| found.directory().to_owned());
        let slice = own.map(|own| own.join(format!("test-{}-{name}", std::process::id())));
        let slice = slice
            .filter(|slice| fs::create_dir(slice).is_ok())
            .map(Self);
        if slice.is_none() {
            eprintln!("skipped: cgroups with the controller cpu cannot be made here");
        }
        slice
    }

    async fn start(&self) -> Daemon {
        self.start_with(&[]).await
    }

    async fn start_with(&self, arguments: &[&str]) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]);
        command.arg(&self.0).arg(binary("vmd")).stdin(Stdio::null());
        Daemon::start_as(command, arguments).await
    }

    /// The groups of machines.
    fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        let groups = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        groups.map(|entry| entry.path()).collect()
    }

    fn group(&self) -> PathBuf {
        let [group] = &self.groups()[..] else {
            unreachable!("{:?}", self.groups());
        };
        group.clone()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        for group in self.groups() {
            let _ = fs::remove_dir(group);
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

fn read(group: &Path, file: &str) -> String {
    let text = fs::read_to_string(group.join(file)).unwrap();
    text.trim().to_owned()
}

/// Weight and limit, as the kernel has them: in version 1 shares and quota, in version 2 as they are written.
fn share(group: &Path) -> (String, String) {
    if group.join("cpu.shares").exists() {
        (read(group, "cpu.shares"), read(group, "cpu.cfs_quota_us"))
    } else {
        (read(group, "cpu.weight"), read(group, "cpu.max"))
    }
}

fn is_either(share: &(String, String), first: (&str, &str), second: (&str, &str)) {
    let share = (&*share.0, &*share.1);
    assert!(share == first || share == second, "{share:?}");
}

fn with_share(name: &str, weight: Option<u32>, limit: Option<u32>) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        definition: Some(v1::VmDefinition {
            memory_bytes: Some(16 << 20),
            vcpus: Some(2),
            cpu_weight: weight,
            cpu_limit_millis: limit,
            ..Default::default()
        }),
        ..request(name)
    }
}

/// Changes what of the share is given, and nothing else.
async fn change(client: &Client, weight: Option<u32>, limit: Option<Option<u32>>) {
    let mut mask = Vec::new();
    mask.extend(weight.map(|_| "definition.cpu_weight".to_owned()));
    mask.extend(limit.map(|_| "definition.cpu_limit_millis".to_owned()));
    let request = v1::UpdateVmRequest {
        name: "a".to_owned(),
        update_mask: mask,
        definition: Some(v1::VmDefinition {
            cpu_weight: weight,
            cpu_limit_millis: limit.flatten(),
            ..Default::default()
        }),
        ..Default::default()
    };
    soon("update", client.update(request)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_share_holds_while_the_machine_is_live() {
    let Some(slice) = Slice::new("holds") else {
        return;
    };
    let daemon = slice.start().await;
    let client = daemon.client().await;
    let mut guest = daemon.guest_of(with_share("a", Some(50), Some(1500))).await;
    let _plain = daemon.guest("plain").await;
    let group = &slice.group();
    is_either(&share(group), ("512", "150000"), ("50", "150000 100000"));
    let tasks = ["tasks", "cgroup.threads"].map(|file| group.join(file));
    let tasks = tasks.iter().find(|file| file.exists()).unwrap();
    let threads = fs::read_to_string(tasks).unwrap();
    let names: Vec<_> = threads
        .lines()
        .map(|thread| {
            let comm = format!("/proc/{}/task/{thread}/comm", daemon.pid());
            fs::read_to_string(comm).unwrap().trim().to_owned()
        })
        .collect();
    // A thread of KVM's own, which it makes for the first vCPU, may be with them.
    assert_eq!(names[..2], ["vcpu0:a", "vcpu1:a"]);
    assert!(names[2..].iter().all(|name| name.starts_with("kvm-")));

    // Changes are in force when they are answered.
    change(&client, Some(200), None).await;
    is_either(&share(group), ("2048", "150000"), ("200", "150000 100000"));
    change(&client, None, Some(None)).await;
    is_either(&share(group), ("2048", "-1"), ("200", "max 100000"));
    let vm = client.get("a").await.unwrap();
    let definition = vm.definition.unwrap();
    assert_eq!(
        (definition.cpu_weight, definition.cpu_limit_millis),
        (Some(200), None)
    );
    guest.is_alive().await;

    // The group goes with the guest, and is there again with the next.
    soon("quit", client.quit("a")).await.unwrap();
    let gone = daemon.settle("the group", |_| slice.groups().is_empty());
    gone.await;
    soon("start", client.start("a", false)).await.unwrap();
    is_either(
        &share(&slice.group()),
        ("2048", "-1"),
        ("200", "max 100000"),
    );
    daemon.terminated().await;
    assert!(slice.groups().is_empty(), "{:?}", slice.groups());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_machine_without_a_share_can_be_given_one_and_a_dead_daemons_groups_go() {
    let Some(slice) = Slice::new("given") else {
        return;
    };
    let daemon = slice.start().await;
    let client = daemon.client().await;
    let guest = daemon.guest("a").await;
    assert!(slice.groups().is_empty());
    change(&client, None, Some(Some(250))).await;
    let group = slice.group();
    is_either(&share(&group), ("1024", "25000"), ("100", "25000 100000"));
    drop(guest);
    daemon.killed().await;
    assert!(group.exists());
    let next = slice.start().await;
    next.client().await.list().await.unwrap();
    assert!(!group.exists(), "{}", group.display());
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_change_that_cannot_be_made_changes_nothing() {
    let Some(slice) = Slice::new("fails") else {
        return;
    };
    let directory = tempdir().unwrap();
    let config = directory.path().join("vmd.toml");
    fs::write(
        &config,
        "[[limits.quota]]\nlabel = \"team\"\nmachines = 1\n",
    )
    .unwrap();
    let daemon = slice
        .start_with(&["--config", config.to_str().unwrap()])
        .await;
    let client = daemon.client().await;
    let team = |team: &str| [("team".to_owned(), team.to_owned())].into();
    let of_team = |name: &str, of: &str| v1::CreateVmRequest {
        labels: team(of),
        ..with_share(name, Some(50), None)
    };
    soon("create", client.create(of_team("a", "red")))
        .await
        .unwrap();

    // Somebody takes its group away.
    let group = slice.group();
    let file = |of: &Path| {
        let files = ["tasks", "cgroup.threads"].map(|file| of.join(file));
        files.into_iter().find(|file| file.exists()).unwrap()
    };
    for thread in fs::read_to_string(file(&group)).unwrap().lines() {
        // Such as one of KVM's own, which belongs to another process.
        let _ = fs::write(file(&slice.0), thread);
    }
    fs::remove_dir(&group).unwrap();
    let request = v1::UpdateVmRequest {
        name: "a".to_owned(),
        update_mask: vec!["labels".to_owned(), "definition.cpu_weight".to_owned()],
        labels: team("blue"),
        definition: Some(v1::VmDefinition {
            cpu_weight: Some(500),
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = refusal(soon("update", client.update(request)).await);
    assert_eq!(refused.reason, "CPU_CONTROL_UNAVAILABLE");
    let vm = client.get("a").await.unwrap();
    assert_eq!(vm.labels, team("red"));
    assert_eq!(vm.definition.unwrap().cpu_weight, Some(50));
    // Nor is it counted otherwise.
    let red = refusal(soon("create", client.create(of_team("b", "red"))).await);
    assert_eq!(red.reason, "QUOTA_EXCEEDED");
    soon("create", client.create(of_team("b", "blue")))
        .await
        .unwrap();
}

/// The processor time of the thread of this name, in ticks of 10 ms.
fn ticks(daemon: &Daemon, name: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let threads = threads.map(|entry| entry.unwrap().path());
    let is_it = |thread: &PathBuf| read(thread, "comm") == name;
    let thread = threads
        .filter(|thread| thread.exists())
        .find(is_it)
        .unwrap();
    let stat = read(&thread, "stat");
    // After the name, in parentheses: state, ..., utime (12th), stime (13th).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// A guest that computes gets what it may have, and no more.
#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_limit_limits() {
    let Some(slice) = Slice::new("limits") else {
        return;
    };
    let daemon = slice.start().await;
    // Two seconds of its watchdog are the unit of time.
    let mut clock = daemon.guest_with("clock", "watchdog=none").await;
    let mut image = vec![0; 64 << 10];
    // At the reset vector: jmp $.
    image[0xfff0..0xfff2].copy_from_slice(&[0xeb, 0xfe]);
    let firmware = daemon.path("busy");
    fs::write(&firmware, image).unwrap();
    let mut busy = with_share("busy", None, Some(100));
    let definition = busy.definition.as_mut().unwrap();
    definition.firmware = firmware.to_str().unwrap().to_owned();
    definition.vcpus = Some(1);
    soon("create", daemon.client().await.create(busy))
        .await
        .unwrap();
    let (began, before) = (Instant::now(), ticks(&daemon, "vcpu0:busy"));
    clock.letter("W").await;
    clock.events.expect(&["WATCHDOG action=none"]).await;
    let used = ticks(&daemon, "vcpu0:busy") - before;
    let part = used as f64 / 100.0 / began.elapsed().as_secs_f64();
    // A tenth; without a limit it would be nearer to all of a CPU.
    assert!((0.02..0.25).contains(&part), "{part} of a CPU");
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_share_that_cannot_be_is_refused() {
    let daemon = Daemon::start().await;
    let client = daemon.client().await;
    for (request, field, says) in [
        (
            with_share("a", Some(0), None),
            "definition.cpu_weight",
            "0: a weight is from 1 to 10000",
        ),
        (
            with_share("a", Some(10_001), None),
            "definition.cpu_weight",
            "10001: a weight is from 1 to 10000",
        ),
        (
            with_share("a", None, Some(9)),
            "definition.cpu_limit_millis",
            "9: a limit is from 10 to 1000000 thousandths of a CPU",
        ),
    ] {
        let refused = refusal(soon("create", client.create(request)).await);
        assert_eq!(refused.reason, "INVALID_FIELD");
        assert_eq!(refused.violations[0].field, field);
        assert_eq!(refused.violations[0].description, says);
    }
}
