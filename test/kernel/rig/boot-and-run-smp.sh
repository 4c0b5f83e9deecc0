#!/usr/bin/env bash
#
# boot-and-run-smp.sh - boot-and-run.sh's sibling for tests that need several CPUs.
#
#   boot-and-run-smp.sh [-t SECONDS] [-m MEM] [-c CPUS] [-d DIR] SCRIPT [ARG...]
#   boot-and-run-smp.sh [-d DIR] -p
#
#     -p          prepare only: fetch and unpack the kernel, unless that is done
#     -t SECONDS  hard limit on the whole run, boot included   (default 180)
#     -m MEM      guest memory                                 (default 1G)
#     -c CPUS     guest processors                             (default 4)
#     -d DIR      where the kernel and initramfs are kept between runs
#                                                  (default ~/.cache/boot-and-run)
#
# QEMU without KVM: every guest instruction is translated, so it is several times
# slower than User-Mode Linux, but the nbd driver has a queue for each CPU, and so
# spreads its I/O over the connections of `nbd-client -C N`. SCRIPT gets the same
# guest as in boot-and-run.sh (there is no -w: nothing it writes is kept). Needs root,
# since virtiofsd serves the host's files, and the Debian packages in PACKAGES; the
# kernel is unpacked from its package, not installed.
set -euo pipefail

usage='usage: boot-and-run-smp.sh [-t SECONDS] [-m MEM] [-c CPUS] [-d DIR] -p | SCRIPT [ARG...]'
die() { echo "boot-and-run-smp: $*" >&2; exit 125; }

prepare='' limit=180 mem=1G cpus=4 cache=${XDG_CACHE_HOME:-$HOME/.cache}/boot-and-run
while getopts pt:m:c:d: flag; do
  case $flag in
    p) prepare=yes ;;
    t) limit=$OPTARG ;;
    m) mem=$OPTARG ;;
    c) cpus=$OPTARG ;;
    d) cache=$OPTARG ;;
    *) die "$usage" ;;
  esac
done
shift $((OPTIND - 1))
if [ -z "$prepare" ]; then
  [ $# -gt 0 ] || die "$usage"
  script=$(realpath -e -- "$1") || die "no script $1"
  shift
fi

# --- once: the kernel, and an initramfs of busybox and the few modules it needs ------
mkdir -p "$cache"
# Two that start at the same time: the second waits for the first, and finds the work done.
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/initramfs" ]; then
  build=$(mktemp -d "$cache/build.XXXXXX")
  trap 'rm -rf "$build"' EXIT
  (
    cd "$build"
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
    apt-get download -qq "$package"
    dpkg-deb -x ./*.deb .
    release=$(basename lib/modules/*)
    depmod -b . "$release"
    mkdir -p root/bin root/modules
    cp "$(command -v busybox)" root/bin/busybox
    for module in virtio_pci virtio_net virtio_console virtiofs overlay nbd xfs tls; do
      modprobe -d . -S "$release" --show-depends $module
    done | awk '/^insmod/ && !seen[$2]++ {print $2}' | while read -r file; do
      cp "$file" root/modules/
      echo "/bin/busybox insmod /modules/$(basename "$file")" >>root/modules/load
    done
    cat >root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mkdir /proc /dev /host
/bin/busybox mount -t proc proc /proc
. /modules/load
mount -t devtmpfs devtmpfs /dev
mount -t virtiofs host /host
state=$(sed 's/.* state=\([^ ]*\).*/\1/' /proc/cmdline)
. "/host$state/run"
INIT
    chmod +x root/init
    (cd root && find . | cpio --quiet -o -H newc | gzip -1) >"$cache/initramfs.new"
    cp boot/vmlinuz-* "$cache/vmlinuz"
  ) >&2
  rm -rf "$build"
  mv "$cache/initramfs.new" "$cache/initramfs"
fi
exec 9>&-
if [ -n "$prepare" ]; then exit 0; fi

# Everything of this one run lives here: its commands, sockets, log and status.
state=$(mktemp -d)
vm='' fs=''
cleanup() {
  if [ -n "$vm" ] && kill "$vm" 2>/dev/null; then wait "$vm" || true; fi
  if [ -n "$fs" ]; then kill "$fs" 2>/dev/null || true; fi
  rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- what the guest does once it sees the host's files -------------------------------
{
  printf '%s=%q\n' state "$state" cwd "$PWD" script "$script"
  printf 'set --'; [ $# -eq 0 ] || printf ' %q' "$@"; echo
  cat <<'INIT'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOST=10.0.2.2 HOME=/root LANG=C.UTF-8
mkdir /run
mount -t tmpfs tmpfs /run
root=/run/root
mkdir -p $root /run/upper /run/work
mount -t overlay -o lowerdir=/host,upperdir=/run/upper,workdir=/run/work overlay $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t devtmpfs devtmpfs $root/dev
mkdir -p $root/dev/shm $root/dev/pts
mount -t tmpfs tmpfs $root/dev/shm
mount -t devpts devpts $root/dev/pts
mount -t tmpfs tmpfs $root/run
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
out=$(echo /dev/vport*p1) err=$(echo /dev/vport*p2)
setsid chroot $root /bin/sh -c 'cd "$0" && exec "$@"' "$cwd" "$script" "$@" \
  </dev/null >"$out" 2>"$err"
echo $? >"/host$state/status"
poweroff -nf
INIT
} >"$state/run"

# --- boot ------------------------------------------------------------------------------
/usr/lib/qemu/virtiofsd --socket-path="$state/fs" -o source=/ -o sandbox=chroot -o cache=auto \
  >"$state/fs.log" 2>&1 &
fs=$!
until [ -S "$state/fs" ]; do sleep 0.05; kill -0 $fs || die "$(cat "$state/fs.log")"; done
# QEMU opens its outputs anew, which a pipe always allows, so both go through a cat.
exec 3> >(exec cat); out=$!
exec 4> >(exec cat >&2); err=$!
timeout --kill-after=5 "$limit" qemu-system-x86_64 -nodefaults -display none -no-reboot \
  -machine pc,memory-backend=ram -object "memory-backend-memfd,id=ram,size=$mem,share=on" -m "$mem" \
  -accel tcg,thread=multi -cpu max -smp "$cpus" \
  -kernel "$cache/vmlinuz" -initrd "$cache/initramfs" \
  -append "console=ttyS0 panic=-1 mitigations=off state=$state" -serial "file:$state/log" \
  -nic user,model=virtio-net-pci \
  -chardev "socket,id=fs,path=$state/fs" -device vhost-user-fs-pci,chardev=fs,tag=host \
  -device virtio-serial \
  -chardev file,id=out,path=/dev/fd/3 -device virtserialport,chardev=out,nr=1 \
  -chardev file,id=err,path=/dev/fd/4 -device virtserialport,chardev=err,nr=2 </dev/null &
vm=$!
exec 3>&- 4>&-
ended=0
wait "$vm" || ended=$?
wait "$out" "$err" || true
if [ -s "$state/status" ]; then exit "$(<"$state/status")"; fi
if [ "$ended" -eq 124 ] || [ "$ended" -eq 137 ]; then
  echo "boot-and-run-smp: over the limit of $limit s" >&2
  exit 124
fi
tail -n 30 "$state/log" >&2
die 'the guest died before its script ended; its last words are above'
