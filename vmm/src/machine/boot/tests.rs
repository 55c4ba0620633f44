//! Images of each kind, each mistake in them, and what is written into guest memory.

mod image;
mod memory;
mod seeds;

use std::{io::Cursor, sync::Arc};

use super::{
    BootError, DirectBoot, ImageError, KernelImage,
    image::Protocol,
    testing::{HALT, elf, elf_of_32_bits, load, pvh_note},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Where the kernels of these tests are, but for bzImages.
const AT: u64 = 2 * MIB;

fn read_for(file: &[u8], memory_bytes: u64) -> Result<KernelImage, ImageError> {
    KernelImage::read(&mut Cursor::new(file), memory_bytes)
}

fn read(file: &[u8]) -> Result<KernelImage, ImageError> {
    read_for(file, 64 * MIB)
}

/// What is wrong with `file`.
fn mistake(file: &[u8]) -> String {
    read(file).unwrap_err().to_string()
}

/// An ELF file that is entered by PVH: some code, data with 8 KiB of zeroes after it.
fn pvh_kernel() -> Vec<u8> {
    let data = load(AT + 0x1_0000, b"data", 0x2000);
    elf(AT, &[load(AT, &HALT, 4), data, pvh_note(AT as u32)])
}

/// The same as a 32-bit file.
fn pvh_kernel_of_32_bits() -> Vec<u8> {
    let data = load(AT + 0x1_0000, b"data", 0x2000);
    elf_of_32_bits(&[load(AT, &HALT, 4), data, pvh_note(AT as u32)])
}

/// An ELF file that is entered by the 64-bit protocol.
fn elf_kernel() -> Vec<u8> {
    elf(AT, &[load(AT, &HALT, 4)])
}

fn boot(file: &[u8], initrd: &[u8], cmdline: &str, memory: u64) -> Result<DirectBoot, BootError> {
    let kernel = Arc::new(read_for(file, 8 * GIB).unwrap());
    let initrd = (initrd != b"none").then(|| initrd.into());
    DirectBoot::new(kernel, initrd, cmdline, memory)
}
