//! What fuzzing starts from (`tests/fuzz/seeds/kernel_image`): kernels of each kind, made here.

use std::{fs, path::Path};

use super::{super::testing::*, *};

/// A seed is a kernel file, followed by what it is booted with (`tests/fuzz/fuzz_targets/kernel_image.rs`): the machine's
/// memory in KiB, the sizes of the initial RAM disk and of the command line, each of 16 bits.
fn seed(file: &[u8], memory_kib: u16, initrd: u16, cmdline: u16) -> Vec<u8> {
    let numbers = [memory_kib, initrd, cmdline].map(u16::to_le_bytes);
    [file, numbers.as_flattened()].concat()
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut in_place = bzimage(b"");
    set(&mut in_place, PREF_ADDRESS, MIB.to_le_bytes());
    let mut high = bzimage(b"");
    set(&mut high, CMDLINE_SIZE, [0xff; 4]);
    let note = || xen_note(18, &(AT as u32).to_le_bytes());
    let many = [
        load(AT + 0x3000, b"three", 0x1000),
        notes([xen_note(5, b"linux"), note()].concat()),
        load(AT, &HALT, 4),
        load(AT + 0x1000, b"", 0x1000),
    ];
    vec![
        ("elf", seed(&elf_kernel(), 4096, 0, 0)),
        ("elf-full", seed(&elf_kernel(), 2056, 4096, 65_535)),
        ("elf-many", seed(&elf(AT, &many), 8192, 100, 10)),
        ("pvh", seed(&pvh_kernel(), 4096, 5000, 20)),
        ("pvh-32", seed(&pvh_kernel_of_32_bits(), 4096, 5000, 20)),
        ("pvh-too-large", seed(&pvh_kernel(), 2048, 1, 1)),
        ("bzimage", seed(&in_place, 2048, 5000, 2047)),
        ("bzimage-high", seed(&high, 20_480, 1, 3000)),
        ("other", seed(b"#!/bin/sh\n", 1024, 0, 0)),
    ]
}

/// To make them anew: `VMD_WRITE_SEEDS=1 cargo test -p vmm boot::tests::seeds`.
#[test]
fn the_seeds_of_fuzzing_are_these() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/kernel_image");
    for (name, seed) in seeds() {
        let path = directory.join(name);
        if std::env::var_os("VMD_WRITE_SEEDS").is_some() {
            fs::write(&path, &seed).unwrap();
        }
        assert!(fs::read(path).unwrap() == seed, "{name}");
    }
}
