#!/bin/bash
# Attach to a server whose only address is a Unix socket; PORT leads to it. Arguments: PORT EXPORT
cd "$(dirname "$0")" && . ./common.sh
port=$1 export=$2
attach "$port" "$export"
echo "size=$(blockdev --getsize64 /dev/nbd0)"
fio_verify /dev/nbd0 16m
echo "verified=yes"
blkdiscard /dev/nbd0
echo "discarded=$(head -c 16777216 /dev/nbd0 | tr -d '\0' | wc -c)"
detach
count_complaints
