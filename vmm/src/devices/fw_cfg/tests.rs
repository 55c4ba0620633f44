use proptest::{collection::vec, prelude::*};
use vm_memory::{Bytes, GuestAddress};

use super::{
    super::testing::{access_at_random, access_everything, read_byte, read_dword},
    dma::MAX_ZEROS,
    *,
};

const RAM: usize = 4 << 20;
const REQUEST: u64 = 0x1000;
const TARGET: u64 = 0x2000;
const LONG: u16 = items::FIRST_FILE + 1;

/// Two ranges of RAM with a hole between them, and three items of 0, 5 and 10,000 bytes.
fn device() -> FwCfg {
    let ranges = [(GuestAddress(0), RAM), (GuestAddress(1 << 32), 1 << 20)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    let mut items = Items::default();
    items.set(0x05, 2_u16.to_le_bytes());
    items.add_file("etc/empty", []);
    items.add_file("etc/long", (0..10_000).map(|n| n as u8).collect::<Vec<_>>());
    items.add_file("etc/short", *b"short");
    FwCfg::new(memory, items)
}

fn select(device: &mut FwCfg, key: u16) {
    device.write(SELECTOR, &key.to_le_bytes());
}

fn bytes(device: &mut FwCfg, count: usize) -> Vec<u8> {
    (0..count).map(|_| read_byte(device, DATA)).collect()
}

/// Has the device do a transfer; returns what control is then.
fn dma_at(device: &mut FwCfg, at: u64, control: u32, length: u32, address: u64) -> Option<u32> {
    let mut request = control.to_be_bytes().to_vec();
    request.extend(length.to_be_bytes());
    request.extend(address.to_be_bytes());
    let _ = device.memory.write_slice(&request, GuestAddress(at));
    let (high, low) = ((at >> 32) as u32, at as u32);
    if high != 0 {
        device.write(DMA_HIGH, &high.to_be_bytes());
    }
    device.write(DMA_LOW, &low.to_be_bytes());
    let mut control = [0; 4];
    let read = device.memory.read_slice(&mut control, GuestAddress(at));
    read.ok().map(|()| u32::from_be_bytes(control))
}

fn dma(device: &mut FwCfg, control: u32, length: u32, address: u64) -> u32 {
    dma_at(device, REQUEST, control, length, address).unwrap()
}

fn memory(device: &FwCfg, at: u64, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    device
        .memory
        .read_slice(&mut data, GuestAddress(at))
        .unwrap();
    data
}

#[test]
fn items_are_read_by_bytes_and_end_with_zeros() {
    let mut device = device();
    assert_eq!(bytes(&mut device, 6), b"QEMU\0\0");
    select(&mut device, 1);
    assert_eq!(bytes(&mut device, 5), [3, 0, 0, 0, 0]);
    for key in [0x05, 0x4005] {
        select(&mut device, key);
        assert_eq!(bytes(&mut device, 3), [2, 0, 0]);
    }
    for key in [0x8005, 0x0002, 0xffff] {
        select(&mut device, key);
        assert_eq!(bytes(&mut device, 3), [0; 3]);
    }
    // What is not a word at the selector selects nothing.
    select(&mut device, 0);
    device.write(SELECTOR, &[1]);
    device.write(DATA, &[1]);
    device.write(SELECTOR, &[1, 0, 0, 0]);
    assert_eq!(bytes(&mut device, 2), b"QE");
    device.reset();
    assert_eq!(bytes(&mut device, 4), b"QEMU");
    assert_eq!(read_byte(&mut device, 2), 0xff);
    let signature = [
        read_dword(&mut device, DMA_HIGH),
        read_dword(&mut device, DMA_LOW),
    ];
    assert_eq!(signature.map(u32::to_le_bytes).concat(), b"QEMU CFG");
}

#[test]
fn the_directory_names_the_files() {
    let mut device = device();
    select(&mut device, items::FILE_DIRECTORY);
    assert_eq!(bytes(&mut device, 4), [0, 0, 0, 3]);
    for (name, size, key) in [
        ("etc/empty", 0, 0x20),
        ("etc/long", 10_000, 0x21),
        ("etc/short", 5, 0x22),
    ] {
        let mut expected = u32::to_be_bytes(size).to_vec();
        expected.extend(u16::to_be_bytes(key));
        expected.extend([0; 2]);
        expected.extend(name.as_bytes());
        expected.resize(64, 0);
        assert_eq!(bytes(&mut device, 64), expected);
    }
    assert_eq!(bytes(&mut device, 1), [0]);
    assert_eq!(device.items.file("etc/short"), Some(&b"short"[..]));
    assert_eq!(device.items.file("etc"), None);

    let mut items = Items::default();
    items.add_file(&"n".repeat(56), *b"too long a name");
    assert_eq!(items.get(items::FILE_DIRECTORY), [0; 4]);
    for n in 0..20_000 {
        items.add_file("many", u32::to_le_bytes(n));
    }
    assert_eq!(items.get(0x20 + 999), 999_u32.to_le_bytes());
    assert!(
        items.get(0x8020).is_empty(),
        "files stay below the architecture's keys"
    );
}

#[test]
fn dma_selects_reads_and_skips() {
    let mut device = device();
    let select_and_read = (0x22 << 16) | 0x0a;
    assert_eq!(dma(&mut device, select_and_read, 8, TARGET), 0);
    assert_eq!(memory(&device, TARGET, 8), b"short\0\0\0");
    // Select alone, skip, read on; by bytes, too.
    assert_eq!(dma(&mut device, (0x21 << 16) | 0x08, 0, 0), 0);
    assert_eq!(dma(&mut device, 0x04, 300, 0), 0);
    assert_eq!(dma(&mut device, 0x02, 3, TARGET), 0);
    assert_eq!(memory(&device, TARGET, 3), [44, 45, 46]);
    assert_eq!(bytes(&mut device, 2), [47, 48]);
    assert_eq!(dma(&mut device, 0x04, u32::MAX, 0), 0);
    assert_eq!(bytes(&mut device, 1), [0]);
    // Above 4 GiB, the request, too; the upper half of the address counts once.
    let high = (1 << 32) + 0x100;
    assert_eq!(
        dma_at(&mut device, high, select_and_read, 5, high + 64),
        Some(0)
    );
    assert_eq!(memory(&device, high + 64, 5), b"short");
    assert_eq!(dma(&mut device, select_and_read, 5, TARGET), 0);
    assert_eq!(memory(&device, TARGET, 5), b"short");
}

#[test]
fn dma_outside_of_ram_and_writes_are_refused() {
    let mut device = device();
    let read = (u32::from(LONG) << 16) | 0x0a;
    let hole = RAM as u64;
    for (length, address) in [
        (4, hole),
        (16, hole - 8),
        (10_001, hole - 10_000),
        (u32::MAX, 0),
        (4, u64::MAX - 1),
        (1 << 21, 0),
        (4, (1 << 32) + (1 << 20)),
    ] {
        assert_eq!(
            dma(&mut device, read, length, address),
            1,
            "{length} {address:#x}"
        );
        assert_eq!(bytes(&mut device, 2), [0, 1], "nothing was read");
    }
    assert!(memory(&device, hole - 8, 8).iter().all(|byte| *byte == 0));
    // As many zeros as there may be, and one more.
    let most = 10_000 + MAX_ZEROS as u32;
    assert_eq!(dma(&mut device, read, most, TARGET), 0);
    assert_eq!(dma(&mut device, read, most + 1, TARGET), 1);
    assert_eq!(dma(&mut device, (0x22 << 16) | 0x18, 5, TARGET), 1);
    assert_eq!(bytes(&mut device, 5), b"short");
    // The request itself, in whole or in part.
    assert_eq!(dma_at(&mut device, hole, read, 4, TARGET), None);
    assert_eq!(dma_at(&mut device, u64::MAX - 3, read, 4, TARGET), None);
    assert_eq!(dma_at(&mut device, hole - 8, read, 4, TARGET), Some(1));
}

#[test]
fn hostile_accesses_are_harmless() {
    let mut device = device();
    access_everything(&mut device, &PORTS);
    access_at_random(&mut device, &PORTS, 100_000, |device, random| {
        if random.is_multiple_of(777) {
            device.reset();
        }
    });
}

proptest! {
    #[test]
    fn no_request_reads_beyond_an_item_or_writes_elsewhere(
        requests in vec((any::<u32>(), any::<u32>(), any::<u64>(), 0..8_u32), 1..20)
    ) {
        let mut device = device();
        for (control, length, address, kind) in requests {
            // Often enough something that works.
            let address = if kind & 1 == 0 { TARGET + address % 0x8000 } else { address };
            let length = if kind & 2 == 0 { length % 0x4000 } else { length };
            let key = if kind & 4 == 0 { 0x1f + (control >> 16) % 5 } else { control >> 16 };
            let control = (key << 16) | control & 0xffff;
            let before = (device.key, device.offset);
            let guard = memory(&device, 0, REQUEST as usize);
            let after = dma_at(&mut device, REQUEST, control, length, address);
            prop_assert!(after.is_some());
            prop_assert!(device.offset <= device.items.get(device.key).len());
            let inside = address >= TARGET && length < 0x4000 && address < 0x1_0000;
            if inside {
                let done = control & 0x1a != 0x10 && control & 0x12 != 0x10;
                prop_assert_eq!(after, Some(u32::from(!done)));
                prop_assert_eq!(memory(&device, 0, REQUEST as usize), guard);
                if control & 0x02 != 0 {
                    let (key, offset) =
                        if control & 0x08 != 0 { (key as u16, 0) } else { before };
                    let mut expected = device.items.get(key)[offset..].to_vec();
                    expected.resize(length as usize, 0);
                    prop_assert_eq!(memory(&device, address, length as usize), expected);
                }
            }
        }
    }
}
