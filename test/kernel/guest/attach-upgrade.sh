#!/bin/bash
# As much load as the device takes, while the host replaces its server. Arguments: SLEDGE PORT VOLUME SHARE SECONDS
cd "$(dirname "$0")" && . ./common.sh
sledge=$1 port=$2 volume=$3 share=$4 seconds=$5
"$sledge" attach "$volume" /dev/nbd0 --from "nbd://$HOST:$port/$volume" >&2
tell "$share" writing
fio --name=load --filename=/dev/nbd0 --size=32m --rw=randrw --bs=4k --ioengine=libaio --iodepth=64 --direct=1 \
  --time_based --runtime="$seconds" --continue_on_error=all --output-format=json >/run/fio.json || true
echo "errors=$(python3 -c 'import json; print(json.load(open("/run/fio.json"))["jobs"][0]["total_err"])')"
echo "requests=$(python3 -c 'import json; j=json.load(open("/run/fio.json"))["jobs"][0]; print(j["read"]["total_ios"] + j["write"]["total_ios"])')"
echo "reconnects=$("$sledge" attach --list --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["devices"][0]["reconnects"])')"
"$sledge" detach "$volume" >&2
dmesg | grep 'I/O error' >&2 || true
echo "kernel_errors=$(dmesg | grep -c 'I/O error' || true)"
