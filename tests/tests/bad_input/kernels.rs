//! What can be wrong with a kernel and what it is given.

use std::{
    fs::{self, File},
    path::Path,
};

use vmctl::v1;
use vmd_tests::kernel_file::*;

use super::{MIB, Mistake, definition, good};

const UNUSABLE: &str = "KERNEL_UNUSABLE";
/// Where these kernels are in guest memory.
const AT: u64 = 2 * MIB;

/// A good request for a machine of 4 MiB that boots a kernel, in a file in `directory`.
pub(crate) fn good_kernel(directory: &Path) -> v1::CreateVmRequest {
    let path = directory.join("kernel");
    fs::write(&path, elf(AT, &[load(AT, &HALT, 4), pvh_note(AT as u32)])).unwrap();
    let mut request = good();
    let definition = request.definition.as_mut().unwrap();
    definition.memory_bytes = Some(4 * MIB);
    definition.kernel = text(&path);
    request
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Every mistake that one can make with a kernel; its files are put into `directory`.
pub(crate) fn mistakes(directory: &Path) -> Vec<Mistake> {
    let request = good_kernel(directory);
    let with = |what, reason, field, says, change: &dyn Fn(&mut v1::VmDefinition)| {
        definition(what, reason, field, says, |definition| {
            definition.clone_from(request.definition.as_ref().unwrap());
            change(definition);
        })
    };
    let kernel = |what, path: &Path, says| {
        let change = |d: &mut v1::VmDefinition| d.kernel = text(path);
        with(what, UNUSABLE, "definition.kernel", says, &change)
    };
    let initrd = |what, path: &Path, says| {
        let change = |d: &mut v1::VmDefinition| d.initrd = text(path);
        with(what, "INITRD_UNUSABLE", "definition.initrd", says, &change)
    };
    let field = |what, field, says, change: &dyn Fn(&mut v1::VmDefinition)| {
        with(what, "INVALID_FIELD", field, says, change)
    };
    let path = |name: &str| directory.join(name);

    let mut rows = files(directory, &kernel);
    for (what, name, says) in [
        ("missing", "missing", "No such file"),
        ("empty", "empty", "/empty: the file is empty"),
        ("directory", "directory", "not a regular file"),
        ("FIFO", "fifo", "not a regular file"),
        ("unreadable", "circle", "symbolic links"),
    ] {
        rows.push(kernel(what, &path(name), says));
        rows.push(initrd(what, &path(name), says));
    }

    let sized = |name: &str, size: u64| {
        File::create(path(name)).unwrap().set_len(size).unwrap();
        path(name)
    };
    let full = sized("full", 2 * MIB);
    rows.push(initrd("initrd", &full, "the kernel leaves 2093056 for it"));
    let vast = sized("vast-initrd", 1 << 40);
    rows.push(initrd(
        "vast initrd",
        &vast,
        "more than the machine's memory",
    ));

    let old = path("takes-no-more-than-2047");
    let mut file = bzimage(b"");
    set(&mut file, PREF_ADDRESS, [0; 8]);
    fs::write(&old, file).unwrap();
    let cmdline = "definition.cmdline";
    rows.extend([
        field("long cmdline", cmdline, "takes 65535 at most", &|d| {
            d.cmdline = "x".repeat(65_536);
        }),
        field("long cmdline of a bzImage", cmdline, "2047 at most", &|d| {
            d.cmdline = "x".repeat(2048);
            d.kernel = text(&old);
        }),
        field("NUL in the cmdline", cmdline, "a zero byte", &|d| {
            d.cmdline = "a\0b".into();
        }),
        field("both", "definition.kernel", "give one of them", &|d| {
            d.firmware = d.kernel.clone();
        }),
        field("initrd alone", "definition.initrd", "only a kernel", &|d| {
            d.initrd = std::mem::take(&mut d.kernel);
        }),
        field("cmdline alone", cmdline, "only a kernel takes one", &|d| {
            d.kernel = String::new();
            d.cmdline = "quiet".into();
        }),
    ]);
    for wrong in ["kernel", "./kernel", "/kernel\0"] {
        let says = "not an absolute path";
        rows.push(field("path", "definition.kernel", says, &|d| {
            d.kernel = wrong.into();
        }));
        rows.push(field("path", "definition.initrd", says, &|d| {
            d.initrd = wrong.into();
        }));
    }
    rows
}

/// Files that are no kernels, or none for this machine.
fn files(
    directory: &Path,
    kernel: &dyn Fn(&'static str, &Path, &'static str) -> Mistake,
) -> Vec<Mistake> {
    let elf_of = |segment| elf(AT, &[load(AT, &HALT, 4), segment]);
    let good = || elf_of(pvh_note(AT as u32));
    let changed = |mut file: Vec<u8>, at, byte| {
        set(&mut file, at, [byte]);
        file
    };
    let cut = |mut file: Vec<u8>, bytes| {
        file.truncate(file.len() - bytes);
        file
    };
    let rows = [
        ("script", b"#!/bin/sh\n".to_vec(), "neither an ELF file nor"),
        ("cut ELF file", cut(good(), 1), "cut short"),
        ("cut bzImage", cut(bzimage(b""), 16), "cut short"),
        ("no class", changed(good(), EI_CLASS, 3), "of 64 or 32 bits"),
        (
            "ELF32",
            elf_of_32_bits(&[load(AT, &HALT, 4)]),
            "of 32 bits without a PVH note",
        ),
        (
            "aarch64",
            changed(good(), E_MACHINE, 183),
            "for machine 183",
        ),
        ("object file", changed(good(), E_TYPE, 1), "no executable"),
        (
            "old bzImage",
            changed(bzimage(b""), VERSION, 1),
            "protocol 2.01",
        ),
        ("low", elf_of(load(0x7000, b"x", 1)), "begins below 1 MiB"),
        ("high", elf_of(load(3 << 30, b"x", 1)), "ends above 3 GiB"),
        ("wraps", elf_of(load(u64::MAX, b"x", 1)), "around the end"),
        ("overlaps", elf_of(load(AT, b"x", 1)), "overlaps another"),
        (
            "large",
            elf_of(load(AT + 4, b"", 3 * MIB)),
            "the machine has 4194304",
        ),
        (
            "bzImage that unpacks high",
            bzimage(b""),
            "the kernel needs 16781312",
        ),
        (
            "entry",
            elf(AT - 1, &[load(AT, &HALT, 4)]),
            "0x1fffff, is in none",
        ),
    ];
    let mut mistakes: Vec<_> = rows
        .into_iter()
        .map(|(what, file, says)| {
            let path = directory.join(format!("kernel: {what}"));
            fs::write(&path, file).unwrap();
            kernel(what, &path, says)
        })
        .collect();
    // Nothing of a hole is read.
    let vast = directory.join("vast");
    fs::write(&vast, bzimage(b"")).unwrap();
    let file = File::options().write(true).open(&vast).unwrap();
    file.set_len(1 << 40).unwrap();
    mistakes.push(kernel("vast", &vast, "ends above 3 GiB"));
    mistakes
}
