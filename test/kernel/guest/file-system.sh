#!/bin/bash
# A file system's life on a volume. Arguments: PORT EXPORT ext4|xfs SHARE
cd "$(dirname "$0")" && . ./common.sh
port=$1 export=$2 type=$3 share=$4
tree=/usr/share/perl

check() {
  if [ "$type" = ext4 ]; then e2fsck -fn /dev/nbd0 >&2; else xfs_repair -n /dev/nbd0 >&2; fi
}

attach "$port" "$export"
echo "size=$(blockdev --getsize64 /dev/nbd0)"
echo "discard=$(cat /sys/block/nbd0/queue/discard_max_bytes)"
echo "cache=$(cat /sys/block/nbd0/queue/write_cache)"
echo "fua=$(cat /sys/block/nbd0/queue/fua)"
if [ "$type" = ext4 ]; then mkfs.ext4 -q -F /dev/nbd0; else mkfs.xfs -q -f /dev/nbd0; fi
mkdir -p /mnt/fs
mount /dev/nbd0 /mnt/fs

fio_verify /mnt/fs/verified 48m
cp -a "$tree" /mnt/fs/tree
dd if=/dev/urandom of=/mnt/fs/filler bs=1M count=64 status=none
sha256sum </mnt/fs/filler >/run/filler.sum
sync -f /mnt/fs
echo "used=$(($(df --output=used -B1 /mnt/fs | tail -1)))"
tell "$share" filled
await "$share" measured 40

# What is read now comes from the server: nothing of it is cached any more.
umount /mnt/fs
detach
attach "$port" "$export"
check
mount /dev/nbd0 /mnt/fs
diff -r "$tree" /mnt/fs/tree >&2
sha256sum </mnt/fs/filler | cmp - /run/filler.sum
echo "compared=yes"

rm -r /mnt/fs/verified /mnt/fs/filler
sync -f /mnt/fs
echo "trimmed=$(fstrim -v /mnt/fs | sed 's/.*(\([0-9]*\) bytes.*/\1/')"
umount /mnt/fs
detach

attach "$port" "$export"
check
mount /dev/nbd0 /mnt/fs
diff -r "$tree" /mnt/fs/tree >&2
umount /mnt/fs
check
echo "clean=yes"
detach
count_complaints
