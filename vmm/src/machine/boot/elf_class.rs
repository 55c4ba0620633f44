//! The headers of ELF files of both classes: what a 32-bit one says is widened, so that the rest sees one sort.
//!
//! A 32-bit kernel is entered by its PVH note only, which has the same 32-bit entry for both.

use std::io::{self, Read, Seek};

use linux_loader::elf::{EI_CLASS, EI_DATA, ELFDATA2LSB, Elf64_Ehdr, Elf64_Phdr};
use vm_memory::ByteValued;

use super::image::read_at;

const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
/// Where the fields begin that depend on the class.
const FIELDS: u64 = 16;

/// The class of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Bits32,
    Bits64,
}

/// What is used of an ELF header.
pub(super) struct Header {
    pub(super) class: Class,
    pub(super) kind: u16,
    pub(super) machine: u16,
    pub(super) entry: u64,
    /// Where the program headers are in the file, how large each is, how many there are.
    pub(super) table: u64,
    pub(super) entry_size: u16,
    pub(super) count: u16,
}

impl Class {
    /// The class that the first bytes of a file tell of, if its numbers are little-endian.
    pub(super) fn of(ident: &[u8]) -> Option<Self> {
        let byte = |index| ident.get(index).copied();
        match byte(EI_CLASS) {
            _ if byte(EI_DATA) != Some(ELFDATA2LSB) => None,
            Some(1) => Some(Self::Bits32),
            Some(2) => Some(Self::Bits64),
            _ => None,
        }
    }

    /// The machine that such a file is for.
    pub(super) fn machine(self) -> u16 {
        match self {
            Self::Bits32 => MACHINE_386,
            Self::Bits64 => MACHINE_X86_64,
        }
    }

    /// How large a program header is.
    pub(super) fn program_header_size(self) -> u16 {
        match self {
            Self::Bits32 => 32,
            Self::Bits64 => size_of::<Elf64_Phdr>() as u16,
        }
    }

    /// The header; `None` if the file ends before it does.
    pub(super) fn read_header(self, file: &mut (impl Read + Seek)) -> io::Result<Option<Header>> {
        if self == Self::Bits64 {
            let header = read(file, 0, Elf64_Ehdr::default())?;
            return Ok(header.map(|header| Header {
                class: self,
                kind: header.e_type,
                machine: header.e_machine,
                entry: header.e_entry,
                table: header.e_phoff,
                entry_size: header.e_phentsize,
                count: header.e_phnum,
            }));
        }
        // Version, entry point, program headers, section headers, flags are words; the others are halves of one.
        let fields = read(file, FIELDS, [0_u32; 9])?;
        let halves = |word: u32| (word as u16, (word >> 16) as u16);
        let header = fields.map(|[first, _, entry, table, _, _, sizes, numbers, _]| {
            let ((kind, machine), (_, entry_size)) = (halves(first), halves(sizes));
            Header {
                class: self,
                kind,
                machine,
                entry: entry.into(),
                table: table.into(),
                entry_size,
                count: halves(numbers).0,
            }
        });
        Ok(header)
    }

    /// The program header at `at`; `None` if the file ends before it does.
    pub(super) fn read_program_header(
        self,
        file: &mut (impl Read + Seek),
        at: u64,
    ) -> io::Result<Option<Elf64_Phdr>> {
        if self == Self::Bits64 {
            return read(file, at, Elf64_Phdr::default());
        }
        let fields = read(file, at, [0_u32; 8])?;
        let widened =
            fields.map(
                |[kind, offset, _, address, in_file, in_memory, _, _]| Elf64_Phdr {
                    p_type: kind,
                    p_offset: offset.into(),
                    p_paddr: address.into(),
                    p_filesz: in_file.into(),
                    p_memsz: in_memory.into(),
                    ..Default::default()
                },
            );
        Ok(widened)
    }
}

/// Reads `value` from `at` on.
fn read<T: ByteValued>(
    file: &mut (impl Read + Seek),
    at: u64,
    mut value: T,
) -> io::Result<Option<T>> {
    Ok(read_at(file, at, value.as_mut_slice())?.then_some(value))
}
