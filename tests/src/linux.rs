//! The Linux guest, from the recipe in `deploy/guest/`.

mod host;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

pub use self::host::{LINUX_DEADLINE, LinuxHost};
use crate::in_thread;

/// What the recipe makes.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    /// The kernel as an ELF file with a PVH entry point: what boots fastest.
    pub vmlinux: PathBuf,
    /// The same kernel for the Linux boot protocol.
    pub bzimage: PathBuf,
    /// An init that acts on `act=verb,...` of the kernel's command line (`deploy/guest/README.md`).
    pub initramfs: PathBuf,
    /// A shell on the console.
    pub initramfs_busybox: PathBuf,
}

/// The Linux guest as this checkout has it. It is built if it was not, which takes minutes and has no deadline for that
/// reason; what was built once is found at once.
pub async fn linux_guest() -> LinuxGuest {
    // The test fails, and not the thread, so that its message is the script's output.
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = in_thread(|| BUILT.get_or_init(build)).await;
    match built {
        Ok(directory) => LinuxGuest {
            vmlinux: directory.join("vmlinux"),
            bzimage: directory.join("bzImage"),
            initramfs: directory.join("initramfs.cpio"),
            initramfs_busybox: directory.join("initramfs-busybox.cpio"),
        },
        Err(output) => panic!("no Linux guest: {output}"),
    }
}

/// The recipe's script `name`, to be run.
pub fn recipe(name: &str) -> Command {
    let mut script = Command::new(repository().join("deploy/guest").join(name));
    script.stdin(Stdio::null());
    script
}

fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// It is run in any case: with a recipe that has changed since, another guest is built.
fn build() -> Result<PathBuf, String> {
    let directory = repository().join("target/guest");
    match recipe("build.sh").arg(&directory).output() {
        Ok(Output { status, .. }) if status.success() => Ok(directory),
        Ok(output) => Err(format!(
            "build.sh: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        )),
        Err(error) => Err(format!("build.sh: {error}")),
    }
}
