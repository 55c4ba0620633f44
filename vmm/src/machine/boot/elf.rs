//! Kernels as ELF files (System V ABI, "Object Files"; AMD64 supplement): an uncompressed `vmlinux`.

use std::{
    io::{self, Read, Seek},
    ops::Range,
};

use linux_loader::elf::{Elf64_Phdr, PT_LOAD, PT_NOTE};

use super::{
    elf_class::{Class, Header},
    image::{ImageError, Plan, Protocol, read_at, read_part},
    note::pvh_entry,
};

const MAGIC: [u8; 4] = *b"\x7fELF";
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
/// Program headers in a file. Linux has about five.
const HEADERS_MAX: u16 = 128;
/// Bytes of notes in a file. Linux has a few hundred; each is looked at for the PVH entry point.
const NOTES_MAX: u64 = 64 << 10;

/// Whether `file` begins as an ELF file does.
pub(super) fn is_one(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    let mut magic = [0; 4];
    Ok(read_at(file, 0, &mut magic)? && magic == MAGIC)
}

/// What the kernel in `file`, which has `size` bytes and begins as an ELF file does, says of itself.
pub(super) fn read(file: &mut (impl Read + Seek), size: u64) -> Result<Plan, ImageError> {
    let header = header(file, size)?;
    let mut parts = Vec::new();
    let mut zeroes = Vec::new();
    let mut notes = Vec::new();
    for segment in segments(file, &header, size)? {
        if !matches!(segment.p_type, PT_LOAD | PT_NOTE) {
            continue;
        }
        let in_file = range(segment.p_offset, segment.p_filesz);
        if segment.p_filesz > 0 && in_file.is_none_or(|range| range.end > size) {
            return Err(ImageError::CutShort(format!(
                "a segment's {} bytes from {:#x} on are not in its {size} bytes",
                segment.p_filesz, segment.p_offset
            )));
        }
        if segment.p_type == PT_NOTE {
            notes.push((segment.p_offset, segment.p_filesz));
        } else {
            let (part, rest) = memory(&segment)?;
            if !part.is_empty() {
                parts.push((segment.p_offset, part));
            }
            if !rest.is_empty() {
                zeroes.push(rest);
            }
        }
    }
    if parts.is_empty() {
        return Err(ImageError::WrongElf("without anything to load".to_owned()));
    }
    let protocol = match pvh(file, &notes)? {
        Some(entry) => Protocol::Pvh {
            entry: u32::try_from(entry).map_err(|_| ImageError::Entry(entry))?,
        },
        None if header.class == Class::Bits32 => {
            let what = "of 32 bits without a PVH note".to_owned();
            return Err(ImageError::WrongElf(what));
        }
        None => Protocol::Linux64 {
            entry: header.entry,
            header: None,
        },
    };
    Ok(Plan {
        protocol,
        parts,
        zeroes,
        end: 0,
    })
}

fn header(file: &mut (impl Read + Seek), size: u64) -> Result<Header, ImageError> {
    let wrong = |what: String| Err(ImageError::WrongElf(what));
    let mut ident = [0; 16];
    let whole = read_at(file, 0, &mut ident)?;
    let header = match Class::of(&ident) {
        _ if !whole => None,
        None => return wrong("that is not little-endian of 64 or 32 bits".to_owned()),
        Some(class) => class.read_header(file)?,
    };
    let Some(header) = header else {
        let what = format!("its {size} bytes do not hold the ELF header");
        return Err(ImageError::CutShort(what));
    };
    if header.machine != header.class.machine() {
        return wrong(format!("for machine {}", header.machine));
    }
    if !matches!(header.kind, TYPE_EXECUTABLE | TYPE_SHARED) {
        return wrong("that is no executable".to_owned());
    }
    if header.count == 0 || header.count > HEADERS_MAX {
        return wrong(format!("with {} program headers", header.count));
    }
    if header.entry_size != header.class.program_header_size() {
        return wrong(format!(
            "with program headers of {} bytes",
            header.entry_size
        ));
    }
    Ok(header)
}

fn segments(
    file: &mut (impl Read + Seek),
    header: &Header,
    size: u64,
) -> Result<Vec<Elf64_Phdr>, ImageError> {
    let mut segments = Vec::with_capacity(header.count.into());
    let mut at = header.table;
    for _ in 0..header.count {
        // No file reaches as far as a seek that fails.
        let read = match at < size {
            true => header.class.read_program_header(file, at)?,
            false => None,
        };
        segments.push(read.ok_or_else(|| {
            ImageError::CutShort(format!(
                "its {size} bytes do not hold the {} program headers",
                header.count
            ))
        })?);
        at = at.saturating_add(header.entry_size.into());
    }
    Ok(segments)
}

/// Where the bytes of a segment go, and the zeroes after them.
fn memory(segment: &Elf64_Phdr) -> Result<(Range<u64>, Range<u64>), ImageError> {
    let (Some(part), Some(all)) = (
        range(segment.p_paddr, segment.p_filesz),
        range(segment.p_paddr, segment.p_memsz),
    ) else {
        return Err(ImageError::Segment {
            range: segment.p_paddr..u64::MAX,
            why: "goes around the end of the address space",
        });
    };
    if part.end > all.end {
        return Err(ImageError::Segment {
            range: all,
            why: "is smaller than what the file has of it",
        });
    }
    let rest = part.end..all.end;
    Ok((part, rest))
}

/// The first PVH entry point in `notes`, which are offsets in the file and lengths.
fn pvh(file: &mut (impl Read + Seek), notes: &[(u64, u64)]) -> Result<Option<u64>, ImageError> {
    let length = |all: u64, (_, length): &(u64, u64)| all.saturating_add(*length);
    let all = notes.iter().fold(0, length);
    if all > NOTES_MAX {
        return Err(ImageError::WrongElf(format!("with {all} bytes of notes")));
    }
    for &(offset, length) in notes.iter().filter(|(_, length)| *length > 0) {
        if let Some(entry) = pvh_entry(&read_part(file, offset, length)?)? {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

fn range(start: u64, length: u64) -> Option<Range<u64>> {
    Some(start..start.checked_add(length)?)
}
