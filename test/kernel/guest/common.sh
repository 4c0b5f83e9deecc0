# Sourced by the guest scripts: what they share. A guest reports to its test with lines KEY=VALUE on stdout.
set -euo pipefail

# attach PORT EXPORT [nbd-client option …]: makes /dev/nbd0 of an export.
attach() {
  local port=$1 export=$2
  shift 2
  nbd-client "$HOST" "$port" -N "$export" -b 4096 "$@" /dev/nbd0 >&2
}

detach() {
  nbd-client -d /dev/nbd0 >&2
  # The device answers "busy" to a new attach for a moment.
  sleep 0.3
}

# tell SHARE EVENT: lets the test on the host know.
tell() { : >"$1/$2"; }

# await SHARE EVENT SECONDS: waits for the test on the host.
await() {
  local i
  for ((i = 0; i < $3 * 5; i++)); do
    if [ -e "$1/$2" ]; then return 0; fi
    sleep 0.2
  done
  echo "waited $3 s in vain for $2" >&2
  return 1
}

# fio_verify FILE SIZE [fio option …]: random writes of mixed sizes, read back and compared.
fio_verify() {
  local file=$1 size=$2
  shift 2
  fio --name=verify --filename="$file" --size="$size" --rw=randwrite --bsrange=4k-64k --blockalign=4k --ioengine=libaio \
    --iodepth=8 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --end_fsync=1 \
    --serialize_overlap=1 --minimal "$@" >/dev/null
}

# Complaints of the kernel about its disks, and their count as complaints=N.
count_complaints() {
  local found
  found=$(dmesg | grep -E 'I/O error|EXT4-fs error|XFS .*(error|corrupt)|nbd.*(timed out|error)' || true)
  if [ -n "$found" ]; then echo "$found"; fi
  echo "complaints=$(printf '%s' "$found" | grep -c . || true)"
}
