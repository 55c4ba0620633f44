# The probe guest (see mod.rs). Real mode, runs at F000:0000; plain integer instructions only.
# AT&T syntax: the assembler takes differences of labels as operands in this one only.

    .section .rodata.vmd_probe, "a"
    .balign 16
    .globl vmd_probe_start
vmd_probe_start:
    .code16

    .equ COM1, 0x3f8
    .equ PM1_STATUS, 0x600
    .equ PM1_ENABLE, 0x602
    .equ PM1_CONTROL, 0x604
    .equ PVPANIC, 0x505
    .equ SLP_EN, 0x2000
    .equ VIRTIO, 0xd0000000
    .equ RINGS, 0x8000              # in memory; from there on:
    .equ AVAILABLE, 0x100
    .equ USED, 0x200
    .equ HEAD, 0x300
    .equ DATA, 0x400
    .equ STATUS, 0x600

# ------------------------------------------------------------------------------------------------ start

probe_entry:
    cli
    cld
    mov $COM1, %dx
    mov $0x21, %al                  # '!'
    out %al, (%dx)

    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7000, %sp

    # Every vector that can come, 0 to 0x2f, goes to an iret; then the four that matter.
    mov $(0xf0000000 + (isr_ignore - vmd_probe_start)), %eax
    xor %di, %di
    mov $0x30, %cx
    rep stosl
    movw $(isr_serial - vmd_probe_start), 0x24 * 4
    movw $(isr_rtc - vmd_probe_start), 0x28 * 4
    movw $(isr_sci - vmd_probe_start), 0x29 * 4

    # The interrupt controllers: vectors 0x20 and 0x28; serial, cascade, RTC and SCI let through; SCI by level.
    mov $0x11, %al
    out %al, $0x20
    out %al, $0xa0
    mov $0x20, %al
    out %al, $0x21
    mov $0x28, %al
    out %al, $0xa1
    mov $0x04, %al
    out %al, $0x21
    mov $0x02, %al
    out %al, $0xa1
    mov $0x01, %al
    out %al, $0x21
    out %al, $0xa1
    mov $0xeb, %al
    out %al, $0x21
    mov $0xfc, %al
    out %al, $0xa1
    mov $0x4d1, %dx
    mov $0x02, %al
    out %al, (%dx)

    # The serial port: 8n1, DTR RTS OUT2, an interrupt for each byte received.
    mov $(COM1 + 3), %dx
    mov $0x03, %al
    out %al, (%dx)
    mov $(COM1 + 4), %dx
    mov $0x0b, %al
    out %al, (%dx)
    mov $(COM1 + 1), %dx
    mov $0x01, %al
    out %al, (%dx)

# ------------------------------------------------------------------------------------------------ main loop

next_letter:
    cli
    mov $(COM1 + 5), %dx
    in (%dx), %al
    test $0x01, %al
    jnz have_letter
    sti                             # takes effect after hlt: a byte that comes between is not slept through
    hlt
    jmp next_letter

have_letter:
    mov $COM1, %dx
    in (%dx), %al
    out %al, (%dx)
    sti

    mov $(letters - vmd_probe_start), %si
find_letter:
    mov %cs:(%si), %bl
    test %bl, %bl
    jz next_letter
    cmp %al, %bl
    je found_letter
    add $3, %si
    jmp find_letter
found_letter:
    jmp *%cs:1(%si)

    .macro letter name, target
    .byte \name
    .short \target - vmd_probe_start
    .endm
letters:
    letter 0x52, do_reset_cf9       # R
    letter 0x4b, do_reset_keyboard  # K
    letter 0x4e, do_reset_port92    # N
    letter 0x54, do_triple_fault    # T
    letter 0x53, do_s3              # S
    letter 0x34, do_s4              # 4
    letter 0x4f, do_s5              # O
    letter 0x50, do_panicked        # P
    letter 0x43, do_crashloaded     # C
    letter 0x42, do_both            # B
    letter 0x57, do_arm_watchdog    # W
    letter 0x77, do_disarm_watchdog # w
    letter 0x45, do_enable_button   # E
    letter 0x41, do_alarm           # A
    letter 0x49, do_internal_error  # I
    letter 0x44, do_disk            # D
    .byte 0

# ------------------------------------------------------------------------------------------------ the letters

do_reset_cf9:
    mov $0xcf9, %dx
    mov $0x06, %al
    out %al, (%dx)
    jmp next_letter

do_reset_keyboard:
    mov $0xfe, %al
    out %al, $0x64
    jmp next_letter

do_reset_port92:
    in $0x92, %al
    or $0x01, %al
    out %al, $0x92
    jmp next_letter

do_triple_fault:
    cli
    lidt %cs:(empty_idt - vmd_probe_start)
    lgdt %cs:(gdt_register - vmd_probe_start)
    mov %cr0, %eax
    or $0x01, %al
    mov %eax, %cr0
    mov $0xfff8, %ax                # beyond the table: a fault without a vector, and so are those that follow
    mov %ax, %ds

do_s3:
    mov $(SLP_EN + (1 << 10)), %ax
    jmp sleep
do_s4:
    mov $(SLP_EN + (2 << 10)), %ax
    jmp sleep
do_s5:
    mov $SLP_EN, %ax
sleep:
    mov $PM1_CONTROL, %dx
    out %ax, (%dx)
    jmp next_letter

do_panicked:
    mov $0x01, %al
    jmp panic
do_crashloaded:
    mov $0x02, %al
    jmp panic
do_both:
    mov $0x03, %al
panic:
    mov $PVPANIC, %dx
    out %al, (%dx)
    jmp next_letter

do_arm_watchdog:
    mov $0x443, %dx
    mov $0x0e, %al                  # 30 - 2 * 14 = 2 s
    out %al, (%dx)
    jmp next_letter

do_disarm_watchdog:
    mov $0x441, %dx
    xor %al, %al
    out %al, (%dx)
    jmp next_letter

do_enable_button:
    mov $0x0100, %bx
    jmp enable_pm1
do_alarm:
    cli                             # the RTC's handler uses the index register, too
    mov $0xff01, %cx                # seconds, minutes, hours: any
    call write_cmos
    mov $0xff03, %cx
    call write_cmos
    mov $0xff05, %cx
    call write_cmos
    mov $0x0b, %al
    out %al, $0x70
    in $0x71, %al
    or $0x20, %al                   # alarm interrupt
    out %al, $0x71
    sti
    mov $0x0400, %bx
enable_pm1:
    mov $PM1_ENABLE, %dx
    in (%dx), %ax
    or %bx, %ax
    out %ax, (%dx)
    jmp next_letter

write_cmos:                         # register CL := CH
    mov %cl, %al
    out %al, $0x70
    mov %ch, %al
    out %al, $0x71
    ret

do_internal_error:
    cli
    lgdt %cs:(gdt_register - vmd_probe_start)
    mov %cr0, %eax
    or $0x01, %al
    mov %eax, %cr0
    .byte 0x66, 0xea                # far jump to 0008:e0000000
    .long 0xe0000000
    .short 0x0008

# Writes sector 0 of the disk in the first place of virtio-mmio, without interrupts. FS reaches it: a segment of 4 GiB
# that protected mode loads and real mode keeps.
do_disk:
    cli
    lgdt %cs:(gdt_register - vmd_probe_start)
    mov %cr0, %eax
    or $0x01, %al
    mov %eax, %cr0
    mov $0x10, %bx
    mov %bx, %fs
    and $0xfe, %al
    mov %eax, %cr0

    mov $VIRTIO, %ebx
    mov %fs:(%ebx), %eax
    cmp $0x74726976, %eax           # "virt"
    jne disk_failed
    mov %fs:8(%ebx), %eax
    cmp $2, %eax                    # a block device
    jne disk_failed

    mov $(disk_rings - vmd_probe_start), %si
    mov $RINGS, %di
    mov $((disk_rings_end - disk_rings) / 4), %cx
    rep movsl %cs:(%si), %es:(%di)

    mov $(disk_registers - vmd_probe_start), %si
next_register:
    movzwl %cs:(%si), %edi
    mov %cs:2(%si), %eax
    mov %eax, %fs:(%ebx, %edi)
    add $6, %si
    cmp $(disk_registers_end - vmd_probe_start), %si
    jne next_register

wait_for_disk:
    cmpw $1, RINGS + USED + 2
    jne wait_for_disk
    cmpb $0, RINGS + STATUS
    jne disk_failed
    mov $0x64, %al                  # 'd'
    jmp tell_of_disk
disk_failed:
    mov $0x65, %al                  # 'e'
tell_of_disk:
    mov $COM1, %dx
    out %al, (%dx)
    jmp next_letter

# ------------------------------------------------------------------------------------------------ interrupts

isr_ignore:
    iret

isr_serial:
    push %ax
    mov $0x20, %al
    out %al, $0x20
    pop %ax
    iret

isr_rtc:
    push %ax
    mov $0x0c, %al                  # reading register C takes the interrupt back
    out %al, $0x70
    in $0x71, %al
    jmp end_of_second
isr_sci:
    push %ax
    push %dx
    mov $PM1_STATUS, %dx
    in (%dx), %ax
    out %ax, (%dx)                  # status bits are cleared by writing ones
    pop %dx
end_of_second:
    mov $0x20, %al
    out %al, $0xa0
    out %al, $0x20
    pop %ax
    iret

# ------------------------------------------------------------------------------------------------ tables

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 0008: flat 32-bit code
    .quad 0x00cf93000000ffff        # 0010: flat data
gdt_end:
gdt_register:
    .short gdt_end - gdt - 1
    .long 0xf0000 + (gdt - vmd_probe_start)
empty_idt:
    .short 0
    .long 0

    # What is written to the disk's registers, in order.
    .macro register offset, value
    .short \offset
    .long \value
    .endm
disk_registers:
    register 0x070, 0               # reset
    register 0x070, 3               # acknowledge, driver
    register 0x024, 1
    register 0x020, 1               # version 1
    register 0x070, 11              # features ok
    register 0x030, 0               # queue 0
    register 0x038, 8
    register 0x080, RINGS
    register 0x084, 0
    register 0x090, RINGS + AVAILABLE
    register 0x094, 0
    register 0x0a0, RINGS + USED
    register 0x0a4, 0
    register 0x044, 1
    register 0x070, 15              # driver ok
    register 0x050, 0               # notify
disk_registers_end:

    # Address, length, flags (1: another follows, 2: for the device to write) and the next one.
    .macro descriptor offset, length, flags, next
    .quad RINGS + \offset
    .long \length
    .short \flags, \next
    .endm
    .balign 4
disk_rings:
    descriptor HEAD, 16, 1, 1
    descriptor DATA, 512, 1, 2
    descriptor STATUS, 1, 2, 0
    .fill AVAILABLE - (. - disk_rings), 1, 0
    .short 0, 1, 0                  # flags, index, the first descriptor
    .fill USED - (. - disk_rings), 1, 0
    .fill HEAD - (. - disk_rings), 1, 0
    .long 1, 0, 0, 0                # write, from sector 0
    .fill DATA - (. - disk_rings), 1, 0
    .fill STATUS - (. - disk_rings), 1, 0x44
    .long 0xff
disk_rings_end:

    .org vmd_probe_start - vmd_probe_start + 0xfff0, 0xff
    .byte 0xea                      # jmp f000:0000
    .short probe_entry - vmd_probe_start
    .short 0xf000
    .org vmd_probe_start - vmd_probe_start + 0x10000, 0xff
    .globl vmd_probe_end
vmd_probe_end:
    .code64
    .text
