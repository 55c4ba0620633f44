//! What is read of a file, and what is wrong with others.

use std::io::{self, Read, Seek, SeekFrom};

use super::{super::testing::*, *};

#[test]
fn an_elf_file_is_entered_by_its_note_or_else_at_its_entry_point() {
    let pvh = read(&pvh_kernel()).unwrap();
    assert!(matches!(pvh.protocol, Protocol::Pvh { entry } if u64::from(entry) == AT));
    assert_eq!(pvh.end, AT + 0x1_2000);
    let linux = read(&elf(AT + 2, &[load(AT, &HALT, 4)])).unwrap();
    assert!(matches!(linux.protocol, Protocol::Linux64 { entry, header: None } if entry == AT + 2));
}

#[test]
fn a_32_bit_elf_file_is_entered_by_its_note_only() {
    let file = pvh_kernel_of_32_bits();
    let image = read(&file).unwrap();
    assert!(matches!(image.protocol, Protocol::Pvh { entry } if u64::from(entry) == AT));
    assert_eq!(image.end, AT + 0x1_2000);

    let none = elf_of_32_bits(&[load(AT, &HALT, 4)]);
    assert!(mistake(&none).contains("without a PVH note"));
    let mut other = file.clone();
    set(&mut other, E_MACHINE, [62]);
    assert!(mistake(&other).contains("for machine 62"));
    // The size of a program header is where its class has it.
    set(&mut other, E_MACHINE, [3]);
    set(&mut other, 42, [56]);
    assert!(mistake(&other).contains("headers of 56 bytes"));
    for length in 4..file.len() {
        let error = read(&file[..length]).unwrap_err();
        assert!(
            matches!(error, ImageError::CutShort(_)),
            "{length}: {error}"
        );
    }
}

#[test]
fn a_bzimage_may_lack_the_end_of_its_last_unit() {
    // The size is in units of 16 bytes.
    let mut file = bzimage(b"");
    let last = file.split_off(file.len() - 15);
    assert_eq!(last.len(), 15);
    read(&file).unwrap();
    file.pop();
    assert!(matches!(read(&file), Err(ImageError::CutShort(_))));
}

#[test]
fn the_pvh_note_is_found_among_others() {
    let word = (AT as u32).to_le_bytes();
    let long = AT.to_le_bytes();
    let other = xen_note(5, b"linux");
    // The name is another's, of the same length and of another.
    let mut gnu = xen_note(18, &[0; 8]);
    set(&mut gnu, 12, *b"GNU\0");
    let mut longer = xen_note(18, b"\0\0\0\0\0\0\0\0");
    set(&mut longer, 0, 5_u32.to_le_bytes());
    set(&mut longer, 4, 4_u32.to_le_bytes());
    for (what, notes) in [
        ("alone", vec![xen_note(18, &word)]),
        ("of 8 bytes", vec![xen_note(18, &long)]),
        (
            "last",
            vec![other.clone(), gnu, longer, xen_note(18, &word)],
        ),
        ("first", vec![xen_note(18, &long), other]),
        ("before padding", vec![xen_note(18, &word), vec![0; 11]]),
    ] {
        let notes = super::super::testing::notes(notes.concat());
        let image = read(&elf(0, &[notes, load(AT, &HALT, 4)])).unwrap();
        assert!(matches!(image.protocol, Protocol::Pvh { .. }), "{what}");
    }
    // Notes without it in a second segment do not hide it.
    let second = notes(xen_note(5, b"linux"));
    let file = elf(0, &[pvh_note(AT as u32), load(AT, &HALT, 4), second]);
    assert!(matches!(
        read(&file).unwrap().protocol,
        Protocol::Pvh { .. }
    ));
}

#[test]
fn what_is_no_kernel_is_named() {
    assert!(matches!(read(b""), Err(ImageError::Empty)));
    for other in [&b"#"[..], b"\x7fEL", &[0; 4096], b"MZ", &[0xff; 600]] {
        assert!(matches!(read(other), Err(ImageError::Unknown)));
    }
    type Change = fn(&mut Vec<u8>);
    let wrong: [(&str, Change); 8] = [
        ("64 or 32 bits", |file| set(file, EI_CLASS, [3])),
        ("little-endian", |file| set(file, EI_CLASS + 1, [2])),
        ("for machine 183", |file| set(file, E_MACHINE, [183])),
        ("no executable", |file| set(file, E_TYPE, [1])),
        ("with 0 program headers", |file| set(file, E_PHNUM, [0])),
        ("65535 program", |file| set(file, E_PHNUM, [0xff; 2])),
        ("headers of 32 bytes", |file| set(file, E_PHENTSIZE, [32])),
        ("without anything to load", |file| set(file, PHDR, [6])),
    ];
    for (says, change) in wrong {
        let mut file = elf_kernel();
        change(&mut file);
        let error = read(&file).unwrap_err();
        assert!(matches!(error, ImageError::WrongElf(_)), "{says}: {error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
    let wrong: [(&str, Change); 3] = [
        ("protocol 2.11", |file| set(file, VERSION, [11])),
        ("zImage", |file| set(file, LOADFLAGS, [0])),
        ("64-bit entry", |file| set(file, XLOADFLAGS, [0xfe])),
    ];
    for (says, change) in wrong {
        let mut file = bzimage(b"");
        change(&mut file);
        let error = read(&file).unwrap_err();
        assert!(matches!(error, ImageError::WrongBzImage(_)), "{error}");
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[test]
fn a_kernel_that_is_cut_short_anywhere_is_refused() {
    // Of a bzImage, the end of the last 16 bytes may be missing.
    for (whole, missing) in [
        (pvh_kernel(), 1),
        (elf_kernel(), 1),
        (bzimage(&[1; 0x300]), 16),
    ] {
        for length in 0..=whole.len() - missing {
            let error = read(&whole[..length]).map(drop).unwrap_err();
            let named = matches!(
                error,
                ImageError::CutShort(_) | ImageError::Unknown | ImageError::Empty
            );
            assert!(named, "{length}: {error}");
            // From its magic number on it is known for what it is.
            let known = length >= 0x206 || (whole[0] == 0x7f && length >= 4);
            assert_eq!(known, matches!(error, ImageError::CutShort(_)), "{length}");
        }
        read(&whole).unwrap();
    }
    // Offsets and sizes that are not there, up to those that overflow.
    for huge in [
        1 << 20,
        1 << 40,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ] {
        for at in [E_PHOFF, PHDR + 8, PHDR + 32] {
            let mut file = elf_kernel();
            set(&mut file, at, huge.to_le_bytes());
            let error = read(&file).unwrap_err();
            assert!(matches!(error, ImageError::CutShort(_)), "{at}: {error}");
        }
    }
    for (at, bytes) in [(SYSSIZE, [0xff; 4]), (SETUP_SECTS, [0, 0, 0, 0])] {
        let mut file = bzimage(b"");
        set(&mut file, at, bytes);
        assert!(matches!(read(&file), Err(ImageError::CutShort(_))), "{at}");
    }
}

#[test]
fn segments_are_in_memory_and_apart() {
    let code = || load(AT, &HALT, 4);
    let refused = |segment: Segment, says: &str| {
        let error = mistake(&elf(AT, &[code(), segment]));
        assert!(error.contains(says), "{says}: {error}");
    };
    refused(load(MIB - 1, b"xx", 2), "begins below 1 MiB");
    refused(load(0x6000, b"", 2), "begins below 1 MiB");
    refused(load(3 * GIB - 1, b"xx", 2), "ends above 3 GiB");
    refused(load(AT + 4, b"xx", 3 * GIB), "ends above 3 GiB");
    refused(load(5 * GIB, b"", 1), "ends above 3 GiB");
    refused(load(u64::MAX, b"x", 1), "goes around the end");
    refused(load(AT + 4, b"x", u64::MAX), "goes around the end");
    refused(load(AT + 4, b"xx", 1), "is smaller than what");
    refused(load(AT + 3, b"x", 1), "overlaps another");
    refused(load(AT - 1, b"", 2), "overlaps another");
    refused(load(AT, b"", 1), "overlaps another");
    // Nothing at all may be anywhere.
    read(&elf(AT, &[code(), load(0, b"", 0)])).unwrap();
    read(&elf(AT, &[code(), load(u64::MAX, b"", 0)])).unwrap();
    // Side by side, in whatever order.
    read(&elf(
        AT,
        &[load(AT + 4, b"x", 8), code(), load(AT + 12, b"", 1)],
    ))
    .unwrap();
}

#[test]
fn a_kernel_is_entered_where_the_file_has_something() {
    for entry in [0, AT - 1, AT + 4, AT + 8, 1 << 32, u64::MAX] {
        let error = mistake(&elf(entry, &[load(AT, &HALT, 0x1000)]));
        assert!(
            error.contains(&format!("{entry:#x}, is in none")),
            "{error}"
        );
    }
    let noted = |note: Vec<u8>| elf(AT, &[notes(note), load(AT, &HALT, 4)]);
    assert!(mistake(&noted(xen_note(18, &[9; 4]))).contains("0x9090909, is in none"));
    assert!(mistake(&noted(xen_note(18, &[9; 8]))).contains("is in none"));
    assert!(mistake(&noted(xen_note(18, &[9; 3]))).contains("without an entry point"));
    for at in [0, 4] {
        for size in [9, 1 << 20, u32::MAX - 3, u32::MAX] {
            let mut note = xen_note(18, &[0; 4]);
            set(&mut note, at, size.to_le_bytes());
            let error = mistake(&noted(note));
            assert!(error.contains("a note that has no end"), "{size}: {error}");
        }
    }
    assert!(mistake(&noted(vec![0; 65_537])).contains("65537 bytes of notes"));
    // A bzImage without so much as its entry point.
    let mut small = bzimage(b"");
    set(&mut small, SYSSIZE, [0; 4]);
    small.truncate(BZIMAGE_SETUP + BZIMAGE_ENTRY);
    assert!(matches!(read(&small), Err(ImageError::Entry(0x10_0200))));
}

#[test]
fn a_kernel_is_read_for_a_machine_that_can_hold_it() {
    let needs = |file: &[u8], memory| match read_for(file, memory) {
        Ok(_) => None,
        Err(ImageError::TooLarge(error)) => Some((error.needs, error.has)),
        Err(other) => panic!("{other}"),
    };
    let end = AT + 0x1_2000;
    assert_eq!(needs(&pvh_kernel(), end), None);
    assert_eq!(needs(&pvh_kernel(), end - 1), Some((end, end - 1)));
    assert_eq!(needs(&pvh_kernel(), 0), Some((end, 0)));
    // Zeroes are memory too.
    let zeroes = elf(AT, &[load(AT, &HALT, 2 * GIB)]);
    assert_eq!(needs(&zeroes, AT + 2 * GIB), None);
    assert_eq!(needs(&zeroes, 2 * GIB), Some((AT + 2 * GIB, 2 * GIB)));
    // A bzImage needs what it says, where it unpacks itself.
    let mut file = bzimage(b"");
    assert_eq!(needs(&file, 16 * MIB), Some((16 * MIB + 4096, 16 * MIB)));
    set(&mut file, INIT_SIZE, [0xff; 4]);
    let lies = 16 * MIB + u64::from(u32::MAX);
    assert_eq!(needs(&file, 8 * GIB), Some((lies, 3 * GIB)));
    set(&mut file, PREF_ADDRESS, [0xff; 8]);
    assert_eq!(needs(&file, 8 * GIB), Some((u64::MAX, 3 * GIB)));
    // And if it says nothing, what it has.
    set(&mut file, PREF_ADDRESS, [0; 8]);
    set(&mut file, INIT_SIZE, [0; 4]);
    let size = (file.len() - BZIMAGE_SETUP) as u64;
    assert_eq!(needs(&file, MIB), Some((MIB + size, MIB)));
    assert_eq!(needs(&file, MIB + size), None);
}

/// A file with a hole of `hole` bytes at its end, which counts what is read of it.
struct Sparse {
    file: Vec<u8>,
    hole: u64,
    at: u64,
    read: u64,
}

impl Read for Sparse {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let size = self.file.len() as u64 + self.hole;
        let length = size.saturating_sub(self.at).min(bytes.len() as u64) as usize;
        for byte in &mut bytes[..length] {
            *byte = self.file.get(self.at as usize).copied().unwrap_or(0);
            self.at += 1;
        }
        self.read += length as u64;
        Ok(length)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(0) => self.file.len() as u64 + self.hole,
            other => panic!("{other:?}"),
        };
        Ok(self.at)
    }
}

#[test]
fn a_vast_file_is_not_read_for_a_small_machine() {
    let hole = 1_u64 << 40;
    let mut vast = elf_kernel();
    set(&mut vast, PHDR + 32, hole.to_le_bytes());
    set(&mut vast, PHDR + 40, hole.to_le_bytes());
    let mut large = elf_kernel();
    set(&mut large, PHDR + 32, GIB.to_le_bytes());
    set(&mut large, PHDR + 40, GIB.to_le_bytes());
    let mut many_notes = elf(AT, &[load(AT, &HALT, 4), notes(Vec::new())]);
    set(&mut many_notes, PHDR + 56 + 32, hole.to_le_bytes());
    for file in [vast, large, many_notes, bzimage(b"")] {
        let (at, read) = (0, 0);
        let mut file = Sparse {
            file,
            hole,
            at,
            read,
        };
        KernelImage::read(&mut file, 16 * MIB).unwrap_err();
        assert!(file.read < 4096, "{} bytes", file.read);
    }
}

#[test]
fn a_file_that_shrinks_meanwhile_is_cut_short() {
    struct Shrinking(io::Cursor<Vec<u8>>);
    impl Read for Shrinking {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let length = self.0.read(bytes)?;
            // All of the headers were read.
            if self.0.position() == (PHDR + 56) as u64 {
                self.0.get_mut().truncate(PHDR + 57);
            }
            Ok(length)
        }
    }
    impl Seek for Shrinking {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    let mut file = Shrinking(io::Cursor::new(elf_kernel()));
    let error = KernelImage::read(&mut file, 64 * MIB).unwrap_err();
    assert!(error.to_string().contains("while it was read"), "{error}");
}
