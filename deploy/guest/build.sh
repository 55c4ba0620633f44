#!/usr/bin/env bash
# Builds the Linux guest that the tests boot: see --help, and README.md for what is in it and why.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
me=${0##*/}

usage() {
    cat <<END
Usage: $me [DIRECTORY]

Builds a small Linux kernel and two initramfs for vmd's guests, from Debian's packages linux-source-6.1 and
busybox-static, and leaves in DIRECTORY (default: target/guest in the repository):

  vmlinux                  the kernel as an ELF file, with a PVH entry point
  bzImage                  the same kernel for the Linux boot protocol
  initramfs.cpio           an init that acts on act=verb,... of the kernel's command line
  initramfs-busybox.cpio   a shell on the console
  SHA256SUMS

The first build takes some minutes and 2 GB of disk space for that time. What was built is kept in a cache, by the hash
of this recipe and the versions of what it uses; a further run copies it. Packages that are missing are installed if
this is run by root, and named otherwise.

  VMD_GUEST_CACHE   the cache (default: vmd/guest in \$XDG_CACHE_HOME or ~/.cache); it may be removed at any time
END
}

say() {
    printf '%s: %s\n' "$me" "$*"
}

fail() {
    printf '%s: %s\n' "$me" "$*" >&2
    exit 1
}

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
-*)
    usage >&2
    exit 2
    ;;
esac
(($# <= 1)) || {
    usage >&2
    exit 2
}
out=$(realpath -m "${1:-$here/../../target/guest}")
cache=${VMD_GUEST_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, nor is VMD_GUEST_CACHE}/.cache}/vmd/guest}

# Those that the outputs are made from, then those that are needed to make them.
sources=(linux-source-6.1 busybox-static)
tools=(bc bison flex gcc libc6-dev libelf-dev make xz-utils)
recipe=(build.sh edits.sh init-busybox.sh init.c kernel.config lz4-store.c)
products=(vmlinux bzImage initramfs.cpio initramfs-busybox.cpio)

command -v dpkg-query >/dev/null || fail "needs Debian 12 or a system with its packages: there is no dpkg-query"

# The version of a package that is installed, else of the one that would be. A key can be made, and what is cached be
# found, before anything is installed.
version() {
    local status version
    if read -r status version < <(dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null) &&
        [[ $status == installed ]]; then
        printf '%s\n' "$version"
        return
    fi
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

# The key of everything, and that of the kernel, which takes the time. Fails if a source has no version yet.
make_key() {
    local package versions='' kernel
    kernel=$(version linux-source-6.1)
    for package in "${sources[@]}"; do
        version=$(version "$package")
        [[ -n $version ]] || return 1
        versions+="$package $version"$'\n'
    done
    key=$({
        (cd "$here" && sha256sum "${recipe[@]}")
        printf '%s' "$versions"
    } | sha256sum)
    key=${key:0:32}
    kernel_key=$({
        (cd "$here" && sha256sum edits.sh kernel.config lz4-store.c)
        declare -f build_kernel
        printf '%s' "$kernel"
    } | sha256sum)
    kernel_key=kernel-${kernel_key:0:32}
}

install_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        fail "packages are missing; as root: apt-get install ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    # Another apt-get may be at work: wait for it.
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
        "${apt[@]}" update
        "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
    } || fail "these packages cannot be installed: ${missing[*]}"
}

# Whether the cache has everything, unharmed.
cached() {
    [[ -f $cache/$key/SHA256SUMS ]] && (cd "$cache/$key" && sha256sum --quiet --status -c SHA256SUMS)
}

# Copies what the cache has to $out, each file as a whole: who reads them meanwhile has the old or the new one.
deliver() {
    local name
    mkdir -p "$out"
    if cmp -s "$cache/$key/SHA256SUMS" "$out/SHA256SUMS" &&
        (cd "$out" && sha256sum --quiet --status -c SHA256SUMS); then
        return
    fi
    for name in "${products[@]}" SHA256SUMS; do
        cp "$cache/$key/$name" "$out/.$name.$$"
        mv "$out/.$name.$$" "$out/$name"
    done
}

# Each line of the configuration that sets something or leaves it out must hold in the kernel's.
check_config() {
    local line name lost=0
    while IFS= read -r line; do
        case $line in
        CONFIG_*=*)
            grep -qxF "$line" .config && continue
            ;;
        '# CONFIG_'*' is not set')
            name=${line#'# '}
            name=${name%% *}
            grep -q "^$name=" .config || continue
            ;;
        *) continue ;;
        esac
        printf '%s: kernel.config: not applied: %s\n' "$me" "$line" >&2
        lost=1
    done <"$here/kernel.config"
    return "$lost"
}

build_kernel() {
    # What takes up space and is not compiled.
    local tree=linux-source-6.1
    tar -xJf "/usr/src/$tree.tar.xz" --exclude="$tree/Documentation/*/*" --exclude="$tree/tools/testing/*/*" \
        --exclude="$tree/drivers/gpu/drm/amd/include/*" --exclude="$tree/arch/arm*/boot/dts/*" \
        --exclude="$tree/sound/*/*/*.c"
    "$here/edits.sh" "$tree"
    gcc -O2 -Wall -Wextra -Werror -o lz4-store "$here/lz4-store.c"
    cd "$tree"
    make KCONFIG_ALLCONFIG="$here/kernel.config" allnoconfig
    check_config
    # The same bytes each time, wherever and whenever it is built.
    export KBUILD_BUILD_TIMESTAMP='2026-01-01 00:00:00 UTC' KBUILD_BUILD_USER=vmd KBUILD_BUILD_HOST=guest
    export KBUILD_BUILD_VERSION=1
    make -j"$(nproc)" LZ4="$work/lz4-store" vmlinux bzImage
    strip -o "$work/out/vmlinux" vmlinux
    cp arch/x86/boot/bzImage "$work/out/bzImage"
    cp usr/gen_init_cpio "$work/out/"
    # A kernel without the note could only be booted as a bzImage.
    readelf -n "$work/out/vmlinux" | grep -q 'Xen' || {
        printf '%s: vmlinux has no PVH note\n' "$me" >&2
        return 1
    }
    cd "$work"
}

# The kernel, from the cache if only the rest of the recipe has changed.
kernel() {
    local kept=$cache/$kernel_key
    if [[ -f $kept/SHA256SUMS ]] && (cd "$kept" && sha256sum --quiet --status -c SHA256SUMS); then
        cp "$kept"/{vmlinux,bzImage,gen_init_cpio} out/
        return
    fi
    build_kernel
    rm -rf "$kept"
    mkdir kept
    cp out/{vmlinux,bzImage,gen_init_cpio} kept/
    (cd kept && sha256sum vmlinux bzImage gen_init_cpio >SHA256SUMS)
    mv kept "$kept"
}

# Made with the kernel's own tool: device nodes without being root, and times as they are told, but for those of files,
# which must have them.
build_initramfs() {
    local pack=$work/gen_init_cpio
    mv out/gen_init_cpio "$pack"
    # Linked in one piece, without what a C library or a debugger would need.
    gcc -Os -static -nostdlib -ffreestanding -mgeneral-regs-only -fno-stack-protector -fno-pie -no-pie \
        -fno-asynchronous-unwind-tables -Wall -Wextra -Werror -Wl,--build-id=none,-z,noseparate-code,-z,norelro -s \
        -o init "$here/init.c"
    cp /bin/busybox busybox
    cp "$here/init-busybox.sh" init-busybox
    touch -d @0 init busybox init-busybox
    cat >base.list <<END
dir /dev 755 0 0
dir /proc 755 0 0
dir /sys 755 0 0
nod /dev/console 600 0 0 c 5 1
END
    {
        cat base.list
        echo "file /init $work/init 755 0 0"
    } >init.list
    {
        cat base.list
        echo "dir /bin 755 0 0"
        echo "dir /root 700 0 0"
        echo "dir /tmp 1777 0 0"
        echo "file /bin/busybox $work/busybox 755 0 0"
        echo "slink /bin/sh busybox 777 0 0"
        echo "file /init $work/init-busybox 755 0 0"
    } >busybox.list
    "$pack" -t 0 init.list >out/initramfs.cpio
    "$pack" -t 0 busybox.list >out/initramfs-busybox.cpio
}

# Everything, in a shell of its own in the directory $work.
build() (
    set -euo pipefail
    cd "$work"
    mkdir out
    # A caller's make, or its flags, must not come in.
    unset MAKEFLAGS MAKELEVEL MFLAGS ARCH CROSS_COMPILE KBUILD_OUTPUT KCONFIG_CONFIG
    export LC_ALL=C
    kernel
    build_initramfs
    cd out
    sha256sum "${products[@]}" >SHA256SUMS
)

# Ends the build if it is still at work, and removes its directory.
clean_up() {
    local status=$?
    trap - EXIT
    if [[ -n ${builder-} ]]; then
        # The build is a process group of its own.
        kill -- "-$builder" 2>/dev/null || true
        wait "$builder" 2>/dev/null || true
    fi
    [[ -z ${work-} ]] || rm -rf "$work"
    exit "$status"
}

begin=$SECONDS
make_key || {
    install_packages "${sources[@]}"
    make_key || fail "the versions of ${sources[*]} cannot be found"
}
if cached; then
    deliver
    say "cached: $key, in $out"
    exit 0
fi

install_packages "${sources[@]}" "${tools[@]}"
make_key
mkdir -p "$cache"
# One build at a time; whoever waits for it finds it cached.
exec 9>"$cache/lock"
flock 9
if cached; then
    deliver
    say "cached: $key, in $out"
    exit 0
fi

# Under the lock, what others left here is of builds that were killed.
rm -rf "$cache"/build.* "${cache:?}/$key"
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d "$cache/build.XXXXXX")
say "building $key: this takes some minutes"
# Job control makes it a process group, which can be ended as a whole.
set -m
build >"$work/log" 2>&1 9>&- </dev/null &
builder=$!
set +m
status=0
wait "$builder" || status=$?
builder=
if ((status != 0)); then
    tail -n 60 "$work/log" >&2
    fail "the build failed with status $status; the end of its output is above"
fi
chmod 755 "$work/out"
mv "$work/out" "$cache/$key"
deliver
say "built: $key, in $out, $((SECONDS - begin)) s"
