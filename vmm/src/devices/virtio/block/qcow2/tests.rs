//! qcow2 images: good ones, and what can be wrong with one.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use imago::{FormatCreateBuilder, Storage as _};
use tempfile::TempDir;

use super::{
    super::image::{Format, open_disk},
    *,
};

const CLUSTER: u64 = 64 << 10;
const SIZE: u64 = 1 << 20;

/// Makes an image, in front of the image called `behind` with its format.
fn create(path: &Path, size: u64, behind: Option<(&str, &str)>) {
    File::create(path).unwrap();
    let storage = StorageOpenOptions::new().write(true).filename(path);
    let storage = Storage::open(storage).unwrap();
    let mut builder = Qcow2::<Storage>::create_builder(storage).size(size);
    if let Some((name, format)) = behind {
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create().unwrap();
}

fn directory_with(name: &str) -> (TempDir, PathBuf) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    create(&path, SIZE, None);
    (directory, path)
}

fn write(disk: &dyn Backing, offset: u64, byte: u8, len: usize) {
    let mut bytes = vec![byte; len];
    let all = VolatileSlice::from(&mut bytes[..]);
    // In two parts.
    let parts = [all.subslice(0, 512), all.subslice(512, len - 512)];
    disk.write(offset, &parts.map(Result::unwrap)).unwrap();
}

fn read(disk: &dyn Backing, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    let all = [VolatileSlice::from(&mut bytes[..])];
    disk.read(offset, &all).unwrap();
    bytes
}

fn is_all(disk: &dyn Backing, offset: u64, byte: u8, len: u64) -> bool {
    read(disk, offset, len as usize)
        .iter()
        .all(|it| *it == byte)
}

#[test]
fn data_comes_back_and_goes() {
    let (_directory, path) = directory_with("disk");
    let disk = Qcow2File::open(&path, false).unwrap();
    assert_eq!(disk.size(), SIZE);
    assert!(is_all(&disk, 0, 0, SIZE));
    write(&disk, 5 * 512, 7, 3 * CLUSTER as usize);
    assert!(is_all(&disk, 0, 0, 5 * 512));
    assert!(is_all(&disk, 5 * 512, 7, 3 * CLUSTER));
    disk.flush().unwrap();
    disk.close();
    // Nothing of it is used any more.
    assert_eq!(disk.flush().unwrap_err().raw_os_error(), Some(libc::EBADF));

    let disk = Qcow2File::open(&path, false).unwrap();
    assert!(is_all(&disk, 5 * 512, 7, 3 * CLUSTER));
    disk.write_zeroes(5 * 512, 512, false).unwrap();
    disk.write_zeroes(CLUSTER, CLUSTER, true).unwrap();
    disk.discard(2 * CLUSTER, CLUSTER).unwrap();
    assert!(is_all(&disk, 0, 0, 6 * 512));
    assert!(is_all(&disk, 6 * 512, 7, CLUSTER - 6 * 512));
    assert!(is_all(&disk, CLUSTER, 0, 2 * CLUSTER));
    assert!(is_all(&disk, 3 * CLUSTER, 7, 5 * 512));
}

#[test]
fn its_size_changes_and_what_is_new_is_empty() {
    let (_directory, path) = directory_with("disk");
    let disk = Qcow2File::open(&path, false).unwrap();
    write(&disk, 0, 7, SIZE as usize);
    for size in [SIZE / 2 + 512, 4 * SIZE] {
        disk.resize(Some(size)).unwrap();
        assert_eq!(disk.size(), size);
    }
    assert!(is_all(&disk, 0, 7, SIZE / 2 + 512));
    assert!(is_all(&disk, SIZE / 2 + 512, 0, 4 * SIZE - SIZE / 2 - 512));
    write(&disk, 4 * SIZE - 1024, 8, 1024);
    disk.resize(None).unwrap();
    disk.close();
    let disk = Qcow2File::open(&path, true).unwrap();
    assert_eq!(disk.size(), 4 * SIZE);
    assert!(is_all(&disk, 4 * SIZE - 1024, 8, 1024));
}

#[test]
fn what_is_behind_is_seen_and_never_written() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("base")).unwrap();
    fs::write(path("base/raw"), vec![1; SIZE as usize]).unwrap();
    create(&path("base/middle"), SIZE, Some(("raw", "raw")));
    let middle = Qcow2File::open(&path("base/middle"), false).unwrap();
    write(&middle, CLUSTER, 2, CLUSTER as usize);
    middle.close();
    create(&path("top"), SIZE / 2, Some(("base/middle", "qcow2")));
    let before = [fs::read(path("base/raw")), fs::read(path("base/middle"))];

    let top = Qcow2File::open(&path("top"), false).unwrap();
    assert!(is_all(&top, 0, 1, CLUSTER));
    assert!(is_all(&top, CLUSTER, 2, CLUSTER));
    write(&top, CLUSTER, 3, 1024);
    top.discard(0, CLUSTER).unwrap();
    // A second one shares what is behind, and nobody else may write that.
    create(
        &path("other"),
        SIZE,
        Some((path("base/middle").to_str().unwrap(), "qcow2")),
    );
    let other = Qcow2File::open(&path("other"), false).unwrap();
    assert!(is_all(&other, CLUSTER, 2, CLUSTER));
    for name in ["base/raw", "base/middle"] {
        let format = if name == "base/raw" {
            Format::Raw
        } else {
            Format::Qcow2
        };
        let error = open_disk(&path(name), false, format).unwrap_err();
        assert!(matches!(error, DiskError::Locked), "{error}");
    }
    // What is behind is longer: what is new is empty all the same.
    top.resize(Some(SIZE)).unwrap();
    assert!(is_all(&top, SIZE / 2, 0, SIZE / 2));
    assert!(is_all(&top, CLUSTER, 3, 1024));
    assert!(is_all(&top, CLUSTER + 1024, 2, CLUSTER - 1024));
    top.close();
    other.close();
    let after = [fs::read(path("base/raw")), fs::read(path("base/middle"))];
    for (before, after) in before.into_iter().zip(after) {
        assert!(before.unwrap() == after.unwrap());
    }
    Qcow2File::open(&path("base/middle"), false).unwrap();
}

/// What the answer is, with nothing of `directory` changed.
fn refused(directory: &Path, path: &Path) -> String {
    let content = || -> Vec<_> {
        let files = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.filter(|file| file.is_file()).collect();
        files.sort();
        files
            .into_iter()
            .map(|file| (fs::read(&file).unwrap(), file))
            .collect()
    };
    let before = content();
    let mut errors = [false, true].map(|read_only| {
        let opened = Qcow2File::open(path, read_only);
        opened.expect_err("a bad image").to_string()
    });
    assert!(before == content(), "{errors:?}");
    assert_eq!(errors[0], errors[1]);
    std::mem::take(&mut errors[0])
}

/// Puts numbers into a file.
fn put(path: &Path, numbers: &[(u64, &[u8])]) {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for (at, bytes) in numbers {
        file.write_all_at(bytes, *at).unwrap();
    }
}

#[test]
fn a_bad_header_is_told_and_left_as_it_is() {
    let u32 = |number: u32| number.to_be_bytes().to_vec();
    let u64 = |number: u64| number.to_be_bytes().to_vec();
    for (what, at, bytes, says) in [
        ("magic", 0, u32(7), "does not begin as"),
        ("version", 4, u32(1), "version 1"),
        ("version", 4, u32(4), "version 4"),
        ("cluster bits", 20, u32(8), "cluster_bits is 8"),
        ("cluster bits", 20, u32(64), "cluster_bits is 64"),
        ("size", 24, u64(0), "0 bytes"),
        ("size", 24, u64(1000), "1000 bytes"),
        ("huge", 24, u64(u64::MAX - 511), "L1 table is too short"),
        ("crypt", 32, u32(2), "encrypted"),
        ("L1 size", 36, u32(0), "L1 table is too short"),
        ("L1 size", 36, u32(u32::MAX), "its L1 table lies outside"),
        ("L1 offset", 40, u64(1 << 40), "its L1 table lies outside"),
        (
            "L1 offset",
            40,
            u64(CLUSTER + 512),
            "its L1 table lies outside",
        ),
        ("L1 offset", 40, u64(0), "its L1 table lies outside"),
        (
            "L1 offset",
            40,
            u64(u64::MAX << 16),
            "its L1 table lies outside",
        ),
        (
            "refcounts",
            48,
            u64(1 << 40),
            "its refcount table lies outside",
        ),
        ("refcounts", 56, u32(0), "its refcount table lies outside"),
        (
            "refcounts",
            56,
            u32(u32::MAX),
            "its refcount table lies outside",
        ),
        ("dirty", 72, u64(1), "not closed cleanly"),
        ("corrupt", 72, u64(3), "marked as corrupt"),
        ("data file", 72, u64(4), "external file"),
        ("compression", 72, u64(8), "compression type"),
        ("subclusters", 72, u64(16), "extended L2 entries"),
        // With a feature that would be cleared on the disk.
        (
            "unknown",
            72,
            [u64(1 << 40), u64(0), u64(1)].concat(),
            "features: 0x10000000000",
        ),
        ("refcount order", 96, u32(7), "refcount_order is 7"),
        ("header length", 100, u32(96), "header has 96 bytes"),
        (
            "header length",
            100,
            u32(1 << 30),
            "header has 1073741824 bytes",
        ),
        (
            "extension",
            104,
            [u32(1), u32(u32::MAX)].concat(),
            "extensions are malformed",
        ),
        ("features' names", 108, u32(49), "extensions are malformed"),
        (
            "backing file",
            8,
            [u64(104), u32(2000)].concat(),
            "backing file's name",
        ),
        (
            "backing file",
            8,
            [u64(u64::MAX), u32(20)].concat(),
            "backing file's name",
        ),
        (
            "backing file",
            8,
            [u64(4), u32(0)].concat(),
            "backing file's name",
        ),
        (
            "backing file",
            8,
            [u64(0x8000), u32(20)].concat(),
            "no name of a file",
        ),
    ] {
        let (directory, path) = directory_with("disk");
        put(&path, &[(at, &bytes)]);
        let error = refused(directory.path(), &path);
        assert!(error.contains(says), "{what}: {error}");
    }
}

#[test]
fn internal_snapshots_may_only_be_read() {
    let (_directory, path) = directory_with("disk");
    put(&path, &[(60, &1_u32.to_be_bytes())]);
    Qcow2File::open(&path, true).unwrap();
    let error = Qcow2File::open(&path, false).unwrap_err().to_string();
    assert!(error.contains("internal snapshots"), "{error}");
}

#[test]
fn an_image_that_was_cut_off_is_told_wherever_that_was() {
    let (directory, path) = directory_with("disk");
    let disk = Qcow2File::open(&path, false).unwrap();
    for cluster in 0..SIZE / CLUSTER {
        write(&disk, cluster * CLUSTER, 7, CLUSTER as usize);
    }
    disk.close();
    let whole = fs::read(&path).unwrap();
    let clusters = whole.len() as u64 / CLUSTER;
    assert!(clusters > 16);
    for len in (0..clusters)
        .map(|cluster| cluster * CLUSTER)
        .chain([4, 71, 103, 150, 512])
    {
        fs::write(&path, &whole[..len as usize]).unwrap();
        let error = refused(directory.path(), &path);
        assert!(error.contains("cut short or damaged"), "{len}: {error}");
    }
    fs::write(&path, &whole).unwrap();
    Qcow2File::open(&path, true).unwrap();
}

#[test]
fn a_backing_file_that_cannot_be_is_told() {
    let directory = TempDir::new().unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = |name: &str| inner.join(name);
    let outside = directory.path().join("outside");
    fs::write(&outside, [0; 512]).unwrap();
    fs::write(path("raw"), [0; 512]).unwrap();
    fs::create_dir(path("directory")).unwrap();
    std::os::unix::fs::symlink("../outside", path("link")).unwrap();
    std::os::unix::fs::symlink(&outside, path("far-link")).unwrap();
    let not_below = "not in the directory of the disk's image";
    for (name, format, says) in [
        ("missing", "raw", "backing file 'missing': No such file"),
        ("directory", "raw", "neither a regular file nor"),
        (
            "raw",
            "qcow2",
            "backing file 'raw': qcow2: it does not begin",
        ),
        ("raw", "vmdk", "format, 'vmdk', is not supported"),
        ("../outside", "raw", not_below),
        (outside.to_str().unwrap(), "raw", not_below),
        ("/etc/hostname", "raw", not_below),
        ("link", "raw", not_below),
        ("far-link", "raw", not_below),
        ("json:{}", "raw", "no name of a file"),
        (
            "top",
            "qcow2",
            "backing file 'top': qcow2: the chain of backing files loops",
        ),
    ] {
        create(&path("top"), SIZE, Some((name, format)));
        let error = refused(&inner, &path("top"));
        assert!(error.contains(says), "{name}: {error}");
    }
    // By another name, and with another image between them.
    std::os::unix::fs::symlink("top", path("alias")).unwrap();
    create(&path("middle"), SIZE, Some(("alias", "qcow2")));
    create(&path("top"), SIZE, Some(("middle", "qcow2")));
    assert!(refused(&inner, &path("top")).contains("loops"));

    create(&path("0"), SIZE, None);
    for number in 1..33 {
        let behind = (number - 1).to_string();
        create(&path(&number.to_string()), SIZE, Some((&behind, "qcow2")));
    }
    Qcow2File::open(&path("31"), true).unwrap();
    assert!(refused(&inner, &path("32")).contains("more than 32 images"));
}

#[test]
fn a_format_that_nobody_named_is_raw_or_none() {
    let (directory, path) = directory_with("disk");
    let open = |path: &Path, format| open_disk(path, false, format);
    let error = open(&path, Format::Unsaid).unwrap_err();
    assert!(matches!(error, DiskError::Ambiguous), "{error}");
    assert_eq!(open(&path, Format::Qcow2).unwrap().size(), SIZE);
    assert_ne!(open(&path, Format::Raw).unwrap().size(), SIZE);
    let raw = directory.path().join("raw");
    fs::write(&raw, [0; 512]).unwrap();
    assert_eq!(open(&raw, Format::Unsaid).unwrap().size(), 512);
    let error = open(&raw, Format::Qcow2).unwrap_err().to_string();
    assert!(error.contains("does not begin"), "{error}");
}

#[test]
fn a_writer_is_alone() {
    let (_directory, path) = directory_with("disk");
    let first = Qcow2File::open(&path, false).unwrap();
    for read_only in [false, true] {
        let error = Qcow2File::open(&path, read_only).unwrap_err();
        assert!(matches!(error, DiskError::Locked), "{error}");
    }
    first.close();
    let readers = [(); 2].map(|()| Qcow2File::open(&path, true).unwrap());
    assert!(matches!(
        Qcow2File::open(&path, false),
        Err(DiskError::Locked)
    ));
    drop(readers);
    Qcow2File::open(&path, false).unwrap();
}
