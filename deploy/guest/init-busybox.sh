#!/bin/busybox sh
# shellcheck shell=dash
#
# The first process of the busybox initramfs: a shell on the console. The machine is powered off when the shell ends.
# Applets are found without links in /bin: busybox's shell knows them by name.

# Programs with a C library choose code for the processor they find. On a host that emulates guest kernel code they find
# its AVX, whose registers this kernel does not keep when it goes from one program to another: without.
if [ -z "$GLIBC_TUNABLES" ]; then
    export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-AVX_Fast_Unaligned_Load
    exec busybox sh "$0"
fi

busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
read -r up _ </proc/uptime
echo "GUEST-UP $up"
# A session with the console as its terminal: for job control and Ctrl-C.
busybox setsid busybox cttyhack busybox sh
busybox poweroff -f
