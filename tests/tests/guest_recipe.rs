//! What the recipe of the Linux guest makes, looked at from outside: no guest is started here.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path, process::Command};

use vmd_tests::{in_thread, linux_guest, recipe};

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

/// The notes of an ELF file's note segments: owner, type and content.
fn notes(elf: &[u8]) -> Vec<(&[u8], usize, &[u8])> {
    const PT_NOTE: usize = 4;
    let mut found = Vec::new();
    let (table, size, count) = (u64_at(elf, 32), u16_at(elf, 54), u16_at(elf, 56));
    for header in (0..count).map(|index| &elf[table + index * size..]) {
        if u32_at(header, 0) != PT_NOTE {
            continue;
        }
        let start = u64_at(header, 8);
        let mut rest = &elf[start..start + u64_at(header, 32)];
        while !rest.is_empty() {
            let (owner, content) = (u32_at(rest, 0), u32_at(rest, 4));
            let from = 12 + owner.next_multiple_of(4);
            let note = (
                &rest[12..12 + owner],
                u32_at(rest, 8),
                &rest[from..from + content],
            );
            found.push(note);
            rest = &rest[from + content.next_multiple_of(4)..];
        }
    }
    found
}

/// The names and modes in a cpio archive of the form `newc`.
fn archived(archive: &[u8]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let header = &archive[at..at + 110];
        assert_eq!(&header[..6], b"070701", "at {at}");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&header[6 + index * 8..][..8]).unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let (mode, size, name_size) = (field(1), field(6), field(11));
        let name = &archive[at + 110..at + 110 + name_size - 1];
        let name = String::from_utf8(name.to_vec()).unwrap();
        if name == "TRAILER!!!" {
            return found;
        }
        // So that the same recipe makes the same bytes.
        assert_eq!(field(5), 0, "{name}: its time");
        found.push((name, mode));
        at = (at + 110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
    }
}

/// Runs `command`: whether it has succeeded, and what it has said.
async fn run(mut command: Command) -> (bool, String) {
    let output = in_thread(move || command.output().unwrap()).await;
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Runs `build.sh` for `directory`, where it must have nothing to build.
async fn copied_to(directory: &Path) {
    let mut build = recipe("build.sh");
    build.arg(directory);
    let (succeeded, said) = run(build).await;
    assert!(succeeded, "{said}");
    assert!(said.starts_with("build.sh: cached: "), "{said}");
}

#[tokio::test]
async fn vmlinux_can_be_entered_by_pvh() {
    const EM_X86_64: usize = 62;
    const XEN_ELFNOTE_PHYS32_ENTRY: usize = 18;
    let elf = fs::read(linux_guest().await.vmlinux).unwrap();
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "64 bits, little endian");
    assert_eq!(u16_at(&elf, 18), EM_X86_64);
    let notes = notes(&elf);
    let entry = notes
        .iter()
        .find(|&&(owner, kind, _)| owner == b"Xen\0" && kind == XEN_ELFNOTE_PHYS32_ENTRY);
    let (_, _, entry) = entry.unwrap();
    let entry = u32_at(entry, 0);
    assert!((0x100_0000..0x200_0000).contains(&entry), "{entry:#x}");
}

#[tokio::test]
async fn bzimage_has_a_64_bit_entry() {
    const XLF_KERNEL_64: usize = 1;
    let image = fs::read(linux_guest().await.bzimage).unwrap();
    assert_eq!(&image[0x202..0x206], b"HdrS");
    // Since 2.12 there are the flags that say so.
    assert!(u16_at(&image, 0x206) >= 0x20c);
    assert_ne!(u16_at(&image, 0x236) & XLF_KERNEL_64, 0);
}

#[tokio::test]
async fn each_initramfs_has_an_init_and_a_console() {
    const EXECUTABLE_FILE: usize = 0o100_755;
    const CONSOLE: usize = 0o020_600;
    let guest = linux_guest().await;
    for archive in [&guest.initramfs, &guest.initramfs_busybox] {
        let files = archived(&fs::read(archive).unwrap());
        for (name, mode) in [("init", EXECUTABLE_FILE), ("dev/console", CONSOLE)] {
            let file = (name.to_owned(), mode);
            assert!(files.contains(&file), "{}: {files:?}", archive.display());
        }
    }
}

#[tokio::test]
async fn what_was_built_is_copied_and_what_was_damaged_is_replaced() {
    let guest = linux_guest().await;
    let directory = tempfile::tempdir().unwrap();
    let two = directory.path().join("two/deep");
    // At once, to the same place.
    tokio::join!(copied_to(&two), copied_to(&two));
    let whole = fs::read(&guest.vmlinux).unwrap();
    let copy = two.join("vmlinux");
    assert!(fs::read(&copy).unwrap() == whole);
    fs::write(&copy, &whole[1..]).unwrap();
    fs::remove_file(two.join("bzImage")).unwrap();
    copied_to(&two).await;
    assert!(fs::read(&copy).unwrap() == whole);
    assert!(two.join("bzImage").exists());
    // Nothing else is there.
    assert_eq!(fs::read_dir(&two).unwrap().count(), 5);
}

#[tokio::test]
async fn an_edit_that_does_not_fit_says_which() {
    let tree = tempfile::tempdir().unwrap();
    let mut edits = recipe("edits.sh");
    edits.arg(tree.path());
    let (succeeded, said) = run(edits).await;
    assert!(!succeeded);
    let missing = "edits.sh: \"no int3 self test\": there is no arch/x86/kernel/alternative.c\n";
    assert_eq!(said, missing);

    let file = tree.path().join("arch/x86/kernel/alternative.c");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "\n").unwrap();
    let mut edits = recipe("edits.sh");
    edits.arg(tree.path());
    let (succeeded, said) = run(edits).await;
    assert!(!succeeded);
    let unfit = "edits.sh: \"no int3 self test\" does not fit arch/x86/kernel/alternative.c: \
                 -0 +0 lines, should be -1 +1\n";
    assert_eq!(said, unfit);
}

#[tokio::test]
async fn build_sh_explains_itself() {
    let mut help = recipe("build.sh");
    help.arg("--help");
    let (succeeded, said) = run(help).await;
    assert!(succeeded);
    for word in [
        "Usage: build.sh [DIRECTORY]",
        "vmlinux",
        "initramfs-busybox.cpio",
        "VMD_GUEST_CACHE",
    ] {
        assert!(said.contains(word), "{said}");
    }
    let mut unknown = recipe("build.sh");
    unknown.arg("--no-such-option");
    assert!(!run(unknown).await.0);
}
