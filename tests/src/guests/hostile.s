# The hostile guests (see mod.rs). Real mode, at F000:F000; plain integer instructions only.
# Each is a section of its own of exactly 4 KiB, so that `.org` counts from the image's start.

    .equ COM1, 0x3f8
    .equ PVPANIC, 0x505
    .equ PM1_CONTROL, 0x604

    .macro rom name
    .section .rodata.vmd_test_\name, "a"
    .globl vmd_test_\name
vmd_test_\name:
    .code16
    cli
    .endm

    .macro end_rom
    .org 0xff0, 0xff
    .byte 0xea                      # jmp f000:f000
    .short 0xf000
    .short 0xf000
    .org 0x1000, 0xff
    .code64
    .endm

# Spins with interrupts off.
    rom spin
1:  jmp 1b
    end_rom

# Says `!`, never reads what it is sent, and halts for ever.
    rom deaf
    mov $COM1, %dx
    mov $0x21, %al
    out %al, (%dx)
1:  hlt
    jmp 1b
    end_rom

# Writes 0, 1, ... 255, 0, ... to the serial port.
    rom chatter
    mov $COM1, %dx
    xor %al, %al
1:  out %al, (%dx)
    inc %al
    jmp 1b
    end_rom

# Accesses all ports in turn, those below 0x1000, where devices are, in every way. Where it stands is in memory, which a reset keeps: it goes on with the next port.
#   0x500  the next port        0x504  the last value
# The end of a round is told by S4.
    .macro all_ports name, first_skipped, last_skipped
    rom \name
    xor %ax, %ax
    mov %ax, %ds
1:  mov 0x500, %dx
    mov 0x504, %eax
    add $0x9e3779b9, %eax
    rol $7, %eax
    mov %eax, 0x504
    incw 0x500
    jnz 2f
    mov $PM1_CONTROL, %dx           # the round is over
    mov $0x2800, %ax
    out %ax, (%dx)
    jmp 1b
2:  cmp $\first_skipped, %dx
    jb 3f
    cmp $\last_skipped, %dx
    jbe 1b
3:  cmp $0x1000, %dx
    jae 4f
    out %al, (%dx)
    out %ax, (%dx)
    out %eax, (%dx)
    in (%dx), %al
    in (%dx), %ax
    in (%dx), %eax
    jmp 1b
4:  out %eax, (%dx)
    jmp 1b
    end_rom
    .endm

# All but what reaches the sleep bit of PM1 control.
    all_ports most_ports, 0x602, 0x605
# All: the range is empty.
    all_ports all_ports, 1, 0

# Reports crash-loaded and panicked by turns.
    rom storm
    mov $PVPANIC, %dx
1:  mov $2, %al
    out %al, (%dx)
    mov $1, %al
    out %al, (%dx)
    jmp 1b
    end_rom

# Resets at once.
    rom reset_storm
    mov $0xcf9, %dx
    mov $6, %al
1:  out %al, (%dx)
    jmp 1b
    end_rom

# Has the watchdog expire at once, again and again.
    rom bark
    mov $0x443, %dx
    mov $0x0f, %al
1:  out %al, (%dx)
    jmp 1b
    end_rom

# Writes and reads just above 1 MiB, where nothing is in a machine with 1 MiB.
    rom mmio
    mov $0xffff, %ax
    mov %ax, %ds
1:  mov $0x10, %bx
2:  mov %eax, (%bx)
    mov (%bx), %al
    mov (%bx), %eax
    add $4, %bx
    cmp $0xfff0, %bx
    jb 2b
    jmp 1b
    end_rom

    .text
