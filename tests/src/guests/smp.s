# The guest with several vCPUs (see smp.rs). Real mode, at F000:F000; the others start at 0000:8000.

    .equ COM1, 0x3f8
    .equ APIC_BASE, 0x1b
    .equ ICR, 0x300
    .equ X2APIC_ICR, 0x830
    .equ INIT_OTHERS, 0xc4500
    .equ SIPI_OTHERS, 0xc4608       # vector 8: 0x8000
    .equ TRAMPOLINE, 0x8000
    .equ TICKS, 0x500               # counted up by the others as long as they run

    .section .rodata.vmd_test_smp, "a"
    .globl vmd_test_smp
vmd_test_smp:
    .code16
    cli
    cld
    xor %ax, %ax
    mov %ax, %ss
    mov %ax, %es
    mov $0x7000, %sp

    # What the others do, to where they start.
    mov %cs, %ax
    mov %ax, %ds
    mov $(0xf000 + smp_other - vmd_test_smp), %si
    mov $TRAMPOLINE, %di
    mov $(smp_other_end - smp_other), %cx
    rep movsb

    # A data segment of 4 GiB: GS keeps it in real mode.
    lgdtl %cs:(0xf000 + smp_gdtr - vmd_test_smp)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $8, %bx
    mov %bx, %gs
    and $0xfe, %al
    mov %eax, %cr0

    xor %ax, %ax
    mov %ax, %ds
    movl $0, (TICKS)
    mov $0x21, %al                  # '!'
    call smp_print

smp_letter:
    mov $(COM1 + 5), %dx
1:  in (%dx), %al
    test $1, %al
    jz 1b
    mov $COM1, %dx
    in (%dx), %al
    cmp $0x69, %al                  # 'i': INIT and SIPI to the others, by the xAPIC
    je smp_xapic
    cmp $0x78, %al                  # 'x': the same by the x2APIC
    je smp_x2apic
    cmp $0x74, %al                  # 't': waits until the others tick
    je smp_ticks
    cmp $0x7a, %al                  # 'z': have the others ticked since the start?
    je smp_zero
    cmp $0x63, %al                  # 'c': CPUID
    je smp_cpuid
    cmp $0x6d, %al                  # 'm': MSR 0x8b
    je smp_msr
    cmp $0x66, %al                  # 'f': IA32_MISC_ENABLE, then fast strings off
    je smp_fast
    call smp_print
    jmp smp_letter

smp_xapic:
    call smp_print
    mov $0xfee00000, %ebx
    movl $INIT_OTHERS, %gs:ICR(%ebx)
    movl $SIPI_OTHERS, %gs:ICR(%ebx)
    jmp smp_letter

smp_x2apic:
    call smp_print
    mov $APIC_BASE, %ecx
    rdmsr
    or $0xc00, %eax
    wrmsr
    mov $X2APIC_ICR, %ecx
    xor %edx, %edx
    mov $INIT_OTHERS, %eax
    wrmsr
    mov $SIPI_OTHERS, %eax
    wrmsr
    jmp smp_letter

smp_ticks:
    mov (TICKS), %ebx
1:  cmp (TICKS), %ebx
    je 1b
    call smp_print
    jmp smp_letter

smp_zero:
    mov $0x79, %al                  # 'y': there were none
    cmpl $0, (TICKS)
    je 1f
    mov $0x6e, %al                  # 'n'
1:  call smp_print
    jmp smp_letter

smp_cpuid:
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    mov %ecx, %eax
    call smp_hex
    mov $0x40000001, %eax
    xor %ecx, %ecx
    cpuid
    call smp_hex
    jmp smp_letter

smp_msr:
    mov $0x8b, %ecx
    rdmsr
    mov %eax, %ebx
    mov %edx, %eax
    call smp_hex
    mov %ebx, %eax
    call smp_hex
    jmp smp_letter

smp_fast:
    mov $0x1a0, %ecx
    rdmsr
    mov %eax, %ebx
    and $0xfe, %al
    wrmsr
    mov %ebx, %eax
    call smp_hex
    jmp smp_letter

# Prints AL.
smp_print:
    mov $COM1, %dx
    out %al, (%dx)
    ret

# Prints EAX as eight digits.
smp_hex:
    mov $8, %cx
1:  rol $4, %eax
    push %ax
    and $0xf, %al
    add $0x30, %al
    cmp $0x3a, %al
    jb 2f
    add $0x27, %al
2:  call smp_print
    pop %ax
    loop 1b
    ret

# The others: a dot, then ticks for ever.
smp_other:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov $COM1, %dx
    mov $0x2e, %al                  # '.'
    out %al, (%dx)
1:  lock incl (TICKS)
    jmp 1b
smp_other_end:

    .balign 8
smp_gdt:
    .quad 0
    .quad 0x00cf93000000ffff
smp_gdtr:
    .short smp_gdtr - smp_gdt - 1
    .long 0xf0000 + 0xf000 + smp_gdt - vmd_test_smp

    .org 0xff0, 0xff
    .byte 0xea                      # jmp f000:f000
    .short 0xf000
    .short 0xf000
    .org 0x1000, 0xff
    .code64
    .text
