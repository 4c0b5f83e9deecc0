#!/bin/bash
# Attach over TLS. Arguments: PORT EXPORT CERTIFICATES
cd "$(dirname "$0")" && . ./common.sh
port=$1 export=$2 certificates=$3
tls=(-x -cacertfile "$certificates/ca-cert.pem" -tlshostname localhost)
client=(-certfile "$certificates/client-cert.pem" -keyfile "$certificates/client-key.pem")

attach "$port" "$export" "${tls[@]}" "${client[@]}"
echo "size=$(blockdev --getsize64 /dev/nbd0)"
mkfs.ext4 -q -F /dev/nbd0
mkdir -p /mnt/fs
mount /dev/nbd0 /mnt/fs
fio_verify /mnt/fs/verified 16m
cp -a /usr/share/perl /mnt/fs/tree
umount /mnt/fs
detach

attach "$port" "$export" "${tls[@]}" "${client[@]}"
mount /dev/nbd0 /mnt/fs
diff -r /usr/share/perl /mnt/fs/tree >&2
umount /mnt/fs
e2fsck -fn /dev/nbd0 >&2
detach
echo "compared=yes"

# Whoever comes without TLS gets nothing: either nbd-client fails, or its device has no byte.
if timeout 10 nbd-client "$HOST" "$port" -N "$export" -b 4096 /dev/nbd1 >&2; then
  echo "plaintext=$(blockdev --getsize64 /dev/nbd1)"
  nbd-client -d /dev/nbd1 >&2
else
  echo "plaintext=refused"
fi
count_complaints
