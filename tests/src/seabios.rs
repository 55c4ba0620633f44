//! SeaBIOS, a firmware that nobody here wrote.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::binary;

/// The image that QEMU's machines with PCI boot, of 256 KiB.
const IMAGE: &str = "bios-256k.bin";
/// The one that those without boot, of 128 KiB.
const SMALL_IMAGE: &str = "bios.bin";

/// Where distributions put it.
const PLACES: [&str; 3] = [
    "/usr/share/seabios",
    "/usr/share/qemu",
    "/usr/share/qemu-kvm",
];

/// The path of SeaBIOS's image of 256 KiB, with `bios.bin`, that of 128 KiB, beside it: in the directory that `VMD_SEABIOS` names, where distributions put it, or else
/// from Debian's (or Ubuntu's) package, which is downloaded once, by any user, and unpacked into `target/`.
pub fn seabios() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let asked = std::env::var_os("VMD_SEABIOS").map(PathBuf::from);
        let unpacked = target().join("seabios");
        asked
            .into_iter()
            .chain(PLACES.map(PathBuf::from))
            .chain([unpacked.clone()])
            .map(|directory| directory.join(IMAGE))
            .find(|image| image.is_file() && image.with_file_name(SMALL_IMAGE).is_file())
            .unwrap_or_else(|| match download(&unpacked) {
                Ok(()) => unpacked.join(IMAGE),
                Err(error) => panic!(
                    "there is no SeaBIOS here, and it cannot be downloaded ({error}): install the package seabios, or \
                     set VMD_SEABIOS to a directory with {IMAGE}"
                ),
            })
    };
    FOUND.get_or_init(find).clone()
}

/// The build directory.
fn target() -> PathBuf {
    let profile = binary("vmd");
    let target = profile.parent().and_then(Path::parent);
    target.expect("the target directory").to_owned()
}

/// Puts the images into `to`, at once or not at all: other tests may be doing the same.
fn download(to: &Path) -> io::Result<()> {
    let scratch = TempDir::with_prefix_in("seabios-", to.parent().expect("the target directory"))?;
    let here = scratch.path();
    // The package lists of the system may be missing or old, and are root's: these are this download's own.
    fs::create_dir_all(here.join("lists/partial"))?;
    fs::create_dir_all(here.join("cache/archives/partial"))?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["--quiet", "--quiet"]);
        for (key, directory) in [("State::Lists", "lists"), ("Cache", "cache")] {
            command.arg(format!("-oDir::{key}={}", here.join(directory).display()));
        }
        // The sandbox's user may not write here; a failure to reach a server is one.
        command.args(["-oAPT::Sandbox::User=", "-oAPT::Update::Error-Mode=any"]);
        run(command.args(arguments).current_dir(here))
    };
    apt_get(&["update"])?;
    apt_get(&["download", "seabios"])?;
    let package = fs::read_dir(here)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| io::Error::other("no package came"))?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(package)
        .arg(here.join("unpacked")))?;
    match fs::rename(here.join("unpacked/usr/share/seabios"), to) {
        // Somebody else was quicker.
        Err(_) if to.join(IMAGE).is_file() => Ok(()),
        renamed => renamed,
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {told}")))
}
