//! Where everything goes, what the guest finds there, and that a reset writes it again.

use linux_loader::loader::{
    bootparam::boot_params,
    elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    super::{
        super::{acpi::AcpiTables, virtio::Layout},
        layout::*,
        testing::*,
        *,
    },
    *,
};

const INITRD: &[u8] = b"initrd";

fn ram(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|&(start, size)| (GuestAddress(start), size))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn bytes(ram: &GuestMemoryMmap, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

fn object<T: ByteValued>(ram: &GuestMemoryMmap, at: u64) -> T {
    ram.read_obj(GuestAddress(at)).unwrap()
}

/// A bzImage that unpacks itself where it is loaded.
fn small_bzimage() -> Vec<u8> {
    let mut file = bzimage(b"begin");
    set(&mut file, PREF_ADDRESS, [0; 8]);
    file
}

#[test]
fn an_initrd_lies_on_whole_pages_at_the_top() {
    let start = |file: &[u8], size: usize, memory| {
        let boot = boot(file, &vec![1; size], "", memory)?;
        Ok(boot.initrd.map(|(start, _)| start).unwrap())
    };
    let kernel = elf_kernel();
    assert_eq!(start(&kernel, 1, 16 * MIB), Ok(16 * MIB - 4096));
    assert_eq!(start(&kernel, 4096, 16 * MIB), Ok(16 * MIB - 4096));
    assert_eq!(start(&kernel, 4097, 16 * MIB), Ok(16 * MIB - 8192));
    // RAM ends at 3 GiB, and goes on above 4 GiB.
    assert_eq!(start(&kernel, 1, 8 * GIB), Ok(3 * GIB - 4096));
    // Down to the page after the kernel's last.
    let has = AT + 3 * 4096;
    assert_eq!(start(&kernel, 8192, has), Ok(AT + 4096));
    let (size, room) = (8193, 8192);
    assert_eq!(
        start(&kernel, 8193, has),
        Err(BootError::Initrd { size, room })
    );
    let (size, room) = (1, 0);
    let full = AT + 4096;
    assert_eq!(
        start(&kernel, 1, full),
        Err(BootError::Initrd { size, room })
    );
    assert_eq!(start(&kernel, 0, full), Err(BootError::InitrdEmpty));

    // As low as the kernel says.
    let below = |max: u32, size| {
        let mut file = small_bzimage();
        set(&mut file, INITRD_ADDR_MAX, max.to_le_bytes());
        start(&file, size, 64 * MIB)
    };
    let limit = 8 * MIB as u32;
    assert_eq!(below(limit - 1, 1), Ok(8 * MIB - 4096));
    assert_eq!(below(limit - 2, 1), Ok(8 * MIB - 8192));
    assert_eq!(below(u32::MAX, 1), Ok(64 * MIB - 4096));
    for tiny in [0, 1, 4095, 0x10_0000, 0x10_1000] {
        let (size, room) = (1, 0);
        assert_eq!(below(tiny, 1), Err(BootError::Initrd { size, room }));
    }
}

#[test]
fn a_command_line_has_the_length_that_the_kernel_takes() {
    let with = |file: &[u8], cmdline: &str| boot(file, b"none", cmdline, 64 * MIB).map(drop);
    let fits = |file: &[u8], max: usize| {
        assert_eq!(with(file, &"x".repeat(max)), Ok(()));
        let length = max + 1;
        let error = BootError::CmdlineLength { length, max };
        assert_eq!(with(file, &"x".repeat(length)), Err(error));
    };
    fits(&elf_kernel(), 65_535);
    fits(&pvh_kernel(), 65_535);
    let mut file = bzimage(b"");
    fits(&file, 2047);
    set(&mut file, CMDLINE_SIZE, [0; 4]);
    fits(&file, 0);
    set(&mut file, CMDLINE_SIZE, [0xff; 4]);
    fits(&file, 65_535);
    assert_eq!(with(&file, "a\0b"), Err(BootError::CmdlineZero));
    // The kernel is named first, whatever else is wrong: the rest depends on it.
    let error = boot(&file, b"", "a\0b", 2 * MIB).unwrap_err();
    assert!(matches!(error, BootError::Kernel(_)), "{error}");
}

#[test]
fn an_image_read_for_a_large_machine_is_checked_against_a_small_one() {
    let (needs, has) = (AT + 0x1_2000, 2 * MIB);
    let error = boot(&pvh_kernel(), b"none", "", has).unwrap_err();
    assert_eq!(error, BootError::Kernel(TooLarge { needs, has }));
}

#[test]
fn a_pvh_kernel_finds_its_start_info() {
    for file in [pvh_kernel(), pvh_kernel_of_32_bits()] {
        finds_its_start_info(&file);
    }
}

fn finds_its_start_info(file: &[u8]) {
    let boot = boot(file, INITRD, "console=ttyS0", 16 * MIB).unwrap();
    assert_eq!(boot.start(), Start::Pvh { entry: AT as u32 });
    let (ram, acpi) = (
        ram(&[(0, 16 << 20), (4 << 30, 1 << 20)]),
        AcpiTables::new(1, &Layout::Mmio(Vec::new())),
    );
    boot.write(&ram, &acpi, false).unwrap();

    let info: hvm_start_info = object(&ram, START_INFO);
    let expected = hvm_start_info {
        magic: 0x336e_c578,
        version: 1,
        nr_modules: 1,
        modlist_paddr: MODULES,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: acpi.rsdp(),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: 4,
        ..Default::default()
    };
    assert_eq!(info, expected);
    let module: hvm_modlist_entry = object(&ram, MODULES);
    assert_eq!((module.paddr, module.size), (16 * MIB - 4096, 6));
    assert_eq!(bytes(&ram, module.paddr, 6), INITRD);
    assert_eq!(bytes(&ram, CMDLINE, 14), b"console=ttyS0\0");
    assert_eq!(bytes(&ram, acpi.rsdp(), 8), b"RSD PTR ");
    let entry = size_of::<hvm_memmap_table_entry>() as u64;
    let map: Vec<_> = (0..4)
        .map(|index| object::<hvm_memmap_table_entry>(&ram, MEMORY_MAP + index * entry))
        .map(|entry| (entry.addr, entry.size, entry.type_))
        .collect();
    let expected = [
        (0, 0x9_fc00, 1),
        (0x9_fc00, 0x6_0400, 2),
        (MIB, 15 * MIB, 1),
        (4 * GIB, MIB, 1),
    ];
    assert_eq!(map, expected);
    assert_eq!(bytes(&ram, AT, 4), HALT);
    assert_eq!(bytes(&ram, AT + 0x1_0000, 5), b"data\0");
}

#[test]
fn a_bzimage_finds_its_own_header_with_the_loaders_fields_filled_in() {
    let mut file = small_bzimage();
    // What the loader is to write is not taken from the file.
    set(&mut file, RAMDISK_IMAGE, [0xee; 8]);
    // Of protocol 2.12: the header ends four bytes earlier, with code after it.
    set(&mut file, VERSION, [12]);
    set(&mut file, 0x201, [0x66]);
    set(&mut file, 0x264, [0xcc; 8]);
    let boot = |initrd| boot(&file, initrd, "quiet", 16 * MIB).unwrap();
    let entry = 0x10_0200;
    assert_eq!(boot(INITRD).start(), Start::Linux64 { entry });
    let (ram, acpi) = (
        ram(&[(0, 16 << 20)]),
        AcpiTables::new(1, &Layout::Mmio(Vec::new())),
    );

    boot(INITRD).write(&ram, &acpi, false).unwrap();
    let params: boot_params = object(&ram, ZERO_PAGE);
    let header = params.hdr;
    assert_eq!({ header.header }, 0x5372_6448);
    assert_eq!({ header.version }, 0x20c);
    assert_eq!(
        ({ header.handover_offset }, { header.kernel_info_offset }),
        (0xcccc_cccc, 0)
    );
    // For the loader to read, not to write.
    assert_eq!({ header.cmdline_size }, 2047);
    assert_eq!((header.type_of_loader, header.loadflags), (0xff, 1));
    assert_eq!({ header.code32_start }, 0x10_0000);
    assert_eq!({ header.cmd_line_ptr }, CMDLINE as u32);
    assert_eq!({ header.ramdisk_image }, 16 * MIB as u32 - 4096);
    assert_eq!({ header.ramdisk_size }, 6);
    assert_eq!({ params.acpi_rsdp_addr }, acpi.rsdp());
    let map: Vec<_> = { params.e820_table }
        .iter()
        .take(params.e820_entries.into())
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    let expected = [
        (0, 0x9_fc00, 1),
        (0x9_fc00, 0x6_0400, 2),
        (MIB, 15 * MIB, 1),
    ];
    assert_eq!(map, expected);
    assert_eq!(bytes(&ram, CMDLINE, 6), b"quiet\0");
    assert_eq!(bytes(&ram, HIGH_MEMORY, 5), b"begin");
    assert_eq!(bytes(&ram, entry, 4), HALT);

    boot(b"none").write(&ram, &acpi, true).unwrap();
    let header = object::<boot_params>(&ram, ZERO_PAGE).hdr;
    assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (0, 0));
}

#[test]
fn an_elf_kernel_finds_a_header_made_for_it() {
    let boot = boot(&elf_kernel(), b"none", "", 16 * MIB).unwrap();
    assert_eq!(boot.start(), Start::Linux64 { entry: AT });
    let ram = ram(&[(0, 16 << 20)]);
    boot.write(&ram, &AcpiTables::new(1, &Layout::Mmio(Vec::new())), false)
        .unwrap();
    let header = object::<boot_params>(&ram, ZERO_PAGE).hdr;
    assert_eq!({ header.boot_flag }, 0xaa55);
    assert_eq!({ header.header }, 0x5372_6448);
    assert_eq!({ header.kernel_alignment }, 16 << 20);
    assert_eq!({ header.cmdline_size }, 65_535);
    assert_eq!({ header.ramdisk_size }, 0);
}

#[test]
fn the_page_tables_map_the_first_4_gib_one_to_one() {
    let boot = boot(&elf_kernel(), b"none", "", 16 * MIB).unwrap();
    let ram = ram(&[(0, 16 << 20)]);
    boot.write(&ram, &AcpiTables::new(1, &Layout::Mmio(Vec::new())), false)
        .unwrap();
    // As the processor walks them (Intel SDM, volume 3, 4.5): present and writable all the way, a page of 2 MiB at the end.
    let walk = |address: u64| {
        let mut table = PAGE_TABLES;
        for shift in [39, 30, 21] {
            let entry: u64 = object(&ram, table + (address >> shift) % 512 * 8);
            if entry & 0b11 != 0b11 {
                return None;
            }
            table = entry & !0xfff;
            if shift == 21 {
                assert_eq!(entry & 0x80, 0x80);
                table += address % (2 << 20);
            }
        }
        Some(table)
    };
    for address in [
        0,
        0x10_0200,
        2 * MIB,
        GIB - 1,
        GIB,
        3 * GIB + 12_345,
        4 * GIB - 1,
    ] {
        assert_eq!(walk(address), Some(address));
    }
    for outside in [4 * GIB, 512 * GIB - 1, 512 * GIB, 1 << 47] {
        assert_eq!(walk(outside), None, "{outside:#x}");
    }
}

#[test]
fn a_reset_writes_everything_again_and_nothing_else() {
    const SIZE: usize = 4 << 20;
    let acpi = AcpiTables::new(2, &Layout::Mmio(Vec::new()));
    for (file, initrd) in [
        (pvh_kernel(), INITRD),
        (elf_kernel(), b"none"),
        (small_bzimage(), INITRD),
    ] {
        let boot = boot(&file, initrd, "quiet", SIZE as u64).unwrap();
        let ram = ram(&[(0, SIZE)]);
        boot.write(&ram, &acpi, false).unwrap();
        let first = bytes(&ram, 0, SIZE);
        // Whatever a guest does to it, with two values so that none is the right one.
        let after = |scribble: u8| {
            ram.write_slice(&vec![scribble; SIZE], GuestAddress(0))
                .unwrap();
            boot.write(&ram, &acpi, true).unwrap();
            bytes(&ram, 0, SIZE)
        };
        let (second, third) = (after(0x55), after(0xaa));
        let mut written = 0;
        for at in 0..SIZE {
            let is_written = second[at] == third[at];
            assert!(is_written || second[at] == 0x55, "{at:#x}");
            assert!(!is_written || second[at] == first[at], "{at:#x}");
            assert!(is_written || first[at] == 0, "{at:#x}");
            written += usize::from(is_written);
        }
        assert!(written < 0x2_0000, "{written:#x} bytes");
    }
}

#[test]
fn zeroes_are_written_only_where_a_guest_has_run() {
    let boot = boot(&pvh_kernel(), b"none", "", 4 * MIB).unwrap();
    let (ram, acpi) = (
        ram(&[(0, 4 << 20)]),
        AcpiTables::new(1, &Layout::Mmio(Vec::new())),
    );
    let zeroes = AT + 0x1_0004..AT + 0x1_2000;
    let length = (zeroes.end - zeroes.start) as usize;
    for run in [false, true] {
        ram.write_slice(&vec![1; 4 << 20], GuestAddress(0)).unwrap();
        boot.write(&ram, &acpi, run).unwrap();
        assert_eq!(
            bytes(&ram, zeroes.start, length),
            vec![u8::from(!run); length]
        );
        // Not a byte more.
        let around = (bytes(&ram, zeroes.start - 1, 1), bytes(&ram, zeroes.end, 1));
        assert_eq!(around, (vec![b'a'], vec![1]));
    }
}
