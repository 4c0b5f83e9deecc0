#!/usr/bin/python3
"""Arguments: SLEDGE PORT VOLUME TIMES. Attached and detached again and again, nothing may be left."""
import json
import os
import sys

from attach_common import HOST, command, leftovers, say, size

SLEDGE, PORT, VOLUME, TIMES = sys.argv[1:5]
URI = "nbd://%s:%s/%s" % (HOST, PORT, VOLUME)


def connections():
    """Of the guest to the server, in whatever state but the one that follows an orderly end."""
    lines = command("ss", "-Htna", "dport = :%s" % PORT).split("\n")
    return [line for line in lines if line and not line.startswith("TIME-WAIT")]


devices = set()
left = 0
for turn in range(int(TIMES)):
    device = json.loads(command(SLEDGE, "attach", VOLUME, "--from", URI, "--json"))["device"]
    devices.add(device)
    index = int(device[len("/dev/nbd"):])
    assert size(index) > 0
    with open(device, "r+b", buffering=0) as file:
        file.write(bytes([turn % 256]) * 4096)
        os.fsync(file.fileno())
    command(SLEDGE, "detach", device)
    left += len(leftovers()) + len(connections())
command(SLEDGE, "attach", VOLUME, "/dev/nbd0", "--from", URI, "--read-only")
say("read_only", open("/sys/block/nbd0/ro").read().strip())
command(SLEDGE, "detach", VOLUME)
say("turns", int(TIMES))
say("devices", " ".join(sorted(devices)))
say("left", left)
say("files_left", len(os.listdir("/run/sledge")))
