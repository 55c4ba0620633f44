# A bare virtio driver (see driver.rs): its image is a segment of an ELF file, entered by PVH.

    .equ COM1, 0x3f8
    .equ PLAN, 0x120000             # see driver.rs
    .equ STACK, 0x118000
    .equ PAGES, 0x110000
    .equ TASK, 0x28                 # the segment of the TSS, which has the stack for d_done

    .section .rodata.vmd_test_driver, "a"
    .balign 16
    .globl vmd_test_driver
vmd_test_driver:
    .code32
    cli
    cld
    lgdtl 0x100000 + (d_gdtr - vmd_test_driver)
    mov %cr4, %eax
    or $0x20, %eax                  # PAE
    mov %eax, %cr4
    mov $PAGES, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx           # EFER: long mode, SYSRET
    rdmsr
    or $0x101, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $0x08, $(0x100000 + (d_long - vmd_test_driver))

    .code64
d_long:
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov $STACK, %esp
    lidt 0x100000 + (d_idtr - vmd_test_driver)
    mov $TASK, %eax
    ltr %ax
    mov $0xc0000081, %ecx           # STAR: SYSRET loads CS 0x23 and SS 0x1b
    mov $0x00100008, %edx
    xor %eax, %eax
    wrmsr

    # The registers to set: their number, and the address and value of each.
    mov $PLAN, %ebx
    mov (%rbx), %ecx
1:  add $8, %ebx
    mov (%rbx), %edi
    mov 4(%rbx), %eax
    mov %eax, (%rdi)
    dec %ecx
    jnz 1b
    mov $0x21, %al                  # '!'
d_print:
    mov $COM1, %edx
    out %al, (%dx)
    mov $(COM1 + 5), %edx
1:  in (%dx), %al
    test $1, %al
    jz 1b
    mov $COM1, %edx
    in (%dx), %al
    # The run of this letter: 'a' is the first.
    movzbl %al, %eax
    sub $0x61, %eax
    shl $6, %eax
    lea PLAN + 0x1000(%rax), %esi
    mov $(0x100000 + (d_run - vmd_test_driver)), %ecx
    mov $2, %r11d
    sysretq

    .equ R_AVAILABLE, 0             # where the rings are
    .equ R_USED, 8
    .equ R_NOTIFY, 16               # where to notify, and what to write there
    .equ R_QUEUE, 24
    .equ R_MASK, 28                 # the queue's size, less one
    .equ R_DEPTH, 32                # requests at a time
    .equ R_TOTAL, 36                # requests
    .equ R_FIRST, 40                # the first request's head, and how far the next one's is
    .equ R_STRIDE, 44
    .equ R_STATUS, 48               # where each request's status is, and their number
    .equ R_STATUSES, 56

d_run:
    mov R_AVAILABLE(%rsi), %r8
    mov R_USED(%rsi), %r9
    mov R_NOTIFY(%rsi), %r10
    mov R_MASK(%rsi), %r12d
    mov R_TOTAL(%rsi), %r13d
    xor %r14d, %r14d                # completed
    xor %r15d, %r15d                # made available
    movzwl 2(%r9), %ebx             # used entries that were seen
    movzwl 2(%r8), %edi             # the index that is to be published
    # No interrupts: the event is the one before, until the index has gone round.
    lea -1(%rbx), %eax
    mov %ax, 6(%r8,%r12,2)
    # As many requests as there are at a time.
    mov R_FIRST(%rsi), %edx
1:  mov %edi, %ecx
    and %r12d, %ecx
    mov %dx, 4(%r8,%rcx,2)
    add R_STRIDE(%rsi), %edx
    inc %edi
    inc %r15d
    cmp R_DEPTH(%rsi), %r15d
    jb 1b

d_publish:
    movzwl 2(%r8), %ebp             # the old index
    mov %di, 2(%r8)
    mfence
    # Section 2.7.10: notify if the device's event is among what is new.
    movzwl 12(%r9,%r12,8), %ecx
    mov %edi, %edx
    sub %ecx, %edx
    dec %edx
    movzwl %dx, %edx
    mov %edi, %ecx
    sub %ebp, %ecx
    movzwl %cx, %ecx
    cmp %ecx, %edx
    jae d_wait
    mov R_QUEUE(%rsi), %eax
    mov %eax, (%r10)

d_wait:
    movzwl 2(%r9), %eax
    cmp %ax, %bx
    jne d_used
    pause
    jmp d_wait
d_used:
    # No interrupt for what comes next either.
    lea -1(%rax), %ecx
    mov %cx, 6(%r8,%r12,2)
1:  mov %ebx, %ecx
    and %r12d, %ecx
    mov 4(%r9,%rcx,8), %edx
    inc %ebx
    inc %r14d
    cmp %r13d, %r15d
    jae 2f
    # It is used again.
    mov %edi, %ecx
    and %r12d, %ecx
    mov %dx, 4(%r8,%rcx,2)
    inc %edi
    inc %r15d
2:  cmp %ax, %bx
    jne 1b
    cmp %r13d, %r14d
    jae 3f
    cmp %di, 2(%r8)
    jne d_publish
    jmp d_wait
3:  ud2                             # to d_done

d_done:
    mov R_STATUS(%rsi), %rdi
    mov R_STATUSES(%rsi), %ecx
    mov $0x45, %al                  # 'E'
    jecxz 2f
1:  cmpb $0, (%rdi)
    jne d_print
    inc %rdi
    dec %ecx
    jnz 1b
2:  mov $0x2e, %al                  # '.': all went well
    jmp d_print

    .balign 8
d_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # code
    .quad 0x00cf93000000ffff        # data
    .quad 0x00cff3000000ffff        # data at user privilege
    .quad 0x00affb000000ffff        # code at user privilege
    .quad 0x0000891000000067 + ((d_task - vmd_test_driver) << 16)
    .quad 0
d_gdtr:
    .short . - d_gdt - 1
    .long 0x100000 + (d_gdt - vmd_test_driver)
    .balign 8
d_idt:
    .fill 12, 8, 0                  # only one exception is expected: invalid opcode
    .short d_done - vmd_test_driver, 0x08, 0x8e00, 0x10
    .quad 0
d_idtr:
    .short . - d_idt - 1
    .quad 0x100000 + (d_idt - vmd_test_driver)
    .balign 8
    .long 0
d_task:                             # so that its stack pointer is aligned
    .long 0
    .quad STACK
    .fill 90, 1, 0
    .short 104
    .org vmd_test_driver + 4096
