//! What can be wrong with a disk.

use std::{fs, path::Path};

use imago::{FormatCreateBuilder, Storage, StorageOpenOptions, file::File, qcow2::Qcow2};
use nix::{sys::stat::Mode, unistd::mkfifo};
use vmctl::v1;

use super::{Mistake, definition};

/// A good disk, in a file in `directory`.
pub(crate) fn good_disk(directory: &Path) -> v1::Disk {
    let path = directory.join("disk");
    fs::write(&path, [0; 512]).unwrap();
    of(&path)
}

fn of(path: &Path) -> v1::Disk {
    v1::Disk {
        path: path.to_str().unwrap().to_owned(),
        ..Default::default()
    }
}

/// Every mistake that one can make with a disk; its files are put into `directory`.
pub(crate) fn mistakes(directory: &Path) -> Vec<Mistake> {
    let good = good_disk(directory);
    let path = |name: &str| directory.join(format!("disk-{name}"));
    fs::write(path("empty"), []).unwrap();
    fs::write(path("half"), [0; 700]).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();

    let mut rows = Vec::new();
    for read_only in [false, true] {
        for (what, path, says) in [
            ("missing", path("missing"), "No such file"),
            (
                "directory",
                directory.to_owned(),
                "neither a regular file nor",
            ),
            ("FIFO", path("fifo"), "neither a regular file nor"),
            ("device", "/dev/null".into(), "neither a regular file nor"),
            ("empty", path("empty"), "it is empty"),
            (
                "half a sector",
                path("half"),
                "700 bytes, is not a multiple of 512",
            ),
        ] {
            let disk = v1::Disk {
                read_only,
                ..of(&path)
            };
            let field = "definition.disks[0].path";
            rows.push(definition(what, "DISK_UNUSABLE", field, says, |d| {
                d.disks = vec![disk]
            }));
        }
    }
    rows.extend(qcow2(directory));
    let field = "definition.disks[1].path";
    let twice = vec![good.clone(), good.clone()];
    rows.push(definition(
        "one disk twice",
        "DISK_UNUSABLE",
        field,
        "in use",
        |d| d.disks = twice,
    ));

    let mut second = |what, field, says, change: &dyn Fn(&mut v1::Disk)| {
        let mut disk = good.clone();
        change(&mut disk);
        let disks = vec![good.clone(), disk];
        rows.push(definition(what, "INVALID_FIELD", field, says, |d| {
            d.disks = disks
        }));
    };
    second("no path", field, "give its path", &|disk| disk.path.clear());
    second("relative", field, "not an absolute path", &|disk| {
        disk.path = "disk".into()
    });
    let serial = "definition.disks[1].serial";
    second("long serial", serial, "at most 20", &|disk| {
        disk.serial = "x".repeat(21)
    });
    second("odd serial", serial, "printable", &|disk| {
        disk.serial = "\u{7}".into()
    });
    let accepts = "does not accept value '5'";
    second("rerror", "definition.disks[1].rerror", accepts, &|disk| {
        disk.rerror = 5
    });
    second("werror", "definition.disks[1].werror", accepts, &|disk| {
        disk.werror = 5
    });
    let queues = "definition.disks[1].queues";
    second("no queue", queues, "1 to 1", &|disk| disk.queues = Some(0));
    second("queues", queues, "1 to 1", &|disk| disk.queues = Some(2));
    let engine = "definition.disks[1].io_engine";
    second("engine", engine, "no I/O engine 4", &|disk| {
        disk.io_engine = 4
    });
    second("qcow2 by io_uring", engine, "on threads", &|disk| {
        disk.set_io_engine(v1::IoEngine::IoUring);
        disk.set_format(v1::DiskFormat::Qcow2);
    });
    let format = "definition.disks[1].format";
    second("format", format, "no disk format 3", &|disk| {
        disk.format = 3
    });
    let burst = "definition.disks[1].rate_limit.ops_burst";
    second("burst", burst, "give `ops_per_second` too", &|disk| {
        disk.rate_limit.get_or_insert_default().ops_burst = 1
    });
    let (many, more) = (vec![good.clone(); 16], vec![good; 31]);
    rows.push(definition(
        "PCI disks",
        "INVALID_FIELD",
        "definition.disks",
        "at most 31",
        |d| {
            d.disks = more;
            d.rng = true;
            d.set_virtio_transport(v1::VirtioTransport::Pci);
        },
    ));
    rows.push(definition(
        "disks",
        "INVALID_FIELD",
        "definition.disks",
        "at most 16",
        |d| {
            d.disks = many;
            d.rng = true;
        },
    ));
    rows
}

/// A qcow2 image in front of `behind`, if that is given.
fn image(path: &Path, behind: Option<&str>) {
    fs::write(path, []).unwrap();
    let storage = StorageOpenOptions::new().write(true).filename(path);
    let builder = Qcow2::<File>::create_builder(File::open(storage).unwrap()).size(1 << 20);
    let builder = match behind {
        Some(name) => builder.backing(name.to_owned(), "qcow2".to_owned()),
        None => builder,
    };
    builder.create().unwrap();
}

fn qcow2(directory: &Path) -> Vec<Mistake> {
    let path = |name: &str| directory.join(format!("disk-{name}"));
    fs::create_dir(path("inner")).unwrap();
    let front = |name: &str, behind| {
        let place = directory.join("disk-inner").join(name);
        image(&place, Some(behind));
        place
    };
    image(&path("outside"), None);
    image(&path("whole"), None);
    let whole = fs::read(path("whole")).unwrap();
    let truncated = path("truncated");
    fs::write(&truncated, whole.get(..whole.len() / 2).unwrap()).unwrap();
    let alter = |name: &str, at: usize, byte| {
        let mut bytes = whole.clone();
        *bytes.get_mut(at).unwrap() = byte;
        fs::write(path(name), bytes).unwrap();
        path(name)
    };
    let unsaid = v1::DiskFormat::Unspecified;
    let qcow2 = v1::DiskFormat::Qcow2;
    let rows = [
        (
            "truncated qcow2",
            truncated,
            qcow2,
            "qcow2: it is cut short or damaged",
        ),
        (
            "bad magic",
            alter("magic", 0, 0),
            qcow2,
            "does not begin as a qcow2 image",
        ),
        ("bad version", alter("version", 7, 9), qcow2, "version 9"),
        (
            "bad cluster bits",
            alter("bits", 23, 63),
            qcow2,
            "cluster_bits is 63",
        ),
        (
            "L1 table outside",
            alter("l1", 40, 0x7f),
            qcow2,
            "its L1 table lies outside",
        ),
        (
            "unknown feature",
            alter("feature", 72, 1),
            qcow2,
            "unknown incompatible features",
        ),
        ("encrypted", alter("crypt", 35, 1), qcow2, "encrypted"),
        (
            "external data",
            alter("data", 79, 4),
            qcow2,
            "external file",
        ),
        (
            "format unsaid",
            path("whole"),
            unsaid,
            "say whether its format is qcow2 or raw",
        ),
        (
            "backing missing",
            front("missing", "none"),
            qcow2,
            "backing file 'none': No such file",
        ),
        (
            "backing loops",
            front("loop", "loop"),
            qcow2,
            "chain of backing files loops",
        ),
        (
            "backing outside",
            front("front", "../disk-outside"),
            qcow2,
            "backing file '../disk-outside': qcow2: it is not in the directory",
        ),
    ];
    let rows = rows.into_iter().map(|(what, path, format, says)| {
        let mut disk = of(&path);
        disk.set_format(format);
        let field = "definition.disks[0].path";
        definition(what, "DISK_UNUSABLE", field, says, |d| d.disks = vec![disk])
    });
    rows.collect()
}
