//! Who may do what: users on the Unix socket, the paths they name, the audit trail, and the reload of all that.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Output, Stdio},
};

use nix::{
    sys::{signal::Signal, stat::stat},
    unistd::geteuid,
};
use tonic::Code;
use vmctl::v1::{self, event::Kind};
use vmd_tests::{Daemon, binary, in_thread, refusal, request, soon};

const CONFIG: &str = r#"
[[listen]]
address = "unix:DIR/vmd.sock"
mode = "0666"
group = 4100

[roles.viewer]
users = [4001]

[roles.operator]
groups = [4100]

[roles.admin]
users = [4003]

[paths]
roots = ["DIR/root"]
"#;

/// Who runs a vmctl: user and group.
type Who = (u32, u32);

const VIEWER: Who = (4001, 4001);
const OPERATOR: Who = (4002, 4100);
const ADMIN: Who = (4003, 4003);
const NOBODY: Who = (4004, 4004);

/// A daemon with that configuration; `None` without the right to become others.
async fn start() -> Option<Daemon> {
    if !geteuid().is_root() {
        eprintln!("skipped: it needs root, to become other users");
        return None;
    }
    let daemon =
        Daemon::start_configured(&CONFIG.replace("[paths]\nroots = [\"DIR/root\"]\n", "")).await;
    fs::create_dir(daemon.path("root")).unwrap();
    fs::set_permissions(daemon.path("root"), Permissions::from_mode(0o777)).unwrap();
    daemon.configure(CONFIG);
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 1).await;
    // Where the tests are built others may have no business.
    fs::copy(binary("vmctl"), daemon.path("vmctl")).unwrap();
    Some(daemon)
}

async fn vmctl(daemon: &Daemon, (user, group): Who, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user.to_string(), "--regid", &group.to_string()])
        .arg("--clear-groups")
        .arg(daemon.path("vmctl"))
        // From where it is: others may have no business in the directories above.
        .args(["--server", "unix:vmd.sock"])
        .args(arguments)
        .current_dir(daemon.path("."))
        .stdin(Stdio::null());
    soon("vmctl", in_thread(move || command.output()))
        .await
        .unwrap()
}

async fn may(daemon: &Daemon, who: Who, arguments: &[&str]) {
    let output = vmctl(daemon, who, arguments).await;
    assert!(output.status.success(), "{who:?} {arguments:?}: {output:?}");
}

/// It says `why`.
async fn may_not(daemon: &Daemon, who: Who, arguments: &[&str], why: &str) {
    let output = vmctl(daemon, who, arguments).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{who:?} {arguments:?}: {text}"
    );
    assert!(text.contains(why), "{who:?} {arguments:?}: {text}");
}

/// What the trail has, shortly.
async fn trail(daemon: &Daemon) -> Vec<String> {
    let client = daemon.client().await;
    let mut trail = client.watch_audit(0, None, true).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = soon("the trail", trail.next()).await.unwrap() {
        assert_eq!(event.seq, seen.len() as u64 + 1, "no holes");
        let Some(Kind::Audit(audit)) = event.kind else {
            unreachable!("{event:?}");
        };
        let caller = audit.caller.unwrap();
        assert!(caller.pid.is_some() && caller.gid.is_some());
        let (method, uid, name) = (audit.method, caller.uid.unwrap(), event.vm_name);
        let code = Code::from(audit.code);
        seen.push(format!("{uid} {} {method} {name} {code:?}", caller.role));
    }
    seen
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn each_user_may_do_what_its_role_allows() {
    let Some(daemon) = start().await else { return };
    let socket = stat(&daemon.path("vmd.sock")).unwrap();
    assert_eq!((socket.st_mode & 0o777, socket.st_gid), (0o666, 4100));

    may(&daemon, ADMIN, &["create", "a", "--memory", "1M"]).await;
    let needs = "Stop needs role operator";
    may(&daemon, VIEWER, &["ls"]).await;
    may(&daemon, VIEWER, &["events"]).await;
    may_not(&daemon, VIEWER, &["stop", "a"], needs).await;
    may_not(
        &daemon,
        VIEWER,
        &["console", "a"],
        "Console needs role operator",
    )
    .await;
    may(&daemon, OPERATOR, &["status", "a"]).await;
    may(&daemon, OPERATOR, &["stop", "a"]).await;
    may(&daemon, OPERATOR, &["quit", "a"]).await;
    may(&daemon, OPERATOR, &["start", "a"]).await;
    let why = "DeleteVm needs role admin";
    may_not(&daemon, OPERATOR, &["rm", "--force", "a"], why).await;
    may_not(&daemon, NOBODY, &["ls"], "ListVms needs role viewer").await;
    may_not(&daemon, ADMIN, &["stop", "none"], "none").await;
    may(&daemon, ADMIN, &["rm", "--force", "a"]).await;

    let trail = trail(&daemon).await;
    assert_eq!(
        trail,
        [
            "4003 admin CreateVm a Ok",
            "4001 viewer Stop a PermissionDenied",
            "4001 viewer Console a PermissionDenied",
            "4002 operator Stop a Ok",
            "4002 operator Quit a Ok",
            "4002 operator StartVm a Ok",
            "4002 operator DeleteVm a PermissionDenied",
            "4003 admin Stop none NotFound",
            "4003 admin DeleteVm a Ok",
        ]
    );
    // The machines' own events have no holes, and none of that.
    let client = daemon.client().await;
    let mut events = client.watch_events(0, None, true).await.unwrap();
    let mut seq = 0;
    while let Some(event) = events.next().await.unwrap() {
        seq += 1;
        assert_eq!(event.seq, seq);
        assert!(!matches!(event.kind, Some(Kind::Audit(_))));
    }
    assert!(seq > 0);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn refusals_have_code_reason_and_role_and_the_trail_is_for_admins() {
    // Over TCP nobody is known.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listen = |role: &str| {
        format!(
            "[[listen]]\naddress = \"unix:DIR/vmd.sock\"\n[[listen]]\naddress = \"http://{address}\"\n\
             plaintext_role = \"{role}\"\n"
        )
    };
    let daemon = Daemon::start_configured(&listen("viewer")).await;
    let endpoint: vmctl::Endpoint = format!("http://{address}").parse().unwrap();
    let client = soon("TCP", vmctl::Client::connect(&endpoint))
        .await
        .unwrap();
    client.list().await.unwrap();
    let refused = refusal(client.create(request("a")).await);
    assert_eq!(
        (
            refused.code,
            refused.reason.as_str(),
            refused.metadata["role"].as_str()
        ),
        (Code::PermissionDenied, "ACCESS_DENIED", "admin")
    );
    let refused = refusal(client.watch_audit(0, None, true).await);
    assert_eq!(refused.code, Code::PermissionDenied);
    drop(daemon);

    let daemon = Daemon::start_configured(&listen("none")).await;
    let client = vmctl::Client::connect(&endpoint);
    let refused = refusal(soon("TCP", client).await.unwrap().list().await);
    assert_eq!(refused.code, Code::Unauthenticated);
    // Health is for everybody.
    let mut health = tonic_health::pb::health_client::HealthClient::new(daemon.channel().await);
    health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn paths_lead_nowhere_but_into_the_roots() {
    let Some(daemon) = start().await else { return };
    let path = |name: &str| daemon.path(name).display().to_string();
    for file in ["root/disk", "outside"] {
        File::create(daemon.path(file))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
    }
    symlink("disk", daemon.path("root/link")).unwrap();
    symlink("../outside", daemon.path("root/out")).unwrap();
    symlink(daemon.path("outside"), daemon.path("root/absolute")).unwrap();
    symlink("..", daemon.path("root/up")).unwrap();
    let create = |option: &str, value: &str| {
        ["create", "a", "--memory", "1M", option, value].map(str::to_owned)
    };
    for (option, value) in [
        ("--disk", path("outside")),
        ("--disk", path("root/out")),
        ("--disk", path("root/absolute")),
        ("--disk", path("root/../outside")),
        ("--disk", "/proc/self/root/etc/passwd".to_owned()),
        ("--firmware", path("root/out")),
        ("--kernel", path("root/up/outside")),
        ("--cpu-template", "/etc/passwd".to_owned()),
        ("--serial", format!("unix:{}", path("root/up/socket"))),
        ("--qmp", path("socket")),
        ("--vsock", format!("cid=3,path={}", path("root/up/socket"))),
        ("--console-port", format!("name=p,path={}", path("socket"))),
        ("--net", format!("passt={}", path("root/out"))),
    ] {
        let arguments = create(option, &value);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let output = vmctl(&daemon, ADMIN, &arguments).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        let denied = text.contains("leads out of") || text.contains("is not below a directory");
        assert!(denied, "{arguments:?}: {text}");
    }
    assert!(!daemon.path("socket").exists());
    let client = daemon.client().await;
    assert!(client.list().await.unwrap().vms.is_empty());

    // What is below is used, and again after its end; sockets go with the machine.
    let (disk, serial) = (path("root/link"), format!("unix:{}", path("root/serial")));
    let (qmp, vsock) = (
        path("root/qmp"),
        format!("cid=3,path={}", path("root/vsock")),
    );
    let good = [
        "create", "a", "--memory", "1M", "--disk", &disk, "--serial", &serial, "--qmp", &qmp,
        "--vsock", &vsock,
    ];
    may(&daemon, ADMIN, &good).await;
    for socket in ["root/serial", "root/qmp", "root/vsock"] {
        assert!(daemon.path(socket).exists(), "{socket}");
    }
    may(&daemon, OPERATOR, &["quit", "a"]).await;
    client.wait_until_ended("a").await.unwrap();
    fs::remove_file(daemon.path("root/link")).unwrap();
    symlink("../outside", daemon.path("root/link")).unwrap();
    may_not(&daemon, OPERATOR, &["start", "a"], "leads out of").await;
    fs::remove_file(daemon.path("root/link")).unwrap();
    symlink("disk", daemon.path("root/link")).unwrap();
    may(&daemon, OPERATOR, &["start", "a"]).await;
    may(&daemon, ADMIN, &["rm", "--force", "a"]).await;

    // The daemon's own user may name anything, and whoever may start it starts that.
    let mut own = request("b");
    own.definition.get_or_insert_default().disks = vec![v1::Disk {
        path: path("outside"),
        ..Default::default()
    }];
    client.create(own).await.unwrap();
    may(&daemon, OPERATOR, &["quit", "b"]).await;
    client.wait_until_ended("b").await.unwrap();
    may(&daemon, OPERATOR, &["start", "b"]).await;
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_request_id_is_its_callers_own() {
    let Some(daemon) = start().await else { return };
    let create = ["create", "a", "--memory", "1M", "--paused"];
    may(
        &daemon,
        ADMIN,
        &[&["--request-id", "one"], &create[..]].concat(),
    )
    .await;
    // Another call with the same id is refused to the same caller alone.
    let cont = ["--request-id", "one", "cont", "a"];
    may_not(&daemon, ADMIN, &cont, "request_id").await;
    may(&daemon, OPERATOR, &cont).await;
    may(&daemon, OPERATOR, &["stop", "a"]).await;
    let state = async || {
        let client = daemon.client().await;
        client.get("a").await.unwrap().status.unwrap().state()
    };
    // A repeat changes nothing; the same call of another caller is served.
    may(&daemon, OPERATOR, &cont).await;
    assert_eq!(state().await, v1::RunState::Paused);
    let client = daemon.client().await.with_request_id("one");
    soon("cont", client.cont("a")).await.unwrap();
    assert_eq!(state().await, v1::RunState::Running);
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn a_reload_changes_what_it_can_and_a_bad_file_changes_nothing() {
    let Some(daemon) = start().await else { return };
    may(&daemon, VIEWER, &["ls"]).await;

    daemon.configure(&CONFIG.replace("[roles.viewer]", "[roles.viewr]"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration not reloaded", 1).await;
    let log = daemon.log();
    assert!(
        log.contains("vmd.toml:7: roles.viewr: unknown field `viewr`"),
        "{log}"
    );
    may(&daemon, VIEWER, &["ls"]).await;

    let other = CONFIG.replace("4001", "4004").replace("0666", "0600");
    daemon.configure(&(other + "[log]\nfilter = \"debug\"\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.logged("configuration reloaded", 2).await;
    let log = daemon.log();
    assert!(log.contains("needs a restart of the daemon"), "{log}");
    assert!(log.contains("roles, log.filter"), "{log}");
    may(&daemon, NOBODY, &["ls"]).await;
    may_not(&daemon, VIEWER, &["ls"], "ListVms needs role viewer").await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended().await.0.code(), Some(0));
}

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn without_a_configuration_file_a_hangup_is_the_end() {
    let daemon = Daemon::start().await;
    daemon.signal(Signal::SIGHUP);
    assert_eq!(daemon.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_configuration_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vmd.toml");
    let check = async |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(binary("vmd"));
        command.args(["config", "check"]).arg(&file);
        let output = soon("vmd", in_thread(move || command.output()))
            .await
            .unwrap();
        let text =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            text.replace(&file.display().to_string(), "FILE"),
        )
    };
    assert_eq!(
        check("[events]\nkept = 3\n").await,
        (Some(0), "FILE: OK\n".to_owned())
    );
    let (code, text) = check("[events]\nkeep = 3\n").await;
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("vmd: FILE:2: events.keep: unknown field `keep`"),
        "{text}"
    );
    let (code, text) = check("[paths]\nroots = [\"/no/such/place\"]\n").await;
    assert_eq!(code, Some(1));
    assert!(text.contains("paths.roots: /no/such/place: "), "{text}");
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_and_good() {
    let directory = tempfile::tempdir().unwrap();
    let vmd = async |arguments: &[&str]| {
        let mut command = Command::new(binary("vmd"));
        command
            .arg("config")
            .args(arguments)
            .env_remove("VMD_LISTEN")
            .env("VMD_LOG", "debug");
        let output = soon("vmd", in_thread(move || command.output()))
            .await
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (file, all) = (path("vmd.toml"), path("all.toml"));
    fs::write(&file, "[events]\nkept = 3\n[shutdown]\ngrace_seconds = 7\n").unwrap();
    let options = ["--listen", "unix:/s", "--grace", "8"];
    let shown = vmd(&[&["show", file.as_str()], &options[..]].concat()).await;
    for line in [
        "[[listen]]\naddress = \"unix:/s\"\nmode = \"0600\"\n",
        "kept = 3\n",
        "grace_seconds = 8\npress_interval_seconds = 5\n",
        "filter = \"debug\"\n",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    fs::write(&all, &shown).unwrap();
    assert_eq!(vmd(&["check", &all]).await, format!("{all}: OK\n"));
    assert_eq!(vmd(&["show", &all]).await, shown);
}
