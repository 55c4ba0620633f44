//! The door is driven by a client that nobody here wrote: QEMU's own Python library, `qemu.qmp`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::fcntl::{Flock, FlockArg};
use vmctl::v1;
use vmd_tests::{Daemon, binary, in_thread, soon};

/// What is installed. The version is a part of the marker: another one is installed anew.
const PACKAGE: &str = "qemu.qmp==0.0.6";

#[tokio::test]
#[cfg_attr(no_kvm, ignore = "needs /dev/kvm")]
async fn qemus_python_library_drives_a_machine() {
    // Installing takes as long as the package index does.
    let python = in_thread(environment).await;
    let daemon = Daemon::start().await;
    let socket = daemon.path("qmp");
    let mut guest = daemon
        .guest_of(v1::CreateVmRequest {
            name: "a".to_owned(),
            definition: Some(v1::VmDefinition {
                qmp_socket: socket.to_str().unwrap().to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("qmp/drive.py");
    let driven = in_thread(move || {
        let mut command = Command::new(python);
        command.arg(script).arg(socket).output().unwrap()
    });
    let output = soon("drive.py", driven).await;
    assert!(output.status.success(), "drive.py: {}", text(&output));
    guest
        .events
        .expect(&["STOP", "RESUME", "RESET", "POWERDOWN", "SHUTDOWN", "ENDED"])
        .await;
}

/// The Python of a virtual environment under `target/` that has the package. Made once.
fn environment() -> PathBuf {
    let binary = binary("vmd");
    let target = binary.parent().and_then(Path::parent).unwrap();
    let directory = target.join("qmp-venv");
    let python = directory.join("bin/python");
    let marker = directory.join("installed");
    // Other test runs may be about the same.
    let lock = File::create(target.join("qmp-venv.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == PACKAGE) {
        return python;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&directory);
    succeed(&mut make);
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    succeed(install.arg(PACKAGE));
    fs::write(marker, PACKAGE).unwrap();
    python
}

fn succeed(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; it is needed to install {PACKAGE}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
