//! A kernel file of any content, booted in a machine of any size: it is refused, or all of it fits into guest memory.
//!
//! The input is the file, followed by the machine's memory in KiB, the size of the initial RAM disk and that of the
//! command line, each of 16 bits.
#![no_main]

use std::{io::Cursor, sync::Arc};

use libfuzzer_sys::{Corpus, fuzz_target};
use vmm::machine::boot::{DirectBoot, KernelImage};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((file, &[a, b, c, d, e, f])) = input.split_last_chunk() else {
        return Corpus::Reject;
    };
    let [memory_kib, initrd, cmdline] = [[a, b], [c, d], [e, f]].map(u16::from_le_bytes);
    let memory = u64::from(memory_kib) << 10;
    let Ok(kernel) = KernelImage::read(&mut Cursor::new(file), memory) else {
        return Corpus::Keep;
    };
    let initrd = (initrd > 0).then(|| vec![0xa5; initrd.into()].into());
    let cmdline = "x".repeat(cmdline.into());
    if let Ok(boot) = DirectBoot::new(Arc::new(kernel), initrd, &cmdline, memory) {
        boot.write_twice(memory as usize);
    }
    Corpus::Keep
});
