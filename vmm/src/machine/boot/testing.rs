//! Kernel files as tests need them: small, right in everything but what a test sets wrong.
//!
//! It needs nothing but the standard library: the end-to-end tests, which cannot see this crate's tests, have this file
//! too.
#![allow(unreachable_pub)]

/// Offsets in an ELF file: of the class, 64 bit.
pub const EI_CLASS: usize = 4;
/// Of the type, an executable.
pub const E_TYPE: usize = 16;
/// Of the machine, x86-64.
pub const E_MACHINE: usize = 18;
/// Of the offset of the program headers.
pub const E_PHOFF: usize = 32;
/// Of the size of a program header.
pub const E_PHENTSIZE: usize = 54;
/// Of the number of program headers.
pub const E_PHNUM: usize = 56;
/// Of the first program header. From its start it is 8 bytes to the offset in the file, 24 to the physical address, 32
/// to the size in the file and 40 to the size in memory.
pub const PHDR: usize = 64;

/// Offsets in a bzImage: of the number of setup sectors, 1.
pub const SETUP_SECTS: usize = 0x1f1;
/// Of the size in units of 16 bytes.
pub const SYSSIZE: usize = 0x1f4;
/// Of the protocol's version.
pub const VERSION: usize = 0x206;
/// Of the flags: loaded high.
pub const LOADFLAGS: usize = 0x211;
/// Of the initial RAM disk's address, for the loader to set.
pub const RAMDISK_IMAGE: usize = 0x218;
/// Of the highest address of an initial RAM disk.
pub const INITRD_ADDR_MAX: usize = 0x22c;
/// Of more flags: it has a 64-bit entry point.
pub const XLOADFLAGS: usize = 0x236;
/// Of the longest command line.
pub const CMDLINE_SIZE: usize = 0x238;
/// Of the address that it unpacks itself to, 16 MiB.
pub const PREF_ADDRESS: usize = 0x258;
/// Of the memory that it needs from there on.
pub const INIT_SIZE: usize = 0x260;
/// Where the part that is loaded begins.
pub const BZIMAGE_SETUP: usize = 2 * 512;
/// How far into that the entry point is.
pub const BZIMAGE_ENTRY: usize = 0x200;

/// `cli; hlt; jmp -3`, in every mode.
pub const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// A segment of an ELF file.
#[derive(Clone)]
pub struct Segment {
    kind: u32,
    address: u64,
    bytes: Vec<u8>,
    memory: u64,
}

/// A segment of `bytes` at `address`, with zeroes after them up to a size of `memory`.
pub fn load(address: u64, bytes: &[u8], memory: u64) -> Segment {
    Segment {
        kind: LOAD,
        address,
        bytes: bytes.to_vec(),
        memory,
    }
}

/// A segment of notes.
pub fn notes(bytes: Vec<u8>) -> Segment {
    Segment {
        kind: NOTE,
        address: 0,
        memory: bytes.len() as u64,
        bytes,
    }
}

/// A note of Xen's.
pub fn xen_note(kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, descriptor.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(descriptor);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// The note with a PVH entry point.
pub fn pvh_note(entry: u32) -> Segment {
    notes(xen_note(18, &entry.to_le_bytes()))
}

/// A 32-bit ELF file of `segments`. Its headers have other offsets than those above.
pub fn elf_of_32_bits(segments: &[Segment]) -> Vec<u8> {
    const HEADER: u32 = 52;
    const PROGRAM_HEADER: u32 = 32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes());
    }
    // Version, entry point, program headers, section headers, flags.
    for word in [1, 0, HEADER, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    let count = segments.len() as u32;
    for half in [HEADER, PROGRAM_HEADER, count, 0, 0, 0] {
        file.extend((half as u16).to_le_bytes());
    }
    let mut offset = HEADER + PROGRAM_HEADER * count;
    for segment in segments {
        let (address, size) = (segment.address as u32, segment.bytes.len() as u32);
        let memory = segment.memory as u32;
        for word in [segment.kind, offset, 0, address, size, memory, 7, 4] {
            file.extend(word.to_le_bytes());
        }
        offset += size;
    }
    for segment in segments {
        file.extend(&segment.bytes);
    }
    file
}

/// An ELF file of `segments`.
pub fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(PHDR, 0);
    set(&mut file, E_TYPE, 2_u16.to_le_bytes());
    set(&mut file, E_MACHINE, 62_u16.to_le_bytes());
    set(&mut file, 20, 1_u32.to_le_bytes());
    set(&mut file, 24, entry.to_le_bytes());
    set(&mut file, E_PHOFF, (PHDR as u64).to_le_bytes());
    set(&mut file, 52, (PHDR as u16).to_le_bytes());
    set(&mut file, E_PHENTSIZE, 56_u16.to_le_bytes());
    set(&mut file, E_PHNUM, (segments.len() as u16).to_le_bytes());
    let mut offset = (PHDR + 56 * segments.len()) as u64;
    for segment in segments {
        let size = segment.bytes.len() as u64;
        file.extend(segment.kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        let address = segment.address;
        for field in [offset, address, address, size, segment.memory, 4] {
            file.extend(field.to_le_bytes());
        }
        offset += size;
    }
    for segment in segments {
        file.extend(&segment.bytes);
    }
    file
}

/// A bzImage whose part that is loaded begins with `kernel`. It takes command lines of 2,047 bytes.
pub fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut file = vec![0; BZIMAGE_SETUP];
    set(&mut file, SETUP_SECTS, [1]);
    set(&mut file, 0x1fe, 0xaa55_u16.to_le_bytes());
    set(&mut file, 0x200, [0xeb, 0x6a]);
    set(&mut file, 0x202, *b"HdrS");
    set(&mut file, VERSION, 0x20f_u16.to_le_bytes());
    set(&mut file, LOADFLAGS, [1]);
    set(&mut file, INITRD_ADDR_MAX, 0x7fff_ffff_u32.to_le_bytes());
    set(&mut file, 0x230, 0x20_0000_u32.to_le_bytes());
    set(&mut file, 0x234, [1]);
    set(&mut file, XLOADFLAGS, 1_u16.to_le_bytes());
    set(&mut file, CMDLINE_SIZE, 2047_u32.to_le_bytes());
    set(&mut file, PREF_ADDRESS, 0x100_0000_u64.to_le_bytes());
    set(&mut file, INIT_SIZE, 0x1000_u32.to_le_bytes());
    let mut kernel = kernel.to_vec();
    let size = kernel.len().max(BZIMAGE_ENTRY + HALT.len());
    kernel.resize(size.next_multiple_of(16), 0);
    set(&mut kernel, BZIMAGE_ENTRY, HALT);
    set(&mut file, SYSSIZE, (kernel.len() as u32 / 16).to_le_bytes());
    file.extend(kernel);
    file
}

/// Changes some bytes of `file`.
pub fn set<const N: usize>(file: &mut [u8], at: usize, bytes: [u8; N]) {
    file.get_mut(at..at + N).unwrap().copy_from_slice(&bytes);
}
