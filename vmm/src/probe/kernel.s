# The probe kernel (see mod.rs): an ELF file with one segment, loaded at 1 MiB and entered by its PVH note.
# Plain integer instructions only. Symbols are shared with probe.s, whose constants are used here.

    .section .rodata.vmd_probe_kernel, "a"
    .balign 16
    .globl vmd_probe_kernel_start
vmd_probe_kernel_start:

    .equ LOAD, 0x100000
    .equ IMAGE_BYTES, 0x1000
    .equ ZEROES, LOAD + IMAGE_BYTES         # memory after the image, which starts as zeroes
    .equ ZEROES_BYTES, 0x2000
    .equ MARK, ZEROES                       # a dword: 0 at a start, 1 from then on
    .equ START_INFO, ZEROES + 4
    .equ IDT, ZEROES + 0x100
    .equ STACK, ZEROES + ZEROES_BYTES

    .equ LOW, 0x8000                        # a page below 1 MiB for the code in real mode
    .equ STARTED, LOW + 0xff0               # a word: CPUs that came up

    .equ APIC, 0xfee00000

# ------------------------------------------------------------------------------------------------ ELF

k_elf:
    .ascii "\177ELF"
    .byte 2, 1, 1, 0                        # 64 bits, little-endian
    .quad 0
    .short 2, 62                            # executable, x86-64
    .long 1
    .quad LOAD + (k_entry - k_elf)
    .quad k_headers - k_elf
    .quad 0
    .long 0
    .short 64, 56, 2, 0, 0, 0
k_headers:
    .long 1, 7                              # load; all of it may be written and executed
    .quad 0, LOAD, LOAD, IMAGE_BYTES, IMAGE_BYTES + ZEROES_BYTES, 0x1000
    .long 4, 4                              # notes
    .quad k_note - k_elf, LOAD + (k_note - k_elf), LOAD + (k_note - k_elf), k_note_end - k_note, k_note_end - k_note, 4
k_note:
    .long 4, 4, 18                          # the PVH entry point
    .ascii "Xen\0"
    .long LOAD + (k_entry - k_elf)
k_note_end:

# ------------------------------------------------------------------------------------------------ start

    .code32
k_entry:
    cli
    cld
    # As an image ought to be that was just loaded: nothing changed, zeroes after it, start info in place.
    mov $0x3f, %al                          # '?'
    cmpl $0x336ec578, (%ebx)
    jne k_start
    cmpl $0, LOAD + (k_changed - k_elf)
    jne k_start
    cmpl $0, MARK
    jne k_start
    mov $0x21, %al                          # '!'
k_start:
    mov $STACK, %esp
    mov %ebx, START_INFO
    movl $1, LOAD + (k_changed - k_elf)
    movl $1, MARK
    call k_print
    call k_set_up

# ------------------------------------------------------------------------------------------------ main loop

k_next_letter:
    cli
    mov $(COM1 + 5), %edx
    in (%dx), %al
    test $0x01, %al
    jnz k_have_letter
    sti                                     # takes effect after hlt: a byte that comes between is not slept through
    hlt
    jmp k_next_letter

k_have_letter:
    mov $COM1, %edx
    in (%dx), %al
    out %al, (%dx)
    cmp $0x43, %al
    je k_do_count                             # C
    cmp $0x53, %al
    je k_do_s3                                # S
    cmp $0x4f, %al
    je k_do_s5                                # O
    cmp $0x52, %al
    je k_do_reset                             # R
    jmp k_next_letter

k_do_s5:
    mov $SLP_EN, %eax
    jmp k_sleep
k_do_reset:
    mov $0xcf9, %edx
    mov $0x06, %al
    out %al, (%dx)
    jmp k_next_letter

k_do_s3:
    call k_copy_low
    mov $0x50434146, %eax                   # "FACP"
    call k_find_table
    mov 36(%esi), %esi                      # the FACS
    movl $(LOW + (k_waking - k_low)), 12(%esi)
    mov $(SLP_EN + (1 << 10)), %eax
k_sleep:
    mov $PM1_CONTROL, %edx
    out %ax, (%dx)
    jmp k_next_letter

k_do_count:
    call k_copy_low
    movw $0, STARTED
    movl $0x000001ff, APIC + 0xf0           # enabled
    movl $0x000c4500, APIC + 0x300          # INIT to all others
    movl $(0x000c4600 + (LOW >> 12)), APIC + 0x300
    # How many local APICs the MADT has but this one.
    mov $0x43495041, %eax                   # "APIC"
    call k_find_table
    mov 4(%esi), %ecx
    add %esi, %ecx                          # its end
    add $44, %esi
    xor %ebx, %ebx
k_next_entry:
    cmp %ecx, %esi
    jae k_all_entries
    cmpb $0, (%esi)
    jne k_other_entry
    inc %ebx
k_other_entry:
    movzbl 1(%esi), %eax
    add %eax, %esi
    jmp k_next_entry
k_all_entries:
    lea -1(%ebx), %eax
k_wait_for_all:
    pause
    cmp STARTED, %ax
    jne k_wait_for_all
    # The number of CPUs, in two hexadecimal digits.
    mov %ebx, %eax
    shr $4, %eax
    call k_print_digit
    mov %ebx, %eax
    and $0x0f, %eax
    call k_print_digit
    jmp k_next_letter

# ------------------------------------------------------------------------------------------------ parts

k_print_digit:                                # AL
    add $0x30, %al
    cmp $0x3a, %al
    jb k_print
    add $0x27, %al
k_print:
    mov $COM1, %edx
    out %al, (%dx)
    ret

k_find_table:                                 # ESI := the table whose signature is EAX
    mov START_INFO, %esi
    mov 32(%esi), %esi                      # the RSDP
    mov 24(%esi), %esi                      # the XSDT
    lea 36(%esi), %edi
k_next_table:
    mov (%edi), %esi
    add $8, %edi
    cmp %eax, (%esi)
    jne k_next_table
    ret

k_copy_low:
    mov $(LOAD + (k_low - k_elf)), %esi
    mov $LOW, %edi
    mov $(k_low_end - k_low), %ecx
    rep movsb
    ret

# Segments, interrupt table, interrupt controllers and serial port: gone after a reset, and after a wake-up.
k_set_up:
    lgdt LOAD + (k_gdt_register - k_elf)
    ljmp $0x08, $(LOAD + (k_reloaded - k_elf))
k_reloaded:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $IDT, %edi
    mov $0x30, %ecx
k_next_gate:
    movl $(0x00080000 + ((LOAD + (k_isr_ignore - k_elf)) & 0xffff)), (%edi)
    movl $(((LOAD + (k_isr_ignore - k_elf)) & 0xffff0000) + 0x8e00), 4(%edi)
    add $8, %edi
    loop k_next_gate
    movl $(0x00080000 + ((LOAD + (k_isr_serial - k_elf)) & 0xffff)), IDT + 0x24 * 8
    lidt LOAD + (k_idt_register - k_elf)

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
    mov $0xef, %al                          # serial alone
    out %al, $0x21
    mov $0xff, %al
    out %al, $0xa1

    mov $(COM1 + 3), %edx
    mov $0x03, %al
    out %al, (%dx)
    mov $(COM1 + 4), %edx
    mov $0x0b, %al
    out %al, (%dx)
    mov $(COM1 + 1), %edx
    mov $0x01, %al
    out %al, (%dx)
    ret

# An interrupt comes only where the guest halts, so there is nothing to return to. (Nor is there everywhere a way: some
# hosts' emulators lack iret in this mode.)
k_isr_serial:
    mov $0x20, %al
    out %al, $0x20
k_isr_ignore:
    mov $STACK, %esp
    jmp k_next_letter

k_woken:                                      # from real mode, with memory as it was
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    mov $0x3f, %al                          # '?'
    cmpl $1, MARK
    jne k_was_woken
    mov $0x77, %al                          # 'w'
k_was_woken:
    call k_print
    call k_set_up
    jmp k_next_letter

# ------------------------------------------------------------------------------------------------ real mode

    .code16
    .balign 16
k_low:                                        # copied to LOW; where the other CPUs begin
    cli
    xor %ax, %ax
    mov %ax, %ds
    lock incw STARTED
k_halt:
    hlt
    jmp k_halt

    .balign 16
k_waking:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl LOW + (k_low_gdt_register - k_low)
    mov %cr0, %eax
    or $0x01, %al
    mov %eax, %cr0
    .byte 0x66, 0xea
    .long LOAD + (k_woken - k_elf)
    .short 0x0008
k_low_gdt_register:
    .short k_gdt_end - k_gdt - 1
    .long LOAD + (k_gdt - k_elf)
k_low_end:

# ------------------------------------------------------------------------------------------------ tables

    .balign 8
k_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff                # 0008: flat 32-bit code
    .quad 0x00cf93000000ffff                # 0010: flat data
k_gdt_end:
k_gdt_register:
    .short k_gdt_end - k_gdt - 1
    .long LOAD + (k_gdt - k_elf)
k_idt_register:
    .short 0x30 * 8 - 1
    .long IDT
    .balign 4
k_changed:
    .long 0

    .org vmd_probe_kernel_start - vmd_probe_kernel_start + IMAGE_BYTES, 0
    .globl vmd_probe_kernel_end
vmd_probe_kernel_end:
    .code64
    .text
