#!/usr/bin/env bash
# edits.sh TREE: changes an unpacked linux-source-6.1 for hosts whose KVM emulates guest kernel code (see README.md).
#
# Each edit is a sed script and the number of lines that it takes out and puts in: one that finds something else than it
# was written for fails by its name, and nothing is built. On a host with VT-x or AMD-V none of them is needed, and none
# of them hurts.
set -euo pipefail
cd "$1"

# edit NAME FILE -LINES +LINES SED
edit() {
    local name=$1 file=$2 expected="$3 $4" script=$5 changed removed added
    if [[ ! -f $file ]]; then
        printf 'edits.sh: "%s": there is no %s\n' "$name" "$file" >&2
        exit 1
    fi
    sed -E "$script" "$file" >"$file.edited"
    changed=$(diff "$file" "$file.edited" || true)
    removed=$(grep -c '^<' <<<"$changed" || true)
    added=$(grep -c '^>' <<<"$changed" || true)
    if [[ "-$removed +$added" != "$expected" ]]; then
        printf 'edits.sh: "%s" does not fit %s: -%d +%d lines, should be %s\n' \
            "$name" "$file" "$removed" "$added" "$expected" >&2
        exit 1
    fi
    # Not mv: the file keeps its mode.
    cat "$file.edited" >"$file"
    rm "$file.edited"
}

# --- Instructions that are not emulated

# The alternatives' patching is tested with int3 at boot.
edit "no int3 self test" arch/x86/kernel/alternative.c -1 +1 \
    's,^\tint3_selftest\(\);,\t(void)int3_selftest;,'

# The last resort of a reboot is a triple fault, made with int3.
edit "a triple fault without int3" arch/x86/kernel/reboot.c -1 +1 \
    's,__asm__ __volatile__\("int3"\);,__asm__ __volatile__("ud2");,'

# A process that ends hands back its FPU state with fwait.
edit "no fwait" arch/x86/kernel/fpu/core.c -1 +1 \
    's,"1: fwait\\n","1: nop\\n",'

# kernel_fpu_begin() is reached from suspend. Nothing in this kernel computes with SSE.
edit "no ldmxcsr" arch/x86/kernel/fpu/core.c -1 +1 \
    's,^\t\tldmxcsr\(MXCSR_DEFAULT\);,\t\t;,'

# Such a host shows its own CPUID in part, whatever the VMM sets: features whose instructions fail in the kernel are
# never used, even if they are advertised. (clearcpuid= is read too early for the built-in command line.)
edit "hidden CPU features" arch/x86/kernel/cpu/common.c -0 +11 \
    '/^static void __init cpu_parse_early_param\(void\)/,/^}/ {
        /^\tint arglen, taint = 0;/ a\
\tstatic const u16 hidden[] __initconst = {\
\t\tX86_FEATURE_XSAVE, X86_FEATURE_SMAP, X86_FEATURE_SMEP, X86_FEATURE_UMIP,\
\t\tX86_FEATURE_FSGSBASE, X86_FEATURE_PCID, X86_FEATURE_INVPCID,\
\t\tX86_FEATURE_POPCNT, X86_FEATURE_CX16, X86_FEATURE_RDTSCP,\
\t\tX86_FEATURE_RDPID, X86_FEATURE_ERMS, X86_FEATURE_FSRM,\
\t\tX86_FEATURE_CLFLUSHOPT, X86_FEATURE_CLWB, X86_FEATURE_PKU,\
\t};\
\tint feature;\
\
\tfor (feature = 0; feature < ARRAY_SIZE(hidden); feature++)\
\t\tsetup_clear_cpu_cap(hidden[feature]);
    }'

# --- What else such a host does differently

# SYSCALL in user code arrives at its entry point with the CPU still in user mode, so that fetching the instruction there
# faults. Such a fault is finished as the system call that it is. Elsewhere only a program that jumps to this address can
# get here, and a system call is all that it gets: of the flags it brings, those of arithmetic and DF (0xcd5) are taken.
edit "SYSCALL that stays in user mode" arch/x86/mm/fault.c -0 +15 \
    '/^DEFINE_IDTENTRY_RAW_ERRORCODE\(exc_page_fault\)/,/^}/ {
        /^\tprefetchw\(&current->mm->mmap_lock\);/ a\
\
\tif (user_mode(regs)) {\
\t\textern void entry_SYSCALL_64(void);\
\t\textern void do_syscall_64(struct pt_regs *regs, int nr);\
\t\tunsigned long entry = (unsigned long)entry_SYSCALL_64;\
\
\t\tif (regs->ip == entry \&\& address == entry) {\
\t\t\tregs->ip = regs->cx;\
\t\t\tregs->flags = (regs->r11 \& 0xcd5) | X86_EFLAGS_IF | X86_EFLAGS_FIXED;\
\t\t\tregs->orig_ax = regs->ax;\
\t\t\tregs->ax = -ENOSYS;\
\t\t\tdo_syscall_64(regs, regs->orig_ax);\
\t\t\treturn;\
\t\t}\
\t}
    }'

# VMCALL and VMMCALL never complete in the kernel: no paravirtual features that are hypercalls.
edit "no hypercalls" arch/x86/kernel/kvm.c -2 +2 \
    's,return \((kvm_para_has_feature\(KVM_FEATURE_PV_(SEND_IPI|SCHED_YIELD)\)),return (0 \&\& \1,'

# --- Without PCI

# ACPICA installs a handler for PCI configuration space that it does not have then, and gives up. Fixed in later
# kernels.
edit "ACPI without PCI: handlers" drivers/acpi/acpica/evhandler.c -1 +0 \
    '/^\tACPI_ADR_SPACE_PCI_CONFIG,$/d'
edit "ACPI without PCI: their number" include/acpi/acconfig.h -1 +1 \
    's,^(#define ACPI_NUM_DEFAULT_SPACES +)4,\13,'

# --- Instructions that need not be executed: each of these is a part of a second and more where they are emulated

# Memory in sections of 64 MiB: a small guest initialises no page structures for memory that is not there.
edit "small memory sections" arch/x86/include/asm/sparsemem.h -1 +1 \
    's,^(# define SECTION_SIZE_BITS\t)27,\126,'

# The e820 map is searched for each entry of a page table that stays empty, to empty it. Fresh tables are.
edit "no search of e820 for empty entries" arch/x86/mm/init_64.c -4 +4 \
    's,^(\t+if \()(!after_bootmem &&)$,\10 \&\& \2,'

# Entries in /sys/module for built-in parameters. The directory stays: PCI hot-plug looks for its driver there.
edit "an empty /sys/module" kernel/params.c -2 +2 \
    's,^\t((version|param)_sysfs_builtin)\(\);,\t(void)\1;,'

# Per-CPU memory in units of 2 MiB, all of it cleared.
edit "small per-CPU units" arch/x86/kernel/setup_percpu.c -1 +1 \
    's,(atom_size = )PMD_SIZE;,\1PAGE_SIZE;,'

# Kernel text and data, which nothing maps with large pages of their own as rodata=off, start at every 2 MiB: half of
# the image is padding that is copied by whoever loads it.
edit "a dense image: sections" arch/x86/kernel/vmlinux.lds.S -8 +8 \
    's,ALIGN\((HPAGE|PMD)_SIZE\),ALIGN(PAGE_SIZE),'
edit "a dense image: segments" arch/x86/Makefile -1 +1 \
    's,^(LDFLAGS_vmlinux \+= -z max-page-size=)0x200000,\10x1000,'
edit "a dense image: as the bzImage checks it" arch/x86/boot/compressed/misc.c -1 +1 \
    's,\(phdr->p_align % 0x200000\),(phdr->p_align % 0x1000),'

# Memory of the initialisation code, freed: each page is poisoned and mapped anew.
edit "init memory is kept" init/main.c -1 +1 \
    's,^\tfree_initmem\(\);,,'
