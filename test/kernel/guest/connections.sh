#!/bin/bash
# Several connections, one queue each. Arguments: PORT EXPORT CONNECTIONS
cd "$(dirname "$0")" && . ./common.sh
port=$1 export=$2 connections=$3
# Emulated processors beside other work: a request may take as long as the kernel waits for it unless told otherwise.
attach "$port" "$export" -C "$connections" -t 180
echo "queues=$(ls -d /sys/block/nbd0/mq/* | wc -l)"
echo "connections=$(ss -Htn state established "dport = :$port" | wc -l)"
# One job a CPU, so that each queue, and with it each connection, has work.
fio --name=verify --filename=/dev/nbd0 --size=6m --offset_increment=8m --numjobs="$connections" --cpus_allowed_policy=split \
  --cpus_allowed=0-$((connections - 1)) --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c \
  --do_verify=1 --verify_fatal=1 --verify_state_save=0 --fsync=100 --group_reporting --minimal >/dev/null
echo "verified=yes"

# What one CPU writes, the other ones read, each over its own connection.
stale=0
for ((turn = 0; turn < connections; turn++)); do
  head -c 65536 /dev/urandom >/run/written
  taskset -c "$turn" dd if=/run/written of=/dev/nbd0 bs=4k seek=$((turn * 100)) oflag=direct conv=notrunc status=none
  reader=$(((turn + 1) % connections))
  taskset -c "$reader" dd if=/dev/nbd0 of=/run/read bs=4k skip=$((turn * 100)) count=16 iflag=direct status=none
  cmp /run/written /run/read >&2 || stale=$((stale + 1))
done
echo "stale=$stale"
# Before the detach: a scan for partitions that it interrupts complains too, and is nobody's fault.
count_complaints
detach
