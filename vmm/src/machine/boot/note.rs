//! The notes of an ELF file (System V ABI, "Note Section"), of which one has the PVH entry point (Xen,
//! `xen/include/public/elfnote.h`, `XEN_ELFNOTE_PHYS32_ENTRY`).

use super::image::ImageError;

const PVH: u32 = 18;
const XEN: &[u8] = b"Xen\0";
/// Alignment of name and descriptor. Linux has 4 in 64-bit files too (`include/linux/elfnote.h`).
const ALIGNMENT: usize = 4;

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    descriptor: &'a [u8],
}

/// The PVH entry point in the notes of a segment.
pub(super) fn pvh_entry(mut notes: &[u8]) -> Result<Option<u64>, ImageError> {
    let wrong = |what: &str| ImageError::WrongElf(what.to_owned());
    // What is smaller than a header is padding.
    while notes.len() >= 12 {
        let (note, rest) = next(notes).ok_or_else(|| wrong("with a note that has no end"))?;
        if note.kind == PVH && note.name == XEN {
            let descriptor = note.descriptor;
            let long = descriptor.first_chunk().copied().map(u64::from_le_bytes);
            let short = || descriptor.first_chunk().copied().map(u32::from_le_bytes);
            let entry = long.or_else(|| short().map(u64::from));
            return match entry {
                None => Err(wrong("with a PVH note without an entry point")),
                entry => Ok(entry),
            };
        }
        notes = rest;
    }
    Ok(None)
}

/// The first note, and what follows it.
fn next(notes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let (name_size, rest) = word(notes)?;
    let (descriptor_size, rest) = word(rest)?;
    let (kind, rest) = word(rest)?;
    let (name, rest) = field(rest, name_size)?;
    let (descriptor, rest) = field(rest, descriptor_size)?;
    let note = Note {
        kind,
        name,
        descriptor,
    };
    Some((note, rest))
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// A field of `size` bytes, and what follows its padding, which the last one may lack.
fn field(bytes: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = size as usize;
    let field = bytes.get(..size)?;
    let rest = bytes.get(size.next_multiple_of(ALIGNMENT)..);
    Some((field, rest.unwrap_or_default()))
}
